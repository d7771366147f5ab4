//! The two products of a linear layer. In: token rows and a weight; out: rows written or added into columns of a
//! matrix. Invariant: the weight is read once, from memory to the cores, however many tokens there are.

use super::panels::{self, Panels};
use crate::bf16::{self, Frozen, Rounded, Side};
use crate::gemm::{Mat, Update, count};
use crate::weight::Rows;
use crate::{simd, slices};
use rayon::prelude::*;
use std::ops::Range;

/// Some columns of a row-major matrix: those from `at` on, of rows `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    pub(crate) stride: usize,
    pub(crate) at: usize,
}

/// Up to this many tokens dot products are as fast as panels, which fill up whole vectors with zeros.
const DOT_TOKENS: usize = 10;
/// Up to this many tokens packing the weight, as a large product does, costs more than it saves (measured on two cores:
/// even at 130 to 260 tokens, by shape).
const PANEL_TOKENS: usize = 256;
/// Up to this many tokens dot products, or products of 8-bit integers with blocks, are faster with a weight of products in
/// bf16: reading the weight takes most of the time.
const FROZEN_DOT_TOKENS: usize = 8;
/// Most weight elements of one parallel task of the product for few tokens: half of a second-level cache.
const TASK_ELEMENTS: usize = 1 << 16;
/// Multiply-adds that are worth a task: some tens of microseconds.
const TASK_WORK: usize = 1 << 20;
/// Rows and columns that are transposed at a time: a cache line of each.
const SQUARE: usize = 16;
/// Elements of a stored weight that are expanded at a time for the product of many tokens: 16 MB.
const TILE_ELEMENTS: usize = 1 << 22;

/// `x W^T + bias`, `[tokens, outputs]`.
pub(crate) fn forward(x: &[f32], weight: Rows<'_>, bias: Option<&[f32]>, tokens: usize) -> Vec<f32> {
    let (outputs, inputs) = weight.dims();
    if let Some(bias) = bias {
        let mut out = bias.repeat(tokens);
        forward_into(x, weight, tokens, &mut out, Columns { stride: outputs, at: 0 }, Update::Add);
        return out;
    }
    if are_few(tokens, weight) {
        let products = Products::new(x, weight, tokens);
        return slices::filled(tokens * outputs, SQUARE * outputs, |i, rows| {
            products.turn(i, rows, Columns { stride: outputs, at: 0 }, Update::Replace);
        });
    }
    let whole = |values| Mat::new(x, tokens, inputs).times(Mat::new(values, outputs, inputs).t()).in_parallel();
    match weight {
        Rows::Dense { values, .. } => whole(values).into_vec(),
        Rows::Frozen(frozen) => rounded(&Rounded::new(x, tokens, inputs), frozen, Side::Forward).into_vec(),
        Rows::Stored(_) => {
            let mut out = vec![0.0; tokens * outputs];
            forward_into(x, weight, tokens, &mut out, Columns { stride: outputs, at: 0 }, Update::Replace);
            out
        }
    }
}

fn rounded<'a>(x: &'a Rounded, weight: Frozen<'a>, side: Side) -> bf16::Product<'a> {
    bf16::Product::new(x, weight, side).in_parallel()
}

/// Writes `x W^T` to `columns` of `out`, or adds it.
pub(crate) fn forward_into(
    x: &[f32],
    weight: Rows<'_>,
    tokens: usize,
    out: &mut [f32],
    columns: Columns,
    update: Update,
) {
    let inputs = weight.dims().1;
    if are_few(tokens, weight) {
        let products = Products::new(x, weight, tokens);
        let end = out.len().min(tokens * columns.stride);
        let rows = out[..end].par_chunks_mut(SQUARE * columns.stride).enumerate();
        return rows.for_each(|(i, rows)| products.turn(i, rows, columns, update));
    }
    if tokens == 0 {
        return;
    }
    let mut tile = |rows: Range<usize>, tile: &[f32]| {
        let product = Mat::new(x, tokens, inputs).times(Mat::new(tile, rows.len(), inputs).t()).in_parallel();
        product.store(&mut out[columns.at + rows.start..], columns.stride, update);
    };
    match weight {
        Rows::Dense { values, rows, .. } => tile(0..rows, values),
        Rows::Stored(stored) => stored.for_each_tile(TILE_ELEMENTS, tile),
        Rows::Frozen(frozen) => {
            let x = Rounded::new(x, tokens, inputs);
            rounded(&x, frozen, Side::Forward).store(&mut out[columns.at..], columns.stride, update);
        }
    }
}

