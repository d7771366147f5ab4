//! Vector kernels on slices, dispatched at run time to the widest instruction set of the processor. In: `f32` slices of
//! equal length; out: a number or the slices written. Invariant: a kernel's result depends on its inputs and the
//! processor only, never on alignment or threads.

// A kernel body that is not inlined into its dispatched caller is compiled without that caller's instruction set.
#![allow(clippy::inline_always)]

mod activations;
mod dots;
mod elementwise;
mod lanes;
mod reductions;

use activations::{
    exp_sub_sum_body, gelu_mul_body, gelu_mul_dgate_body, silu_mul_body, silu_mul_dgate_body, soft_cap_body,
    soft_cap_slope_body,
};
use dots::dots_body;
use elementwise::{add_mul_scaled_body, axpy_body, mul_body, mul_scaled_add_body, mul_scaled_body, scale_body};
use pulp::{Arch, Simd, WithSimd};
use reductions::{dot_body, dot3_body, max_body, sum_body, sum_squares_body};

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

/// The instructions that these kernels use on this processor: `avx512`, `avx2`, `neon` or `scalar`.
pub fn instructions() -> &'static str {
    // The names that the dispatcher gives its forms; it has others on other processors.
    let form = format!("{:?}", Arch::new()).to_lowercase();
    let known = [("v4", "avx512"), ("v3", "avx2"), ("neon", "neon"), ("simd128", "wasm-simd128")];
    known.into_iter().find(|(start, _)| form.starts_with(start)).map_or("scalar", |(_, name)| name)
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // exact by construction
mod tests;
