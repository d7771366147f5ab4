//! Dot products of the rows of a weight in bf16 and a few rounded rows: for products of so few tokens that reading the
//! weight takes most of the time. In: rows of the weight as they lie in memory; out: a row of sums for each. Invariant:
//! the weight is read once, and neither packed nor moved.

#[cfg(target_arch = "x86_64")]
use super::amx::Amx;
use super::kernel::{self, Arch};
use super::{Half, Rounded};

/// Rows that are multiplied at a time: a vector that is loaded is used four times.
const TILE: usize = 4;

/// `out[r * tokens + t] = w[r] . x[t]`.
///
/// # Panics
/// When widths or lengths differ.
pub(crate) fn dots(out: &mut [f32], w: Half<'_>, x: &Rounded) {
    dots_on(kernel::arch(), out, w, x);
}

pub(super) fn dots_on(arch: Arch, out: &mut [f32], w: Half<'_>, x: &Rounded) {
    let tokens = x.rows;
    assert!(w.cols == x.width && out.len() == w.rows * tokens, "lengths differ");
    for token in (0..tokens).step_by(TILE) {
        let x: Vec<&[u32]> = (token..tokens.min(token + TILE)).map(|t| x.row(t)).collect();
        for (i, out) in out.chunks_mut(TILE * tokens.max(1)).enumerate() {
            let rows = i * TILE..w.rows.min((i + 1) * TILE);
            let w: [&[_]; TILE] = std::array::from_fn(|r| w.row(rows.start + r.min(rows.len() - 1)));
            let sums = match arch {
                #[cfg(target_arch = "x86_64")]
                Arch::Avx512(avx512) | Arch::Amx(Amx { avx512 }) => avx512.dots(&w[..rows.len()], &x),
                Arch::Portable => portable(&w, &x),
            };
            for (out, sums) in out.chunks_exact_mut(tokens).zip(sums) {
                out[token..token + x.len()].copy_from_slice(&sums[..x.len()]);
            }
        }
    }
}

fn portable(w: &[&[half::bf16]; TILE], x: &[&[u32]]) -> [[f32; TILE]; TILE] {
    let mut all = [[0.0; TILE]; TILE];
    for (all, w) in all.iter_mut().zip(w) {
        for (sum, x) in all.iter_mut().zip(x) {
            for (w, pair) in w.chunks(2).zip(*x) {
                let (low, high) = kernel::split(*pair);
                *sum += w[0].to_f32() * low + w.get(1).map_or(0.0, |w| w.to_f32()) * high;
            }
        }
    }
    all
}
