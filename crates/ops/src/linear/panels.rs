//! The product of a weight and some tens of tokens, with the tokens across the lanes of a vector. In: rows of a weight
//! as they lie in memory, tokens laid out as panels; out: a row of sums for each row of the weight. Invariant: the
//! weight is neither packed nor moved; only the tokens are, which are fewer.

// A kernel body that is not inlined into its dispatched caller is compiled without that caller's instruction set.
#![allow(clippy::inline_always)]

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Rows of the weight whose sums are held in registers together. More of them would meet in one set of the first-level
/// cache where rows are a multiple of 4 kB apart.
pub(super) const ROWS: usize = 6;
/// Columns of the weight in one block: panels of so many stay in the second-level cache.
const COLUMNS: usize = 1024;

/// Tokens laid out for [`Panels::product`]: blocks of columns, in each the panels, in each for every column the tokens
/// of the panel beside each other, padded with zeros to whole vectors.
pub(super) struct Panels {
    values: Vec<f32>,
    width: usize,
    lanes: usize,
    /// Vectors of all panels.
    vectors: usize,
    /// Vectors of a panel; the last one may have fewer.
    most: usize,
}

impl Panels {
    /// Lays out `tokens` rows of `width`.
    pub(super) fn new(x: &[f32], tokens: usize, width: usize) -> Self {
        let (lanes, registers) = Arch::new().dispatch(Lanes);
        Self::laid_out(x, tokens, width, lanes, registers)
    }

    /// As [`Self::new`], for vectors of `lanes` in so many registers.
    fn laid_out(x: &[f32], tokens: usize, width: usize, lanes: usize, registers: usize) -> Self {
        let vectors = tokens.div_ceil(lanes);
        // With the sums of 6 x 4 vectors, 32 registers are in use; with 6 x 2, 16.
        let most = if registers >= 32 { 4 } else { 2 };
        let mut panels = Self { values: vec![0.0; vectors * lanes * width], width, lanes, vectors, most };
        let places: Vec<_> = panels.places().collect();
        let mut rest = panels.values.as_mut_slice();
        let mut pieces = Vec::with_capacity(places.len());
        for (columns, first, count) in places {
            let (piece, later) = rest.split_at_mut(columns.len() * count * lanes);
            rest = later;
            pieces.push((piece, columns, first * lanes..tokens.min((first + count) * lanes), count * lanes));
        }
        pieces.into_par_iter().for_each(|(piece, columns, rows, stride)| {
            for (t, row) in rows.enumerate() {
                let row = &x[row * width..][columns.clone()];
                for (column, x) in piece.chunks_exact_mut(stride).zip(row) {
                    column[t] = *x;
                }
            }
        });
        panels
    }

    /// Length of a row of sums: the tokens, padded.
    pub(super) fn padded(&self) -> usize {
        self.vectors * self.lanes
    }

    /// Every panel in memory order: its columns, first vector and number of vectors.
    fn places(&self) -> impl Iterator<Item = (std::ops::Range<usize>, usize, usize)> {
        let Self { width, vectors, most, .. } = *self;
        (0..width).step_by(COLUMNS).flat_map(move |column| {
            let columns = column..width.min(column + COLUMNS);
            (0..vectors).step_by(most).map(move |first| (columns.clone(), first, most.min(vectors - first)))
        })
    }

    /// `sums[r][t] = w[r] . x[t]`; rows of `sums` are [`Self::padded`] long.
    pub(super) fn product(&self, w: &[f32], sums: &mut [f32]) {
        Arch::new().dispatch(Product { panels: self, w, sums });
    }
}

/// Lanes of a vector, and vector registers.
struct Lanes;

impl WithSimd for Lanes {
    type Output = (usize, usize);

    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        (S::F32_LANES, S::REGISTER_COUNT)
    }
}

