use super::{Block, BlockLinear, Linears, backward, forward, forward_saving};
use crate::conformance::{BF16_TOLERANCE, random};
use crate::linear::{Dropout, LoraInput};
use crate::quant::TensorType;
use crate::weight::{Stored, Weight};
use crate::{
    AttentionShape, RopeTable, Segments, attention, backward_from, linear, lora_linear, rms_norm, rope, swiglu,
};
use candle_core::{DType, Device, Tensor, Var};

const D: usize = 24;
const F: usize = 40;
const SHAPE: AttentionShape = AttentionShape { heads: 6, kv_heads: 2, head_dim: 4, window: Some(9) };
const RANK: usize = 3;
const EPS: f64 = 1e-5;

const LINEARS: usize = 7;

/// `(out, in)` of the linear layers.
const SHAPES: [(usize, usize); LINEARS] = [(24, D), (8, D), (8, D), (D, 24), (F, D), (F, D), (D, F)];

/// Something for each layer, in the order of [`SHAPES`].
fn linears<T>(of: impl FnMut(usize) -> T) -> Linears<T> {
    let [q, k, v, o, gate, up, down] = std::array::from_fn(of);
    Linears { q, k, v, o, gate, up, down }
}

struct Parts {
    norms: [Tensor; 2],
    weights: Vec<Weight>,
    biases: Vec<Option<Tensor>>,
    pairs: Vec<Option<(Var, Var)>>,
    dropout: Option<f32>,
    rope: RopeTable,
    segments: Segments,
}

impl Parts {
    fn new(adapted: [bool; LINEARS], biased: bool, dropout: Option<f32>, segments: Segments) -> Self {
        let scaled = |x: Tensor, by: f64| (x * by).unwrap();
        let weights = SHAPES.iter().enumerate().map(|(i, &s)| scaled(random(s, i as u64), 0.4).into()).collect();
        let biases = SHAPES.iter().enumerate().map(|(i, s)| (biased && i < 3).then(|| random(s.0, 20 + i as u64)));
        let pairs = SHAPES.iter().zip(adapted).enumerate().map(|(i, (s, adapted))| {
            let var = |shape, seed| Var::from_tensor(&random(shape, seed)).unwrap();
            adapted.then(|| (var((RANK, s.1), 30 + i as u64), var((s.0, RANK), 40 + i as u64)))
        });
        let inv_freq = [1.0, 0.3];
        Self {
            norms: [random(D, 50), random(D, 51)],
            weights,
            biases: biases.collect(),
            pairs: pairs.collect(),
            dropout,
            rope: RopeTable::new(&inv_freq, 128, 1.0, &Device::Cpu).unwrap(),
            segments,
        }
    }

    fn lora(&self, i: usize) -> Option<LoraInput<'_>> {
        let dropout = self.dropout.map(|p| Dropout { p, seed: i as u64 });
        self.pairs[i].as_ref().map(|(a, b)| LoraInput { a, b, scale: 0.3, dropout })
    }

    fn composed(&self, x: &Tensor, positions: &[u32]) -> Tensor {
        let apply = |i: usize, x: &Tensor| {
            let weight = self.weights[i].dense(DType::F32, &Device::Cpu).unwrap();
            match self.lora(i) {
                Some(lora) => lora_linear(x, &weight, self.biases[i].as_ref(), lora).unwrap(),
                None => linear(x, &weight, self.biases[i].as_ref()).unwrap(),
            }
        };
        let n = rms_norm(x, &self.norms[0], EPS).unwrap();
        let turned = |i| rope(&apply(i, &n), &self.rope, positions).unwrap();
        let a = attention(&turned(0), &turned(1), &apply(2, &n), &self.segments, SHAPE).unwrap();
        let x = (x + apply(3, &a)).unwrap();
        let m = rms_norm(&x, &self.norms[1], EPS).unwrap();
        (&x + apply(6, &swiglu(&apply(4, &m), &apply(5, &m)).unwrap())).unwrap()
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
        let (qkv, gate_up) = (stacked(&[0, 1, 2]), stacked(&[4, 5]));
        let linears =
            linears(|i| BlockLinear { weight: &self.weights[i], bias: self.biases[i].as_ref(), lora: self.lora(i) });
        let block = Block {
            attention_norm: &self.norms[0],
            mlp_norm: &self.norms[1],
            linears,
            qkv: qkv.as_ref(),
            gate_up: gate_up.as_ref(),
            eps: EPS,
            shape: SHAPE,
            rope: &self.rope,
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
            if let (Some((da, db)), Some((a, b))) = (found, pair) {
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

#[test]
fn a_pair_that_does_not_fit_is_refused() {
    let mut parts = Parts::new([true; LINEARS], false, None, Segments::from_lengths([2]));
    parts.pairs.swap(0, 1);
    let linears = linears(|i| BlockLinear { weight: &parts.weights[i], bias: None, lora: parts.lora(i) });
    let [attention_norm, mlp_norm] = &parts.norms;
    let (qkv, gate_up, rope, segments) = (None, None, &parts.rope, &parts.segments);
    let (eps, shape, positions) = (EPS, SHAPE, &[0, 1][..]);
    let block = Block { attention_norm, mlp_norm, linears, qkv, gate_up, eps, shape, rope, positions, segments };
    assert!(forward(&block, &random((2, D), 1)).is_err());
    assert!(forward(&block, &random((3, D), 1)).is_err());
}
