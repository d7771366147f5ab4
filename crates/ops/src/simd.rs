//! Vector kernels on slices, dispatched at run time to the widest instruction set of the processor. In: `f32` slices of
//! equal length; out: a number or the slices written. Invariant: a kernel's result depends on its inputs and the
//! processor only, never on alignment or threads.

// A kernel body that is not inlined into its dispatched caller is compiled without that caller's instruction set.
#![allow(clippy::inline_always)]

use pulp::{Arch, Simd, WithSimd};

/// Declares a public function that dispatches to the kernel body of the same arguments.
macro_rules! kernels {
    ($($(#[$doc:meta])* fn $name:ident<$a:lifetime>($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name<$a>($($arg: $ty),*) $(-> $ret)? {
            struct Kernel<$a> {
                $($arg: $ty,)*
            }
            impl<$a> WithSimd for Kernel<$a> {
                type Output = kernels!(@ret $($ret)?);
                #[inline(always)]
                fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
                    $body(simd, $(self.$arg),*)
                }
            }
            Arch::new().dispatch(Kernel { $($arg),* })
        }
    )*};
    (@ret $ret:ty) => { $ret };
    (@ret) => { () };
}

kernels! {
    /// Sum of `a[i] * b[i]`.
    fn dot<'a>(a: &'a [f32], b: &'a [f32]) -> f32 = dot_body;

    /// Sum of `a[i] * b[i] * c[i]`.
    fn dot3<'a>(a: &'a [f32], b: &'a [f32], c: &'a [f32]) -> f32 = dot3_body;

    /// `y += a * x`.
    fn axpy<'a>(y: &'a mut [f32], a: f32, x: &'a [f32]) = axpy_body;

    /// `y *= a`.
    fn scale<'a>(y: &'a mut [f32], a: f32) = scale_body;

    /// Largest element; negative infinity of nothing.
    fn max<'a>(x: &'a [f32]) -> f32 = max_body;

    /// Sum of the elements.
    fn sum<'a>(x: &'a [f32]) -> f32 = sum_body;

    /// Sum of the squared elements.
    fn sum_squares<'a>(x: &'a [f32]) -> f32 = sum_squares_body;

    /// `x = exp(x - m)`; returns the sum. Relative error below 3e-7 of an element, exactly 0 below `x - m = -87.3` and
    /// at negative infinity, infinity above 88.37.
    fn exp_sub_sum<'a>(x: &'a mut [f32], m: f32) -> f32 = exp_sub_sum_body;

    /// `out = silu(gate) * up`, where `silu(g) = g / (1 + exp(-g))`.
    fn silu_mul<'a>(out: &'a mut [f32], gate: &'a [f32], up: &'a [f32]) = silu_mul_body;

    /// Given the gradient `g` of `silu(gate) * up`: `dgate = g * up * silu'(gate)`.
    fn silu_mul_dgate<'a>(dgate: &'a mut [f32], gate: &'a [f32], up: &'a [f32], g: &'a [f32]) = silu_mul_dgate_body;

    /// `out = gelu(gate) * up` with the tanh form of GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415).
    fn gelu_mul<'a>(out: &'a mut [f32], gate: &'a [f32], up: &'a [f32]) = gelu_mul_body;

    /// Given the gradient `g` of `gelu(gate) * up`: `dgate = g * up * gelu'(gate)`.
    fn gelu_mul_dgate<'a>(dgate: &'a mut [f32], gate: &'a [f32], up: &'a [f32], g: &'a [f32]) = gelu_mul_dgate_body;

    /// `x = cap * tanh(x / cap)`, with an absolute error below `2e-7 * cap`.
    fn soft_cap<'a>(x: &'a mut [f32], cap: f32) = soft_cap_body;

    /// The derivative of [`soft_cap`] by its input, from its output `x`: `out = 1 - (x / cap)^2`.
    fn soft_cap_slope<'a>(out: &'a mut [f32], x: &'a [f32], cap: f32) = soft_cap_slope_body;

    /// `y *= x`.
    fn mul<'a>(y: &'a mut [f32], x: &'a [f32]) = mul_body;

    /// `out = x * w * a`.
    fn mul_scaled<'a>(out: &'a mut [f32], x: &'a [f32], w: &'a [f32], a: f32) = mul_scaled_body;

    /// `out = x * w * a + y * b`.
    fn mul_scaled_add<'a>(out: &'a mut [f32], x: &'a [f32], w: &'a [f32], a: f32, y: &'a [f32], b: f32) = mul_scaled_add_body;

    /// `out += x * w * a`.
    fn add_mul_scaled<'a>(out: &'a mut [f32], x: &'a [f32], w: &'a [f32], a: f32) = add_mul_scaled_body;

    /// Dot products of every row of `w` with every row of `x`, both `width` wide: `out[r * tokens + t] = dot(w row r, x
    /// row t)`. Meant for few rows of `x`, of which blocks stay in the first-level cache while `w`, which should fit
    /// the second level, passes by.
    fn dots<'a>(out: &'a mut [f32], w: &'a [f32], x: &'a [f32], width: usize) = dots_body;
}

