//! The body of the kernel of many dot products. In: the rows of two matrices; out: the products of each with each.

// A kernel body that is not inlined into its dispatched caller is compiled without that caller's instruction set.
#![allow(clippy::inline_always)]

use super::lanes::{at, padded, split};
use super::reductions::dot_body;
use pulp::Simd;

#[inline(always)]
pub(super) fn dots_body<S: Simd>(simd: S, out: &mut [f32], w: &[f32], x: &[f32], width: usize) {
    let tokens = x.len() / width;
    assert_eq!(out.len() * width, w.len() * tokens, "lengths differ");
    let (blocks, x_rest) = x.split_at(tokens / 4 * 4 * width);
    for (block, x) in blocks.chunks_exact(4 * width).enumerate() {
        let x = rows::<4>(x, width);
        // Sixteen sums are held in registers: a vector that is loaded is used four times.
        for (out, w) in out.chunks_mut(4 * tokens).zip(w.chunks(4 * width)) {
            if w.len() == 4 * width {
                put(out, &tile(simd, rows::<4>(w, width), x), tokens, 4 * block);
            } else {
                for (out, w) in out.chunks_exact_mut(tokens).zip(w.chunks_exact(width)) {
                    put(out, &tile(simd, [w], x), tokens, 4 * block);
                }
            }
        }
    }
    for (t, x) in x_rest.chunks_exact(width).enumerate() {
        let first = blocks.len() / width + t;
        for (out, w) in out.chunks_mut(4 * tokens).zip(w.chunks(4 * width)) {
            if w.len() == 4 * width {
                put(out, &tile(simd, rows::<4>(w, width), [x]), tokens, first);
            } else {
                for (out, w) in out.chunks_exact_mut(tokens).zip(w.chunks_exact(width)) {
                    out[first] = dot_body(simd, w, x);
                }
            }
        }
    }
}

/// The first `N` rows of a matrix.
#[inline(always)]
fn rows<const N: usize>(x: &[f32], width: usize) -> [&[f32]; N] {
    std::array::from_fn(|i| &x[i * width..(i + 1) * width])
}

/// Writes the sums of `R` rows of `w` and `T` rows of `x`, the latter from `first` on.
#[inline(always)]
fn put<const R: usize, const T: usize>(out: &mut [f32], sums: &[[f32; T]; R], tokens: usize, first: usize) {
    for (out, sums) in out.chunks_exact_mut(tokens).zip(sums) {
        out[first..first + T].copy_from_slice(sums);
    }
}

/// `R * T` dot products of whole rows, held in registers.
#[inline(always)]
fn tile<S: Simd, const R: usize, const T: usize>(simd: S, w: [&[f32]; R], x: [&[f32]; T]) -> [[f32; T]; R] {
    let len = w[0].len();
    let ((w, w_rest), (x, x_rest)) = (split::<S, R>(w, len), split::<S, T>(x, len));
    let mut acc = [[simd.splat_f32s(0.0); T]; R];
    for i in 0..len / S::F32_LANES {
        step(simd, &mut acc, &at(&w, i), &at(&x, i));
    }
    if !w_rest[0].is_empty() {
        step(simd, &mut acc, &padded(simd, &w_rest), &padded(simd, &x_rest));
    }
    let mut sums = [[0.0; T]; R];
    for (sums, acc) in sums.iter_mut().zip(&acc) {
        for (sum, acc) in sums.iter_mut().zip(acc) {
            *sum = simd.reduce_sum_f32s(*acc);
        }
    }
    sums
}

/// `acc += w x^T`.
#[inline(always)]
fn step<S: Simd, const R: usize, const T: usize>(
    simd: S,
    acc: &mut [[S::f32s; T]; R],
    w: &[S::f32s; R],
    x: &[S::f32s; T],
) {
    for (acc, w) in acc.iter_mut().zip(w) {
        for (acc, x) in acc.iter_mut().zip(x) {
            *acc = simd.mul_add_e_f32s(*w, *x, *acc);
        }
    }
}
