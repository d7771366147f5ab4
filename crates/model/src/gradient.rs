//! The gradient that searches for tokens use. In: a sequence whose last tokens are the target; out: how much the
//! target's loss changes with each token that could be at each place. Invariant: weights are never differentiated for
//! it.

use crate::trace::{Gradients, TraceOptions};
use crate::{Adapter, Decoder, Error, Result};
use candle_core::{DType, Tensor, Var};
use eraser_ops::{Segments, linear};
use std::ops::Range;

/// The mean negative log-likelihood of the last `scored` tokens of `ids`, and its gradient with respect to the one-hot
/// vectors of the tokens at `places`: a row for each place, a number for each vocabulary entry. The gradient at the
/// embedding's output times the embedding matrix is exactly that.
///
/// # Errors
/// Places that are not within the input, or nothing to score.
pub fn token_gradient(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    ids: &[u32],
    places: Range<usize>,
    scored: usize,
) -> Result<(f32, Vec<Vec<f32>>)> {
    let input = &ids[..ids.len().saturating_sub(1)];
    if scored == 0 || scored > input.len() || places.start > places.end || places.end > input.len() {
        return Err(Error::request(format!("{scored} tokens of {} scored, gradient at {places:?}", ids.len())));
    }
    let x = Var::from_tensor(&decoder.embed(input, false)?)?;
    let segments = Segments::from_lengths([input.len()]);
    let trace = decoder.trace_from(0, x.as_tensor().clone(), &segments, adapter, TraceOptions::default())?;
    let rows: Vec<u32> = (input.len() - scored..input.len()).map(|row| row as u32).collect();
    let hidden = decoder.final_hidden(trace.output(), &rows)?;
    let losses = decoder.cross_entropy(&hidden, &ids[ids.len() - scored..])?;
    let weights = Tensor::full(1.0 / scored as f32, scored, decoder.device())?.to_dtype(losses.dtype())?;
    let mean = losses.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
    let mut gradients = Gradients::default();
    trace.backward_losses(&losses, &weights, &mut gradients)?;
    let gradient = gradients.get(&x).ok_or_else(|| Error::failed("no gradient reached the embedding"))?;
    let gradient = gradient.narrow(0, places.start, places.len())?;
    let table = decoder.embedding().detach().to_dtype(gradient.dtype())?;
    let gradient = match decoder.config().layer.embedding_multiplier {
        Some(factor) => (gradient * f64::from(factor))?,
        None => gradient,
    };
    Ok((mean, linear(&gradient.contiguous()?, &table, None)?.to_dtype(DType::F32)?.to_vec2::<f32>()?))
}
