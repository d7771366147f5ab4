//! Fused output head and KL divergence. In: hidden states, reference hidden states, output head; out: one divergence
//! per row. Invariant: logits are held for a block of rows only, and equal inputs give exactly 0.

// A kernel body that is not inlined into its dispatched caller is compiled without that caller's instruction set.
#![allow(clippy::inline_always)]

use crate::gemm::Mat;
use crate::head::{Head, Rows, log_softmax, parallel_ranges, scale_rows, tiles};
use crate::{form, simd, slices, weight};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::OnceLock;

/// Vocabulary entries of a tile.
const TILE: usize = 512;
/// Most rows of a block.
const MAX_ROWS: usize = 512;
/// Logits held at a time, both distributions together: 32 MB.
const LOGIT_ELEMENTS: usize = 1 << 23;

/// `KL(softmax(reference W^T) || softmax(hidden W^T))` per row: `hidden` and `reference` `[n, d]`, `head` `[V, d]`;
/// result `[n]`, natural log. `reference` is frozen: no gradient reaches it.
///
/// A row is `E[r - l] + ln E[exp(l - r)]` over the reference distribution, with `r` and `l` the two logits: small
/// differences are taken before anything large is summed, in f64. The fused form costs `3 n V d` multiply-adds when
/// `hidden` is tracked, `2 n V d` otherwise; a tracked `head` (its gradient runs through both distributions) adds
/// `4 n V d` to the backward. Errors when shapes do not fit.
pub fn kl_divergence(hidden: &Tensor, reference: &Tensor, head: &Tensor) -> Result<Tensor> {
    kl_divergence_capped(hidden, reference, head, None)
}

/// As [`kl_divergence`], where every logit `z` is soft-capped to `cap * tanh(z / cap)`, if there is a cap.
pub fn kl_divergence_capped(hidden: &Tensor, reference: &Tensor, head: &Tensor, cap: Option<f32>) -> Result<Tensor> {
    let (n, d) = hidden.dims2()?;
    let (vocabulary, head_width) = head.dims2()?;
    if d == 0 || d != head_width || vocabulary == 0 {
        bail!("kl_divergence: hidden {:?} and head {:?} do not fit", hidden.dims(), head.dims());
    }
    if reference.dims() != [n, d] {
        bail!("kl_divergence: hidden is {:?}, the reference {:?}", hidden.dims(), reference.dims());
    }
    let reference = reference.detach().to_dtype(hidden.dtype())?;
    #[cfg(feature = "cuda")]
    if crate::cuda::runs(hidden) && !head.track_op() {
        return crate::cuda::kl_divergence(hidden, &reference, head, cap);
    }
    if !form::fused(hidden) {
        return composed(hidden, &reference, head, cap);
    }
    let (hidden, head) = (hidden.contiguous()?, head.contiguous()?);
    let op = Kl { reference: reference.contiguous()?, cap, want_hidden: hidden.track_op(), saved: OnceLock::new() };
    if hidden.track_op() || head.track_op() { hidden.apply_op2(&head, op) } else { hidden.apply_op2_no_bwd(&head, &op) }
}

fn composed(hidden: &Tensor, reference: &Tensor, head: &Tensor, cap: Option<f32>) -> Result<Tensor> {
    if hidden.dims()[0] == 0 {
        return form::wide(&hidden.sum(1)?);
    }
    let head = head.to_dtype(hidden.dtype())?.t()?;
    let log_p = log_softmax(&hidden.matmul(&head)?, cap)?;
    let log_r = log_softmax(&reference.matmul(&head)?, cap)?;
    (log_r.exp()? * (log_r - log_p)?)?.sum(1)
}

struct Kl {
    reference: Tensor,
    cap: Option<f32>,
    want_hidden: bool,
    saved: OnceLock<Saved>,
}

/// What the forward leaves for the backward.
#[derive(Default)]
struct Saved {
    rows: Vec<Row>,
    /// Gradient of each row's divergence with respect to the row, `[n, d]`; empty when not wanted.
    grad_hidden: Vec<f32>,
}

/// Normalisers and divergence of a row.
#[derive(Clone, Copy)]
struct Row {
    /// Logarithm of the normaliser under `hidden`.
    log_sum: f64,
    /// The same under `reference`.
    log_sum_reference: f64,
    kl: f64,
}

