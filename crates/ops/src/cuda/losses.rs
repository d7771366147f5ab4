//! Losses at the output head, a piece of the rows at a time. In: hidden states and a frozen head; out: one loss per row
//! in f32. Invariant: the gradient of the hidden states is computed in the forward, so no logits are kept.

use super::device::{Arg, Fresh, address, kernel, launch, launch_each, of, ready, upload};
use super::product::{Matrix, multiply};
use candle_core::{DType, Result, Tensor};

/// Most logits that exist at a time.
const ELEMENTS: usize = 1 << 27;

/// Threads for each row.
const THREADS: u32 = 512;

/// What a row's logits are compared with.
enum Against<'a> {
    /// The token of each row.
    Targets(&'a [u32]),
    /// The distributions that these hidden states give.
    States(&'a Tensor),
}

/// As [`crate::cross_entropy_capped`], of shapes and targets that were checked, with a frozen head.
pub(crate) fn cross_entropy(hidden: &Tensor, head: &Tensor, targets: &[u32], cap: Option<f32>) -> Result<Tensor> {
    losses(hidden, head, &Against::Targets(targets), cap)
}

/// As [`crate::kl_divergence_capped`], of shapes that were checked, with a frozen head.
pub(crate) fn kl_divergence(hidden: &Tensor, reference: &Tensor, head: &Tensor, cap: Option<f32>) -> Result<Tensor> {
    losses(hidden, head, &Against::States(&ready(&reference.to_dtype(hidden.dtype())?)?), cap)
}

/// As [`crate::device::argmax`], of rows in f32.
pub(crate) fn argmax(logits: &Tensor) -> Result<Vec<u32>> {
    let (logits, device) = (ready(logits)?, of(logits)?);
    let (rows, vocabulary) = logits.dims2()?;
    let found = Fresh::new(&device, DType::U32, rows)?;
    let arguments = [Arg::At(address(&logits)?), Arg::At(found.at()?), Arg::U32(vocabulary as u32)];
    launch(&device, "argmax_rows", rows as u64, THREADS, &arguments)?;
    found.into_tensor().to_vec1()
}

fn losses(hidden: &Tensor, head: &Tensor, against: &Against<'_>, cap: Option<f32>) -> Result<Tensor> {
    let (device, dtype) = (of(hidden)?, hidden.dtype());
    let (hidden, head) = (ready(hidden)?, head.detach().to_dtype(dtype)?.contiguous()?);
    let ((n, d), vocabulary) = (hidden.dims2()?, head.dims2()?.0);
    let want = hidden.track_op();
    let all = Fresh::new(&device, DType::F32, n)?;
    let gradient = Fresh::new(&device, DType::F32, (if want { n } else { 0 }, d))?;
    let piece = (ELEMENTS / vocabulary.max(1)).clamp(1, n.max(1));
    let logits = Fresh::new(&device, DType::F32, (piece, vocabulary))?;
    let reference = matches!(against, Against::States(_));
    let theirs = Fresh::new(&device, DType::F32, (if reference { piece } else { 0 }, vocabulary))?;
    let by_logits = Fresh::new(&device, dtype, (if want { piece } else { 0 }, vocabulary))?;
    let targets = match against {
        Against::Targets(targets) => Some(upload(&device, targets)?),
        Against::States(_) => None,
    };
    let weight = Matrix::new(address(&head)?, dtype, vocabulary, d);
    let width = d * dtype.size_in_bytes();
    for start in (0..n).step_by(piece) {
        let rows = piece.min(n - start);
        let of_rows = |x: &Tensor, out: &Fresh| {
            let x = Matrix::new(address(x)?.after(start * width), dtype, rows, d);
            let out = Matrix::new(out.at()?, DType::F32, rows, vocabulary);
            multiply(&device, [x, weight.t(), out], 1, (1.0, 0.0))
        };
        of_rows(&hidden, &logits)?;
        let other = match (against, &targets) {
            (Against::States(states), _) => {
                of_rows(states, &theirs)?;
                theirs.at()?
            }
            (_, Some(targets)) => address(targets)?.after(start * 4),
            (_, None) => theirs.at()?,
        };
        let name = if reference { kernel!("divergence", dtype) } else { kernel!("cross_entropy", dtype) };
        let arguments = [
            Arg::At(logits.at()?),
            Arg::At(other),
            Arg::At(all.at()?.after(start * 4)),
            Arg::At(by_logits.at()?),
            Arg::U32(vocabulary as u32),
            Arg::F32(cap.unwrap_or(0.0)),
            Arg::U32(u32::from(want)),
        ];
        launch(&device, name, rows as u64, THREADS, &arguments)?;
        if want {
            let by_logits = Matrix::new(by_logits.at()?, dtype, rows, vocabulary);
            let out = Matrix::new(gradient.at()?.after(start * d * 4), DType::F32, rows, d);
            multiply(&device, [by_logits, weight, out], 1, (1.0, 0.0))?;
        }
    }
    let gradient = gradient.into_tensor();
    all.recorded(&[&hidden], move |_, factors| {
        let dx = Fresh::new(&device, DType::F32, (n, d))?;
        let arguments = [
            Arg::At(address(&gradient)?),
            Arg::At(address(factors)?),
            Arg::At(dx.at()?),
            Arg::U32(d as u32),
            Arg::U64((n * d) as u64),
        ];
        launch_each(&device, "scale_rows_f32", n * d, &arguments)?;
        Ok(vec![Some(dx.into_tensor().to_dtype(dtype)?)])
    })
}
