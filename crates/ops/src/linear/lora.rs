//! A linear layer with a low-rank adapter (LoRA, arXiv 2106.09685), as one operation. In: token rows, a frozen weight
//! and two factors; out: the sum of both paths. Invariant: the dropout mask is a function of seed, row and column
//! alone, so forward, backward and both forms see the same one.

use super::dropout::Dropout;
use super::product::Columns;
use super::whole::{Factor, Whole};
use super::{check_shapes, composed as composed_linear, product};
use crate::gemm::Mat;
use crate::weight::read_matrix;
use crate::{form, simd, slices};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::OnceLock;

/// Token rows of one parallel task.
const TASK_ROWS: usize = 64;

/// The low-rank half of a linear layer.
#[derive(Clone, Copy, Debug)]
pub struct LoraInput<'a> {
    /// `[r, in]`.
    pub a: &'a Tensor,
    /// `[out, r]`.
    pub b: &'a Tensor,
    /// `alpha / r`, or `alpha / sqrt(r)` with rsLoRA.
    pub scale: f32,
    /// Dropout on the input of `a`; None when not training.
    pub dropout: Option<Dropout>,
    /// Several adapters beside each other, each with rows of its own; None when all rows use the whole pair.
    pub owners: Option<Owners<'a>>,
    /// The factor that is the identity and is not trained: products with it may be left out, and it has no gradient.
    pub identity: Option<Factor>,
}

/// Which part of a pair each row uses. Adapters are beside each other in the rank: their `a` are below each other, their
/// `b` side by side, so that rows of different adapters are in one product (as in S-LoRA, arXiv 2311.03285).
#[derive(Clone, Copy, Debug)]
pub struct Owners<'a> {
    /// The adapter of each row.
    pub rows: &'a [u32],
    /// Where each adapter's part of the rank begins, and where the last one ends. An empty part is no adapter at all.
    pub starts: &'a [usize],
}

impl Owners<'_> {
    /// Zeroes what of `low`, rows of `rank` from row `first` on, is not their own.
    fn keep(&self, low: &mut [f32], rank: usize, first: usize) {
        for (row, owner) in low.chunks_exact_mut(rank).zip(&self.rows[first..]) {
            let owner = *owner as usize;
            row[..self.starts[owner]].fill(0.0);
            row[self.starts[owner + 1]..].fill(0.0);
        }
    }

    /// An error unless there is an owner for each of `tokens` rows, and the parts are within the rank.
    pub(crate) fn check(&self, tokens: usize, rank: usize) -> Result<()> {
        let fits = self.rows.len() == tokens
            && self.starts.is_sorted()
            && self.starts.last().is_some_and(|&end| end <= rank)
            && self.rows.iter().all(|&owner| (owner as usize) + 1 < self.starts.len());
        if !fits {
            bail!("lora: owners of {} rows do not fit {tokens} rows at rank {rank}", self.rows.len());
        }
        Ok(())
    }
}

/// `y = x W^T + bias + scale * dropout(x) A^T B^T`.
///
/// Errors when the shapes do not fit or `p` is not in `0..1`. Cost: that of `linear` and `r / out` of it twice more.
/// The fused form expects a frozen weight and bias; with a tracked one the composed form runs.
pub fn lora_linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, lora: LoraInput<'_>) -> Result<Tensor> {
    check_shapes(x, weight, bias)?;
    let ((outputs, inputs), rank) = (weight.dims2()?, lora.a.dims2()?.0);
    if lora.a.dims() != [rank, inputs] || lora.b.dims() != [outputs, rank] {
        bail!("lora: a is {:?} and b {:?} on a weight of {outputs} x {inputs}", lora.a.shape(), lora.b.shape());
    }
    let dropout = lora.dropout.filter(|dropout| dropout.p != 0.0);
    if let Some(Dropout { p, .. }) = dropout.filter(|dropout| !(0.0..1.0).contains(&dropout.p)) {
        bail!("lora: dropout probability {p} is not in 0..1");
    }
    if inputs * outputs * rank == 0 {
        bail!("lora: nothing to adapt in a weight of {outputs} x {inputs} at rank {rank}");
    }
    if let Some(owners) = lora.owners {
        owners.check(x.dims2()?.0, rank)?;
    }
    let lora = LoraInput { dropout, ..lora };
    #[cfg(feature = "cuda")]
    if crate::cuda::runs(x) && lora.owners.is_none() && !weight.track_op() && !bias.is_some_and(Tensor::track_op) {
        return crate::cuda::lora_linear(x, weight, bias, [lora.a, lora.b], lora.scale, lora.dropout);
    }
    // Rows with owners are generated or scored; the operation of its own is for training.
    if lora.owners.is_some() || !form::fused(x) || weight.track_op() || bias.is_some_and(Tensor::track_op) {
        return composed(x, weight, bias, lora);
    }
    let op = LoraLinear {
        weight: weight.contiguous()?,
        bias: bias.map(Tensor::contiguous).transpose()?,
        scale: lora.scale,
        dropout,
        identity: lora.identity,
        low: OnceLock::new(),
    };
    let (x, a, b) = (x.contiguous()?, lora.a.contiguous()?, lora.b.contiguous()?);
    if x.track_op() || a.track_op() || b.track_op() { x.apply_op3(&a, &b, op) } else { x.apply_op3_no_bwd(&a, &b, &op) }
}

