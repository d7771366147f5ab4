use super::{Block, BlockLinear, Experts, Linears, Norms, Rope, backward, forward, forward_saving};
use crate::conformance::{BF16_TOLERANCE, random};
use crate::linear::{Dropout, LoraInput};
use crate::quant::TensorType;
use crate::weight::{Stored, Weight};
use crate::{
    Activation, AttentionShape, RopeTable, Routing, Segments, activate, attention, backward_from, linear, lora_linear,
    mixture, rms_norm, rope,
};
use candle_core::{DType, Device, Tensor, Var};

const D: usize = 24;
const F: usize = 40;
const SHAPE: AttentionShape =
    AttentionShape { heads: 6, kv_heads: 2, head_dim: 4, window: Some(9), scale: None, cap: None };
const RANK: usize = 3;
const EPS: f64 = 1e-5;

const LINEARS: usize = 9;

/// `(out, in)` of the linear layers.
const SHAPES: [(usize, usize); LINEARS] =
    [(24, D), (8, D), (8, D), (D, 24), (F, D), (F, D), (D, F), (40, D), (2 * F, D)];
/// The layers of a block whose projections are apart, and of one where they are not.
const APART: [usize; 7] = [0, 1, 2, 3, 4, 5, 6];
const FUSED: [usize; 4] = [7, 3, 8, 6];

/// Something for each layer, in the order of [`SHAPES`].
fn linears<T>(of: impl FnMut(usize) -> T) -> Linears<T> {
    let [q, k, v, o, gate, up, down, qkv, gate_up] = std::array::from_fn(of);
    Linears { q, k, v, o, gate, up, down, qkv, gate_up }
}

/// What makes a block other than Llama's.
#[derive(Clone, Debug)]
struct Kind {
    /// Norms before and after the halves.
    before: bool,
    after: bool,
    /// Widths of the norms of queries and keys.
    qk: Option<[usize; 2]>,
    turned: bool,
    activation: Activation,
    residual: f32,
    shape: AttentionShape,
    layers: &'static [usize],
    /// Experts in the place of the MLP.
    experts: Option<Routing>,
}

const LLAMA: Kind = Kind {
    before: true,
    after: false,
    qk: None,
    turned: true,
    activation: Activation::Silu,
    residual: 1.0,
    shape: SHAPE,
    layers: &APART,
    experts: None,
};

/// The layers of a block with experts.
const ATTENTION: [usize; 4] = [0, 1, 2, 3];
const EXPERTS: usize = 5;
const EXPERT_WIDTH: usize = 7;

struct Parts {
    kind: Kind,
    /// Before and after attention, before and after the MLP.
    norms: [Tensor; 4],
    qk: Option<[Tensor; 2]>,
    weights: Vec<Weight>,
    biases: Vec<Option<Tensor>>,
    pairs: Vec<Option<(Var, Var)>>,
    router: Weight,
    experts: Vec<[Weight; 3]>,
    dropout: Option<f32>,
    rope: RopeTable,
    segments: Segments,
}

impl Parts {
    fn new(adapted: [bool; LINEARS], biased: bool, dropout: Option<f32>, segments: Segments) -> Self {
        Self::of(LLAMA, adapted, biased, dropout, segments)
    }

    fn of(kind: Kind, adapted: [bool; LINEARS], biased: bool, dropout: Option<f32>, segments: Segments) -> Self {
        let scaled = |x: Tensor, by: f64| (x * by).unwrap();
        let weights = SHAPES.iter().enumerate().map(|(i, &s)| scaled(random(s, i as u64), 0.4).into()).collect();
        let biases = SHAPES
            .iter()
            .enumerate()
            .map(|(i, s)| (biased && (i < 3 || kind.layers != APART)).then(|| random(s.0, 20 + i as u64)));
        let pairs = SHAPES.iter().zip(adapted).enumerate().map(|(i, (s, adapted))| {
            let var = |shape, seed| Var::from_tensor(&random(shape, seed)).unwrap();
            (adapted && kind.layers.contains(&i))
                .then(|| (var((RANK, s.1), 30 + i as u64), var((s.0, RANK), 40 + i as u64)))
        });
        let inv_freq = [1.0, 0.3];
        let expert = |i: u64| {
            let own = |shape, part: u64| Weight::from(scaled(random(shape, 70 + 3 * i + part), 0.4));
            [own((EXPERT_WIDTH, D), 0), own((EXPERT_WIDTH, D), 1), own((D, EXPERT_WIDTH), 2)]
        };
        Self {
            router: random((EXPERTS, D), 69).into(),
            experts: (0..EXPERTS as u64).map(expert).collect(),
            norms: [50, 51, 52, 53].map(|seed| random(D, seed)),
            qk: kind.qk.map(|[q, k]| [random(q, 54), random(k, 55)]),
            weights,
            biases: biases.collect(),
            pairs: pairs.collect(),
            dropout,
            rope: RopeTable::new(&inv_freq, 128, 1.0, &Device::Cpu).unwrap(),
            segments,
            kind,
        }
    }

