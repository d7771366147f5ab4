//! Fused output head and cross-entropy. In: final hidden states, output head, targets; out: one negative log-likelihood
//! per row. Invariant: no more than a tile of rows by a tile of the vocabulary is held per thread.
//!
//! The forward streams the head once, tile by tile, with a running maximum as in `FlashAttention` (Dao et al. 2022):
//! the gradient of the hidden states, `sum_v p_v W_v - W_target`, is attention with the head as keys and values, so it
//! is computed along with the loss, with two matrix products in all.

use crate::gemm::Mat;
use crate::head::{Head, Rows, log_softmax, parallel_ranges, scale_rows, tiles};
use crate::{form, simd, slices, weight};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::OnceLock;

/// Vocabulary entries of a tile.
const TILE: usize = 512;
/// Most rows of a tile.
const MAX_ROWS: usize = 512;
/// Elements of all partial sums of hidden width together.
const PARTIAL_ELEMENTS: usize = 1 << 24;

/// Negative log-likelihood of each target under `softmax(hidden W^T)`: `hidden` `[n, d]`, `head` `[V, d]`, `n` targets
/// below `V`; result `[n]`, natural log. The logits are never held for more than a tile. A frozen head in bf16 under
/// hidden states in f32 on the CPU makes products in bf16, with sums in f32.
///
/// The fused form costs `2 n V d` multiply-adds when `hidden` is tracked, half that otherwise; a tracked `head` adds
/// `2 n V d` to the backward. Errors when shapes do not fit or a target is no vocabulary entry.
pub fn cross_entropy(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<Tensor> {
    cross_entropy_capped(hidden, head, targets, None)
}

/// As [`cross_entropy`], where every logit `z` is soft-capped to `cap * tanh(z / cap)`, if there is a cap.
pub fn cross_entropy_capped(hidden: &Tensor, head: &Tensor, targets: &[u32], cap: Option<f32>) -> Result<Tensor> {
    let (n, d) = hidden.dims2()?;
    let (vocabulary, head_width) = head.dims2()?;
    if d == 0 || d != head_width {
        bail!("cross_entropy: hidden {:?} and head {:?} do not fit", hidden.dims(), head.dims());
    }
    if targets.len() != n {
        bail!("cross_entropy: {n} rows but {} targets", targets.len());
    }
    if let Some(target) = targets.iter().find(|&&t| t as usize >= vocabulary) {
        bail!("cross_entropy: target {target} is outside the vocabulary of {vocabulary}");
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::runs(hidden) && !head.track_op() {
        return crate::cuda::cross_entropy(hidden, head, targets, cap);
    }
    if !form::fused(hidden) {
        return composed(hidden, head, targets, cap);
    }
    let (hidden, head) = (hidden.contiguous()?, head.contiguous()?);
    let op = CrossEntropy { targets: targets.into(), cap, want_hidden: hidden.track_op(), saved: OnceLock::new() };
    if hidden.track_op() || head.track_op() { hidden.apply_op2(&head, op) } else { hidden.apply_op2_no_bwd(&head, &op) }
}

fn composed(hidden: &Tensor, head: &Tensor, targets: &[u32], cap: Option<f32>) -> Result<Tensor> {
    if targets.is_empty() {
        return form::wide(&hidden.sum(1)?);
    }
    let targets = Tensor::new(targets, hidden.device())?.unsqueeze(1)?;
    let logits = hidden.matmul(&head.to_dtype(hidden.dtype())?.t()?)?;
    log_softmax(&logits, cap)?.gather(&targets, 1)?.squeeze(1)?.neg()
}

struct CrossEntropy {
    targets: Vec<u32>,
    cap: Option<f32>,
    want_hidden: bool,
    saved: OnceLock<Saved>,
}

/// What the forward leaves for the backward.
struct Saved {
    /// Logarithm of each row's normaliser, `[n]`.
    log_sum: Vec<f32>,
    /// Gradient of each row's loss with respect to the row, `[n, d]`; empty when not wanted.
    grad_hidden: Vec<f32>,
}

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        hidden_layout: &Layout,
        head: &CpuStorage,
        head_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, d) = hidden_layout.shape().dims2()?;
        let hidden = Rows { data: slices::cpu(hidden, hidden_layout)?, d };
        let Some(head) = Head::new(weight::matrix(head, head_layout)?) else { bail!("cross-entropy: no head") };
        let (loss, saved) = forward(&hidden, head, &self.targets, self.cap, self.want_hidden);
        self.saved.get_or_init(|| saved);
        Ok((CpuStorage::F32(loss), Shape::from(self.targets.len())))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        head: &Tensor,
        _loss: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(saved) = self.saved.get() else { bail!("cross-entropy: backward before forward") };
        let (_, d) = hidden.dims2()?;
        let grad = grad.to_vec1::<f32>()?;
        let grad_hidden =
            hidden.track_op().then(|| slices::tensor(scale_rows(&saved.grad_hidden, &grad, d), hidden.shape()));
        let grad_head = if head.track_op() {
            let data = {
                let (hidden, head) = (slices::read(hidden), slices::read(head));
                let (hidden, head) = (Rows { data: hidden.as_slice()?, d }, Rows { data: head.as_slice()?, d });
                self.grad_head(&hidden, &head, &saved.log_sum, &grad)
            };
            Some(slices::tensor(data, head.shape()))
        } else {
            None
        };
        Ok((grad_hidden, grad_head))
    }
}