/// `g W`, `[tokens, inputs]`.
pub(crate) fn input_gradient(g: &[f32], weight: Rows<'_>, tokens: usize) -> Vec<f32> {
    let (outputs, inputs) = weight.dims();
    if outputs == 0 {
        return vec![0.0; tokens * inputs];
    }
    match weight {
        Rows::Dense { values, .. } => {
            let weight = Mat::new(values, outputs, inputs);
            Mat::new(g, tokens, outputs).times(weight).in_parallel().into_vec()
        }
        Rows::Frozen(frozen) => rounded(&Rounded::new(g, tokens, outputs), frozen, Side::Backward).into_vec(),
        Rows::Stored(stored) => {
            let mut dx = vec![0.0; tokens * inputs];
            stored.for_each_tile(TILE_ELEMENTS, |rows, tile| {
                let g = Mat::strided(g.get(rows.start..).unwrap_or_default(), tokens, rows.len(), outputs);
                let update = if rows.start == 0 { Update::Replace } else { Update::Add };
                g.times(Mat::new(tile, rows.len(), inputs)).in_parallel().store(&mut dx, inputs, update);
            });
            dx
        }
    }
}

/// True when a product is one of so few tokens that the weight is not packed for it.
fn are_few(tokens: usize, weight: Rows<'_>) -> bool {
    let (outputs, inputs) = weight.dims();
    let most = match weight {
        Rows::Frozen(_) => FROZEN_DOT_TOKENS,
        Rows::Dense { .. } | Rows::Stored(_) => PANEL_TOKENS,
    };
    inputs > 0 && outputs > 0 && (1..=most).contains(&tokens)
}

/// The product of few tokens, a row for each output.
struct Products {
    values: Vec<f32>,
    /// From row to row.
    stride: usize,
}

impl Products {
    /// Parallel over the rows of the weight; in products of few tokens by dot products, else by panels.
    fn new(x: &[f32], weight: Rows<'_>, tokens: usize) -> Self {
        let (outputs, inputs) = weight.dims();
        count(tokens, inputs, outputs);
        let task = (TASK_WORK / (inputs * tokens)).clamp(1, TASK_ELEMENTS.div_ceil(inputs));
        let task = task.next_multiple_of(panels::ROWS);
        // Output-major, so that a task writes one contiguous piece.
        if let Rows::Frozen(frozen) = weight {
            let dots = frozen.dots(x, tokens);
            let values = slices::filled(outputs * tokens, task * tokens, |i, products| {
                dots(&(i * task..i * task + products.len() / tokens), products);
            });
            return Self { values, stride: tokens };
        }
        let panels = (tokens > DOT_TOKENS).then(|| Panels::new(x, tokens, inputs));
        let stride = panels.as_ref().map_or(tokens, Panels::padded);
        let values = slices::filled_with(outputs * stride, task * stride, Vec::new, |scratch, i, products| {
            let rows = i * task..i * task + products.len() / stride;
            let w = weight.read(&rows, scratch);
            match &panels {
                Some(panels) => panels.product(w, products),
                None => simd::dots(products, w, x, inputs),
            }
        });
        Self { values, stride }
    }