impl CustomOp2 for Kl {
    fn name(&self) -> &'static str {
        "kl-divergence"
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        hidden_layout: &Layout,
        head: &CpuStorage,
        head_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, d) = hidden_layout.shape().dims2()?;
        let reference = slices::read(&self.reference);
        let Some(head) = Head::new(weight::matrix(head, head_layout)?) else { bail!("kl-divergence: no head") };
        let problem = Problem {
            hidden: Rows { data: slices::cpu(hidden, hidden_layout)?, d },
            reference: Rows { data: reference.as_slice()?, d },
            head,
            cap: self.cap,
        };
        let saved = problem.forward(self.want_hidden);
        let kl = saved.rows.iter().map(|row| row.kl as f32).collect();
        self.saved.get_or_init(|| saved);
        Ok((CpuStorage::F32(kl), Shape::from(n)))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        head: &Tensor,
        _kl: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(saved) = self.saved.get() else { bail!("kl-divergence: backward before forward") };
        let (_, d) = hidden.dims2()?;
        let grad = grad.to_vec1::<f32>()?;
        let grad_hidden =
            hidden.track_op().then(|| slices::tensor(scale_rows(&saved.grad_hidden, &grad, d), hidden.shape()));
        let grad_head = if head.track_op() {
            let data = {
                let (hidden, reference, w) = (slices::read(hidden), slices::read(&self.reference), slices::read(head));
                let head = Rows { data: w.as_slice()?, d };
                let problem = Problem {
                    hidden: Rows { data: hidden.as_slice()?, d },
                    reference: Rows { data: reference.as_slice()?, d },
                    head: Head::Dense(head),
                    cap: self.cap,
                };
                problem.grad_head(head, &saved.rows, &grad)
            };
            Some(slices::tensor(data, head.shape()))
        } else {
            None
        };
        Ok((grad_hidden, grad_head))
    }
}

struct Problem<'a> {
    hidden: Rows<'a>,
    reference: Rows<'a>,
    head: Head<'a>,
    cap: Option<f32>,
}

/// One row's sums over one tile of the vocabulary.
#[derive(Clone, Copy)]
struct Sums {
    /// Largest logit and sum of `exp(logit - max)`.
    max: f32,
    sum: f64,
    /// The same under the reference.
    max_reference: f32,
    sum_reference: f64,
    /// Sum of `exp(r - max_reference) * (r - l)`.
    difference: f64,
}

impl Sums {
    /// Replaces logits `l` and `r` by their exponentials less their maxima. `difference` is scratch as long as they.
    fn of(l: &mut [f32], r: &mut [f32], difference: &mut [f32]) -> Self {
        difference.copy_from_slice(r);
        simd::axpy(difference, -1.0, l);
        let (max, max_reference) = (simd::max(l), simd::max(r));
        simd::exp_sub_sum(l, max);
        simd::exp_sub_sum(r, max_reference);
        let [sum, sum_reference, difference] = Arch::new().dispatch(WideSums { l, r, difference });
        Self { max, sum, max_reference, sum_reference, difference }
    }
}

/// Sums of `l`, of `r` and of `r * difference`, in f64.
struct WideSums<'a> {
    l: &'a [f32],
    r: &'a [f32],
    difference: &'a [f32],
}

impl WithSimd for WideSums<'_> {
    type Output = [f64; 3];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> [f64; 3] {
        const LANES: usize = 16;
        let whole = self.l.len() / LANES * LANES;
        let (mut l, mut r, mut d) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let rows = self.l.chunks_exact(LANES).zip(self.r.chunks_exact(LANES)).zip(self.difference.chunks_exact(LANES));
        for ((xl, xr), xd) in rows {
            for i in 0..LANES {
                l[i] += f64::from(xl[i]);
                r[i] += f64::from(xr[i]);
                d[i] += f64::from(xr[i]) * f64::from(xd[i]);
            }
        }
        for i in whole..self.l.len() {
            l[0] += f64::from(self.l[i]);
            r[0] += f64::from(self.r[i]);
            d[0] += f64::from(self.r[i]) * f64::from(self.difference[i]);
        }
        [l.iter().sum(), r.iter().sum(), d.iter().sum()]
    }
}

impl Row {
    /// Joins the sums of all tiles.
    fn of(tiles: &[Sums]) -> Self {
        let max = tiles.iter().map(|t| t.max).fold(f32::NEG_INFINITY, f32::max);
        let max_reference = tiles.iter().map(|t| t.max_reference).fold(f32::NEG_INFINITY, f32::max);
        let (mut sum, mut sum_reference, mut difference) = (0.0, 0.0, 0.0);
        for t in tiles {
            sum += t.sum * f64::from(t.max - max).exp();
            let shrink = f64::from(t.max_reference - max_reference).exp();
            sum_reference += t.sum_reference * shrink;
            difference += t.difference * shrink;
        }
        let log_sum = f64::from(max) + sum.ln();
        let log_sum_reference = f64::from(max_reference) + sum_reference.ln();
        let kl = difference / sum_reference - (log_sum_reference - log_sum);
        // Rounding can fall a hair below zero, where no divergence is; not a number stays what it is.
        Self { log_sum, log_sum_reference, kl: if kl < 0.0 { 0.0 } else { kl } }
    }
}