/// What one range of the vocabulary contributes to a block of rows.
struct Partial {
    /// Largest logit so far, per row.
    max: Vec<f32>,
    /// Sum of `exp(logit - max)`.
    sum: Vec<f64>,
    /// Logit of the target, 0 when it lies in another range.
    target: Vec<f32>,
    /// Sum of `exp(logit - max) * W_v`, `[rows, d]`; empty when not wanted.
    weighted: Vec<f32>,
}

fn forward(
    hidden: &Rows<'_>,
    head: Head<'_>,
    targets: &[u32],
    cap: Option<f32>,
    want_hidden: bool,
) -> (Vec<f32>, Saved) {
    let (n, d) = (hidden.len(), hidden.d);
    let range = head.len().div_ceil(TILE).div_ceil(parallel_ranges()).max(1) * TILE;
    let ranges: Vec<_> = tiles(0..head.len(), range).collect();
    let rows = (PARTIAL_ELEMENTS / (ranges.len() * d).max(1)).clamp(16, MAX_ROWS);
    let mut loss = Vec::with_capacity(n);
    let mut saved =
        Saved { log_sum: Vec::with_capacity(n), grad_hidden: vec![0.0; if want_hidden { n * d } else { 0 }] };
    for block in tiles(0..n, n.div_ceil(n.div_ceil(rows).max(1)).max(1)) {
        let partials: Vec<Partial> = ranges
            .par_iter()
            .with_max_len(1)
            .map(|range| Partial::of(hidden, head, &targets[block.clone()], &block, range, cap, want_hidden))
            .collect();
        for i in 0..block.len() {
            let max = partials.iter().map(|p| p.max[i]).fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = partials.iter().map(|p| p.sum[i] * f64::from(p.max[i] - max).exp()).sum();
            let target: f32 = partials.iter().map(|p| p.target[i]).sum();
            let log_sum = f64::from(max) + sum.ln();
            loss.push((log_sum - f64::from(target)) as f32);
            saved.log_sum.push(log_sum as f32);
        }
        if want_hidden {
            let out = saved.grad_hidden[block.start * d..block.end * d].par_chunks_exact_mut(d);
            out.zip(block.clone()).enumerate().for_each(|(i, (out, row))| {
                for p in &partials {
                    simd::axpy(out, (p.max[i] - saved.log_sum[row]).exp(), &p.weighted[i * d..][..d]);
                }
                // A capped logit moves less than the one below it.
                let target: f32 = partials.iter().map(|p| p.target[i]).sum();
                let slope = cap.map_or(1.0, |cap| 1.0 - (target / cap).powi(2));
                head.subtract_row(targets[row] as usize, slope, out);
            });
        }
    }
    (loss, saved)
}