struct Product<'a> {
    panels: &'a Panels,
    w: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { panels, w, sums } = self;
        let (width, padded) = (panels.width, panels.padded());
        assert_eq!(S::F32_LANES, panels.lanes, "laid out for another processor");
        assert_eq!(sums.len() * width, w.len() * padded, "lengths differ");
        if width == 0 {
            return sums.fill(0.0);
        }
        let per_block = panels.vectors.div_ceil(panels.most);
        let places: Vec<_> = panels.places().collect();
        let mut start = 0;
        for places in places.chunks(per_block) {
            let columns = places[0].0.clone();
            let block = &panels.values[start..start + columns.len() * padded];
            start += block.len();
            for (w, sums) in w.chunks(ROWS * width).zip(sums.chunks_mut(ROWS * padded)) {
                let mut panel_start = 0;
                for (_, first, count) in places {
                    let panel = &block[panel_start..][..columns.len() * count * S::F32_LANES];
                    panel_start += panel.len();
                    let at =
                        Place { width, padded, start: columns.start, len: columns.len(), at: first * S::F32_LANES };
                    match count {
                        1 => at.rows::<S, 1>(simd, w, panel, sums),
                        2 => at.rows::<S, 2>(simd, w, panel, sums),
                        3 => at.rows::<S, 3>(simd, w, panel, sums),
                        _ => at.rows::<S, 4>(simd, w, panel, sums),
                    }
                }
            }
        }
    }
}

/// Which columns of some rows meet a panel, and where the sums go.
struct Place {
    width: usize,
    padded: usize,
    start: usize,
    len: usize,
    at: usize,
}

impl Place {
    /// At most [`ROWS`] rows.
    #[inline(always)]
    fn rows<S: Simd, const V: usize>(&self, simd: S, w: &[f32], panel: &[f32], sums: &mut [f32]) {
        if w.len() == ROWS * self.width {
            return self.tile::<S, ROWS, V>(simd, w, panel, sums);
        }
        for (w, sums) in w.chunks_exact(self.width).zip(sums.chunks_exact_mut(self.padded)) {
            self.tile::<S, 1, V>(simd, w, panel, sums);
        }
    }

    /// `R x V` vectors of sums, held in registers.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize>(&self, simd: S, w: &[f32], panel: &[f32], sums: &mut [f32]) {
        let rows: [&[f32]; R] = std::array::from_fn(|r| &w[r * self.width + self.start..][..self.len]);
        let columns = &S::as_simd_f32s(panel).0.as_chunks::<V>().0[..self.len];
        let mut acc = [[simd.splat_f32s(0.0); V]; R];
        for (k, x) in columns.iter().enumerate() {
            for (acc, row) in acc.iter_mut().zip(&rows) {
                let w = simd.splat_f32s(row[k]);
                for (acc, x) in acc.iter_mut().zip(x) {
                    *acc = simd.mul_add_e_f32s(w, *x, *acc);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            let sums = S::as_mut_simd_f32s(&mut sums[r * self.padded + self.at..][..V * S::F32_LANES]).0;
            for (sum, acc) in sums.iter_mut().zip(acc) {
                *sum = if self.start == 0 { *acc } else { simd.add_f32s(*sum, *acc) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i * 7919 + seed * 104_729) % 2003) as f32 - 1001.0) / 500.0).collect()
    }

    /// With the vectors of `simd`, whatever this processor's widest are.
    fn agrees<S: Simd>(simd: S) {
        for (tokens, width, outputs) in
            [(1, 1, 1), (11, 7, 13), (17, 1030, 6), (64, 40, 7), (70, 2100, 25), (200, 3, 12)]
        {
            let (x, w) = (numbers(tokens * width, 1), numbers(outputs * width, 2));
            let (lanes, registers) = Lanes.with_simd(simd);
            let panels = Panels::laid_out(&x, tokens, width, lanes, registers);
            let mut sums = vec![f32::NAN; outputs * panels.padded()];
            simd.vectorize(Product { panels: &panels, w: &w, sums: &mut sums });
            for (i, &sum) in sums.iter().enumerate() {
                let (r, t) = (i / panels.padded(), i % panels.padded());
                let row = |x: &[f32], i: usize| x.get(i * width..(i + 1) * width).map(<[f32]>::to_vec);
                let want: f64 = row(&x, t)
                    .map_or(0.0, |x| x.iter().zip(row(&w, r).unwrap_or_default()).map(|(x, w)| f64::from(x * w)).sum());
                assert!(
                    (f64::from(sum) - want).abs() < 1e-2,
                    "{tokens}x{width}x{outputs}: {r}, {t}: {sum}, not {want}"
                );
            }
        }
    }

    #[test]
    fn sums_agree_for_every_kind_of_vector() {
        agrees(pulp::Scalar);
        #[cfg(target_arch = "x86_64")]
        {
            use pulp::x86::{V3, V4};
            V3::try_new().into_iter().for_each(agrees);
            V4::try_new().into_iter().for_each(agrees);
        }
    }
}