    /// Writes or adds columns `i * SQUARE ..` as `rows` into `columns` of the result. By squares, so that rows which
    /// are a multiple of 4 kB apart do not evict each other from the first-level cache.
    fn turn(&self, i: usize, rows: &mut [f32], columns: Columns, update: Update) {
        let (first, stride) = (i * SQUARE, self.stride);
        for (j, products) in self.values.chunks(SQUARE * stride).enumerate() {
            let (outputs, at) = (products.len() / stride, columns.at + j * SQUARE);
            let mut square = [[0.0; SQUARE]; SQUARE];
            for (o, products) in products.chunks_exact(stride).enumerate() {
                for (row, p) in square.iter_mut().zip(&products[first.min(stride)..]) {
                    row[o] = *p;
                }
            }
            for (row, sums) in rows.chunks_mut(columns.stride).zip(&square) {
                let row = &mut row[at..at + outputs];
                match update {
                    Update::Add => row.iter_mut().zip(sums).for_each(|(y, p)| *y += p),
                    Update::Replace => row.copy_from_slice(&sums[..outputs]),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::random;
    use crate::quant::TensorType;
    use crate::weight::{Stored, Weight};
    use candle_core::{DType, Device};

    /// Half-precision bytes, whose expansion is exact.
    fn halves(rows: usize, cols: usize) -> Weight {
        let values = random((rows, cols), 3).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let bytes = values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
        Weight::Stored(Stored::new(TensorType::F16, rows, cols, bytes).unwrap())
    }

    #[test]
    fn a_stored_weight_gives_what_its_expansion_gives() {
        for (tokens, inputs, outputs) in
            [(1, 64, 7), (5, 33, 70), (11, 7, 13), (17, 1030, 6), (60, 40, 130), (50, 2100, 2050), (300, 40, 70)]
        {
            let stored = halves(outputs, inputs);
            let dense = Weight::Dense(stored.dense(DType::F32, &Device::Cpu).unwrap());
            let x = random((tokens, inputs), 1).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let g = random((tokens, outputs), 2).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let both = |weight: &Weight| {
                let mut out = vec![1.0; tokens * (outputs + 3)];
                weight
                    .with(|rows| {
                        let columns = Columns { stride: outputs + 3, at: 2 };
                        forward_into(&x, rows, tokens, &mut out, columns, Update::Add);
                        [forward(&x, rows, None, tokens), input_gradient(&g, rows, tokens), out]
                    })
                    .unwrap()
            };
            for (a, b) in both(&stored).into_iter().flatten().zip(both(&dense).into_iter().flatten()) {
                assert!((a - b).abs() < 1e-4, "{tokens}x{inputs}x{outputs}: {a} and {b}");
            }
        }
    }

    /// Products of few tokens by integers, of many by numbers in bf16, backward and into columns of a matrix.
    #[test]
    fn blocks_in_bf16_give_nearly_what_their_expansion_gives() {
        for (tokens, inputs, outputs) in [(1, 64, 7), (5, 32, 70), (8, 1056, 6), (9, 96, 13), (300, 64, 70)] {
            let weight = random((outputs, inputs), 3);
            let stored = Stored::quantise(TensorType::Q8_0, &weight).unwrap();
            let dense = Weight::Dense(Weight::Stored(stored.clone()).dense(DType::F32, &Device::Cpu).unwrap());
            let x = random((tokens, inputs), 1).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let g = random((tokens, outputs), 2).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let all = |weight: &Weight| {
                let mut out = vec![1.0; tokens * (outputs + 3)];
                let columns = Columns { stride: outputs + 3, at: 2 };
                weight
                    .with(|rows| {
                        forward_into(&x, rows, tokens, &mut out, columns, Update::Add);
                        [forward(&x, rows, None, tokens), input_gradient(&g, rows, tokens), out]
                    })
                    .unwrap()
            };
            for (a, b) in all(&Weight::Stored(stored.in_bf16())).into_iter().zip(all(&dense)) {
                let most = b.iter().fold(0f32, |most, x| most.max(x.abs()));
                let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far <= 0.02 * most, "{tokens}x{inputs}x{outputs}: {far} of {most}");
                assert!(far > 0.0, "{tokens}x{inputs}x{outputs}: computed in f32");
            }
        }
    }

    #[test]
    fn only_its_columns_are_written() {
        let weight = Weight::Dense(random((4, 6), 1));
        for tokens in [2, 60] {
            let x = random((tokens, 6), 2).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let mut out = vec![9.0; tokens * 10];
            let columns = Columns { stride: 10, at: 5 };
            weight.with(|rows| forward_into(&x, rows, tokens, &mut out, columns, Update::Replace)).unwrap();
            let plain = weight.with(|rows| forward(&x, rows, None, tokens)).unwrap();
            for (row, plain) in out.chunks(10).zip(plain.chunks(4)) {
                assert!(row[..5].iter().chain(&row[9..]).all(|x| x.to_bits() == 9f32.to_bits()));
                assert!(row[5..9].iter().zip(plain).all(|(a, b)| (a - b).abs() < 1e-6));
            }
        }
    }
}
