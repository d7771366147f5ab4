//! Vector kernels on slices, dispatched at run time to the widest instruction set of the processor. In: `f32` slices of
//! equal length; out: a number or the slices written. Invariant: a kernel's result depends on its inputs and the
//! processor only, never on alignment or threads.

// A kernel body that is not inlined into its dispatched caller is compiled without that caller's instruction set.
#![allow(clippy::inline_always)]

use pulp::bytemuck::{bytes_of, cast_slice, cast_slice_mut, pod_read_unaligned};
use pulp::{Arch, Simd, WithSimd};

/// Declares a public function that dispatches to the kernel body of the same arguments.
macro_rules! kernels {
    ($($(#[$doc:meta])* fn $name:ident<$a:lifetime>($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name<$a>($($arg: $ty),*) $(-> $ret)? {
            struct Kernel<$a> {
                $($arg: $ty,)*
            }
            impl<$a> WithSimd for Kernel<$a> {
                type Output = kernels!(@ret $($ret)?);
                #[inline(always)]
                fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
                    $body(simd, $(self.$arg),*)
                }
            }
            Arch::new().dispatch(Kernel { $($arg),* })
        }
    )*};
    (@ret $ret:ty) => { $ret };
    (@ret) => { () };
}

kernels! {
    /// Sum of `a[i] * b[i]`.
    fn dot<'a>(a: &'a [f32], b: &'a [f32]) -> f32 = dot_body;

    /// Sum of `a[i] * b[i] * c[i]`.
    fn dot3<'a>(a: &'a [f32], b: &'a [f32], c: &'a [f32]) -> f32 = dot3_body;

    /// `y += a * x`.
    fn axpy<'a>(y: &'a mut [f32], a: f32, x: &'a [f32]) = axpy_body;

    /// `y *= a`.
    fn scale<'a>(y: &'a mut [f32], a: f32) = scale_body;

    /// Largest element; negative infinity of nothing.
    fn max<'a>(x: &'a [f32]) -> f32 = max_body;

    /// Sum of the elements.
    fn sum<'a>(x: &'a [f32]) -> f32 = sum_body;

    /// Sum of the squared elements.
    fn sum_squares<'a>(x: &'a [f32]) -> f32 = sum_squares_body;

    /// `x = exp(x - m)`; returns the sum. Relative error below 3e-7 of an element, exactly 0 below `x - m = -87.3` and
    /// at negative infinity, infinity above 88.37.
    fn exp_sub_sum<'a>(x: &'a mut [f32], m: f32) -> f32 = exp_sub_sum_body;

    /// `out = silu(gate) * up`, where `silu(g) = g / (1 + exp(-g))`.
    fn silu_mul<'a>(out: &'a mut [f32], gate: &'a [f32], up: &'a [f32]) = silu_mul_body;

    /// Given the gradient `g` of `silu(gate) * up`: `dgate = g * up * silu'(gate)`.
    fn silu_mul_dgate<'a>(dgate: &'a mut [f32], gate: &'a [f32], up: &'a [f32], g: &'a [f32]) = silu_mul_dgate_body;

    /// `out = x * w * a`.
    fn mul_scaled<'a>(out: &'a mut [f32], x: &'a [f32], w: &'a [f32], a: f32) = mul_scaled_body;

    /// `out = x * w * a + y * b`.
    fn mul_scaled_add<'a>(out: &'a mut [f32], x: &'a [f32], w: &'a [f32], a: f32, y: &'a [f32], b: f32) = mul_scaled_add_body;

    /// `out += x * w * a`.
    fn add_mul_scaled<'a>(out: &'a mut [f32], x: &'a [f32], w: &'a [f32], a: f32) = add_mul_scaled_body;

    /// Four dot products that share one pass over `w`: `[dot(w, x0), .., dot(w, x3)]`.
    fn dot4<'a>(w: &'a [f32], x: [&'a [f32]; 4]) -> [f32; 4] = dot4_body;
}

/// The vector at `x[i..]`, zeros past the end.
#[inline(always)]
fn load<S: Simd>(simd: S, x: &[f32], i: usize) -> S::f32s {
    let rest = &x[i..];
    match rest.get(..S::F32_LANES) {
        Some(whole) => pod_read_unaligned(cast_slice(whole)),
        None => simd.partial_load_f32s(rest),
    }
}

/// The vectors at `x[..][i..]`. A loop and not `array::map`, whose closure may stay a call.
#[inline(always)]
fn load_all<S: Simd, const N: usize>(simd: S, x: [&[f32]; N], i: usize) -> [S::f32s; N] {
    let mut vectors = [simd.splat_f32s(0.0); N];
    for (vector, x) in vectors.iter_mut().zip(x) {
        *vector = load(simd, x, i);
    }
    vectors
}