impl Partial {
    fn of(
        hidden: &Rows<'_>,
        head: Head<'_>,
        targets: &[u32],
        block: &Range<usize>,
        range: &Range<usize>,
        cap: Option<f32>,
        want_hidden: bool,
    ) -> Self {
        let (n, d) = (block.len(), hidden.d);
        let mut this = Self {
            max: vec![f32::NEG_INFINITY; n],
            sum: vec![0.0; n],
            target: vec![0.0; n],
            weighted: vec![0.0; if want_hidden { n * d } else { 0 }],
        };
        let (mut logits, mut slopes) = (Vec::new(), Vec::new());
        let rows = head.hidden(hidden.slice(block));
        for tile in tiles(range.clone(), TILE) {
            logits.resize(n * tile.len(), 0.0);
            rows.logits(&tile, &mut logits);
            if let Some(cap) = cap {
                simd::soft_cap(&mut logits, cap);
                slopes.resize(logits.len(), 0.0);
                simd::soft_cap_slope(&mut slopes, &logits, cap);
            }
            for (i, row) in logits.chunks_exact_mut(tile.len()).enumerate() {
                let target = targets[i] as usize;
                if tile.contains(&target) {
                    this.target[i] = row[target - tile.start];
                }
                let max = simd::max(row).max(this.max[i]);
                let shrink = (this.max[i] - max).exp();
                if shrink < 1.0 && want_hidden {
                    simd::scale(&mut this.weighted[i * d..][..d], shrink);
                }
                this.sum[i] = this.sum[i] * f64::from(shrink) + f64::from(simd::exp_sub_sum(row, max));
                this.max[i] = max;
            }
            if want_hidden {
                if cap.is_some() {
                    simd::mul(&mut logits, &slopes);
                }
                head.add_weighted(&logits, n, &tile, &mut this.weighted);
            }
        }
        this
    }
}