fn composed(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, lora: LoraInput<'_>) -> Result<Tensor> {
    let y = composed_linear(x, weight, bias)?;
    let dropped = match lora.dropout {
        None => x.clone(),
        Some(dropout) => {
            let (tokens, inputs) = x.dims2()?;
            let mut factors = vec![0.0; tokens * inputs];
            dropout.fill(&mut factors, 0, inputs);
            x.mul(&Tensor::from_vec(factors, (tokens, inputs), x.device())?.to_dtype(x.dtype())?)?
        }
    };
    // Factors are in f32, whatever the rows are in.
    let mut low = dropped.matmul(&lora.a.to_dtype(x.dtype())?.t()?)?;
    if let Some(owners) = lora.owners {
        let (tokens, rank) = low.dims2()?;
        let mut kept = vec![1.0f32; tokens * rank];
        owners.keep(&mut kept, rank, 0);
        low = low.mul(&Tensor::from_vec(kept, (tokens, rank), x.device())?.to_dtype(low.dtype())?)?;
    }
    let delta = low.matmul(&lora.b.to_dtype(x.dtype())?.t()?)?;
    y + (delta * f64::from(lora.scale))?
}

/// `rows` of a matrix `width` wide.
fn rows(x: &[f32], rows: Range<usize>, width: usize) -> &[f32] {
    &x[rows.start * width..rows.end * width]
}

/// The token rows of each parallel task.
fn tasks(tokens: usize) -> impl IndexedParallelIterator<Item = Range<usize>> {
    (0..tokens.div_ceil(TASK_ROWS)).into_par_iter().map(move |i| i * TASK_ROWS..tokens.min((i + 1) * TASK_ROWS))
}

/// A low-rank pair as slices, and the products that it takes part in.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a> {
    /// `[rank, inputs]`.
    pub(crate) a: &'a [f32],
    /// `[outputs, rank]`.
    pub(crate) b: &'a [f32],
    pub(crate) rank: usize,
    pub(crate) scale: f32,
    pub(crate) dropout: Option<Dropout>,
    pub(crate) owners: Option<Owners<'a>>,
    /// The factor that is the identity.
    pub(crate) identity: Option<Factor>,
}

/// Which factors' gradients are asked for.
#[derive(Clone, Copy)]
pub(crate) struct FactorsWanted {
    pub(crate) a: bool,
    pub(crate) b: bool,
}

/// Gradients of the two factors; empty where none is asked for.
pub(crate) struct Factors {
    pub(crate) a: Vec<f32>,
    pub(crate) b: Vec<f32>,
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    /// Dropout factors of a task's rows.
    factors: Vec<f32>,
    /// A task's rows after dropout, later the gradient with respect to them.
    rows: Vec<f32>,
}

impl<'p> Pair<'p> {
    fn widths(&self) -> (usize, usize) {
        (self.a.len() / self.rank, self.b.len() / self.rank)
    }

    /// The change of a whole weight, and the factor beside it that is the identity; None where both are multiplied.
    fn whole(&self) -> Option<(Whole<'p>, Factor)> {
        let identity = self.identity.filter(|_| self.dropout.is_none() && self.owners.is_none())?;
        let (inputs, outputs) = self.widths();
        let values = if identity == Factor::A { self.b } else { self.a };
        let whole = Whole { values, outputs, inputs, scale: self.scale };
        (values.len() == outputs * inputs).then_some((whole, identity))
    }