    fn lora(&self, i: usize) -> Option<LoraInput<'_>> {
        let dropout = self.dropout.map(|p| Dropout { p, seed: i as u64 });
        self.pairs[i].as_ref().map(|(a, b)| LoraInput { a, b, scale: 0.3, dropout, owners: None, identity: None })
    }

    fn composed(&self, x: &Tensor, positions: &[u32]) -> Tensor {
        let apply = |i: usize, x: &Tensor| {
            let weight = self.weights[i].dense(DType::F32, &Device::Cpu).unwrap();
            match self.lora(i) {
                Some(lora) => lora_linear(x, &weight, self.biases[i].as_ref(), lora).unwrap(),
                None => linear(x, &weight, self.biases[i].as_ref()).unwrap(),
            }
        };
        let kind = &self.kind;
        let norm = |on: bool, i: usize, x: &Tensor| {
            if on { rms_norm(x, &self.norms[i], EPS).unwrap() } else { x.clone() }
        };
        let add = |x: &Tensor, y: Tensor| (x + (y * f64::from(kind.residual)).unwrap()).unwrap();
        let turned = |x: &Tensor, i: usize| {
            let normed = self.qk.as_ref().map(|qk| {
                let (rows, width) = x.dims2().unwrap();
                let pieces = x.reshape((rows * width / qk[i].elem_count(), qk[i].elem_count())).unwrap();
                rms_norm(&pieces, &qk[i], EPS).unwrap().reshape((rows, width)).unwrap()
            });
            let x = normed.as_ref().unwrap_or(x);
            if kind.turned { rope(x, &self.rope, positions).unwrap() } else { x.clone() }
        };
        let parts = |together: usize, parts: &[usize], x: &Tensor| -> Vec<Tensor> {
            if kind.layers.contains(&parts[0]) || !kind.layers.contains(&together) {
                return parts.iter().filter(|i| kind.layers.contains(i)).map(|&i| apply(i, x)).collect();
            }
            let (all, mut at) = (apply(together, x), 0);
            let widths = parts.iter().map(|&i| SHAPES[i].0);
            widths
                .map(|width| {
                    at += width;
                    all.narrow(1, at - width, width).unwrap().contiguous().unwrap()
                })
                .collect()
        };
        let qkv = parts(7, &[0, 1, 2], &norm(kind.before, 0, x));
        let a = attention(&turned(&qkv[0], 0), &turned(&qkv[1], 1), &qkv[2], &self.segments, kind.shape).unwrap();
        let x = add(x, norm(kind.after, 1, &apply(3, &a)));
        if let Some(routing) = kind.experts {
            let x2 = norm(kind.before, 2, &x);
            let dense = |weight: &Weight| weight.dense(DType::F32, &Device::Cpu).unwrap();
            let logits = linear(&x2, &dense(&self.router), None).unwrap();
            let expert = |i: usize, x: &Tensor| {
                let [gate, up, down] = self.experts[i].each_ref().map(dense);
                let (gate, up) = (linear(x, &gate, None)?, linear(x, &up, None)?);
                linear(&activate(kind.activation, Some(&gate), &up)?, &down, None)
            };
            return add(&x, norm(kind.after, 3, &mixture(&x2, &logits, routing, expert).unwrap()));
        }
        let gate_up = parts(8, &[4, 5], &norm(kind.before, 2, &x));
        let (gate, up) = match &gate_up[..] {
            [gate, up] => (Some(gate), up),
            all => (None, &all[0]),
        };
        let h = activate(kind.activation, gate, up).unwrap();
        add(&x, norm(kind.after, 3, &apply(6, &h)))
    }

    /// Fused and composed output, gradient of the input and of every factor agree.
    fn agrees(&self, stack: bool, want_input: bool) {
        self.agrees_within(stack, want_input, 2e-5);
    }

    fn agrees_within(&self, stack: bool, want_input: bool, tolerance: f32) {
        let close = |what: &str, got: &Tensor, want: &Tensor| close(what, got, want, tolerance);
        let positions = self.segments.positions();
        let t = positions.len();
        let x =
            if want_input { Var::from_tensor(&random((t, D), 60)).unwrap().into_inner() } else { random((t, D), 60) };
        let grad = random((t, D), 61);
        let want = self.composed(&x, &positions);
        let want_grads = backward_from(&want, &grad).unwrap();
        let stacked = |which: &[usize]| {
            let all: Vec<&Weight> = which.iter().map(|&i| &self.weights[i]).collect();
            stack.then(|| Weight::stack(&all).unwrap().unwrap())
        };
        let kind = &self.kind;
        let stack_of = |together: usize, parts: &[usize]| match kind.layers.contains(&together) {
            true => stack.then(|| self.weights[together].clone()),
            false if parts.iter().all(|i| kind.layers.contains(i)) => stacked(parts),
            false => None,
        };
        let (qkv, gate_up) = (stack_of(7, &[0, 1, 2]), stack_of(8, &[4, 5]));
        let linears = linears(|i| {
            kind.layers.contains(&i).then(|| BlockLinear {
                weight: &self.weights[i],
                bias: self.biases[i].as_ref(),
                lora: self.lora(i),
            })
        });
        let [attention, after_attention, mlp, after_mlp] = &self.norms;
        let block = Block {
            norms: Norms {
                attention: kind.before.then_some(attention),
                after_attention: kind.after.then_some(after_attention),
                mlp: kind.before.then_some(mlp),
                after_mlp: kind.after.then_some(after_mlp),
                q: self.qk.as_ref().map(|qk| &qk[0]),
                k: self.qk.as_ref().map(|qk| &qk[1]),
            },
            linears,
            qkv: qkv.as_ref(),
            gate_up: gate_up.as_ref(),
            experts: kind.experts.map(|routing| Experts { router: &self.router, routing, each: &self.experts }),
            eps: EPS,
            shape: kind.shape,
            rope: kind.turned.then_some(Rope { q: &self.rope, k: &self.rope }),
            activation: kind.activation,
            residual: kind.residual,
            positions: &positions,
            segments: &self.segments,
        };
        let (got, saved) = forward_saving(&block, &x).unwrap();
        close("output", &got, &want);
        close("output, nothing saved", &forward(&block, &x).unwrap(), &want);
        let grads = backward(&block, &x, saved, &grad, want_input).unwrap();
        assert_eq!(grads.input.is_some(), want_input);
        if let Some(dx) = &grads.input {
            close("input", dx, want_grads.get(&x).unwrap());
        }
        for (i, (found, pair)) in grads.pairs.iter().zip(&self.pairs).enumerate() {
            assert_eq!(found.is_some(), pair.is_some(), "pair {i}");
            if let (Some([Some(da), Some(db)]), Some((a, b))) = (found, pair) {
                close(&format!("A of {i}"), da, want_grads.get(a).unwrap());
                close(&format!("B of {i}"), db, want_grads.get(b).unwrap());
            }
        }
    }
}

fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    let (got, want) = (got.flatten_all().unwrap(), want.flatten_all().unwrap());
    let (got, want) = (got.to_vec1::<f32>().unwrap(), want.to_vec1::<f32>().unwrap());
    let largest = want.iter().fold(0.1f32, |m, w| m.max(w.abs()));
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() <= tolerance * largest, "{what}: {got}, not {want}");
    }
}

fn pack() -> Segments {
    Segments::continuing(&[(7, None), (11, Some(0)), (3, None), (0, Some(0)), (30, Some(0))])
}

#[test]
fn equals_its_single_operations() {
    let some = |which: &[usize]| std::array::from_fn(|i| which.contains(&i));
    for which in [&[0, 2][..], &[0, 1, 2, 3, 4, 5, 6], &[3], &[6], &[4], &[1, 5], &[]] {
        for want_input in [true, false] {
            Parts::new(some(which), which.len() > 2, None, pack()).agrees(true, want_input);
            Parts::new(some(which), false, Some(0.3), pack()).agrees(false, want_input);
        }
    }
    Parts::new(some(&[0, 2]), true, None, Segments::from_lengths([1])).agrees(true, true);
    Parts::new(some(&[0, 2]), true, None, Segments::from_lengths([120])).agrees(true, true);
}

#[test]
fn blocks_of_other_kinds_equal_their_single_operations() {
    let capped = AttentionShape { scale: Some(0.8), cap: Some(0.5), ..SHAPE };
    let kinds = [
        Kind { qk: Some([4, 4]), ..LLAMA },
        Kind { before: false, after: true, qk: Some([24, 8]), ..LLAMA },
        Kind { after: true, shape: capped, activation: Activation::GeluTanh, ..LLAMA },
        Kind { after: true, qk: Some([4, 4]), activation: Activation::GeluTanh, residual: 0.3, ..LLAMA },
        Kind { residual: 0.22, turned: false, ..LLAMA },
        Kind { qk: Some([4, 4]), turned: false, before: false, after: true, ..LLAMA },
        Kind { layers: &FUSED, ..LLAMA },
        Kind { layers: &FUSED, after: true, activation: Activation::GeluTanh, ..LLAMA },
        Kind { layers: &[0, 1, 2, 3, 5, 6], activation: Activation::ReluSquared, ..LLAMA },
        Kind { layers: &ATTENTION, experts: Some(Routing { used: 2, normalised: true }), ..LLAMA },
        Kind { layers: &ATTENTION, experts: Some(Routing { used: 3, normalised: false }), qk: Some([4, 4]), ..LLAMA },
        Kind { layers: &ATTENTION, experts: Some(Routing { used: 1, normalised: true }), after: true, ..LLAMA },
        Kind { layers: &ATTENTION, experts: Some(Routing { used: 5, normalised: false }), residual: 0.3, ..LLAMA },
    ];
    for kind in kinds {
        for which in [&[0, 1, 2, 3, 4, 5, 6, 7, 8][..], &[0, 5, 7], &[1, 3], &[6], &[8, 2], &[]] {
            let adapted = std::array::from_fn(|i| which.contains(&i));
            for want_input in [true, false] {
                Parts::of(kind.clone(), adapted, true, Some(0.3), pack()).agrees(true, want_input);
                Parts::of(kind.clone(), adapted, false, None, pack()).agrees(false, want_input);
            }
        }
    }
}

