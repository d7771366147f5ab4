//! Slices as vectors of the processor's width. In: slices of one length; out: their whole vectors and what is left.
//! Invariant: what is left is padded with zeros, so that a step sees whole vectors only.

// A kernel body that is not inlined into its dispatched caller is compiled without that caller's instruction set.
#![allow(clippy::inline_always)]

use pulp::Simd;

/// Slices of one length, split into whole vectors and the rest.
#[inline(always)]
pub(super) fn split<S: Simd, const N: usize>(x: [&[f32]; N], len: usize) -> ([&[S::f32s]; N], [&[f32]; N]) {
    let (mut whole, mut rest): ([&[S::f32s]; N], [&[f32]; N]) = ([&[]; N], [&[]; N]);
    for ((whole, rest), x) in whole.iter_mut().zip(&mut rest).zip(&x) {
        assert_eq!(x.len(), len, "lengths differ");
        let (vectors, tail) = S::as_simd_f32s(x);
        // Says to the compiler that all are of one length, so that one bound check serves them all.
        *whole = &vectors[..len / S::F32_LANES];
        *rest = tail;
    }
    (whole, rest)
}

/// The vectors `i` of some slices.
#[inline(always)]
pub(super) fn at<V: Copy, const N: usize>(x: &[&[V]; N], i: usize) -> [V; N] {
    let mut vectors = [x[0][i]; N];
    for (vector, x) in vectors.iter_mut().zip(x) {
        *vector = x[i];
    }
    vectors
}

/// What is left of some slices as one vector each, padded with zeros.
#[inline(always)]
pub(super) fn padded<S: Simd, const N: usize>(simd: S, rest: &[&[f32]; N]) -> [S::f32s; N] {
    let mut vectors = [simd.splat_f32s(0.0); N];
    for (vector, rest) in vectors.iter_mut().zip(rest) {
        *vector = simd.partial_load_f32s(rest);
    }
    vectors
}

/// Sum over all elements of what `step` adds to an accumulator, with four accumulators. The tail is padded with zeros.
#[inline(always)]
pub(super) fn fold<S: Simd, const N: usize>(
    simd: S,
    x: [&[f32]; N],
    step: impl Fn(S::f32s, [S::f32s; N]) -> S::f32s,
) -> f32 {
    let (whole, rest) = split::<S, N>(x, x[0].len());
    let n = whole[0].len();
    let zero = simd.splat_f32s(0.0);
    let (mut acc0, mut acc1, mut acc2, mut acc3) = (zero, zero, zero, zero);
    let mut i = 0;
    while i + 4 <= n {
        acc0 = step(acc0, at(&whole, i));
        acc1 = step(acc1, at(&whole, i + 1));
        acc2 = step(acc2, at(&whole, i + 2));
        acc3 = step(acc3, at(&whole, i + 3));
        i += 4;
    }
    while i < n {
        acc0 = step(acc0, at(&whole, i));
        i += 1;
    }
    if !rest[0].is_empty() {
        acc1 = step(acc1, padded(simd, &rest));
    }
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(acc0, acc1), simd.add_f32s(acc2, acc3)))
}

/// Replaces every element of `out` by `f(its old value, the elements of x)`.
#[inline(always)]
pub(super) fn map<S: Simd, const N: usize>(
    simd: S,
    out: &mut [f32],
    x: [&[f32]; N],
    mut f: impl FnMut(S::f32s, [S::f32s; N]) -> S::f32s,
) {
    let (whole, rest) = split::<S, N>(x, out.len());
    let (out, out_rest) = S::as_mut_simd_f32s(out);
    for (i, out) in out.iter_mut().enumerate() {
        let mut vectors = [*out; N];
        for (vector, x) in vectors.iter_mut().zip(&whole) {
            *vector = x[i];
        }
        *out = f(*out, vectors);
    }
    if !out_rest.is_empty() {
        let value = f(simd.partial_load_f32s(out_rest), padded(simd, &rest));
        simd.partial_store_f32s(out_rest, value);
    }
}
