//! Rates of the operations at the shapes of SmolLM2-135M, beside the plain product's rate of the same run.
//! `cargo bench -p eraser-ops` prints criterion's times; the figures in the last column are billions of operations (or
//! elements, for the element-wise ones) per second.

#![allow(missing_docs, clippy::unwrap_used)]

use candle_core::{Device, Tensor, Var};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use eraser_ops::gemm::{Mat, matmul_into};
use eraser_ops::{Dropout, LoraInput, backward_from, linear, lora_linear, rms_norm, swiglu, threads};
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
            bench.iter(|| matmul_into(&mut out, n, Mat::new(&a, m, k), Mat::new(&b, n, k).t(), 1.0, false, true));
        });
    }
    for (k, n) in [(WIDTH, WIDTH), (WIDTH, HIDDEN), (WIDTH, VOCABULARY)] {
        for tokens in [1, 4, 8, 16] {
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
            let lora = LoraInput { a: &a, b: &b, scale: 2.0, dropout };
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
        bench.iter(|| backward_from(&swiglu(&gate, &up).unwrap(), &grad).unwrap());
    });
    group.finish();
}

fn start(_: &mut Criterion) {
    threads::init(None);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2));
    targets = start, products, adapted, element_wise
}
criterion_main!(benches);
