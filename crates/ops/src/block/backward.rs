//! The backward of a block. In: its input, what the forward kept, and the gradient of its output; out: the gradients of its
//! input and of the low-rank pairs. Invariant: nothing is computed that no wanted gradient needs.

use super::forward::norm;
use super::{Block, DOWN, GATE, K, LINEARS, O, Q, Saved, UP, V, whole, with_pair};
use crate::attention::flash::{Inputs, Want};
use crate::linear::{Columns, product};
use crate::weight::Weight;
use crate::{rms_norm, simd, slices, swiglu};
use candle_core::{Result, Tensor, bail};

/// Gradients of a block.
#[derive(Debug)]
pub struct BlockGradients {
    /// Of the input, `[T, d]`; None when not wanted.
    pub input: Option<Tensor>,
    /// Of each pair that there is, `(dA, dB)`, in the order of [`Block::linears`].
    pub pairs: [Option<(Tensor, Tensor)>; LINEARS],
}

/// Carries `grad`, the gradient of the block's output, back. `x` is the block's input; `want_input` says whether its
/// gradient is needed.
///
/// Errors when shapes do not fit. Cost: as many products as the forward (the output's gradient takes the place of the
/// input), attention's backward, and the pairs.
pub fn backward(
    block: &Block<'_>,
    x: &Tensor,
    saved: Saved,
    grad: &Tensor,
    want_input: bool,
) -> Result<BlockGradients> {
    let (q_width, kv_width, f) = block.widths(x)?;
    if grad.dims() != x.dims() {
        bail!("block: output is {:?} but its gradient {:?}", x.shape(), grad.shape());
    }
    let (input, grad) = (slices::read(x), slices::read(grad));
    let (input, grad) = (input.as_slice()?, grad.as_slice()?);
    let mut pass = Pass { block, tokens: x.dims2()?.0, pairs: Default::default() };
    let adapted = |which: &[usize]| which.iter().any(|&which| block.linears[which].lora.is_some());
    let Saved { q, k, v, lse, attended, middle, mut gate_up, low } = saved;

    // MLP half: d middle = grad + norm'(Gate, Up).
    let hidden = if adapted(&[DOWN]) { swiglu::of_rows(&gate_up, f) } else { Vec::new() };
    let through = want_input || adapted(&[Q, K, V, O]);
    if !through && !adapted(&[GATE, UP]) {
        pass.pair(DOWN, &hidden, &low[DOWN], (grad, whole(grad.len() / pass.tokens.max(1))), None)?;
        return Ok(BlockGradients { input: None, pairs: pass.pairs });
    }
    let d_hidden = pass.single(DOWN, &hidden, &low[DOWN], grad)?;
    drop(hidden);
    swiglu::rows_gradient(&mut gate_up, &d_hidden, f);
    drop(d_hidden);
    let normed = if adapted(&[GATE, UP]) { norm(&middle, block.mlp_norm, block.eps)? } else { Vec::new() };
    let starts = [(GATE, 0), (UP, f)];
    let d_normed = pass.stacked(block.gate_up, &starts, &normed, &low, (&gate_up, 2 * f), through)?;
    drop((gate_up, normed));
    let Some(d_normed) = d_normed else { return Ok(BlockGradients { input: None, pairs: pass.pairs }) };
    let d_middle = norm_gradient(&middle, block.mlp_norm, &d_normed, block.eps, grad)?;
    drop((d_normed, middle));

    // Attention half: d x = d middle + norm'(Q, K, V).
    if !want_input && !adapted(&[Q, K, V]) {
        pass.pair(O, &attended, &low[O], (&d_middle, whole(d_middle.len() / pass.tokens.max(1))), None)?;
        return Ok(BlockGradients { input: None, pairs: pass.pairs });
    }
    let d_attended = pass.single(O, &attended, &low[O], &d_middle)?;
    drop(attended);
    let want = Want { q: want_input || adapted(&[Q]), k: want_input || adapted(&[K]), v: want_input || adapted(&[V]) };
    let inputs = Inputs { q: &q, k: &k, v: &v, segments: block.segments, shape: block.shape };
    let gradients = inputs.backward(&d_attended, &lse, want);
    drop(d_attended);
    let stride = q_width + 2 * kv_width;
    let mut d_qkv = vec![0.0; pass.tokens * stride];
    for (gradient, at, width) in [(&gradients.q, 0, q_width), (&gradients.k, q_width, kv_width)] {
        if let Some(gradient) = gradient {
            let to = Columns { stride, at };
            block.rope.rotate((&mut d_qkv, to), (gradient, whole(width)), width, block.positions, -1.0)?;
        }
    }
    for (row, dv) in d_qkv.chunks_exact_mut(stride).zip(gradients.v.iter().flat_map(|dv| dv.chunks_exact(kv_width))) {
        row[q_width + kv_width..].copy_from_slice(dv);
    }
    drop((gradients, q, k, v));
    let normed = if adapted(&[Q, K, V]) { norm(input, block.attention_norm, block.eps)? } else { Vec::new() };
    let starts = [(Q, 0), (K, q_width), (V, q_width + kv_width)];
    let d_normed = pass.stacked(block.qkv, &starts, &normed, &low, (&d_qkv, stride), want_input)?;
    let d_input = d_normed
        .map(|d_normed| norm_gradient(input, block.attention_norm, &d_normed, block.eps, &d_middle))
        .transpose()?;
    let input = d_input.map(|d_input| slices::tensor(d_input, x.shape()));
    Ok(BlockGradients { input, pairs: pass.pairs })
}