impl Problem<'_> {
    fn forward(&self, want_hidden: bool) -> Saved {
        let (n, d, vocabulary) = (self.hidden.len(), self.head.d(), self.head.len());
        let mut saved =
            Saved { rows: Vec::with_capacity(n), grad_hidden: Vec::with_capacity(if want_hidden { n * d } else { 0 }) };
        let rows = (LOGIT_ELEMENTS / (self.parts() * vocabulary)).clamp(16, MAX_ROWS);
        let rows = n.div_ceil(n.div_ceil(rows).max(1)).max(1);
        let mut logits = Vec::new();
        for block in tiles(0..n, rows) {
            logits.resize(self.parts() * block.len() * vocabulary, 0.0);
            let sums = self.exponentials(&block, &mut logits);
            let of = |i: usize| Row::of(&sums.iter().map(|tile| tile[i]).collect::<Vec<_>>());
            let rows: Vec<Row> = (0..block.len()).map(of).collect();
            if want_hidden {
                saved.grad_hidden.extend(self.back_project(&rows, &sums, &mut logits));
            }
            saved.rows.extend(rows);
        }
        saved
    }

    /// Numbers that are held for a row and a vocabulary entry: the two logits, and the slope of the cap at the first.
    fn parts(&self) -> usize {
        2 + usize::from(self.cap.is_some())
    }

    /// Fills `logits` with the exponentials of a block of rows and returns every tile's sums, per row.
    ///
    /// Tile by tile of the vocabulary, and within a tile first the rows under `hidden`, then those under `reference`:
    /// one product gives both, so the head is read and packed once. With a head in bf16, the rows under `hidden` are
    /// taken as their differences from the reference: rounded by themselves, the two would drown a small difference in
    /// their rounding.
    fn exponentials(&self, block: &Range<usize>, logits: &mut [f32]) -> Vec<Vec<Sums>> {
        let (n, parts, cap) = (block.len(), self.parts(), self.cap);
        let mut both = [self.hidden.slice(block), self.reference.slice(block)].concat();
        let as_differences = matches!(self.head, Head::Half(_));
        if as_differences {
            let (hidden, reference) = both.split_at_mut(n * self.head.d());
            simd::axpy(hidden, -1.0, reference);
        }
        let both = self.head.hidden(&both);
        let of = |difference: &mut Vec<f32>, (index, logits): (usize, &mut [f32])| {
            let width = logits.len() / (parts * n);
            let tile = index * TILE..index * TILE + width;
            let (logits, slopes) = logits.split_at_mut(2 * n * width);
            both.logits(&tile, logits);
            difference.resize(width, 0.0);
            let (l, r) = logits.split_at_mut(n * width);
            if as_differences {
                simd::axpy(l, 1.0, r);
            }
            if let Some(cap) = cap {
                simd::soft_cap(l, cap);
                simd::soft_cap(r, cap);
                simd::soft_cap_slope(slopes, l, cap);
            }
            l.chunks_exact_mut(width).zip(r.chunks_exact_mut(width)).map(|(l, r)| Sums::of(l, r, difference)).collect()
        };
        logits.par_chunks_mut(parts * n * TILE).enumerate().map_init(Vec::new, of).collect()
    }

    /// `sum_v (p_v - r_v) W_v` for the rows of a block, `[rows, d]`. Overwrites `logits`.
    fn back_project(&self, rows: &[Row], sums: &[Vec<Sums>], logits: &mut [f32]) -> Vec<f32> {
        let (n, d, parts) = (rows.len(), self.head.d(), self.parts());
        let per_range = sums.len().div_ceil(parallel_ranges());
        let ranges = logits.par_chunks_mut(per_range * parts * n * TILE).zip(sums.par_chunks(per_range)).enumerate();
        let of = |(range, (logits, sums)): (usize, (&mut [f32], &[Vec<Sums>]))| {
            let mut partial = vec![0.0; n * d];
            for (index, (logits, sums)) in logits.chunks_mut(parts * n * TILE).zip(sums).enumerate() {
                let width = logits.len() / (parts * n);
                let (l, r) = logits.split_at_mut(n * width);
                let (r, slopes) = r.split_at(n * width);
                let pairs = l.chunks_exact_mut(width).zip(r.chunks_exact(width));
                for ((l, r), (row, sums)) in pairs.zip(rows.iter().zip(sums)) {
                    let p = (f64::from(sums.max) - row.log_sum).exp() as f32;
                    let q = (f64::from(sums.max_reference) - row.log_sum_reference).exp() as f32;
                    simd::scale(l, p);
                    simd::axpy(l, -q, r);
                }
                if self.cap.is_some() {
                    simd::mul(l, slopes);
                }
                let start = (range * per_range + index) * TILE;
                self.head.add_weighted(l, n, &(start..start + width), &mut partial);
            }
            partial
        };
        let partials: Vec<Vec<f32>> = ranges.with_max_len(1).map(of).collect();
        let mut out = vec![0.0; n * d];
        out.par_chunks_exact_mut(d).enumerate().for_each(|(i, out)| {
            for partial in &partials {
                simd::axpy(out, 1.0, &partial[i * d..][..d]);
            }
        });
        out
    }

    /// Gradient of the head, `[V, d]`: `sum_i g_i ((p - r) h_i^T + r (ln r - ln p - kl_i) reference_i^T)`.
    fn grad_head(&self, head: Rows<'_>, rows: &[Row], grad: &[f32]) -> Vec<f32> {
        let d = head.d;
        let mut out = vec![0.0; head.data.len()];
        let tile = head.len().div_ceil(parallel_ranges()).clamp(1, TILE);
        out.par_chunks_mut(tile * d).enumerate().for_each_init(
            || (Vec::new(), Vec::new()),
            |(l, r), (index, out)| {
                let tile = index * tile..index * tile + out.len() / d;
                let head = head.mat(&tile).t();
                for block in tiles(0..rows.len(), MAX_ROWS) {
                    let (n, width) = (block.len(), tile.len());
                    l.resize(n * width, 0.0);
                    r.resize(n * width, 0.0);
                    self.hidden.mat(&block).times(head).write(l, width);
                    self.reference.mat(&block).times(head).write(r, width);
                    let slope = |z: f32| self.cap.map_or(1.0, |cap| 1.0 - (z / cap).powi(2));
                    if let Some(cap) = self.cap {
                        simd::soft_cap(l, cap);
                        simd::soft_cap(r, cap);
                    }
                    for (i, (l, r)) in block.clone().zip(l.chunks_exact_mut(width).zip(r.chunks_exact_mut(width))) {
                        let Row { log_sum, log_sum_reference, kl } = rows[i];
                        for (l, r) in l.iter_mut().zip(r) {
                            let log_p = f64::from(*l) - log_sum;
                            let log_r = f64::from(*r) - log_sum_reference;
                            let (g, p, q) = (f64::from(grad[i]), log_p.exp(), log_r.exp());
                            *l = (g * (p - q)) as f32 * slope(*l);
                            *r = (g * q * (log_r - log_p - kl)) as f32 * slope(*r);
                        }
                    }
                    Mat::new(l, n, width).t().times(self.hidden.mat(&block)).add_to(out, d);
                    Mat::new(r, n, width).t().times(self.reference.mat(&block)).add_to(out, d);
                }
            },
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::{TILE, kl_divergence, kl_divergence_capped};
    use crate::conformance::{BF16_TOLERANCE, Input, check, check_bf16, random};
    use candle_core::{DType, Device, Tensor, Var};

    #[test]
    fn conforms() {
        for (n, d, vocabulary) in [(0, 4, 5), (1, 1, 1), (3, 7, 11), (5, 16, TILE), (9, 5, 2 * TILE + 37), (600, 3, 13)]
        {
            let (h, r, w) = (random((n, d), 1), random((n, d), 3), random((vocabulary, d), 2));
            for inputs in [
                [Input::Tracked(h.clone()), Input::Frozen(r.clone()), Input::Frozen(w.clone())],
                [Input::Frozen(h.clone()), Input::Frozen(r.clone()), Input::Tracked(w.clone())],
                [Input::Tracked(h.clone()), Input::Frozen(r.clone()), Input::Tracked(w.clone())],
            ] {
                let name = format!("kl_divergence {n}x{d}x{vocabulary}");
                check(&name, &inputs, |x| kl_divergence(&x[0], &x[1], &x[2]));
                for cap in [0.4, 30.0] {
                    let name = format!("{name}, capped at {cap}");
                    check(&name, &inputs, |x| kl_divergence_capped(&x[0], &x[1], &x[2], Some(cap)));
                }
            }
        }
    }

    /// Once: logits that a training had shifted by more than 88 nats gave no number on a device, in f32.
    #[test]
    fn logits_that_are_far_apart_conform() {
        let (h, r) = (random((7, 5), 1), random((7, 5), 3));
        let mut w = random((600, 5), 2).to_vec2::<f32>().unwrap();
        for row in &mut w {
            row[0] = 1.0;
        }
        let w = Tensor::new(w, &Device::Cpu).unwrap();
        let first = Tensor::new(&[[1f32, 0.0, 0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        for (shift, scale) in [(200.0, 1.0), (-200.0, 1.0), (0.0, 60.0), (300.0, 30.0)] {
            let far = (&h * scale).unwrap().broadcast_add(&(&first * shift).unwrap()).unwrap();
            let inputs = [Input::Tracked(far), Input::Frozen((&r * scale).unwrap()), Input::Frozen(w.clone())];
            let name = format!("kl_divergence of logits {shift} apart, times {scale}");
            check(&name, &inputs, |x| kl_divergence(&x[0], &x[1], &x[2]));
        }
    }

    #[test]
    fn a_head_in_bf16_conforms() {
        for (n, d, vocabulary) in [(0, 4, 5), (3, 7, 11), (9, 40, 2 * TILE + 37), (600, 3, 13)] {
            let (h, r, w) = (random((n, d), 1), random((n, d), 3), random((vocabulary, d), 2));
            let name = format!("kl_divergence {n}x{d}x{vocabulary}");
            check_bf16(&name, &[Input::Tracked(h), Input::Frozen(r)], &w, |x, w| kl_divergence(&x[0], &x[1], w));
        }
    }

    /// The divergence of inputs that differ by little from `r`, against the same in f64.
    fn check_near(r: &Tensor, w: &Tensor, tolerance: f64) {
        for step in [1e-2, 1e-3, 1e-4] {
            let h = (r + (random((6, 64), 3) * step).unwrap()).unwrap();
            let got = kl_divergence(&h, r, w).unwrap().to_vec1::<f32>().unwrap();
            let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
            let want = kl_divergence(&wide(&h), &wide(r), &wide(w)).unwrap().to_vec1::<f64>().unwrap();
            for (got, want) in got.iter().zip(want) {
                let error = (f64::from(*got) - want).abs();
                assert!(error < 2e-7_f64.max(want * tolerance), "step {step}: {got}, not {want}");
            }
        }
    }

    #[test]
    fn a_head_in_bf16_tells_nearly_equal_inputs_apart() {
        let (r, w) = (random((6, 64), 1), (random((5000, 64), 2) * 2.0).unwrap().to_dtype(DType::BF16).unwrap());
        assert_eq!(kl_divergence(&r, &r, &w).unwrap().to_vec1::<f32>().unwrap(), [0.0; 6]);
        check_near(&r, &w, BF16_TOLERANCE);
    }

    #[test]
    fn equal_inputs_give_exactly_zero() {
        let (h, w) = (random((7, 33), 1), (random((1300, 33), 2) * 9.0).unwrap());
        let h = Var::from_tensor(&h).unwrap();
        let kl = kl_divergence(&h, &h, &w).unwrap();
        assert_eq!(kl.to_vec1::<f32>().unwrap(), [0.0; 7]);
        let grads = kl.sum_all().unwrap().backward().unwrap();
        let largest = grads.get(&h).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(largest < 1e-6, "{largest}");
    }

    #[test]
    fn nearly_equal_inputs_are_told_apart() {
        let (r, w) = (random((6, 64), 1), (random((5000, 64), 2) * 2.0).unwrap());
        check_near(&r, &w, 1e-4);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let w = Tensor::new(&[[1f32], [0.0], [-1.0]], &Device::Cpu).unwrap();
        let h = Tensor::new(&[[-3000f32]], &Device::Cpu).unwrap();
        let r = Tensor::new(&[[3000f32]], &Device::Cpu).unwrap();
        assert_eq!(kl_divergence(&h, &r, &w).unwrap().to_vec1::<f32>().unwrap(), [6000.0]);
    }

    #[test]
    fn not_a_number_stays() {
        let h = Tensor::new(&[[f32::NAN], [1.0]], &Device::Cpu).unwrap();
        let kl = kl_divergence(&h, &random((2, 1), 1), &random((600, 1), 2)).unwrap().to_vec1::<f32>().unwrap();
        assert!(kl[0].is_nan() && kl[1].is_finite());
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let (h, w) = (random((2, 3), 1), random((4, 3), 1));
        assert!(kl_divergence(&h, &random((1, 3), 1), &w).is_err());
        assert!(kl_divergence(&h, &h, &random((4, 2), 1)).is_err());
        assert!(kl_divergence(&h, &h, &random((0, 3), 1)).is_err());
    }
}
