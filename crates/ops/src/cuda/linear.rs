//! Linear layers, plain and with a low-rank adapter. In: token rows, a weight, and the factors in f32; out: one row per
//! token. Invariant: the factors are rounded to the rows' type for the products, and their gradients are in f32.

use super::device::{Arg, Fresh, address, kernel, launch_each, of, ready, upload};
use super::product::{Matrix, multiply};
use crate::linear::dropout::Dropout;
use candle_core::{DType, Result, Tensor};

/// A contiguous tensor as a matrix.
fn matrix(x: &Tensor) -> Result<Matrix<'_>> {
    let (rows, cols) = x.dims2()?;
    Ok(Matrix::new(address(x)?, x.dtype(), rows, cols))
}

fn fresh(x: &Fresh, dtype: DType, rows: usize, cols: usize) -> Result<Matrix<'_>> {
    Ok(Matrix::new(x.at()?, dtype, rows, cols))
}

/// `x W^T + bias`.
fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Fresh> {
    let (device, dtype) = (of(x)?, x.dtype());
    let ((tokens, _), (outputs, _)) = (x.dims2()?, weight.dims2()?);
    let out = Fresh::new(&device, dtype, (tokens, outputs))?;
    if let Some(bias) = bias {
        let bias = bias.to_dtype(dtype)?.contiguous()?;
        let n = tokens * outputs;
        let arguments = [Arg::At(out.at()?), Arg::At(address(&bias)?), Arg::U32(outputs as u32), Arg::U64(n as u64)];
        launch_each(&device, kernel!("fill_rows", dtype), n, &arguments)?;
    }
    let beta = f32::from(u8::from(bias.is_some()));
    let product = [matrix(x)?, matrix(weight)?.t(), fresh(&out, dtype, tokens, outputs)?];
    multiply(&device, product, 1, (1.0, beta))?;
    Ok(out)
}

/// As [`crate::linear()`], of shapes that were checked.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let x = ready(x)?;
    let weight = weight.to_dtype(x.dtype())?.contiguous()?;
    let out = forward(&x, &weight, bias)?;
    let backward = |inputs: &[&Tensor], grad: &Tensor| {
        let [x, weight, bias @ ..] = inputs else { return Ok(Vec::new()) };
        let device = of(x)?;
        let ((tokens, width), (outputs, _)) = (x.dims2()?, weight.dims2()?);
        let mut found = vec![None; inputs.len()];
        if x.track_op() {
            let dx = Fresh::new(&device, x.dtype(), (tokens, width))?;
            let product = [matrix(grad)?, matrix(weight)?, fresh(&dx, x.dtype(), tokens, width)?];
            multiply(&device, product, 1, (1.0, 0.0))?;
            found[0] = Some(dx.into_tensor());
        }
        if weight.track_op() {
            let dw = Fresh::new(&device, weight.dtype(), (outputs, width))?;
            let product = [matrix(grad)?.t(), matrix(x)?, fresh(&dw, weight.dtype(), outputs, width)?];
            multiply(&device, product, 1, (1.0, 0.0))?;
            found[1] = Some(dw.into_tensor());
        }
        if let [bias] = bias {
            found[2] = bias.track_op().then(|| grad.sum(0)?.to_dtype(bias.dtype())).transpose()?;
        }
        Ok(found)
    };
    match bias {
        None => out.recorded(&[&x, &weight], backward),
        Some(bias) => out.recorded(&[&x, &weight, bias], backward),
    }
}

/// `x` with elements dropped: the same ones as on the CPU.
fn dropped(x: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
    let Some(dropout) = dropout else { return Ok(x.clone()) };
    let ((rows, width), device) = (x.dims2()?, of(x)?);
    let key = upload(&device, &dropout.key())?;
    let y = Fresh::new(&device, x.dtype(), (rows, width))?;
    let arguments = [
        Arg::At(address(x)?),
        Arg::At(y.at()?),
        Arg::At(address(&key)?),
        Arg::U32(rows as u32),
        Arg::U32(width as u32),
        Arg::U32(dropout.threshold()),
        Arg::F32(dropout.keep()),
    ];
    launch_each(&device, kernel!("dropout", x.dtype()), rows * width.div_ceil(32), &arguments)?;
    Ok(y.into_tensor())
}

