//! What is done row by row or element by element: norm, rotation, activation. In: rows; out: rows. Invariant: a backward
//! recomputes from the inputs, so nothing is kept but them.

use super::device::{Arg, BLOCK, Fresh, address, kernel, launch, launch_each, of, ready, upload};
use candle_core::{DType, Result, Tensor};

/// As [`crate::rms_norm`], of shapes that were checked, with a frozen weight.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let (x, weight) = (ready(x)?, ready(&weight.detach())?);
    // A weight in f32 under rows in bf16 multiplies before the result is rounded; the other way round there is no kernel.
    let weight = if weight.dtype() == DType::F32 { weight } else { weight.to_dtype(x.dtype())? };
    let ((rows, d), device) = (x.dims2()?, of(&x)?);
    let [forward, backward] = match (x.dtype(), weight.dtype()) {
        (DType::BF16, DType::BF16) => ["rms_norm_bf16_bf16", "rms_norm_backward_bf16_bf16"],
        (DType::BF16, _) => ["rms_norm_bf16_f32", "rms_norm_backward_bf16_f32"],
        _ => ["rms_norm_f32_f32", "rms_norm_backward_f32_f32"],
    };
    let shape = [Arg::U32(d as u32), Arg::F32(eps as f32)];
    let y = Fresh::new(&device, x.dtype(), (rows, d))?;
    let [width, small] = shape;
    let arguments = [Arg::At(address(&x)?), Arg::At(address(&weight)?), Arg::At(y.at()?), width, small];
    launch(&device, forward, rows as u64, BLOCK, &arguments)?;
    y.recorded(&[&x], move |inputs, grad| {
        let &[x] = inputs else { return Ok(Vec::new()) };
        let dx = Fresh::new(&device, x.dtype(), (rows, d))?;
        let arguments = [
            Arg::At(address(x)?),
            Arg::At(address(&weight)?),
            Arg::At(address(grad)?),
            Arg::At(dx.at()?),
            Arg::U32(d as u32),
            Arg::F32(eps as f32),
        ];
        launch(&device, backward, rows as u64, BLOCK, &arguments)?;
        Ok(vec![Some(dx.into_tensor())])
    })
}

/// Where and how heads are turned.
#[derive(Clone)]
pub(crate) struct Rotation {
    /// `[positions, half]`, f32.
    pub(crate) cos: Tensor,
    pub(crate) sin: Tensor,
    pub(crate) head_dim: usize,
    pub(crate) interleaved: bool,
}

/// As [`crate::rope()`], of shapes and positions that were checked.
pub(crate) fn rope(x: &Tensor, rotation: &Rotation, positions: &[u32]) -> Result<Tensor> {
    let x = ready(x)?;
    let positions = upload(&of(&x)?, positions)?;
    let turned = turn(&x, rotation, &positions, 1.0)?;
    let rotation = rotation.clone();
    turned.recorded(&[&x], move |_, grad| Ok(vec![Some(turn(grad, &rotation, &positions, -1.0)?.into_tensor())]))
}

fn turn(x: &Tensor, rotation: &Rotation, positions: &Tensor, direction: f32) -> Result<Fresh> {
    let ((rows, width), device) = (x.dims2()?, of(x)?);
    let Rotation { cos, sin, head_dim, interleaved } = rotation;
    let (half, heads) = (cos.dims2()?.1, width / head_dim);
    let y = Fresh::new(&device, x.dtype(), (rows, width))?;
    let arguments = [
        Arg::At(address(x)?),
        Arg::At(y.at()?),
        Arg::At(address(cos)?),
        Arg::At(address(sin)?),
        Arg::At(address(positions)?),
        Arg::U32(heads as u32),
        Arg::U32(*head_dim as u32),
        Arg::U32(half as u32),
        Arg::U32(u32::from(*interleaved)),
        Arg::F32(direction),
    ];
    launch(&device, kernel!("rope", x.dtype()), rows as u64, BLOCK, &arguments)?;
    Ok(y)
}

/// How many threads elements take that are read in packets of 16 bytes, where they are whole ones.
fn packets(n: usize, dtype: DType) -> usize {
    let packet = 16 / dtype.size_in_bytes();
    if n.is_multiple_of(packet) { n / packet } else { n }
}

/// As [`crate::activate`], of shapes that were checked; `kind` is the number that the kernel knows the activation by.
pub(crate) fn activate(kind: u32, gate: Option<&Tensor>, up: &Tensor) -> Result<Tensor> {
    let (device, up) = (of(up)?, ready(up)?);
    let (n, shape) = (up.elem_count(), up.shape().clone());
    let count = Arg::U64(n as u64);
    let is_gated = gate.is_some();
    // Without a gate the kernel does not look at it.
    let gate = ready(gate.unwrap_or(&up))?;
    let y = Fresh::new(&device, up.dtype(), shape.clone())?;
    let arguments = [Arg::U32(kind), Arg::At(address(&gate)?), Arg::At(address(&up)?), Arg::At(y.at()?), count];
    launch_each(&device, kernel!("gated", up.dtype()), packets(n, up.dtype()), &arguments)?;
    let inputs = [&gate, &up];
    y.recorded(if is_gated { &inputs } else { &inputs[1..] }, move |inputs, grad| {
        let [.., up] = inputs else { return Ok(Vec::new()) };
        let device = of(up)?;
        let dup = Fresh::new(&device, up.dtype(), shape.clone())?;
        let dgate = Fresh::new(&device, up.dtype(), if is_gated { shape.clone() } else { 0.into() })?;
        let arguments = [
            Arg::U32(kind),
            Arg::At(address(inputs[0])?),
            Arg::At(address(up)?),
            Arg::At(address(grad)?),
            Arg::At(dgate.at()?),
            Arg::At(dup.at()?),
            Arg::U64(n as u64),
        ];
        launch_each(&device, kernel!("gated_backward", up.dtype()), packets(n, up.dtype()), &arguments)?;
        Ok(if is_gated {
            vec![Some(dgate.into_tensor()), Some(dup.into_tensor())]
        } else {
            vec![Some(dup.into_tensor())]
        })
    })
}