impl CrossEntropy {
    /// `sum_i grad_i (p_i - onehot_i) h_i^T`, `[V, d]`, tile by tile of the vocabulary.
    fn grad_head(&self, hidden: &Rows<'_>, head: &Rows<'_>, log_sum: &[f32], grad: &[f32]) -> Vec<f32> {
        let d = hidden.d;
        let mut out = vec![0.0; head.data.len()];
        // Small vocabularies are cut finer, so that every thread has a tile.
        let tile = head.len().div_ceil(parallel_ranges()).clamp(1, TILE);
        out.par_chunks_mut(tile * d).enumerate().for_each_init(Vec::new, |logits: &mut Vec<f32>, (index, out)| {
            let tile = index * tile..index * tile + out.len() / d;
            for block in tiles(0..hidden.len(), MAX_ROWS) {
                logits.resize(block.len() * tile.len(), 0.0);
                hidden.mat(&block).times(head.mat(&tile).t()).write(logits, tile.len());
                let mut slopes = vec![0.0; if self.cap.is_some() { logits.len() } else { 0 }];
                if let Some(cap) = self.cap {
                    simd::soft_cap(logits, cap);
                    simd::soft_cap_slope(&mut slopes, logits, cap);
                }
                for (row, p) in block.clone().zip(logits.chunks_exact_mut(tile.len())) {
                    simd::exp_sub_sum(p, log_sum[row]);
                    let target = self.targets[row] as usize;
                    if tile.contains(&target) {
                        p[target - tile.start] -= 1.0;
                    }
                    simd::scale(p, grad[row]);
                }
                if self.cap.is_some() {
                    simd::mul(logits, &slopes);
                }
                let p = Mat::new(logits, block.len(), tile.len());
                p.t().times(hidden.mat(&block)).add_to(out, d);
            }
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::{TILE, cross_entropy, cross_entropy_capped};
    use crate::conformance::{Input, check, check_bf16, random};
    use candle_core::{Device, Tensor};

    fn targets(n: usize, vocabulary: usize) -> Vec<u32> {
        (0..n).map(|i| (i * 7919 % vocabulary) as u32).collect()
    }

    #[test]
    fn conforms() {
        for (n, d, vocabulary) in [(0, 4, 5), (1, 1, 1), (3, 7, 11), (5, 16, TILE), (9, 5, 2 * TILE + 37), (600, 3, 13)]
        {
            let (h, w, targets) = (random((n, d), 1), random((vocabulary, d), 2), targets(n, vocabulary));
            for inputs in [
                [Input::Tracked(h.clone()), Input::Frozen(w.clone())],
                [Input::Frozen(h.clone()), Input::Tracked(w.clone())],
                [Input::Tracked(h.clone()), Input::Tracked(w.clone())],
            ] {
                let name = format!("cross_entropy {n}x{d}x{vocabulary}");
                check(&name, &inputs, |x| cross_entropy(&x[0], &x[1], &targets));
                for cap in [0.4, 30.0] {
                    let name = format!("{name}, capped at {cap}");
                    check(&name, &inputs, |x| cross_entropy_capped(&x[0], &x[1], &targets, Some(cap)));
                }
            }
        }
    }

    #[test]
    fn a_head_in_bf16_conforms() {
        for (n, d, vocabulary) in [(0, 4, 5), (3, 7, 11), (9, 40, 2 * TILE + 37), (600, 3, 13)] {
            let (h, w, targets) = (random((n, d), 1), random((vocabulary, d), 2), targets(n, vocabulary));
            let name = format!("cross_entropy {n}x{d}x{vocabulary}");
            check_bf16(&name, &[Input::Tracked(h)], &w, |x, w| cross_entropy(&x[0], w, &targets));
        }
    }

    #[test]
    fn untracked_equals_tracked() {
        let (h, w) = (random((5, 8), 1), random((700, 8), 2));
        let targets = targets(5, 700);
        let loss = cross_entropy(&h, &w, &targets).unwrap();
        let tracked = candle_core::Var::from_tensor(&h).unwrap();
        let tracked = cross_entropy(&tracked, &w, &targets).unwrap();
        assert!(!loss.track_op() && tracked.track_op());
        assert_eq!(loss.to_vec1::<f32>().unwrap(), tracked.to_vec1::<f32>().unwrap());
    }

    #[test]
    fn large_logits_do_not_overflow() {
        // Logits 3000, 0 and -3000.
        let h = Tensor::new(&[[3000f32]], &Device::Cpu).unwrap();
        let w = Tensor::new(&[[1f32], [0.0], [-1.0]], &Device::Cpu).unwrap();
        for (target, want) in [(0, 0.0), (1, 3000.0), (2, 6000.0)] {
            assert_eq!(cross_entropy(&h, &w, &[target]).unwrap().to_vec1::<f32>().unwrap(), [want]);
        }
    }

    #[test]
    fn not_a_number_stays() {
        let h = Tensor::new(&[[f32::NAN], [1.0]], &Device::Cpu).unwrap();
        let w = random((600, 1), 1);
        let loss = cross_entropy(&h, &w, &[0, 0]).unwrap().to_vec1::<f32>().unwrap();
        assert!(loss[0].is_nan() && loss[1].is_finite());
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let (h, w) = (random((2, 3), 1), random((4, 3), 1));
        assert!(cross_entropy(&h, &w, &[0]).is_err());
        assert!(cross_entropy(&h, &w, &[0, 4]).is_err());
        assert!(cross_entropy(&h, &random((4, 2), 1), &[0, 0]).is_err());
    }
}