    /// Adds `scale * dropout(x) A^T B^T` to `columns` of `out`; returns `dropout(x) A^T`, `[T, rank]`, which the
    /// backward needs; of a change of the whole weight nothing.
    pub(crate) fn forward(&self, x: &[f32], out: &mut [f32], columns: Columns) -> Vec<f32> {
        if let Some((whole, _)) = self.whole() {
            whole.forward(x, out, columns);
            return Vec::new();
        }
        let (rank, (inputs, outputs)) = (self.rank, self.widths());
        let tokens = x.len() / inputs;
        let mut low = vec![0.0; tokens * rank];
        let (a, b) = (Mat::new(self.a, rank, inputs), Mat::new(self.b, outputs, rank));
        let parts = out.par_chunks_mut(TASK_ROWS * columns.stride).zip(low.par_chunks_mut(TASK_ROWS * rank));
        parts.zip(tasks(tokens)).for_each_init(Scratch::default, |scratch, ((out, low), task)| {
            let n = task.len();
            let x = self.drop_rows(rows(x, task.clone(), inputs), task.start, inputs, scratch);
            Mat::new(x, n, inputs).times(a.t()).write(low, rank);
            if let Some(owners) = self.owners {
                owners.keep(low, rank, task.start);
            }
            let delta = Mat::new(low, n, rank).times(b.t()).scaled(self.scale);
            delta.add_to(&mut out[columns.at..], columns.stride);
        });
        low
    }

    /// With `u = dropout(x) A^T` (`low`) and `g` the `columns` of `grad`: `dB = scale g^T u`, `du = scale g B`,
    /// `dA = du^T dropout(x)`, and `dropout(du A)` is added to `dx`.
    pub(crate) fn backward(
        &self,
        x: &[f32],
        low: &[f32],
        grad: &[f32],
        columns: Columns,
        dx: Option<&mut [f32]>,
        want: FactorsWanted,
    ) -> Factors {
        if let Some((whole, identity)) = self.whole() {
            let found = whole.backward(x, grad, columns, dx);
            return match identity {
                Factor::A => Factors { a: Vec::new(), b: found },
                Factor::B => Factors { a: found, b: Vec::new() },
            };
        }
        let (rank, (inputs, outputs)) = (self.rank, self.widths());
        let tokens = x.len() / inputs;
        let pieces: Vec<Option<&mut [f32]>> = match dx {
            Some(dx) => dx.chunks_mut(TASK_ROWS * inputs).map(Some).collect(),
            None => tasks(tokens).map(|_| None).collect(),
        };
        let parts: Vec<Factors> = (pieces.into_par_iter().zip(tasks(tokens)))
            .map_init(Scratch::default, |scratch, (dx, task)| {
                let n = task.len();
                let g = Mat::strided(&grad[task.start * columns.stride + columns.at..], n, outputs, columns.stride);
                let mut db = vec![0.0; if want.b { outputs * rank } else { 0 }];
                if want.b {
                    let low = Mat::new(rows(low, task.clone(), rank), n, rank);
                    g.t().times(low).scaled(self.scale).write(&mut db, rank);
                }
                let mut da = vec![0.0; if want.a { rank * inputs } else { 0 }];
                if want.a || dx.is_some() {
                    let mut dlow = vec![0.0; n * rank];
                    g.times(Mat::new(self.b, outputs, rank)).scaled(self.scale).write(&mut dlow, rank);
                    if let Some(owners) = self.owners {
                        owners.keep(&mut dlow, rank, task.start);
                    }
                    let dlow = Mat::new(&dlow, n, rank);
                    let dropped = self.drop_rows(rows(x, task.clone(), inputs), task.start, inputs, scratch);
                    if want.a {
                        dlow.t().times(Mat::new(dropped, n, inputs)).write(&mut da, inputs);
                    }
                    if let Some(dx) = dx {
                        self.add_low_gradient(dx, dlow, inputs, scratch);
                    }
                }
                Factors { a: da, b: db }
            })
            .collect();
        let sum = |wanted: bool, part: fn(&Factors) -> &[f32], len: usize| {
            let mut total = vec![0.0; if wanted { len } else { 0 }];
            parts.iter().filter(|_| wanted).for_each(|parts| simd::axpy(&mut total, 1.0, part(parts)));
            total
        };
        Factors { a: sum(want.a, |part| &part.a, self.a.len()), b: sum(want.b, |part| &part.b, self.b.len()) }
    }

