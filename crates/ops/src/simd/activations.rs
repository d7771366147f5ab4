//! Bodies of kernels on `exp`: softmax's exponentials, `SiLU`, GELU and the soft cap, with their derivatives. In:
//! slices of one length; out: one of them written.

// A kernel body that is not inlined into its dispatched caller is compiled without that caller's instruction set.
#![allow(clippy::inline_always)]

use super::lanes::map;
use pulp::Simd;

#[inline(always)]
pub(super) fn exp_sub_sum_body<S: Simd>(simd: S, x: &mut [f32], m: f32) -> f32 {
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
pub(super) fn silu_mul_body<S: Simd>(simd: S, out: &mut [f32], gate: &[f32], up: &[f32]) {
    map(
        simd,
        out,
        [gate, up],
        #[inline(always)]
        |_, [g, u]| simd.mul_f32s(simd.mul_f32s(g, sigmoid(simd, g)), u),
    );
}

#[inline(always)]
pub(super) fn silu_mul_dgate_body<S: Simd>(simd: S, dgate: &mut [f32], gate: &[f32], up: &[f32], grad: &[f32]) {
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

/// `sqrt(2 / pi)`, the outer constant of GELU's tanh form, and its inner one.
const GELU: [f32; 2] = [0.797_884_6, 0.044_715];

#[inline(always)]
pub(super) fn gelu_mul_body<S: Simd>(simd: S, out: &mut [f32], gate: &[f32], up: &[f32]) {
    map(
        simd,
        out,
        [gate, up],
        #[inline(always)]
        |_, [g, u]| simd.mul_f32s(simd.mul_f32s(g, gelu_gate(simd, g)), u),
    );
}

#[inline(always)]
pub(super) fn gelu_mul_dgate_body<S: Simd>(simd: S, dgate: &mut [f32], gate: &[f32], up: &[f32], grad: &[f32]) {
    let (one, a, b) = (simd.splat_f32s(1.0), simd.splat_f32s(2.0 * GELU[0]), simd.splat_f32s(3.0 * GELU[1]));
    map(
        simd,
        dgate,
        [gate, up, grad],
        #[inline(always)]
        |_, [g, u, d]| {
            let s = gelu_gate(simd, g);
            // gelu'(g) = s + g s (1 - s) z', with z' the derivative of the sigmoid's argument.
            let inner = simd.mul_f32s(a, simd.mul_add_e_f32s(simd.mul_f32s(g, g), b, one));
            // Far out `s (1 - s)` is 0 and the rest may be infinite.
            let bend = simd.mul_f32s(simd.mul_f32s(s, simd.sub_f32s(one, s)), g);
            let far = simd.greater_than_f32s(simd.abs_f32s(g), simd.splat_f32s(30.0));
            let bend = simd.select_f32s(far, simd.splat_f32s(0.0), simd.mul_f32s(bend, inner));
            simd.mul_f32s(simd.mul_f32s(d, u), simd.add_f32s(s, bend))
        },
    );
}

/// What GELU's tanh form multiplies its input by, `(1 + tanh z) / 2`, which is the sigmoid of `2 z`.
#[inline(always)]
fn gelu_gate<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let (one, a, b) = (simd.splat_f32s(1.0), simd.splat_f32s(2.0 * GELU[0]), simd.splat_f32s(GELU[1]));
    let inner = simd.mul_add_e_f32s(simd.mul_f32s(x, x), b, one);
    sigmoid(simd, simd.mul_f32s(simd.mul_f32s(x, a), inner))
}

#[inline(always)]
pub(super) fn soft_cap_body<S: Simd>(simd: S, x: &mut [f32], cap: f32) {
    let (cap, double, twice) = (simd.splat_f32s(cap), simd.splat_f32s(2.0 / cap), simd.splat_f32s(2.0 * cap));
    map(
        simd,
        x,
        [],
        // tanh(u) = 2 sigmoid(2 u) - 1
        #[inline(always)]
        |x, []| simd.sub_f32s(simd.mul_f32s(twice, sigmoid(simd, simd.mul_f32s(x, double))), cap),
    );
}

#[inline(always)]
pub(super) fn soft_cap_slope_body<S: Simd>(simd: S, out: &mut [f32], x: &[f32], cap: f32) {
    let (one, inverse) = (simd.splat_f32s(1.0), simd.splat_f32s(1.0 / cap));
    map(
        simd,
        out,
        [x],
        #[inline(always)]
        |_, [x]| {
            let t = simd.mul_f32s(x, inverse);
            simd.sub_f32s(one, simd.mul_f32s(t, t))
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