/// Sum over all elements of what `step` adds to an accumulator, with four accumulators. The tail is padded with zeros.
#[inline(always)]
fn fold<S: Simd, const N: usize>(simd: S, x: [&[f32]; N], step: impl Fn(S::f32s, [S::f32s; N]) -> S::f32s) -> f32 {
    let n = x[0].len();
    assert!(x.iter().all(|x| x.len() == n), "lengths differ");
    let mut acc = [simd.splat_f32s(0.0); 4];
    let stride = 4 * S::F32_LANES;
    let mut i = 0;
    while i + stride <= n {
        for (lane, acc) in acc.iter_mut().enumerate() {
            *acc = step(*acc, load_all(simd, x, i + lane * S::F32_LANES));
        }
        i += stride;
    }
    while i < n {
        acc[0] = step(acc[0], load_all(simd, x, i));
        i += S::F32_LANES;
    }
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(acc[0], acc[1]), simd.add_f32s(acc[2], acc[3])))
}

/// Replaces every element of `out` by `f(its old value, the elements of x)`.
#[inline(always)]
fn map<S: Simd, const N: usize>(
    simd: S,
    out: &mut [f32],
    x: [&[f32]; N],
    mut f: impl FnMut(S::f32s, [S::f32s; N]) -> S::f32s,
) {
    assert!(x.iter().all(|x| x.len() == out.len()), "lengths differ");
    let mut i = 0;
    while i < out.len() {
        let value = f(load(simd, out, i), load_all(simd, x, i));
        match out[i..].get_mut(..S::F32_LANES) {
            Some(whole) => cast_slice_mut(whole).copy_from_slice(bytes_of(&value)),
            None => simd.partial_store_f32s(&mut out[i..], value),
        }
        i += S::F32_LANES;
    }
}

#[inline(always)]
fn dot_body<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    fold(
        simd,
        [a, b],
        #[inline(always)]
        |acc, [a, b]| simd.mul_add_e_f32s(a, b, acc),
    )
}

#[inline(always)]
fn dot3_body<S: Simd>(simd: S, a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    fold(
        simd,
        [a, b, c],
        #[inline(always)]
        |acc, [a, b, c]| simd.mul_add_e_f32s(simd.mul_f32s(a, b), c, acc),
    )
}

#[inline(always)]
fn sum_body<S: Simd>(simd: S, x: &[f32]) -> f32 {
    fold(
        simd,
        [x],
        #[inline(always)]
        |acc, [x]| simd.add_f32s(acc, x),
    )
}

#[inline(always)]
fn sum_squares_body<S: Simd>(simd: S, x: &[f32]) -> f32 {
    fold(
        simd,
        [x],
        #[inline(always)]
        |acc, [x]| simd.mul_add_e_f32s(x, x, acc),
    )
}

#[inline(always)]
fn max_body<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let mut acc = simd.splat_f32s(f32::NEG_INFINITY);
    let whole = x.len() / S::F32_LANES * S::F32_LANES;
    let mut i = 0;
    while i < whole {
        acc = simd.max_f32s(load(simd, x, i), acc);
        i += S::F32_LANES;
    }
    x[whole..].iter().fold(simd.reduce_max_f32s(acc), |m, &v| m.max(v))
}

#[inline(always)]
fn axpy_body<S: Simd>(simd: S, y: &mut [f32], a: f32, x: &[f32]) {
    let a = simd.splat_f32s(a);
    map(
        simd,
        y,
        [x],
        #[inline(always)]
        |y, [x]| simd.mul_add_e_f32s(a, x, y),
    );
}

#[inline(always)]
fn scale_body<S: Simd>(simd: S, y: &mut [f32], a: f32) {
    let a = simd.splat_f32s(a);
    map(
        simd,
        y,
        [],
        #[inline(always)]
        |y, []| simd.mul_f32s(a, y),
    );
}

#[inline(always)]
fn mul_scaled_body<S: Simd>(simd: S, out: &mut [f32], x: &[f32], w: &[f32], a: f32) {
    let a = simd.splat_f32s(a);
    map(
        simd,
        out,
        [x, w],
        #[inline(always)]
        |_, [x, w]| simd.mul_f32s(simd.mul_f32s(x, a), w),
    );
}

#[inline(always)]
fn mul_scaled_add_body<S: Simd>(simd: S, out: &mut [f32], x: &[f32], w: &[f32], a: f32, y: &[f32], b: f32) {
    let (a, b) = (simd.splat_f32s(a), simd.splat_f32s(b));
    map(
        simd,
        out,
        [x, w, y],
        #[inline(always)]
        |_, [x, w, y]| simd.mul_add_e_f32s(y, b, simd.mul_f32s(simd.mul_f32s(x, a), w)),
    );
}

#[inline(always)]
fn add_mul_scaled_body<S: Simd>(simd: S, out: &mut [f32], x: &[f32], w: &[f32], a: f32) {
    let a = simd.splat_f32s(a);
    map(
        simd,
        out,
        [x, w],
        #[inline(always)]
        |out, [x, w]| simd.mul_add_e_f32s(simd.mul_f32s(x, a), w, out),
    );
}