#[test]
fn a_stored_weight_gives_what_its_expansion_gives() {
    let mut parts = Parts::new([true; LINEARS], true, None, pack());
    parts.weights = SHAPES
        .iter()
        .enumerate()
        .map(|(i, &(rows, cols))| {
            let values = random((rows, cols), i as u64).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let bytes = values.iter().flat_map(|&x| half::bf16::from_f32(x * 0.4).to_le_bytes()).collect();
            Weight::Stored(Stored::new(TensorType::BF16, rows, cols, bytes).unwrap())
        })
        .collect();
    parts.agrees(true, true);
    parts.agrees(false, false);
}

/// Weights in bf16 give what the same numbers in f32 give, forward and backward.
#[test]
fn weights_in_bf16_conform() {
    let mut parts = Parts::new([true; LINEARS], true, Some(0.3), pack());
    for weight in &mut parts.weights {
        *weight = weight.dense(DType::BF16, &Device::Cpu).unwrap().into();
    }
    for stack in [true, false] {
        parts.agrees_within(stack, true, BF16_TOLERANCE as f32);
    }
}

/// Training Qwen2 in bf16 destroyed it: its keys have biases in the hundreds, they were rounded between forward and
/// backward, and gradients were hundreds of times too large.
#[test]
fn large_biases_of_keys_do_not_spoil_gradients_in_bf16() {
    let mut parts = Parts::new([true; LINEARS], true, None, pack());
    for weight in &mut parts.weights {
        *weight = weight.dense(DType::BF16, &Device::Cpu).unwrap().into();
    }
    let bias = parts.biases[1].as_ref().unwrap();
    parts.biases[1] = Some((bias * 300.0).unwrap());
    parts.agrees_within(true, true, 2.0 * BF16_TOLERANCE as f32);
}

#[test]
fn layers_and_pairs_that_do_not_fit_are_refused() {
    let mut parts = Parts::new([true; LINEARS], false, None, Segments::from_lengths([2]));
    let positions = [0, 1];
    let check = |parts: &Parts, layers: &[usize], x: &Tensor| {
        let linears = linears(|i| {
            layers.contains(&i).then(|| BlockLinear { weight: &parts.weights[i], bias: None, lora: parts.lora(i) })
        });
        let block = Block {
            norms: Norms { attention: Some(&parts.norms[0]), mlp: Some(&parts.norms[2]), ..Norms::default() },
            linears,
            qkv: None,
            gate_up: None,
            experts: None,
            eps: EPS,
            shape: SHAPE,
            rope: Some(Rope { q: &parts.rope, k: &parts.rope }),
            activation: Activation::Silu,
            residual: 1.0,
            positions: &positions,
            segments: &parts.segments,
        };
        forward(&block, x).is_ok()
    };
    let x = random((2, D), 1);
    assert!(check(&parts, &APART, &x) && check(&parts, &FUSED, &x));
    assert!(!check(&parts, &APART, &random((3, D), 1)));
    for wrong in [&[0, 1, 2, 3, 4, 5][..], &[0, 1, 3, 4, 5, 6], &[0, 1, 2, 3, 5, 6], &[0, 1, 2, 3, 4, 5, 6, 7]] {
        assert!(!check(&parts, wrong, &x), "{wrong:?}");
    }
    parts.pairs.swap(0, 1);
    assert!(!check(&parts, &APART, &x));
}
