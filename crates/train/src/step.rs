//! One optimiser step: the micro-batches of every term, forward and backward. In: the terms with their samples; out:
//! their values and the gradient of the weighted sum. Invariant: a micro-batch without a supervised token counts in no
//! average.

use crate::{
    feed::{Drawn, Feed},
    logits,
    method::{KlScope, LogitLoss, Loss, Npo, StateLoss, Term},
    objective::{self, StepHinge, Value},
    options::{CheckpointActivations, GammaScope, TrainOptions},
    reference::{Anchors, Reference},
    states,
};
use candle_core::{DType, Tensor};
use eraser_data::{Batch, Sample, Scored};
use eraser_model::{
    Adapter, Error, Model, Result,
    trace::{Checkpoint, Gradients, TraceOptions},
};
use eraser_ops::Dropout;
use serde::{Deserialize, Serialize};

/// Bytes of activations that a forward pass keeps before its first blocks are run again instead.
const ACTIVATIONS: usize = 340 << 20;

/// How many samples a term has seen, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Samples drawn.
    pub samples: usize,
    /// Those that were cut to the longest length.
    pub cut: usize,
    /// Those of which the loss saw no token: nothing of the answer was left.
    pub empty: usize,
}

impl Seen {
    /// Counts what `other` counted too.
    pub fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.cut += other.cut;
        self.empty += other.empty;
    }
}

/// A term with its samples.
pub(crate) struct Part<'a> {
    /// With the weight that it has in this step.
    pub(crate) term: Term,
    /// The weight that the method gives it.
    pub(crate) weight: f64,
    pub(crate) feed: Feed<'a>,
}

/// The result of a term in a step.
#[derive(Clone, Default)]
pub(crate) struct Sum {
    /// Means over the micro-batches that have a supervised token: of the term, and of its tokens' losses.
    pub(crate) value: f64,
    pub(crate) mean: f64,
    /// Micro-batches that have one.
    pub(crate) counted: usize,
    pub(crate) tokens: usize,
    /// Hinges that were closed, and hinges in all.
    pub(crate) capped: (usize, usize),
    pub(crate) seen: Seen,
}

impl Sum {
    fn add(&mut self, value: &Value, losses: &[f32], share: f64) {
        self.value += value.value * share;
        self.mean += objective::mean(losses).unwrap_or(0.0) * share;
        self.capped = (self.capped.0 + value.capped.0, self.capped.1 + value.capped.1);
    }
}

/// What all micro-batches of all terms of a step work on.
pub(crate) struct Step<'a> {
    pub(crate) model: &'a Model,
    pub(crate) adapter: &'a Adapter,
    pub(crate) options: &'a TrainOptions,
    /// Threshold of the hinge, in nats per token.
    pub(crate) gamma: f64,
    /// The step, from 0.
    pub(crate) number: usize,
}

