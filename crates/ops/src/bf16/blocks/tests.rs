use super::super::{Frozen, Product, Rounded, Side};
use super::*;
use crate::conformance::random;
use crate::gemm::Update;
use crate::quant::dequantize;

/// Every form that this processor has.
fn forms() -> Vec<Arch> {
    let mut forms = vec![Arch::Portable];
    forms.extend(Some(kernel::arch()).filter(|arch| *arch != Arch::Portable));
    forms
}

/// Every quantised type, and where its blocks have numbers in half precision.
const TYPES: [(TensorType, &[usize]); 8] = [
    (TensorType::Q4_0, &[0]),
    (TensorType::Q4_1, &[0, 2]),
    (TensorType::Q5_0, &[0]),
    (TensorType::Q5_1, &[0, 2]),
    (TensorType::Q8_0, &[0]),
    (TensorType::Q4_K, &[0, 2]),
    (TensorType::Q5_K, &[0, 2]),
    (TensorType::Q6_K, &[208]),
];

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    random(n, seed).to_vec1::<f32>().unwrap()
}

/// Any bytes, with scales of 0.001 to 0.03, some of them negative.
fn bytes(dtype: TensorType, halves: &[usize], rows: usize, cols: usize) -> Vec<u8> {
    let size = dtype.block_bytes();
    let mut bytes: Vec<u8> =
        numbers(rows * cols / dtype.block() * size, 5).iter().map(|x| (x * 1e4) as i32 as u8).collect();
    for (i, block) in bytes.chunks_exact_mut(size).enumerate() {
        for &at in halves {
            let scale = 0.001 + 0.029 * ((i * 7 + at) % 13) as f32 / 13.0;
            let scale = half::f16::from_f32(if i % 5 == 3 { -scale } else { scale });
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

/// A matrix of each type, and its numbers. Widths that are whole groups, and ones with half a group at the end.
fn matrices(rows: usize, blocks: usize) -> impl Iterator<Item = (TensorType, Vec<u8>, usize, Vec<f32>)> {
    TYPES.into_iter().map(move |(dtype, halves)| {
        let cols = blocks * dtype.block();
        let bytes = bytes(dtype, halves, rows, cols);
        let values = dequantize(dtype, &bytes);
        (dtype, bytes, cols, values)
    })
}

#[test]
fn numbers_are_those_of_the_conversion_to_f32() {
    for blocks in [1, 3, 4] {
        for (dtype, bytes, cols, values) in matrices(3, blocks) {
            let matrix = Blocks { dtype, bytes: &bytes, rows: 3, cols };
            for arch in forms() {
                for columns in [0..cols, 0..cols.min(64), cols / 128 * 64..cols] {
                    let mut scratch = Vec::new();
                    let half = matrix.expand(arch, &(1..3), &columns, &mut scratch);
                    assert_eq!((half.rows, half.cols), (2, columns.len()));
                    for (r, row) in (1..3).enumerate() {
                        for (value, want) in half.row(r).iter().zip(&values[row * cols + columns.start..]) {
                            // One rounding more where products are added before they are rounded.
                            let bound = want.abs() / 256.0 + 1e-6;
                            assert!((value.to_f32() - want).abs() <= bound, "{dtype:?} {arch:?}: {value}, not {want}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn products_are_those_of_the_same_numbers_in_bf16() {
    for (tokens, out, blocks) in [(1, 1, 1), (7, 65, 3), (300, 20, 2), (13, 70, 25)] {
        for (dtype, bytes, cols, _) in matrices(out, blocks) {
            let matrix = Blocks { dtype, bytes: &bytes, rows: out, cols };
            for arch in forms() {
                let mut scratch = Vec::new();
                let half = matrix.expand(arch, &(0..out), &(0..cols), &mut scratch);
                for (side, inner, columns) in [(Side::Forward, cols, out), (Side::Backward, out, cols)] {
                    let x = Rounded::on(arch, &numbers(tokens * inner, 2), tokens, inner);
                    let product = |weight: Frozen<'_>| {
                        Product { arch, ..Product::new(&x, weight, side) }.in_parallel().into_vec()
                    };
                    let (got, want) = (product(matrix.into()), product(half.into()));
                    assert_eq!(got.len(), tokens * columns);
                    // The inner dimension is cut elsewhere, so sums are added in another order.
                    let most = want.iter().fold(0f32, |most, x| most.max(x.abs()));
                    for (got, want) in got.iter().zip(&want) {
                        assert!((got - want).abs() <= 1e-5 * most, "{dtype:?} {side:?} {arch:?}: {got}, not {want}");
                    }
                    let mut added = vec![1.0; tokens * (columns + 2)];
                    Product { arch, ..Product::new(&x, matrix, side) }.store(&mut added, columns + 2, Update::Add);
                    for (row, want) in added.chunks(columns + 2).zip(want.chunks(columns)) {
                        let close = |(got, want): (&f32, &f32)| (got - 1.0 - want).abs() <= 2e-5 * most.max(1.0);
                        assert!(row.iter().zip(want).all(close), "{dtype:?} {side:?} {arch:?}");
                        assert!(row[columns..].iter().all(|x| x.to_bits() == 1f32.to_bits()));
                    }
                }
            }
        }
    }
}

#[test]
fn products_of_integers_are_those_of_the_rounded_rows() {
    for (tokens, out, blocks) in [(1, 5, 1), (2, 3, 2), (4, 7, 3), (7, 2, 9), (8, 1, 4)] {
        for (dtype, bytes, cols, values) in matrices(out, blocks) {
            let matrix = Blocks { dtype, bytes: &bytes, rows: out, cols };
            let numbers = numbers(tokens * cols, 3);
            let x = Int8Rows::new(&numbers, tokens, cols);
            for arch in forms() {
                let mut sums = vec![f32::NAN; out * tokens];
                matrix.dots_on(arch, &mut sums, &x);
                for (at, sum) in sums.iter().enumerate() {
                    let (r, t) = (at / tokens, at % tokens);
                    let terms = (0..cols).map(|k| f64::from(values[r * cols + k]) * f64::from(x.value(t, k)));
                    let (want, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                    assert!((f64::from(*sum) - want).abs() <= 1e-4 * size, "{dtype:?} {arch:?}: {sum}, not {want}");
                }
            }
        }
    }
}

#[test]
fn rows_are_rounded_to_the_nearest_of_255_steps() {
    let (rows, width) = (3, 100);
    let mut numbers = numbers(rows * width, 4);
    numbers[100..132].fill(0.0);
    let x = Int8Rows::new(&numbers, rows, width);
    for (at, number) in numbers.iter().enumerate() {
        let (row, column) = (at / width, at % width);
        let same = &numbers[row * width..][column / 32 * 32..width.min(column / 32 * 32 + 32)];
        let most = same.iter().fold(0f32, |most, x| most.max(x.abs()));
        assert!((x.value(row, column) - number).abs() <= most / 254.0 * 1.001, "{row}, {column}");
    }
}
