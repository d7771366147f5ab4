use super::dots::dots_on;
use super::kernel::{self, Arch};
use super::{Half, Product, Rounded, Side};
use crate::conformance::random;
use crate::gemm::Update;
use half::bf16;

/// Every form that this processor has.
fn forms() -> Vec<Arch> {
    let best = kernel::arch();
    let mut forms = vec![Arch::Portable];
    #[cfg(target_arch = "x86_64")]
    if let Arch::Amx(amx) = best {
        forms.push(Arch::Avx512(amx.avx512));
    }
    forms.extend(Some(best).filter(|arch| *arch != Arch::Portable));
    forms
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    random(n, seed).to_vec1::<f32>().unwrap()
}

fn halves(n: usize, seed: u64) -> Vec<bf16> {
    numbers(n, seed).into_iter().map(bf16::from_f32).collect()
}

/// The product by its definition, of numbers that were rounded.
fn exact(x: &[f32], tokens: usize, weight: Half<'_>, side: Side) -> Vec<f64> {
    let (inner, columns) = match side {
        Side::Forward => (weight.cols, weight.rows),
        Side::Backward => (weight.rows, weight.cols),
    };
    let element = |t: usize, c: usize| -> f64 {
        let term = |k: usize| {
            let w = if side == Side::Forward { weight.row(c)[k] } else { weight.row(k)[c] };
            f64::from(bf16::from_f32(x[t * inner + k]).to_f32()) * f64::from(w.to_f32())
        };
        (0..inner).map(term).sum()
    };
    (0..tokens * columns).map(|at| element(at / columns, at % columns)).collect()
}

#[test]
fn products_are_those_of_the_rounded_numbers() {
    for (tokens, out, input) in [
        (1, 1, 1),
        (3, 17, 5),
        (6, 64, 32),
        (7, 65, 33),
        (13, 130, 70),
        (5, 16, 1301),
        (300, 20, 40),
        (77, 100, 1301),
        (2090, 33, 50),
        (2, 3, 0),
        (0, 3, 4),
    ] {
        let values = halves(out * input, 1);
        let weight = Half { values: &values, rows: out, cols: input };
        for (side, inner, columns) in [(Side::Forward, input, out), (Side::Backward, out, input)] {
            let x = numbers(tokens * inner, 2);
            let want = exact(&x, tokens, weight, side);
            for arch in forms() {
                let rounded = Rounded::on(arch, &x, tokens, inner);
                let product = Product { arch, ..Product::new(&rounded, weight, side) };
                for product in [product, product.in_parallel()] {
                    let own = product.into_vec();
                    let stride = columns + 3;
                    let (mut written, mut added) = (vec![7.0; tokens * stride], vec![7.0; tokens * stride]);
                    product.store(&mut written, stride, Update::Replace);
                    product.store(&mut added, stride, Update::Add);
                    assert_eq!(own.len(), want.len());
                    for (i, (&own, want)) in own.iter().zip(&want).enumerate() {
                        let at = i / columns * stride + i % columns;
                        let gap = (f64::from(own) - want).abs();
                        assert!(gap < 1e-4, "{arch:?} {side:?} {tokens}x{input}x{out}: {i} is {own}, not {want}");
                        assert_eq!(written[at].to_bits(), own.to_bits());
                        assert!((added[at] - own - 7.0).abs() < 1e-4);
                    }
                    let beyond = |x: &[f32]| {
                        x.chunks(stride).all(|row| row[columns..].iter().all(|x| x.to_bits() == 7f32.to_bits()))
                    };
                    assert!(beyond(&written) && beyond(&added), "columns beyond the product were written");
                }
            }
        }
    }
}

#[test]
fn dots_are_those_of_the_rounded_numbers() {
    for (tokens, out, input) in [(1, 1, 1), (1, 9, 64), (4, 8, 33), (5, 6, 100), (16, 13, 577), (9, 4, 7)] {
        let (x, values) = (numbers(tokens * input, 1), halves(out * input, 2));
        let weight = Half { values: &values, rows: out, cols: input };
        let want = exact(&x, tokens, weight, Side::Forward);
        for arch in forms() {
            let mut got = vec![f32::NAN; out * tokens];
            dots_on(arch, &mut got, weight, &Rounded::in_rows(&x, tokens, input));
            for (i, got) in got.iter().enumerate() {
                let want = want[i % tokens * out + i / tokens];
                assert!((f64::from(*got) - want).abs() < 1e-4, "{arch:?} {tokens}x{input}x{out}: {got}, not {want}");
            }
        }
    }
}

#[test]
fn rounded_rows_expand_to_their_numbers() {
    for (rows, width) in [(0, 3), (1, 1), (3, 5), (7, 64), (600, 33), (2, 0)] {
        let x = numbers(rows * width, 4);
        let want: Vec<f32> = x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
        for arch in forms() {
            assert_eq!(Rounded::on(arch, &x, rows, width).expand(), want, "{arch:?}");
        }
    }
}

#[test]
fn numbers_are_rounded_to_nearest_and_ties_to_even() {
    let mut x = numbers(37, 3);
    // Halfway between two neighbours, above an even and above an odd one; what rounds up to infinity; what is no
    // number.
    x.extend([
        1.0 + 0.5f32.powi(8),
        1.0 + 3.0 * 0.5f32.powi(8),
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -0.0,
    ]);
    for arch in forms() {
        let got = Rounded::on(arch, &x, 1, x.len()).expand();
        for (got, x) in got.iter().zip(&x) {
            let want = bf16::from_f32(*x).to_f32();
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{arch:?} {x}: {got}, not {want}"
            );
        }
    }
}

#[test]
#[should_panic(expected = "does not fit")]
fn refuses_a_product_that_is_too_short() {
    let values = halves(6, 1);
    let x = Rounded::new(&[1.0; 4], 2, 2);
    Product::new(&x, Half { values: &values, rows: 3, cols: 2 }, Side::Forward).store(
        &mut [0.0; 5],
        3,
        Update::Replace,
    );
}