#[inline(always)]
fn exp_sub_sum_body<S: Simd>(simd: S, x: &mut [f32], m: f32) -> f32 {
    let m = simd.splat_f32s(m);
    let mut acc = simd.splat_f32s(0.0);
    let whole = x.len() / S::F32_LANES * S::F32_LANES;
    let (x, tail) = x.split_at_mut(whole);
    map(
        simd,
        x,
        [],
        #[inline(always)]
        |x, []| {
            let e = exp(simd, simd.sub_f32s(x, m));
            acc = simd.add_f32s(acc, e);
            e
        },
    );
    // Apart, because the padding of a partial vector must not enter the sum.
    map(
        simd,
        tail,
        [],
        #[inline(always)]
        |x, []| exp(simd, simd.sub_f32s(x, m)),
    );
    simd.reduce_sum_f32s(acc) + tail.iter().sum::<f32>()
}

#[inline(always)]
fn silu_mul_body<S: Simd>(simd: S, out: &mut [f32], gate: &[f32], up: &[f32]) {
    map(
        simd,
        out,
        [gate, up],
        #[inline(always)]
        |_, [g, u]| simd.mul_f32s(simd.mul_f32s(g, sigmoid(simd, g)), u),
    );
}

#[inline(always)]
fn silu_mul_dgate_body<S: Simd>(simd: S, dgate: &mut [f32], gate: &[f32], up: &[f32], grad: &[f32]) {
    let one = simd.splat_f32s(1.0);
    map(
        simd,
        dgate,
        [gate, up, grad],
        #[inline(always)]
        |_, [g, u, d]| {
            let s = sigmoid(simd, g);
            // silu'(g) = s + g s (1 - s)
            let slope = simd.mul_add_e_f32s(simd.mul_f32s(g, s), simd.sub_f32s(one, s), s);
            simd.mul_f32s(simd.mul_f32s(d, u), slope)
        },
    );
}

#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    simd.div_f32s(one, simd.add_f32s(one, exp(simd, simd.neg_f32s(x))))
}

/// exp by range reduction: `x = n ln 2 + r`, `|r| <= ln 2 / 2`, `exp(r)` by the degree-6 polynomial of Cephes' `expf`,
/// `2^n` by building its exponent field.
#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits of the significand.
    let magic = simd.splat_f32s(12_582_912.0);
    let shifted = simd.mul_add_e_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), magic);
    let n = simd.sub_f32s(shifted, magic);
    // ln 2 in two parts; n times the first is exact.
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-0.693_359_4), x);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(2.121_944_4e-4), r);
    let mut p = simd.splat_f32s(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(c));
    }
    let p = simd.add_f32s(simd.mul_add_e_f32s(p, simd.mul_f32s(r, r), r), simd.splat_f32s(1.0));
    let exponent = simd.add_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(127));
    let power = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(exponent, simd.splat_u32s(23)));
    let y = simd.mul_f32s(p, power);
    let low = simd.less_than_f32s(x, simd.splat_f32s(-87.3));
    let high = simd.greater_than_f32s(x, simd.splat_f32s(88.37));
    let y = simd.select_f32s(low, simd.splat_f32s(0.0), y);
    simd.select_f32s(high, simd.splat_f32s(f32::INFINITY), y)
}

#[inline(always)]
fn dot4_body<S: Simd>(simd: S, w: &[f32], x: [&[f32]; 4]) -> [f32; 4] {
    let n = w.len();
    assert!(x.iter().all(|x| x.len() == n), "lengths differ");
    let mut acc = [simd.splat_f32s(0.0); 4];
    let mut i = 0;
    while i < n {
        let w = load(simd, w, i);
        for (acc, x) in acc.iter_mut().zip(x) {
            *acc = simd.mul_add_e_f32s(w, load(simd, x, i), *acc);
        }
        i += S::F32_LANES;
    }
    acc.map(|acc| simd.reduce_sum_f32s(acc))
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // exact by construction
mod tests {
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
            for (got, x) in dot4(&a, [&a, &b, &c, &a]).into_iter().zip([&a, &b, &c, &a]) {
                close(got, a.iter().zip(x).map(|(&a, &b)| (a * b) as f64).sum());
            }
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
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
    fn silu_is_finite_far_out() {
        let gate = [-1000.0, -90.0, 0.0, 90.0, 1000.0];
        let mut out = [1.0; 5];
        silu_mul(&mut out, &gate, &[1.0; 5]);
        assert_eq!(out, [0.0, 0.0, 0.0, 90.0, 1000.0]);
        silu_mul_dgate(&mut out, &gate, &[1.0; 5], &[1.0; 5]);
        assert_eq!(out, [0.0, 0.0, 0.5, 1.0, 1.0]);
    }
}
