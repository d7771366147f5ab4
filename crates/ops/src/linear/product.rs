//! The two products of a linear layer. In: row-major slices and `(tokens, inputs, outputs)`; out: a fresh row-major
//! matrix. Invariant: the weight is read once, from memory to the cores, however many tokens there are.

use crate::gemm::{Mat, matmul_into};
use crate::{simd, slices};
use rayon::prelude::*;

/// Up to this many tokens the weight costs more to pack, as a large product does, than to be read in place (measured:
/// SmolLM2 shapes, one core, even at 48 to 80).
const FEW_TOKENS: usize = 48;
/// Weight elements of one parallel task of the product for few tokens.
const TASK_ELEMENTS: usize = 1 << 16;

/// `x W^T + bias`, `[tokens, outputs]`.
pub(super) fn forward(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    (tokens, inputs, outputs): (usize, usize, usize),
) -> Vec<f32> {
    if inputs > 0 && outputs > 0 && (1..=FEW_TOKENS).contains(&tokens) {
        return few_tokens(x, weight, bias, (tokens, inputs, outputs));
    }
    let mut out = match bias {
        Some(bias) => bias.repeat(tokens),
        None => slices::unwritten(tokens * outputs),
    };
    let (x, weight) = (Mat::new(x, tokens, inputs), Mat::new(weight, outputs, inputs));
    matmul_into(&mut out, outputs, x, weight.t(), 1.0, bias.is_some(), true);
    out
}

/// `g W`, `[tokens, inputs]`.
pub(super) fn input_gradient(g: &[f32], weight: &[f32], (tokens, inputs, outputs): (usize, usize, usize)) -> Vec<f32> {
    let mut dx = slices::unwritten(tokens * inputs);
    matmul_into(&mut dx, inputs, Mat::new(g, tokens, outputs), Mat::new(weight, outputs, inputs), 1.0, false, true);
    dx
}

/// Dot products, parallel over the rows of the weight.
fn few_tokens(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    (tokens, inputs, outputs): (usize, usize, usize),
) -> Vec<f32> {
    // Output-major, so that a task writes one contiguous piece.
    let mut columns = slices::unwritten(outputs * tokens);
    let task = TASK_ELEMENTS.div_ceil(inputs);
    let tasks = columns.par_chunks_mut(task * tokens).zip(weight.par_chunks(task * inputs));
    tasks.for_each(|(out, weight)| simd::dots(out, weight, x, inputs));
    let mut out = if tokens == 1 {
        columns
    } else {
        (0..tokens * outputs).map(|i| columns[i % outputs * tokens + i / outputs]).collect()
    };
    if let Some(bias) = bias {
        out.chunks_exact_mut(outputs).for_each(|row| simd::axpy(row, 1.0, bias));
    }
    out
}