impl Step<'_> {
    /// Runs the step; gives the result of each of `parts`, and the gradient of their weighted sum.
    pub(crate) fn run(&self, parts: &mut [Part<'_>], reference: &mut Reference<'_>) -> Result<(Vec<Sum>, Gradients)> {
        let (accumulate, rows) = (self.options.grad_accum, self.options.micro_batch);
        let mut sums = vec![Sum::default(); parts.len()];
        // Which micro-batches count has to be known before the first: each weighs 1 / (those that count).
        let mut draws: Vec<Vec<MicroBatch>> = Vec::with_capacity(parts.len());
        for (part, sum) in parts.iter_mut().zip(&mut sums) {
            let mut drawn = Vec::with_capacity(accumulate);
            for micro in 0..accumulate {
                let from = (self.number * accumulate + micro) * rows;
                let micro_batch = MicroBatch::new(&part.term, part.feed.draw(from, rows)?, from);
                sum.tokens += micro_batch.batch.tokens;
                sum.seen.add(micro_batch.seen());
                sum.counted += usize::from(micro_batch.counts());
                drawn.push(micro_batch);
            }
            draws.push(drawn);
        }
        let mut gradients = Gradients::default();
        let whole_step = |term: &Term| term.loss == Loss::Hinge && self.options.gamma_scope == GammaScope::Batch;
        // A hinge over the whole step is open or closed once all its micro-batches were seen: until then it has a
        // gradient of its own.
        let mut hinges: Vec<Option<(StepHinge, Gradients)>> =
            parts.iter().map(|part| whole_step(&part.term).then(Default::default)).collect();
        // Micro-batch by micro-batch, each through all terms.
        for micro in 0..accumulate {
            let terms = parts.iter().zip(&draws).zip(sums.iter_mut().zip(&mut hinges)).enumerate();
            for (i, ((part, drawn), (sum, hinge))) in terms {
                let micro_batch = &drawn[micro];
                if !micro_batch.counts() {
                    continue;
                }
                let share = 1.0 / sum.counted as f64;
                let forward = Forward { step: self, part, micro_batch, stream: i as u64 };
                let (value, losses) = if let Some((hinge, own)) = hinge {
                    forward.run(reference, 1.0, own, |nll, _| hinge.add(nll))?
                } else {
                    let weight = share * part.term.weight;
                    forward.run(reference, weight, &mut gradients, |losses, base| forward.value(losses, base))?
                };
                sum.add(&value, &losses, share);
            }
        }
        for ((part, sum), hinge) in parts.iter().zip(&mut sums).zip(hinges) {
            if let Some((hinge, own)) = hinge {
                let closed = hinge.finish(self.gamma);
                (sum.value, sum.mean, sum.capped) = (closed.value, closed.mean, closed.capped);
                if let Some(divisor) = closed.divisor {
                    gradients.merge(own, part.term.weight / divisor)?;
                }
            }
        }
        Ok((sums, gradients))
    }
}

/// The samples of a term in a micro-batch, packed.
struct MicroBatch {
    /// The samples, and behind them those with the preferred answers, in the same order.
    drawn: Vec<Drawn>,
    /// Samples without those.
    own: usize,
    batch: Batch,
    /// What the loss looks at.
    scored: Scored,
    /// The samples as they are when asked plainly, if the term compares with those.
    anchors: Option<Anchors>,
    /// Place of the first sample in the sequence of draws.
    from: usize,
}

impl MicroBatch {
    fn new(term: &Term, mut drawn: Vec<Drawn>, from: usize) -> Self {
        let own = drawn.len();
        let preferred = |d: &mut Drawn| {
            let sample = d.preferred.take()?;
            Some(Drawn { row: d.row, sample, cut: false, anchor: None, preferred: None })
        };
        let preferred: Vec<Drawn> = drawn.iter_mut().filter_map(preferred).collect();
        drawn.extend(preferred);
        let samples: Vec<&Sample> = drawn.iter().map(|d| &d.sample).collect();
        let batch = Batch::shared(&samples);
        let scored = match term.loss {
            Loss::Kl(KlScope::All) | Loss::States(StateLoss::Reroute | StateLoss::Distance) => batch.all(),
            Loss::States(_) => batch.answers(),
            _ => batch.supervised(),
        };
        let anchors = Anchors::of(&drawn);
        Self { drawn, own, batch, scored, anchors, from }
    }

    fn seen(&self) -> Seen {
        Seen {
            samples: self.own,
            cut: self.drawn.iter().filter(|d| d.cut).count(),
            empty: self.scored.samples[..self.own].iter().filter(|rows| rows.is_empty()).count(),
        }
    }

    /// Whether a token of the samples' own answers is supervised.
    fn counts(&self) -> bool {
        self.seen().empty < self.own
    }

    /// The losses of the samples' own tokens: those of preferred answers are behind them.
    fn own<'l>(&self, losses: &'l [f32]) -> &'l [f32] {
        if self.own == self.drawn.len() {
            return losses;
        }
        &losses[..self.scored.samples[..self.own].iter().map(Vec::len).sum()]
    }
}

