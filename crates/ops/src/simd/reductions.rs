//! Bodies of kernels that give one number. In: slices of one length; out: a sum or the largest element.

// A kernel body that is not inlined into its dispatched caller is compiled without that caller's instruction set.
#![allow(clippy::inline_always)]

use super::lanes::fold;
use pulp::Simd;

#[inline(always)]
pub(super) fn dot_body<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    fold(
        simd,
        [a, b],
        #[inline(always)]
        |acc, [a, b]| simd.mul_add_e_f32s(a, b, acc),
    )
}

#[inline(always)]
pub(super) fn dot3_body<S: Simd>(simd: S, a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    fold(
        simd,
        [a, b, c],
        #[inline(always)]
        |acc, [a, b, c]| simd.mul_add_e_f32s(simd.mul_f32s(a, b), c, acc),
    )
}

#[inline(always)]
pub(super) fn sum_body<S: Simd>(simd: S, x: &[f32]) -> f32 {
    fold(
        simd,
        [x],
        #[inline(always)]
        |acc, [x]| simd.add_f32s(acc, x),
    )
}

#[inline(always)]
pub(super) fn sum_squares_body<S: Simd>(simd: S, x: &[f32]) -> f32 {
    fold(
        simd,
        [x],
        #[inline(always)]
        |acc, [x]| simd.mul_add_e_f32s(x, x, acc),
    )
}

#[inline(always)]
pub(super) fn max_body<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (whole, rest) = S::as_simd_f32s(x);
    let lowest = simd.splat_f32s(f32::NEG_INFINITY);
    let (mut acc0, mut acc1) = (lowest, lowest);
    let (pairs, last) = whole.as_chunks::<2>();
    for &[a, b] in pairs {
        acc0 = simd.max_f32s(a, acc0);
        acc1 = simd.max_f32s(b, acc1);
    }
    if let [a] = *last {
        acc0 = simd.max_f32s(a, acc0);
    }
    rest.iter().fold(simd.reduce_max_f32s(simd.max_f32s(acc0, acc1)), |m, &v| m.max(v))
}
