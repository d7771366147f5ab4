//! The kernels against plain loops, for every kind of length.

use super::*;

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * 7919 + seed * 104_729) % 2003) as f32 - 1001.0) / 500.0).collect()
}

const LENGTHS: [usize; 12] = [0, 1, 3, 7, 8, 15, 16, 17, 33, 64, 100, 257];

#[test]
fn reductions_agree_with_f64() {
    for n in LENGTHS {
        let (a, b, c) = (numbers(n, 1), numbers(n, 2), numbers(n, 3));
        let close =
            |got: f32, want: f64| assert!((got as f64 - want).abs() < 1e-5 * (1.0 + n as f64), "{n}: {got} {want}");
        close(sum(&a), a.iter().map(|&a| a as f64).sum());
        close(sum_squares(&a), a.iter().map(|&a| (a * a) as f64).sum());
        close(dot(&a, &b), a.iter().zip(&b).map(|(&a, &b)| (a * b) as f64).sum());
        close(dot3(&a, &b, &c), (0..n).map(|i| (a[i] * b[i] * c[i]) as f64).sum());
        assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    }
}

#[test]
fn dots_agree_for_any_number_of_rows_and_tokens() {
    for (outputs, tokens, width) in [(1, 1, 1), (3, 4, 7), (4, 1, 64), (5, 3, 33), (9, 11, 17), (8, 16, 100)] {
        let (w, x) = (numbers(outputs * width, 1), numbers(tokens * width, 2));
        let mut out = vec![f32::NAN; outputs * tokens];
        dots(&mut out, &w, &x, width);
        for (i, &got) in out.iter().enumerate() {
            let (r, t) = (i / tokens, i % tokens);
            let want: f64 = (0..width).map(|k| (w[r * width + k] * x[t * width + k]) as f64).sum();
            assert!((got as f64 - want).abs() < 1e-4, "{outputs} {tokens} {width}: {i}");
        }
    }
}

#[test]
fn maps_agree_element_by_element() {
    for n in LENGTHS {
        let (x, w, y) = (numbers(n, 1), numbers(n, 2), numbers(n, 3));
        let check = |name: &str, f: &dyn Fn(&mut [f32]), want: &dyn Fn(usize) -> f32| {
            let mut out = y.clone();
            f(&mut out);
            for (i, &got) in out.iter().enumerate() {
                assert!((got - want(i)).abs() < 2e-6, "{name} {n} {i}: {got} {}", want(i));
            }
        };
        check("axpy", &|o| axpy(o, 0.5, &x), &|i| y[i] + 0.5 * x[i]);
        check("scale", &|o| scale(o, 0.5), &|i| y[i] * 0.5);
        check("mul_scaled", &|o| mul_scaled(o, &x, &w, 0.5), &|i| x[i] * w[i] * 0.5);
        check("add_mul_scaled", &|o| add_mul_scaled(o, &x, &w, 0.5), &|i| y[i] + x[i] * w[i] * 0.5);
        check("mul_scaled_add", &|o| mul_scaled_add(o, &x, &w, 0.5, &x, 2.0), &|i| x[i] * w[i] * 0.5 + 2.0 * x[i]);
        let s = |i: usize| 1.0 / (1.0 + (-x[i]).exp());
        check("silu_mul", &|o| silu_mul(o, &x, &w), &|i| x[i] * s(i) * w[i]);
        check("silu_mul_dgate", &|o| silu_mul_dgate(o, &x, &w, &y), &|i| {
            y[i] * w[i] * s(i) * (1.0 + x[i] * (1.0 - s(i)))
        });
        let z = |i: usize| (0.797_884_6 * (x[i] + 0.044_715 * x[i].powi(3))).tanh();
        check("gelu_mul", &|o| gelu_mul(o, &x, &w), &|i| 0.5 * x[i] * (1.0 + z(i)) * w[i]);
        check("gelu_mul_dgate", &|o| gelu_mul_dgate(o, &x, &w, &y), &|i| {
            let bend = 0.5 * x[i] * (1.0 - z(i).powi(2)) * 0.797_884_6 * (1.0 + 3.0 * 0.044_715 * x[i].powi(2));
            y[i] * w[i] * (0.5 * (1.0 + z(i)) + bend)
        });
        check("soft_cap", &|o| soft_cap(o, 0.5), &|i| 0.5 * (2.0 * y[i]).tanh());
        check("soft_cap_slope", &|o| soft_cap_slope(o, &x, 2.0), &|i| 1.0 - (x[i] / 2.0).powi(2));
        check("mul", &|o| mul(o, &x), &|i| y[i] * x[i]);
    }
}

#[test]
fn exp_is_accurate_and_clean_at_the_ends() {
    let steps: Vec<f32> = (0..200_000).map(|i| -87.29 + i as f32 * 8.78e-4).collect();
    let mut got = steps.clone();
    exp_sub_sum(&mut got, 0.0);
    for (&x, &e) in steps.iter().zip(&got) {
        let want = (x as f64).exp();
        assert!(((e as f64 - want) / want).abs() < 3e-7, "exp({x}) = {e}, not {want}");
    }
    let mut ends = [f32::NEG_INFINITY, -1e30, -88.0, 0.0, 89.0, f32::INFINITY, f32::NAN];
    exp_sub_sum(&mut ends, 0.0);
    assert_eq!(ends[..6], [0.0, 0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY]);
    assert!(ends[6].is_nan());
}

#[test]
fn exp_sub_sum_sums_without_padding() {
    for n in LENGTHS {
        let mut x = numbers(n, 4);
        let want: f64 = x.iter().map(|&v| (v as f64 - 0.25).exp()).sum();
        assert!((exp_sub_sum(&mut x, 0.25) as f64 - want).abs() < 1e-6 * (1.0 + want));
    }
}

#[test]
fn gelu_and_soft_cap_are_finite_far_out() {
    let far = [-1e30, -1000.0, -40.0, 0.0, 40.0, 1000.0];
    let mut out = [1.0; 6];
    gelu_mul(&mut out, &far, &[1.0; 6]);
    assert_eq!(out, [0.0, 0.0, 0.0, 0.0, 40.0, 1000.0]);
    gelu_mul_dgate(&mut out, &far, &[1.0; 6], &[1.0; 6]);
    assert_eq!(out, [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]);
    let mut x = far;
    soft_cap(&mut x, 30.0);
    assert_eq!((x[0], x[1], x[3], x[5]), (-30.0, -30.0, 0.0, 30.0));
}

#[test]
fn silu_is_finite_far_out() {
    let gate = [-1000.0, -90.0, 0.0, 90.0, 1000.0];
    let mut out = [1.0; 5];
    silu_mul(&mut out, &gate, &[1.0; 5]);
    assert_eq!(out, [0.0, 0.0, 0.0, 90.0, 1000.0]);
    silu_mul_dgate(&mut out, &gate, &[1.0; 5], &[1.0; 5]);
    assert_eq!(out, [0.0, 0.0, 0.5, 1.0, 1.0]);
}

#[test]
fn the_instructions_have_a_name() {
    let name = instructions();
    assert!(["avx512", "avx2", "neon", "scalar"].contains(&name), "{name}");
    assert!(name == "avx512" || !crate::bf16::is_fast(), "bf16 products need avx512, found {name}");
}
