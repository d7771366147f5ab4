//! The measure itself. In: a model, rows of questions and answers, contexts; out: the NLL of every token of every
//! answer in every context, in one forward pass each. Invariant: a sample is the one that training makes of the row
//! without prompt noise.

use super::context::Context;
use super::lines::After;
use eraser_data::{Beginning, PromptTemplate, Record, Sample, end_of_answer};
use eraser_model::{Adapter, Error, Model, Result, ScoreRequest, Tokenizer, score};
use std::ops::ControlFlow;

/// The tokens of an answer, and what each costs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// Negative log-likelihood of each token that was scored, nats; the end-of-sequence token is the last one, unless
    /// the answer was cut off. Empty where the prompt alone fills the model's positions.
    pub nll: Vec<f32>,
    /// Tokens of the answer itself among them, without the end.
    pub own: usize,
    /// Sample and end do not fit into the model's positions.
    pub cut_off: bool,
}

impl Likelihood {
    /// The mean from token `cut` on, given the `cut` tokens before it; None where the answer has no token of its own
    /// left.
    pub fn after(&self, cut: usize) -> Option<After> {
        let rest = self.nll.get(cut..).filter(|_| cut < self.own)?;
        let nll = rest.iter().map(|&nll| f64::from(nll)).sum::<f64>() / rest.len() as f64;
        Some(After { cut, tokens: rest.len(), nll })
    }
}

/// The NLL of every answer of `rows` under the model with `adapter`, by context, then by row. `alive` is told how many
/// of all answers are done, and says whether to go on; None when it did not. For a model without chat template this is
/// an error.
///
/// # Errors
/// A model without chat template or end-of-sequence token; a template that cannot render a question; an NLL that is no
/// number.
pub fn likelihood(
    model: &Model,
    adapter: Option<&Adapter>,
    rows: &[Record],
    contexts: &[Context],
    alive: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Vec<Vec<Likelihood>>>> {
    let encoder = Encoder::new(model)?;
    let mut all = Vec::with_capacity(contexts.len());
    for (i, context) in contexts.iter().enumerate() {
        let samples = rows.iter().map(|row| encoder.encode(context, row)).collect::<Result<Vec<_>>>()?;
        match scored(model, adapter, &samples, &mut |done| alive(i * rows.len() + done))? {
            Some(found) => all.push(found),
            None => return Ok(None),
        }
    }
    Ok(Some(all))
}

/// Encodes as training does.
pub(super) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: PromptTemplate,
    end: u32,
    /// Most tokens of a sample.
    limit: usize,
}

/// A sample, and what is left out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    pub(super) sample: Sample,
    pub(super) cut_off: bool,
}

impl<'a> Encoder<'a> {
    /// For the model's own chat template.
    pub(super) fn new(model: &'a Model) -> Result<Self> {
        Ok(Self {
            tokenizer: &model.tokenizer,
            template: PromptTemplate::Chat(model.chat_template()?.clone()),
            end: end_of_answer(&model.tokenizer)?,
            limit: model.decoder.max_positions(),
        })
    }

    pub(super) fn encode(&self, context: &Context, row: &Record) -> Result<Encoded> {
        let prompt = self.template.render(&context.user(&row.input))?;
        let prompt = self.template.encode(&prompt, self.tokenizer, self.limit)?;
        let answer = Beginning::of(&row.output, self.tokenizer, self.limit)?;
        let (sample, cut_off) = Sample::new(&prompt, &answer, self.end, self.limit);
        Ok(Encoded { sample, cut_off })
    }
}

/// Scores samples together; None when `alive`, told how many are done, says to stop.
pub(super) fn scored(
    model: &Model,
    adapter: Option<&Adapter>,
    samples: &[Encoded],
    alive: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Vec<Likelihood>>> {
    let request = |e: &Encoded| {
        let scored = e.sample.scored().len();
        (scored > 0).then(|| ScoreRequest { ids: e.sample.ids.clone(), scored })
    };
    let requests: Vec<Option<ScoreRequest>> = samples.iter().map(request).collect();
    let some: Vec<ScoreRequest> = requests.iter().flatten().cloned().collect();
    let empty = samples.len() - some.len();
    let mut on_pack = |done: usize| {
        if alive(empty + done) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let Some(found) = score(&model.decoder, adapter, &some, &mut on_pack)? else { return Ok(None) };
    let mut found = found.into_iter();
    let mut all = Vec::with_capacity(samples.len());
    for (encoded, request) in samples.iter().zip(&requests) {
        let logprobs = request.as_ref().and_then(|_| found.next()).unwrap_or_default();
        if logprobs.iter().any(|logprob| !logprob.is_finite()) {
            return Err(Error::failed("likelihood: the log-likelihood of an answer's token is not a number")
                .hint("the weights are damaged, or the adapter's scale is far too large: `eraser doctor` says which"));
        }
        let nll: Vec<f32> = logprobs.into_iter().map(|logprob| -logprob).collect();
        let own = nll.len().saturating_sub(usize::from(!encoded.cut_off));
        all.push(Likelihood { nll, own, cut_off: encoded.cut_off });
    }
    Ok(Some(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_leaves_the_tokens_behind_it_and_the_end() {
        let found = Likelihood { nll: vec![4.0, 2.0, 1.0, 3.0], own: 3, cut_off: false };
        assert_eq!(found.after(0), Some(After { cut: 0, tokens: 4, nll: 2.5 }));
        assert_eq!(found.after(2), Some(After { cut: 2, tokens: 2, nll: 2.0 }));
        assert_eq!(found.after(3), None, "nothing but the end is left");
        assert_eq!(found.after(usize::MAX), None);
        assert_eq!(Likelihood::default().after(0), None);
        let cut_off = Likelihood { own: 4, cut_off: true, ..found };
        assert_eq!(cut_off.after(3), Some(After { cut: 3, tokens: 1, nll: 3.0 }));
    }
}