    /// `dropout(x)` of the rows from `first` on.
    fn drop_rows<'x>(&self, x: &'x [f32], first: usize, width: usize, scratch: &'x mut Scratch) -> &'x [f32] {
        let Some(dropout) = self.dropout else { return x };
        scratch.factors.resize(x.len(), 0.0);
        scratch.rows.resize(x.len(), 0.0);
        dropout.fill(&mut scratch.factors, first, width);
        simd::mul_scaled(&mut scratch.rows, x, &scratch.factors, 1.0);
        &scratch.rows
    }

    /// `dx += dropout(dlow A)`, with the factors that `drop_rows` left in `scratch`.
    fn add_low_gradient(&self, dx: &mut [f32], dlow: Mat<'_>, width: usize, scratch: &mut Scratch) {
        let a = Mat::new(self.a, self.rank, width);
        if self.dropout.is_none() {
            dlow.times(a).add_to(dx, width);
        } else {
            dlow.times(a).write(&mut scratch.rows, width);
            simd::add_mul_scaled(dx, &scratch.rows, &scratch.factors, 1.0);
        }
    }
}

struct LoraLinear {
    weight: Tensor,
    bias: Option<Tensor>,
    scale: f32,
    dropout: Option<Dropout>,
    identity: Option<Factor>,
    /// `dropout(x) A^T`, `[T, r]`, kept from forward to backward.
    low: OnceLock<Vec<f32>>,
}

impl LoraLinear {
    fn pair<'a>(&self, a: &'a [f32], b: &'a [f32], rank: usize) -> Pair<'a> {
        Pair { a, b, rank, scale: self.scale, dropout: self.dropout, owners: None, identity: self.identity }
    }
}