/// Slices of one length, split into whole vectors and the rest.
#[inline(always)]
fn split<S: Simd, const N: usize>(x: [&[f32]; N], len: usize) -> ([&[S::f32s]; N], [&[f32]; N]) {
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
fn at<V: Copy, const N: usize>(x: &[&[V]; N], i: usize) -> [V; N] {
    let mut vectors = [x[0][i]; N];
    for (vector, x) in vectors.iter_mut().zip(x) {
        *vector = x[i];
    }
    vectors
}

/// What is left of some slices as one vector each, padded with zeros.
#[inline(always)]
fn padded<S: Simd, const N: usize>(simd: S, rest: &[&[f32]; N]) -> [S::f32s; N] {
    let mut vectors = [simd.splat_f32s(0.0); N];
    for (vector, rest) in vectors.iter_mut().zip(rest) {
        *vector = simd.partial_load_f32s(rest);
    }
    vectors
}

/// Sum over all elements of what `step` adds to an accumulator, with four accumulators. The tail is padded with zeros.
#[inline(always)]
fn fold<S: Simd, const N: usize>(simd: S, x: [&[f32]; N], step: impl Fn(S::f32s, [S::f32s; N]) -> S::f32s) -> f32 {
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
fn map<S: Simd, const N: usize>(
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

#[inline(always)]
fn dot_body<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    fold(
        simd,
        [a, b],
        #[inline(always)]
        |acc, [a, b]| simd.mul_add_e_f32s(a, b, acc),
    )
}

#[inline(always)]
fn dot3_body<S: Simd>(simd: S, a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    fold(
        simd,
        [a, b, c],
        #[inline(always)]
        |acc, [a, b, c]| simd.mul_add_e_f32s(simd.mul_f32s(a, b), c, acc),
    )
}

#[inline(always)]
fn sum_body<S: Simd>(simd: S, x: &[f32]) -> f32 {
    fold(
        simd,
        [x],
        #[inline(always)]
        |acc, [x]| simd.add_f32s(acc, x),
    )
}

#[inline(always)]
fn sum_squares_body<S: Simd>(simd: S, x: &[f32]) -> f32 {
    fold(
        simd,
        [x],
        #[inline(always)]
        |acc, [x]| simd.mul_add_e_f32s(x, x, acc),
    )
}

#[inline(always)]
fn max_body<S: Simd>(simd: S, x: &[f32]) -> f32 {
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

#[inline(always)]
fn axpy_body<S: Simd>(simd: S, y: &mut [f32], a: f32, x: &[f32]) {
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
fn scale_body<S: Simd>(simd: S, y: &mut [f32], a: f32) {
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
fn mul_scaled_body<S: Simd>(simd: S, out: &mut [f32], x: &[f32], w: &[f32], a: f32) {
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
fn mul_scaled_add_body<S: Simd>(simd: S, out: &mut [f32], x: &[f32], w: &[f32], a: f32, y: &[f32], b: f32) {
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
fn add_mul_scaled_body<S: Simd>(simd: S, out: &mut [f32], x: &[f32], w: &[f32], a: f32) {
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
fn exp_sub_sum_body<S: Simd>(simd: S, x: &mut [f32], m: f32) -> f32 {
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
fn silu_mul_body<S: Simd>(simd: S, out: &mut [f32], gate: &[f32], up: &[f32]) {
    map(
        simd,
        out,
        [gate, up],
        #[inline(always)]
        |_, [g, u]| simd.mul_f32s(simd.mul_f32s(g, sigmoid(simd, g)), u),
    );
}

#[inline(always)]
fn silu_mul_dgate_body<S: Simd>(simd: S, dgate: &mut [f32], gate: &[f32], up: &[f32], grad: &[f32]) {
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
fn gelu_mul_body<S: Simd>(simd: S, out: &mut [f32], gate: &[f32], up: &[f32]) {
    map(
        simd,
        out,
        [gate, up],
        #[inline(always)]
        |_, [g, u]| simd.mul_f32s(simd.mul_f32s(g, gelu_gate(simd, g)), u),
    );
}

#[inline(always)]
fn gelu_mul_dgate_body<S: Simd>(simd: S, dgate: &mut [f32], gate: &[f32], up: &[f32], grad: &[f32]) {
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
fn soft_cap_body<S: Simd>(simd: S, x: &mut [f32], cap: f32) {
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
fn soft_cap_slope_body<S: Simd>(simd: S, out: &mut [f32], x: &[f32], cap: f32) {
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
fn mul_body<S: Simd>(simd: S, y: &mut [f32], x: &[f32]) {
    map(
        simd,
        y,
        [x],
        #[inline(always)]
        |y, [x]| simd.mul_f32s(y, x),
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

#[inline(always)]
fn dots_body<S: Simd>(simd: S, out: &mut [f32], w: &[f32], x: &[f32], width: usize) {
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

#[cfg(test)]
#[allow(clippy::float_cmp)] // exact by construction
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i * 7919 + seed * 104_729) % 2003) as f32 - 1001.0) / 500.0).collect()
    }

    const LENGTHS: [usize; 12] = [0, 1, 3, 7, 8, 15, 16, 17, 33, 64, 100, 257];

    #[test]
    fn reductions_agree_with_f64() {
        for n in LENGTHS {
            let (a, b, c) = (numbers(n, 1), numbers(n, 2), numbers(n, 3));
            let close =
                |got: f32, want: f64| assert!((got as f64 - want).abs() < 1e-5 * (1.0 + n as f64), "{n}: {got} {want}");
            close(sum(&a), a.iter().map(|&a| a as f64).sum());
            close(sum_squares(&a), a.iter().map(|&a| (a * a) as f64).sum());
            close(dot(&a, &b), a.iter().zip(&b).map(|(&a, &b)| (a * b) as f64).sum());
            close(dot3(&a, &b, &c), (0..n).map(|i| (a[i] * b[i] * c[i]) as f64).sum());
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn dots_agree_for_any_number_of_rows_and_tokens() {
        for (outputs, tokens, width) in [(1, 1, 1), (3, 4, 7), (4, 1, 64), (5, 3, 33), (9, 11, 17), (8, 16, 100)] {
            let (w, x) = (numbers(outputs * width, 1), numbers(tokens * width, 2));
            let mut out = vec![f32::NAN; outputs * tokens];
            dots(&mut out, &w, &x, width);
            for (i, &got) in out.iter().enumerate() {
                let (r, t) = (i / tokens, i % tokens);
                let want: f64 = (0..width).map(|k| (w[r * width + k] * x[t * width + k]) as f64).sum();
                assert!((got as f64 - want).abs() < 1e-4, "{outputs} {tokens} {width}: {i}");
            }
        }
    }

    #[test]
    fn maps_agree_element_by_element() {
        for n in LENGTHS {
            let (x, w, y) = (numbers(n, 1), numbers(n, 2), numbers(n, 3));
            let check = |name: &str, f: &dyn Fn(&mut [f32]), want: &dyn Fn(usize) -> f32| {
                let mut out = y.clone();
                f(&mut out);
                for (i, &got) in out.iter().enumerate() {
                    assert!((got - want(i)).abs() < 2e-6, "{name} {n} {i}: {got} {}", want(i));
                }
            };
            check("axpy", &|o| axpy(o, 0.5, &x), &|i| y[i] + 0.5 * x[i]);
            check("scale", &|o| scale(o, 0.5), &|i| y[i] * 0.5);
            check("mul_scaled", &|o| mul_scaled(o, &x, &w, 0.5), &|i| x[i] * w[i] * 0.5);
            check("add_mul_scaled", &|o| add_mul_scaled(o, &x, &w, 0.5), &|i| y[i] + x[i] * w[i] * 0.5);
            check("mul_scaled_add", &|o| mul_scaled_add(o, &x, &w, 0.5, &x, 2.0), &|i| x[i] * w[i] * 0.5 + 2.0 * x[i]);
            let s = |i: usize| 1.0 / (1.0 + (-x[i]).exp());
            check("silu_mul", &|o| silu_mul(o, &x, &w), &|i| x[i] * s(i) * w[i]);
            check("silu_mul_dgate", &|o| silu_mul_dgate(o, &x, &w, &y), &|i| {
                y[i] * w[i] * s(i) * (1.0 + x[i] * (1.0 - s(i)))
            });
            let z = |i: usize| (0.797_884_6 * (x[i] + 0.044_715 * x[i].powi(3))).tanh();
            check("gelu_mul", &|o| gelu_mul(o, &x, &w), &|i| 0.5 * x[i] * (1.0 + z(i)) * w[i]);
            check("gelu_mul_dgate", &|o| gelu_mul_dgate(o, &x, &w, &y), &|i| {
                let bend = 0.5 * x[i] * (1.0 - z(i).powi(2)) * 0.797_884_6 * (1.0 + 3.0 * 0.044_715 * x[i].powi(2));
                y[i] * w[i] * (0.5 * (1.0 + z(i)) + bend)
            });
            check("soft_cap", &|o| soft_cap(o, 0.5), &|i| 0.5 * (2.0 * y[i]).tanh());
            check("soft_cap_slope", &|o| soft_cap_slope(o, &x, 2.0), &|i| 1.0 - (x[i] / 2.0).powi(2));
            check("mul", &|o| mul(o, &x), &|i| y[i] * x[i]);
        }
    }

    #[test]
    fn exp_is_accurate_and_clean_at_the_ends() {
        let steps: Vec<f32> = (0..200_000).map(|i| -87.29 + i as f32 * 8.78e-4).collect();
        let mut got = steps.clone();
        exp_sub_sum(&mut got, 0.0);
        for (&x, &e) in steps.iter().zip(&got) {
            let want = (x as f64).exp();
            assert!(((e as f64 - want) / want).abs() < 3e-7, "exp({x}) = {e}, not {want}");
        }
        let mut ends = [f32::NEG_INFINITY, -1e30, -88.0, 0.0, 89.0, f32::INFINITY, f32::NAN];
        exp_sub_sum(&mut ends, 0.0);
        assert_eq!(ends[..6], [0.0, 0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY]);
        assert!(ends[6].is_nan());
    }

    #[test]
    fn exp_sub_sum_sums_without_padding() {
        for n in LENGTHS {
            let mut x = numbers(n, 4);
            let want: f64 = x.iter().map(|&v| (v as f64 - 0.25).exp()).sum();
            assert!((exp_sub_sum(&mut x, 0.25) as f64 - want).abs() < 1e-6 * (1.0 + want));
        }
    }

    #[test]
    fn gelu_and_soft_cap_are_finite_far_out() {
        let far = [-1e30, -1000.0, -40.0, 0.0, 40.0, 1000.0];
        let mut out = [1.0; 6];
        gelu_mul(&mut out, &far, &[1.0; 6]);
        assert_eq!(out, [0.0, 0.0, 0.0, 0.0, 40.0, 1000.0]);
        gelu_mul_dgate(&mut out, &far, &[1.0; 6], &[1.0; 6]);
        assert_eq!(out, [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]);
        let mut x = far;
        soft_cap(&mut x, 30.0);
        assert_eq!((x[0], x[1], x[3], x[5]), (-30.0, -30.0, 0.0, 30.0));
    }

    #[test]
    fn silu_is_finite_far_out() {
        let gate = [-1000.0, -90.0, 0.0, 90.0, 1000.0];
        let mut out = [1.0; 5];
        silu_mul(&mut out, &gate, &[1.0; 5]);
        assert_eq!(out, [0.0, 0.0, 0.0, 90.0, 1000.0]);
        silu_mul_dgate(&mut out, &gate, &[1.0; 5], &[1.0; 5]);
        assert_eq!(out, [0.0, 0.0, 0.5, 1.0, 1.0]);
    }
}