/// Forward and backward of one term over one micro-batch.
struct Forward<'a> {
    step: &'a Step<'a>,
    part: &'a Part<'a>,
    micro_batch: &'a MicroBatch,
    /// Number of the term: what its dropout depends on.
    stream: u64,
}

impl Forward<'_> {
    /// Adds `weight` times the gradient of the term to `gradients`; the term's value, as `value` makes it of the losses
    /// of the scored tokens (and of the base model's, where the term compares with them), and the losses of the samples'
    /// own tokens. A term that weighs nothing, or whose hinges are all closed, has no backward.
    fn run(
        &self,
        reference: &mut Reference<'_>,
        weight: f64,
        gradients: &mut Gradients,
        value: impl FnOnce(&[f32], Option<&[f32]>) -> Value,
    ) -> Result<(Value, Vec<f32>)> {
        let Step { model, adapter, .. } = *self.step;
        let MicroBatch { drawn, batch, scored, from, .. } = self.micro_batch;
        let decoder = &model.decoder;
        let loss = self.part.term.loss;
        if let Loss::States(form) = loss {
            return Ok((self.run_states(form, reference, weight, gradients)?, Vec::new()));
        }
        let lower = reference.lower(drawn, batch, self.part.feed.repeats())?;
        let states = match loss {
            Loss::Npo(Npo { reference: true, .. }) | Loss::Preference(_) | Loss::Logits(LogitLoss::Distilled(_)) => {
                Some(reference.states(drawn, batch, scored, &lower)?)
            }
            Loss::Kl(_) => Some(match &self.micro_batch.anchors {
                Some(anchors) => reference.anchor_states(anchors, scored)?,
                None => reference.states(drawn, batch, scored, &lower)?,
            }),
            _ => None,
        };
        let options = trace_options(self.step.options, *from, self.stream);
        let trace = decoder.trace_from(adapter.first_block(), lower, &batch.segments, Some(adapter), options)?;
        let hidden = decoder.final_hidden(trace.output(), &scored.rows)?;
        let (mut nll, mut base) = (None, None);
        let (losses, values) = match (&states, loss) {
            (Some(states), Loss::Kl(_)) => measured(decoder.kl_divergence(&hidden, states)?)?,
            (states, Loss::Logits(form)) => {
                let want = weight != 0.0;
                let found = logits::losses(decoder, &hidden, states.as_ref(), &batch.targets(), form, want)?;
                nll = Some(found.nll);
                // Of this only the gradient is used, which is that of the values.
                let gradient = found.gradient.map(|g| (hidden.to_dtype(DType::F32)? * g)?.sum(1)).transpose()?;
                (gradient.map_or_else(|| hidden.sum(1), Ok)?, found.values)
            }
            (states, _) => {
                let targets = batch.targets();
                let nll = |states: &Tensor| decoder.cross_entropy(states, &targets);
                base = states.as_ref().map(|states| nll(states)?.to_vec1::<f32>().map_err(Error::from)).transpose()?;
                measured(nll(&hidden)?)?
            }
        };
        let value = value(&values, base.as_deref());
        if weight != 0.0 && value.weights.iter().any(|&w| w != 0.0) {
            let weights = Tensor::from_slice(&value.weights, values.len(), decoder.device())?.affine(weight, 0.0)?;
            trace.backward_losses(&losses, &weights, gradients)?;
        }
        let own = self.micro_batch.own(&nll.unwrap_or(values)).to_vec();
        Ok((value, own))
    }

    /// As [`Self::run`], of a loss on hidden states: the head is not computed, nor are the blocks above them.
    fn run_states(
        &self,
        form: StateLoss,
        reference: &mut Reference<'_>,
        weight: f64,
        gradients: &mut Gradients,
    ) -> Result<Value> {
        let Step { model, adapter, options, .. } = *self.step;
        let MicroBatch { drawn, batch, scored, from, .. } = self.micro_batch;
        let (decoder, width, blocks) = (&model.decoder, model.config.hidden_size, model.config.num_layers);
        let first = adapter.first_block();
        // Behind the blocks below the first adapted one, nothing has changed.
        let layers = if form == StateLoss::Distance { (first..blocks).collect() } else { options.loss_layers(blocks) };
        let lower = reference.lower(drawn, batch, self.part.feed.repeats())?;
        let blocks_run = layers.iter().max().map(|top| top + 1);
        let traced = TraceOptions { blocks: blocks_run, ..trace_options(options, *from, self.stream) };
        let trace = decoder.trace_from(first, lower.clone(), &batch.segments, Some(adapter), traced)?;
        let rows = states::weights(form, scored, blocks);
        let flat = |t: &Tensor| Ok::<_, Error>(t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        let (mut base, mut next, mut total, mut by_states) = (lower, first, 0.0, Vec::with_capacity(layers.len()));
        for layer in layers {
            let state = trace.state(layer).ok_or_else(|| Error::failed(format!("layer {layer} has no state")))?;
            let other = if let StateLoss::Steer(length) = form {
                states::control(options.seed, width, length)
            } else {
                base = decoder.run(base, next..layer + 1, &batch.segments, None)?;
                next = layer + 1;
                flat(&base)?
            };
            let (value, gradient) = states::loss(form, &flat(&state)?, &other, width, &rows);
            total += value;
            if weight != 0.0 {
                let gradient = Tensor::from_vec(gradient, state.shape(), state.device())?;
                by_states.push((layer, gradient.affine(weight, 0.0)?.to_dtype(state.dtype())?));
            }
        }
        if weight != 0.0 {
            trace.backward_states(&by_states, gradients)?;
        }
        Ok(Value { value: total, weights: Vec::new(), capped: (0, 0) })
    }

    /// The value of the term over this micro-batch.
    fn value(&self, losses: &[f32], base: Option<&[f32]>) -> Value {
        let (gamma, scored) = (self.step.gamma, &self.micro_batch.scored);
        match self.part.term.loss {
            Loss::Hinge if self.step.options.gamma_scope == GammaScope::Sample => {
                objective::sample_hinges(losses, &scored.segments(), gamma)
            }
            Loss::Hinge if self.step.options.gamma_scope == GammaScope::Token => objective::token_hinges(losses, gamma),
            Loss::Hinge => objective::hinge_of_mean(losses, gamma),
            Loss::Ascent => objective::signed(losses, -1.0),
            Loss::WeightedAscent(a, b) => objective::weighted_ascent(losses, a, b),
            Loss::Npo(form) => objective::npo(losses, base, &scored.segments(), form),
            Loss::Preference(form) => objective::preference(losses, base.unwrap_or_default(), &scored.segments(), form),
            Loss::Logits(LogitLoss::WithoutToken) => objective::after_first(losses, &scored.segments()),
            Loss::CrossEntropy | Loss::Logits(_) | Loss::States(_) => objective::signed(losses, 1.0),
            Loss::Kl(_) => objective::kl(losses, &scored.counts),
        }
    }
}

/// Losses with their values.
fn measured(losses: Tensor) -> Result<(Tensor, Vec<f32>)> {
    let values = losses.to_vec1::<f32>()?;
    Ok((losses, values))
}

/// How a forward pass runs. The seed of its dropout is of the run, the draw and the set; a token that samples share is
/// dropped for all of them or none.
fn trace_options(options: &TrainOptions, from: usize, set: u64) -> TraceOptions {
    let mix = options.seed.wrapping_mul(0xD129_0DDF_53E4_3C9B) ^ ((from as u64) << 8 | set << 4);
    let dropout = (options.lora_dropout > 0.0).then_some(Dropout { p: options.lora_dropout as f32, seed: mix });
    let checkpoint = match options.checkpoint_activations {
        CheckpointActivations::Auto => Checkpoint::Beyond(ACTIVATIONS),
        CheckpointActivations::On => Checkpoint::Always,
        CheckpointActivations::Off => Checkpoint::Never,
    };
    TraceOptions { dropout, checkpoint, blocks: None }
}
