//! The test every operation passes: its fused form against its composed form, and its gradients against finite
//! differences. In: an operation and its inputs; out: nothing, or a panic that says which number differs. Invariant:
//! differences are taken in f64, through the composed form, so that their own error is far below the tolerance.

use crate::form;
use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::OnceLock;

/// An input of an operation under test.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// Gets a gradient.
    Tracked(Tensor),
    /// Must not get one.
    Frozen(Tensor),
}

/// Largest difference allowed, relative to the largest element of the tensor compared.
const TOLERANCE: f64 = 2e-5;
/// The same in bf16 on a device, where inputs, outputs and what is between are rounded to it.
const BF16_ON_DEVICE: f64 = 5e-2;
/// The largest element counts as at least this, so that a gradient that cancels to zero may keep its rounding error.
const FLOOR: f64 = 0.05;
/// Elements of one input whose gradient is checked by differences.
const PROBES: usize = 24;

/// Uniform numbers in `-1..1`.
pub(crate) fn random(shape: impl Into<Shape>, seed: u64) -> Tensor {
    let shape = shape.into();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.elem_count()).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Runs `f` on the inputs in fused form (f32), composed form (f32) and composed form (f64); compares the outputs, the
/// gradients of every tracked input, and those with central differences. `f` gets the inputs in the order given, as
/// f32 or f64, and must use nothing else that is tracked.
pub(crate) fn check(name: &str, inputs: &[Input], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let (fused, fused_grads) = run(inputs, DType::F32, &f);
    let (composed, composed_grads) = form::with_composed(|| run(inputs, DType::F32, &f));
    compare(&format!("{name}: output"), &fused, &composed);
    let (exact, exact_grads) = run(inputs, DType::F64, &f);
    compare(&format!("{name}: output against f64"), &fused, &exact);
    for (i, input) in inputs.iter().enumerate() {
        let what = format!("{name}: gradient {i}");
        match (input, &fused_grads[i]) {
            (Input::Frozen(_), got) => assert!(got.is_none(), "{what} of a frozen input"),
            // Nothing flows through nothing: no gradient and a gradient of zeros are both right.
            (Input::Tracked(_), got) if fused.is_empty() => {
                assert!(got.iter().flatten().all(|&g| g == 0.0), "{what} of an empty output");
            }
            (Input::Tracked(x), Some(got)) => {
                assert_eq!(got.len(), x.elem_count(), "{what} has another size");
                for (form, want) in [("composed", &composed_grads[i]), ("f64", &exact_grads[i])] {
                    compare(&format!("{what} against {form}"), got, want.as_deref().unwrap());
                }
                compare_differences(&what, inputs, i, got, &f);
            }
            (Input::Tracked(_), None) => panic!("{what} is missing"),
        }
    }
    check_on_device(name, inputs, (&exact, &exact_grads), f);
}

/// Where operations are run a second time: the device that the environment variable `ERASER_TEST_DEVICE` names (`cuda:0`).
pub(crate) fn device() -> Option<Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    let open = || {
        let name = std::env::var("ERASER_TEST_DEVICE").ok()?;
        let number = name.strip_prefix("cuda:").expect("ERASER_TEST_DEVICE is cuda:N").parse().unwrap();
        Some(crate::device::cuda(number).unwrap())
    };
    DEVICE.get_or_init(open).clone()
}

/// On a device: the operation in f32 and in bf16, and composed, against the exact output and gradients.
fn check_on_device(
    name: &str,
    inputs: &[Input],
    (output, grads): (&[f64], &[Option<Vec<f64>>]),
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let empty = |x: &Input| matches!(x, Input::Tracked(x) | Input::Frozen(x) if x.elem_count() == 0);
    // candle's own operations on a device do not take empty tensors.
    let (Some(device), false) = (device(), output.is_empty() || inputs.iter().any(empty)) else { return };
    let compare_all = |form: &str, (got, got_grads): (Vec<f64>, Vec<Option<Vec<f64>>>), tolerance: f64| {
        compare_within(&format!("{name}, {form}: output"), &got, output, tolerance);
        for (i, (got, want)) in got_grads.iter().zip(grads).enumerate() {
            let what = format!("{name}, {form}: gradient {i}");
            match (got, want) {
                (Some(got), Some(want)) => compare_within(&what, got, want, tolerance),
                // The composed form has gradients of frozen inputs too.
                (Some(_), None) => assert!(form.starts_with("composed"), "{what} of a frozen input"),
                (None, _) => assert!(matches!(inputs[i], Input::Frozen(_)), "{what} is missing"),
            }
        }
    };
    compare_all("on the device", run_on(&device, inputs, DType::F32, &f), TOLERANCE);
    let composed = form::with_composed(|| run_on(&device, inputs, DType::F32, &f));
    compare_all("composed on the device", composed, TOLERANCE);
    compare_all("in bf16 on the device", run_on(&device, inputs, DType::BF16, &f), BF16_ON_DEVICE);
}

