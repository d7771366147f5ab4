//! Rates of the operations at the shapes of SmolLM2-135M, beside the plain product's rate of the same run.
//! `cargo bench -p eraser-ops` prints criterion's times; the figures in the last column are billions of operations (or
//! elements, for the element-wise ones) per second.

#![allow(missing_docs, clippy::unwrap_used)]

use candle_core::{Device, Tensor, Var};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use eraser_ops::block::{self, Block, BlockLinear, Linears, Norms, Rope};
use eraser_ops::gemm::Mat;
use eraser_ops::{
    Activation, AttentionShape, Dropout, LoraInput, RopeTable, Segments, Weight, activate, attention, backward_from,
    cross_entropy, kl_divergence, linear, lora_linear, rms_norm, threads,
};
use std::hint::black_box;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOKENS: usize = 1200;
const WIDTH: usize = 576;
const HIDDEN: usize = 1536;
const VOCABULARY: usize = 49_152;

fn random(shape: (usize, usize)) -> Tensor {
    Tensor::rand(-1f32, 1f32, shape, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// A multiply and an add per element of both operands.
fn flop(tokens: usize, inputs: usize, outputs: usize) -> Throughput {
    Throughput::Elements(2 * (tokens * inputs * outputs) as u64)
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("product");
    for (m, k, n) in [(TOKENS, WIDTH, WIDTH), (TOKENS, WIDTH, HIDDEN), (TOKENS, HIDDEN, WIDTH), (64, WIDTH, VOCABULARY)]
    {
        let (a, b, mut out) = (values(&random((m, k))), values(&random((n, k))), vec![0.0; m * n]);
        group.throughput(flop(m, k, n));
        group.bench_function(BenchmarkId::new("sgemm", format!("{m}x{k}x{n}")), |bench| {
            bench.iter(|| Mat::new(&a, m, k).times(Mat::new(&b, n, k).t()).in_parallel().write(&mut out, n));
        });
    }
    for (k, n) in [(WIDTH, WIDTH), (WIDTH, HIDDEN), (WIDTH, VOCABULARY)] {
        for tokens in [1, 4, 8, 16, 64] {
            let (x, w) = (random((tokens, k)), random((n, k)));
            group.throughput(flop(tokens, k, n));
            group.bench_function(BenchmarkId::new("linear", format!("{tokens}x{k}x{n}")), |bench| {
                bench.iter(|| linear(black_box(&x), &w, None).unwrap());
            });
        }
    }
    group.finish();
}

fn adapted(c: &mut Criterion) {
    let mut group = c.benchmark_group("adapted");
    let (x, w) = (Var::from_tensor(&random((TOKENS, WIDTH))).unwrap(), random((WIDTH, WIDTH)));
    let (a, b) = (Var::from_tensor(&random((8, WIDTH))).unwrap(), Var::from_tensor(&random((WIDTH, 8))).unwrap());
    let grad = random((TOKENS, WIDTH));
    // The useful work: one product forward, one backward.
    group.throughput(flop(2 * TOKENS, WIDTH, WIDTH));
    group.bench_function("linear", |bench| {
        bench.iter(|| backward_from(&linear(&x, &w, None).unwrap(), &grad).unwrap());
    });
    for (name, dropout) in [("lora", None), ("lora, dropout", Some(Dropout { p: 0.05, seed: 1 }))] {
        group.bench_function(name, |bench| {
            let lora = LoraInput { a: &a, b: &b, scale: 2.0, dropout, owners: None, identity: None };
            bench.iter(|| backward_from(&lora_linear(&x, &w, None, lora).unwrap(), &grad).unwrap());
        });
    }
    group.finish();
}

fn element_wise(c: &mut Criterion) {
    let mut group = c.benchmark_group("element-wise");
    let x = Var::from_tensor(&random((TOKENS, WIDTH))).unwrap();
    let (weight, grad) = (random((1, WIDTH)).flatten_all().unwrap(), random((TOKENS, WIDTH)));
    group.throughput(Throughput::Elements((TOKENS * WIDTH) as u64));
    group.bench_function("rms_norm", |bench| bench.iter(|| rms_norm(&x.as_detached_tensor(), &weight, 1e-5).unwrap()));
    group.bench_function("rms_norm and backward", |bench| {
        bench.iter(|| backward_from(&rms_norm(&x, &weight, 1e-5).unwrap(), &grad).unwrap());
    });
    let (gate, up) = (random((TOKENS, HIDDEN)), random((TOKENS, HIDDEN)));
    let (gate, up) = (Var::from_tensor(&gate).unwrap(), Var::from_tensor(&up).unwrap());
    let grad = random((TOKENS, HIDDEN));
    group.throughput(Throughput::Elements((TOKENS * HIDDEN) as u64));
    group.bench_function("swiglu and backward", |bench| {
        bench.iter(|| backward_from(&activate(Activation::Silu, Some(&gate), &up).unwrap(), &grad).unwrap());
    });
    group.finish();
}

/// Four sequences of 300 tokens: the products of scores and outputs, `4 L^2` of the heads' width forward and `10 L^2`
/// backward were nothing masked; half of it is.
fn attended(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    let shape = AttentionShape { heads: 9, kv_heads: 3, head_dim: 64, window: None, ..AttentionShape::default() };
    let segments = Segments::from_lengths([TOKENS / 4; 4]);
    let [q, k, v] = [WIDTH, 192, 192].map(|width| Var::from_tensor(&random((TOKENS, width))).unwrap());
    let grad = random((TOKENS, WIDTH));
    let square = (4 * (TOKENS / 4).pow(2) * WIDTH) as u64;
    group.throughput(Throughput::Elements(2 * square));
    group.bench_function("forward", |bench| {
        let (q, k, v) = (q.as_detached_tensor(), k.as_detached_tensor(), v.as_detached_tensor());
        bench.iter(|| attention(&q, &k, &v, &segments, shape).unwrap());
    });
    group.throughput(Throughput::Elements(7 * square));
    group.bench_function("forward and backward", |bench| {
        bench.iter(|| backward_from(&attention(&q, &k, &v, &segments, shape).unwrap(), &grad).unwrap());
    });
    group.finish();
}

/// The losses at the head, 320 scored positions.
fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    let scored = 320;
    let (hidden, reference) = (Var::from_tensor(&random((scored, WIDTH))).unwrap(), random((scored, WIDTH)));
    let (head, targets): (_, Vec<u32>) = (random((VOCABULARY, WIDTH)), (0..scored as u32).collect());
    let ones = Tensor::ones(scored, candle_core::DType::F32, &Device::Cpu).unwrap();
    group.throughput(flop(2 * scored, WIDTH, VOCABULARY));
    group.bench_function("cross_entropy and backward", |bench| {
        bench.iter(|| backward_from(&cross_entropy(&hidden, &head, &targets).unwrap(), &ones).unwrap());
    });
    group.throughput(flop(3 * scored, WIDTH, VOCABULARY));
    group.bench_function("kl_divergence and backward", |bench| {
        bench.iter(|| backward_from(&kl_divergence(&hidden, &reference, &head).unwrap(), &ones).unwrap());
    });
    group.finish();
}

/// A whole block with pairs on q and v: the products of its seven weights, forward and backward.
fn blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("block");
    let shapes =
        [(WIDTH, WIDTH), (192, WIDTH), (192, WIDTH), (WIDTH, WIDTH), (HIDDEN, WIDTH), (HIDDEN, WIDTH), (WIDTH, HIDDEN)];
    let weights: Vec<Weight> = shapes.iter().map(|&shape| random(shape).into()).collect();
    let stack =
        |which: &[usize]| Weight::stack(&which.iter().map(|&i| &weights[i]).collect::<Vec<_>>()).unwrap().unwrap();
    let (qkv, gate_up) = (stack(&[0, 1, 2]), stack(&[4, 5]));
    let pairs: Vec<(Var, Var)> = [0, 2]
        .map(|i: usize| [random((8, WIDTH)), random((shapes[i].0, 8))].map(|x| Var::from_tensor(&x).unwrap()).into())
        .to_vec();
    let lora = |i: usize| {
        Some(LoraInput { a: &pairs[i].0, b: &pairs[i].1, scale: 2.0, dropout: None, owners: None, identity: None })
    };
    let linear = |i: usize, lora| BlockLinear { weight: &weights[i], bias: None, lora };
    let norm = random((1, WIDTH)).flatten_all().unwrap();
    let inv_freq: Vec<f32> = (0..32).map(|i| 1e5f32.powf(-(i as f32) / 32.0)).collect();
    let rope = RopeTable::new(&inv_freq, TOKENS, 1.0, &Device::Cpu).unwrap();
    let segments = Segments::from_lengths([TOKENS / 8; 8]);
    let positions = segments.positions();
    let block = Block {
        norms: Norms { attention: Some(&norm), mlp: Some(&norm), ..Norms::default() },
        linears: Linears {
            q: Some(linear(0, lora(0))),
            k: Some(linear(1, None)),
            v: Some(linear(2, lora(1))),
            o: Some(linear(3, None)),
            gate: Some(linear(4, None)),
            up: Some(linear(5, None)),
            down: Some(linear(6, None)),
            ..Linears::default()
        },
        qkv: Some(&qkv),
        gate_up: Some(&gate_up),
        experts: None,
        eps: 1e-5,
        shape: AttentionShape { heads: 9, kv_heads: 3, head_dim: 64, window: None, ..AttentionShape::default() },
        rope: Some(Rope { q: &rope, k: &rope }),
        activation: Activation::Silu,
        residual: 1.0,
        positions: &positions,
        segments: &segments,
    };
    let (x, grad) = (random((TOKENS, WIDTH)), random((TOKENS, WIDTH)));
    let weights: usize = shapes.iter().map(|(out, input)| out * input).sum();
    group.throughput(Throughput::Elements(2 * (TOKENS * weights) as u64));
    group.bench_function("forward", |bench| bench.iter(|| block::forward(&block, &x).unwrap()));
    group.throughput(Throughput::Elements(4 * (TOKENS * weights) as u64));
    group.bench_function("forward and backward", |bench| {
        bench.iter(|| {
            let saved = block::forward_saving(&block, &x).unwrap().1;
            block::backward(&block, &x, saved, &grad, true).unwrap()
        });
    });
    group.finish();
}

fn start(_: &mut Criterion) {
    threads::init(None);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2));
    targets = start, products, adapted, element_wise, attended, heads, blocks
}
criterion_main!(benches);