impl CustomOp3 for LoraLinear {
    fn name(&self) -> &'static str {
        "lora_linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((tokens, _), (outputs, rank)) = (lx.shape().dims2()?, lb.shape().dims2()?);
        let (x, a, b) = (slices::cpu(x, lx)?, slices::cpu(a, la)?, slices::cpu(b, lb)?);
        let (weight, bias) = (slices::read(&self.weight), self.bias.as_ref().map(slices::read));
        let bias = bias.as_ref().map(slices::Guard::as_slice).transpose()?;
        let mut out = product::forward(x, read_matrix(&weight)?, bias, tokens);
        let low = self.pair(a, b, rank).forward(x, &mut out, Columns { stride: outputs, at: 0 });
        // Forward runs once per operation, so the cell is empty.
        let _ = self.low.set(low);
        Ok((CpuStorage::F32(out), (tokens, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let ((tokens, _), (outputs, rank)) = (x.dims2()?, b.dims2()?);
        let (xs, aa, bb, gg, ww) =
            (slices::read(x), slices::read(a), slices::read(b), slices::read(&grad), slices::read(&self.weight));
        let (gg, pair) = (gg.as_slice()?, self.pair(aa.as_slice()?, bb.as_slice()?, rank));
        let weight = read_matrix(&ww)?;
        let mut dx = x.track_op().then(|| product::input_gradient(gg, weight, tokens));
        let low = self.low.get().map_or(&[][..], Vec::as_slice);
        let trained = |factor, tensor: &Tensor| tensor.track_op() && self.identity != Some(factor);
        let want = FactorsWanted { a: trained(Factor::A, a), b: trained(Factor::B, b) };
        let columns = Columns { stride: outputs, at: 0 };
        let factors = pair.backward(xs.as_slice()?, low, gg, columns, dx.as_deref_mut(), want);
        let da = want.a.then(|| slices::tensor(factors.a, a.shape()));
        let db = want.b.then(|| slices::tensor(factors.b, b.shape()));
        Ok((dx.map(|dx| slices::tensor(dx, x.shape())), da, db))
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // exact by construction
mod tests {
    use super::*;
    use crate::conformance::{Input, check, check_bf16, random};
    use crate::linear::linear;
    use candle_core::Var;

    const DROPOUT: Dropout = Dropout { p: 0.25, seed: 7 };

    #[test]
    fn conforms() {
        for (t, i, o, r) in
            [(0, 5, 3, 2), (1, 1, 1, 1), (1, 64, 96, 8), (3, 7, 5, 2), (70, 33, 65, 3), (150, 64, 48, 8)]
        {
            let inputs = [random((t, i), 1), random((o, i), 2), random(o, 3), random((r, i), 4), random((o, r), 5)];
            for mask in 1..8 {
                let tracked =
                    |at: usize| [0, 3, 4].iter().position(|&p| p == at).is_some_and(|bit| mask >> bit & 1 == 1);
                let inputs: Vec<Input> = (inputs.iter().enumerate())
                    .map(|(at, x)| if tracked(at) { Input::Tracked(x.clone()) } else { Input::Frozen(x.clone()) })
                    .collect();
                for dropout in [None, Some(DROPOUT)] {
                    check(&format!("lora {t}x{i}x{o} r {r}, tracked {mask:03b}, {dropout:?}"), &inputs, |x| {
                        lora_linear(
                            &x[0],
                            &x[1],
                            Some(&x[2]),
                            LoraInput { a: &x[3], b: &x[4], scale: 0.5, dropout, owners: None, identity: None },
                        )
                    });
                }
            }
        }
    }

    #[test]
    fn a_weight_in_bf16_conforms() {
        let inputs = [random((40, 33), 1), random((3, 33), 4), random((65, 3), 5)].map(Input::Tracked);
        check_bf16("lora", &inputs, &random((65, 33), 2), |x, w| {
            lora_linear(
                &x[0],
                w,
                None,
                LoraInput { a: &x[1], b: &x[2], scale: 0.5, dropout: Some(DROPOUT), owners: None, identity: None },
            )
        });
    }

    #[test]
    fn a_tracked_weight_gets_its_gradient_too() {
        let all: Vec<Input> =
            [random((3, 4), 1), random((5, 4), 2), random((2, 4), 3), random((5, 2), 4)].map(Input::Tracked).to_vec();
        check("lora, all tracked", &all, |x| {
            lora_linear(
                &x[0],
                &x[1],
                None,
                LoraInput { a: &x[2], b: &x[3], scale: 2.0, dropout: None, owners: None, identity: None },
            )
        });
    }

    #[test]
    fn the_mask_has_its_rate_and_does_not_depend_on_how_rows_are_split() {
        let mut whole = vec![0.0; 200 * 333];
        DROPOUT.fill(&mut whole, 0, 333);
        let dropped = whole.iter().filter(|&&f| f == 0.0).count() as f64 / whole.len() as f64;
        assert!((dropped - 0.25).abs() < 0.01, "{dropped}");
        assert!(whole.iter().all(|&f| f == 0.0 || f == 1.0 / 0.75));
        let mut part = vec![0.0; 3 * 333];
        DROPOUT.fill(&mut part, 100, 333);
        assert_eq!(part, whole[100 * 333..103 * 333]);
        assert_ne!(whole[..333], whole[333..666]);
    }

    #[test]
    fn gradients_do_not_depend_on_the_number_of_threads() {
        let grads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let [x, a, b] = [random((300, 40), 1), random((4, 40), 2), random((30, 4), 3)]
                    .map(|x| Var::from_tensor(&x).unwrap());
                let lora = LoraInput { a: &a, b: &b, scale: 0.5, dropout: Some(DROPOUT), owners: None, identity: None };
                let y = lora_linear(&x, &random((30, 40), 4), None, lora).unwrap();
                let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                [x, a, b].map(|v| grads.get(&v).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap())
            })
        };
        assert_eq!(grads(1), grads(3));
    }

    #[test]
    fn refuses_shapes_and_rates_that_do_not_fit() {
        let (x, w, a, b) = (random((2, 3), 1), random((4, 3), 2), random((2, 3), 3), random((4, 2), 4));
        let run = |a, b, p| {
            lora_linear(
                &x,
                &w,
                None,
                LoraInput { a, b, scale: 1.0, dropout: Some(Dropout { p, seed: 1 }), owners: None, identity: None },
            )
        };
        assert!(run(&a, &b, 0.5).is_ok());
        assert!(run(&b, &b, 0.5).is_err() && run(&a, &a, 0.5).is_err());
        for p in [1.0, -0.1, f32::NAN] {
            assert!(run(&a, &b, p).is_err());
        }
    }

    fn pair<'a>(a: &'a Tensor, b: &'a Tensor, owners: Option<Owners<'a>>) -> LoraInput<'a> {
        LoraInput { a, b, scale: 0.5, dropout: None, owners, identity: None }
    }

    /// Rows of three adapters in one product, the second of which is none, fused, composed and one by one.
    #[test]
    fn rows_with_owners_use_their_own_part_of_a_pair() {
        let (tokens, inputs, outputs, rank) = (70, 9, 11, 5);
        let (x, w) = (random((tokens, inputs), 1), random((outputs, inputs), 2));
        let (a, b) = (random((rank, inputs), 3), random((outputs, rank), 4));
        let rows: Vec<u32> = (0..tokens as u32).map(|t| t * t % 3).collect();
        let starts = [0, 2, 2, 5];
        let owners = Owners { rows: &rows, starts: &starts };
        let got = lora_linear(&x, &w, None, pair(&a, &b, Some(owners))).unwrap().to_vec2::<f32>().unwrap();
        let mut out = vec![0.0; tokens * outputs];
        let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (av, bv) = (values(&a), values(&b));
        let own = Pair { a: &av, b: &bv, rank, scale: 0.5, dropout: None, owners: Some(owners), identity: None };
        own.forward(&values(&x), &mut out, Columns { stride: outputs, at: 0 });
        let base = linear(&x, &w, None).unwrap().to_vec2::<f32>().unwrap();
        for (t, row) in got.iter().enumerate() {
            let part = starts[rows[t] as usize]..starts[rows[t] as usize + 1];
            let x = x.narrow(0, t, 1).unwrap();
            let want = if part.is_empty() {
                base[t].clone()
            } else {
                let a = a.narrow(0, part.start, part.len()).unwrap();
                let b = b.narrow(1, part.start, part.len()).unwrap().contiguous().unwrap();
                values(&lora_linear(&x, &w, None, pair(&a, &b, None)).unwrap())
            };
            for (o, want) in want.iter().enumerate() {
                assert!((row[o] - want).abs() < 1e-5, "row {t}: {}, not {want}", row[o]);
                assert!((base[t][o] + out[t * outputs + o] - want).abs() < 1e-5, "row {t}, fused");
            }
        }
        let few = Owners { rows: &rows[1..], starts: &starts };
        assert!(lora_linear(&x, &w, None, pair(&a, &b, Some(few))).is_err());
        let beyond = Owners { rows: &rows, starts: &[0, 2, 6] };
        assert!(lora_linear(&x, &w, None, pair(&a, &b, Some(beyond))).is_err());
    }

    #[test]
    fn products_with_the_identity_are_left_out() {
        for (tokens, outputs, inputs) in [(1, 3, 5), (7, 5, 3), (130, 16, 24), (70, 24, 16), (9, 4, 4)] {
            let rank = outputs.min(inputs);
            let unit: Vec<f32> =
                (0..rank * rank).map(|i: usize| f32::from(u8::from(i.is_multiple_of(rank + 1)))).collect();
            let flat = |shape: (usize, usize), seed| -> Vec<f32> {
                random(shape, seed).flatten_all().unwrap().to_vec1().unwrap()
            };
            let (change, x) = (flat((outputs, inputs), 1), flat((tokens, inputs), 2));
            // Columns of wider rows, as in a block.
            let (stride, at) = (outputs + 3, 2);
            let grad = flat((tokens, stride), 3);
            for identity in [Factor::A, Factor::B].into_iter().filter(|f| match f {
                Factor::A => inputs <= outputs,
                Factor::B => outputs <= inputs,
            }) {
                let (a, b) = if identity == Factor::A { (&unit, &change) } else { (&change, &unit) };
                let of = |identity| Pair { a, b, rank, scale: 1.0, dropout: None, owners: None, identity };
                let columns = Columns { stride, at };
                let run = |pair: Pair<'_>| {
                    let (mut out, mut dx) = (flat((tokens, stride), 4), flat((tokens, inputs), 5));
                    let low = pair.forward(&x, &mut out, columns);
                    let want = FactorsWanted { a: true, b: true };
                    let found = pair.backward(&x, &low, &grad, columns, Some(&mut dx), want);
                    (out, dx, if identity == Factor::A { found.b } else { found.a })
                };
                let (whole, both) = (run(of(Some(identity))), run(of(None)));
                for (found, expected) in [(whole.0, both.0), (whole.1, both.1), (whole.2, both.2)] {
                    assert_eq!(found.len(), expected.len());
                    for (x, y) in found.iter().zip(&expected) {
                        assert!((x - y).abs() < 1e-4, "{tokens} {outputs} {inputs} {identity:?}: {x}, {y}");
                    }
                }
            }
        }
    }
}