/// Output and gradients of `sum(output * weights)`, the weights fixed random numbers.
fn run(inputs: &[Input], dtype: DType, f: impl Fn(&[Tensor]) -> Result<Tensor>) -> (Vec<f64>, Vec<Option<Vec<f64>>>) {
    run_on(&Device::Cpu, inputs, dtype, f)
}

fn run_on(
    device: &Device,
    inputs: &[Input],
    dtype: DType,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> (Vec<f64>, Vec<Option<Vec<f64>>>) {
    let place = |x: &Tensor| x.to_dtype(dtype).unwrap().to_device(device).unwrap();
    let inputs: Vec<Tensor> = inputs
        .iter()
        .map(|input| match input {
            Input::Tracked(x) => Var::from_tensor(&place(x)).unwrap().into_inner(),
            Input::Frozen(x) => place(x),
        })
        .collect();
    let output = f(&inputs).unwrap();
    // Losses are in f32 whatever their inputs are in.
    let weights = random(output.shape(), 99).to_dtype(output.dtype()).unwrap().to_device(device).unwrap();
    let grads = (&output * weights).unwrap().sum_all().unwrap().backward().unwrap();
    (values(&output), inputs.iter().map(|x| grads.get(x).map(values)).collect())
}

fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn compare(what: &str, got: &[f64], want: &[f64]) {
    compare_within(what, got, want, TOLERANCE);
}

fn compare_within(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: sizes differ");
    let largest = want.iter().fold(FLOOR, |m: f64, w| m.max(w.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        // Written so that a NaN fails.
        assert!((got - want).abs() <= tolerance * largest, "{what}: element {i} is {got}, not {want}");
    }
}

/// Largest difference allowed between a product in bf16 and the same in f32, relative to the largest element compared:
/// a number loses 2^-9 of itself, the losses of a sum add up as their root, and a block is seven products deep.
pub(crate) const BF16_TOLERANCE: f64 = 2e-2;

/// Runs `f` with the frozen matrix `weight` in f32 and in bf16, both of the same rounded numbers, and compares the
/// outputs and the gradients of `inputs`.
pub(crate) fn check_bf16(
    name: &str,
    inputs: &[Input],
    weight: &Tensor,
    f: impl Fn(&[Tensor], &Tensor) -> Result<Tensor>,
) {
    let half = weight.to_dtype(DType::BF16).unwrap();
    let whole = half.to_dtype(DType::F32).unwrap();
    let (want, want_grads) = run(inputs, DType::F32, |x| f(x, &whole));
    let (got, got_grads) = run(inputs, DType::F32, |x| f(x, &half));
    let close = |what: &str, got: &[f64], want: &[f64]| {
        assert_eq!(got.len(), want.len(), "{name}: {what}: sizes differ");
        let largest = want.iter().fold(FLOOR, |m: f64, w| m.max(w.abs()));
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= BF16_TOLERANCE * largest, "{name}: {what} in bf16 is {got}, not {want}");
        }
    };
    close("output", &got, &want);
    for (got, want) in got_grads.iter().zip(&want_grads) {
        assert_eq!(got.is_some(), want.is_some(), "{name}: a gradient too few or too many");
        close("gradient", got.as_deref().unwrap_or_default(), want.as_deref().unwrap_or_default());
    }
}

fn compare_differences(what: &str, inputs: &[Input], at: usize, grad: &[f64], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let plain: Vec<Tensor> = inputs
        .iter()
        .map(|input| match input {
            Input::Tracked(x) | Input::Frozen(x) => x.to_dtype(DType::F64).unwrap(),
        })
        .collect();
    let base = values(&plain[at]);
    let loss = |element: usize, step: f64| {
        let mut moved = base.clone();
        moved[element] += step;
        let mut inputs = plain.clone();
        inputs[at] = Tensor::from_vec(moved, plain[at].shape(), &Device::Cpu).unwrap();
        let output = f(&inputs).unwrap();
        let weights = values(&random(output.shape(), 99));
        values(&output).iter().zip(weights).map(|(o, w)| o * w).sum::<f64>()
    };
    let step = 1e-5;
    let elements: Vec<usize> = (0..base.len()).step_by(base.len().div_ceil(PROBES).max(1)).collect();
    let got: Vec<f64> = elements.iter().map(|&e| grad[e]).collect();
    let want: Vec<f64> = elements.iter().map(|&e| (loss(e, step) - loss(e, -step)) / (2.0 * step)).collect();
    compare(&format!("{what} by differences"), &got, &want);
}
