//! Bodies of kernels that scale, multiply and add element by element. In: slices of one length; out: one of them
//! written.

// A kernel body that is not inlined into its dispatched caller is compiled without that caller's instruction set.
#![allow(clippy::inline_always)]

use super::lanes::map;
use pulp::Simd;

#[inline(always)]
pub(super) fn axpy_body<S: Simd>(simd: S, y: &mut [f32], a: f32, x: &[f32]) {
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
pub(super) fn scale_body<S: Simd>(simd: S, y: &mut [f32], a: f32) {
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
pub(super) fn mul_scaled_body<S: Simd>(simd: S, out: &mut [f32], x: &[f32], w: &[f32], a: f32) {
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
pub(super) fn mul_scaled_add_body<S: Simd>(simd: S, out: &mut [f32], x: &[f32], w: &[f32], a: f32, y: &[f32], b: f32) {
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
pub(super) fn add_mul_scaled_body<S: Simd>(simd: S, out: &mut [f32], x: &[f32], w: &[f32], a: f32) {
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
pub(super) fn mul_body<S: Simd>(simd: S, y: &mut [f32], x: &[f32]) {
    map(
        simd,
        y,
        [x],
        #[inline(always)]
        |y, [x]| simd.mul_f32s(y, x),
    );
}