struct Pass<'a> {
    block: &'a Block<'a>,
    tokens: usize,
    pairs: [Option<(Tensor, Tensor)>; LINEARS],
}

impl Pass<'_> {
    /// The gradient of the input of linear layer `which`, whose output's gradient is `grad`; its pair's on the way.
    fn single(&mut self, which: usize, x: &[f32], low: &[f32], grad: &[f32]) -> Result<Vec<f32>> {
        let weight = self.block.linears[which].weight;
        let mut dx = weight.with(|rows| product::input_gradient(grad, rows, self.tokens))?;
        self.pair(which, x, low, (grad, whole(weight.dims()?.0)), Some(&mut dx))?;
        Ok(dx)
    }

    /// The same for layers `starts` (which, at which column of `grad`) that share their input `x`; the input's gradient
    /// only if `want`.
    fn stacked(
        &mut self,
        stack: Option<&Weight>,
        starts: &[(usize, usize)],
        x: &[f32],
        low: &[Vec<f32>; LINEARS],
        (grad, stride): (&[f32], usize),
        want: bool,
    ) -> Result<Option<Vec<f32>>> {
        let mut dx = match (want, stack) {
            (false, _) => None,
            (true, Some(stack)) => Some(stack.with(|rows| product::input_gradient(grad, rows, self.tokens))?),
            (true, None) => {
                let mut sum: Option<Vec<f32>> = None;
                for &(which, at) in starts {
                    let weight = self.block.linears[which].weight;
                    let width = weight.dims()?.0;
                    let own: Vec<f32> =
                        grad.chunks_exact(stride).flat_map(|row| row[at..at + width].iter().copied()).collect();
                    let dx = weight.with(|rows| product::input_gradient(&own, rows, self.tokens))?;
                    match &mut sum {
                        Some(sum) => simd::axpy(sum, 1.0, &dx),
                        None => sum = Some(dx),
                    }
                }
                sum
            }
        };
        for &(which, at) in starts {
            self.pair(which, x, &low[which], (grad, Columns { stride, at }), dx.as_deref_mut())?;
        }
        Ok(dx)
    }

    /// The gradients of the pair of linear layer `which`, if it has one; adds the pair's part to `dx`.
    fn pair(
        &mut self,
        which: usize,
        x: &[f32],
        low: &[f32],
        grad: (&[f32], Columns),
        dx: Option<&mut [f32]>,
    ) -> Result<()> {
        if let Some(lora) = &self.block.linears[which].lora {
            let factors = with_pair(lora, |pair| pair.backward(x, low, grad, dx, (true, true)))?;
            let (a, b) = (slices::tensor(factors.a, lora.a.shape()), slices::tensor(factors.b, lora.b.shape()));
            self.pairs[which] = Some((a, b));
        }
        Ok(())
    }
}

fn norm_gradient(x: &[f32], weight: &Tensor, grad: &[f32], eps: f64, also: &[f32]) -> Result<Vec<f32>> {
    let weight = slices::read(weight);
    Ok(rms_norm::input_gradient(x, weight.as_slice()?, grad, eps, Some(also)))
}