/// As [`crate::lora_linear`], of shapes that were checked, with a frozen weight and bias.
pub(crate) fn lora_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    [a, b]: [&Tensor; 2],
    scale: f32,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let (x, device, dtype) = (ready(x)?, of(x)?, x.dtype());
    let weight = weight.to_dtype(dtype)?.contiguous()?;
    let (tokens, rank) = (x.dims2()?.0, a.dims2()?.0);
    let (a, b) = (ready(a)?, ready(b)?);
    let round = move |t: &Tensor| t.detach().to_dtype(dtype);
    let out = forward(&x, &weight, bias)?;
    let low = Fresh::new(&device, dtype, (tokens, rank))?;
    let (dropped_x, rounded_a, rounded_b) = (dropped(&x, dropout)?, round(&a)?, round(&b)?);
    let product = [matrix(&dropped_x)?, matrix(&rounded_a)?.t(), fresh(&low, dtype, tokens, rank)?];
    multiply(&device, product, 1, (1.0, 0.0))?;
    let outputs = weight.dims2()?.0;
    let low = low.into_tensor();
    let product = [matrix(&low)?, matrix(&rounded_b)?.t(), fresh(&out, dtype, tokens, outputs)?];
    multiply(&device, product, 1, (scale, 1.0))?;
    out.recorded(&[&x, &a, &b], move |inputs, grad| {
        let &[x, a, b] = inputs else { return Ok(Vec::new()) };
        let ((tokens, width), device) = (x.dims2()?, of(x)?);
        // d low = scale * g B; dA = (d low)^T x; dB = scale * g^T low; dx = g W + (d low) A.
        let (rounded_a, rounded_b) = (round(a)?, round(b)?);
        let d_low = Fresh::new(&device, dtype, (tokens, rank))?;
        let product = [matrix(grad)?, matrix(&rounded_b)?, fresh(&d_low, dtype, tokens, rank)?];
        multiply(&device, product, 1, (scale, 0.0))?;
        let d_low = d_low.into_tensor();
        let da = a.track_op().then(|| {
            let (da, x) = (Fresh::new(&device, DType::F32, (rank, width))?, dropped(x, dropout)?);
            let product = [matrix(&d_low)?.t(), matrix(&x)?, fresh(&da, DType::F32, rank, width)?];
            multiply(&device, product, 1, (1.0, 0.0))?;
            da.into_tensor().to_dtype(a.dtype())
        });
        let db = b.track_op().then(|| {
            let db = Fresh::new(&device, DType::F32, (outputs, rank))?;
            let product = [matrix(grad)?.t(), matrix(&low)?, fresh(&db, DType::F32, outputs, rank)?];
            multiply(&device, product, 1, (scale, 0.0))?;
            db.into_tensor().to_dtype(b.dtype())
        });
        let dx = x.track_op().then(|| {
            let dx = Fresh::new(&device, dtype, (tokens, width))?;
            multiply(&device, [matrix(grad)?, matrix(&weight)?, fresh(&dx, dtype, tokens, width)?], 1, (1.0, 0.0))?;
            let by_low = [matrix(&d_low)?, matrix(&rounded_a)?];
            if dropout.is_none() {
                let [d_low, a] = by_low;
                multiply(&device, [d_low, a, fresh(&dx, dtype, tokens, width)?], 1, (1.0, 1.0))?;
                return Ok(dx.into_tensor());
            }
            let also = Fresh::new(&device, dtype, (tokens, width))?;
            let [d_low, a] = by_low;
            multiply(&device, [d_low, a, fresh(&also, dtype, tokens, width)?], 1, (1.0, 0.0))?;
            dx.into_tensor() + dropped(&also.into_tensor(), dropout)?
        });
        Ok(vec![dx.transpose()?, da.transpose()?, db.transpose()?])
    })
}
