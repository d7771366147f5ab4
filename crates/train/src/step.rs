//! One optimiser step: the micro-batches of every term, forward and backward. In: the terms with their samples; out:
//! their values and the gradient of the weighted sum. Invariant: a micro-batch without a supervised token counts in no
//! average, and values are those of the whole step, whichever ranks took its rows.

use crate::{
    deal::{Deal, Share},
    feed::Feed,
    group::{Group, sum_f64},
    latent::Attacked,
    logits,
    method::{LogitLoss, Loss, Npo, StateLoss, Term},
    micro_batch::{Counts, MicroBatch, Seen},
    objective::{self, StepHinge, StepValue, Value},
    options::{CheckpointActivations, GammaScope, TrainOptions},
    reference::Reference,
    states,
};
use candle_core::{DType, Tensor};
use eraser_model::{
    Adapter, Error, Model, Result,
    trace::{Checkpoint, Gradients, TraceOptions},
};
use eraser_ops::{Dropout, gemm::operations};
use rayon::prelude::*;

/// Bytes of activations that a forward pass keeps before its first blocks are run again instead.
const ACTIVATIONS: usize = 340 << 20;

/// Most numbers in the widest activation of a term (tokens times width of the MLP) for which terms run beside each
/// other.
const SMALL: usize = 1 << 19;

/// A term with its samples.
pub(crate) struct Part<'a> {
    /// With the weight that it has in this step.
    pub(crate) term: Term,
    /// The weight that the method gives it.
    pub(crate) weight: f64,
    pub(crate) feed: Feed<'a>,
}

/// The result of a term in a step, of all ranks.
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
    /// What is known of a term before its first pass.
    fn before(micro_batches: &[Counts]) -> Self {
        let mut sum = Self::default();
        for counts in micro_batches {
            sum.tokens += counts.tokens;
            sum.seen.add(counts.seen);
            sum.counted += usize::from(counts.any());
        }
        sum
    }

    /// What each of its micro-batches weighs.
    fn share(&self) -> f64 {
        1.0 / self.counted as f64
    }

    fn add(&mut self, [value, mean, closed, hinges]: Results) {
        self.value += value;
        self.mean += mean;
        self.capped = (self.capped.0 + closed as usize, self.capped.1 + hinges as usize);
    }

    /// Adds the hinge of a micro-batch, or of the step, that weighs `share`.
    fn add_hinge(&mut self, end: &StepValue, share: f64) {
        let (closed, hinges) = end.capped;
        // Where no token is supervised there is none, and nothing has a share.
        if hinges == 0 {
            return;
        }
        self.add([end.value * share, end.mean * share, closed as f64, hinges as f64]);
    }
}

/// What a micro-batch adds to a [`Sum`]: value, mean, closed hinges, hinges.
type Results = [f64; 4];

/// What a step gives.
pub(crate) struct Done {
    /// The result of each term.
    pub(crate) sums: Vec<Sum>,
    /// The gradient of the terms' weighted sum over the rows of this rank: those of all ranks are to be added.
    pub(crate) gradients: Gradients,
    /// Operations of the matrix products of all ranks.
    pub(crate) operations: f64,
}

/// What all micro-batches of all terms of a step work on.
pub(crate) struct Step<'a> {
    pub(crate) model: &'a Model,
    pub(crate) adapter: &'a Adapter,
    pub(crate) options: &'a TrainOptions,
    pub(crate) group: &'a dyn Group,
    /// Threshold of the hinge, in nats per token.
    pub(crate) gamma: f64,
    /// The step, from 0.
    pub(crate) number: usize,
}

impl Step<'_> {
    /// Runs the step.
    pub(crate) fn run(&self, parts: &mut [Part<'_>], reference: &mut Reference<'_>) -> Result<Done> {
        let (before, micro_batches) = (operations(), self.options.grad_accum);
        let deal = deal(self.group, self.options);
        let shares = deal.shares();
        // Which micro-batches count has to be known before the first: each weighs 1 / (those that count).
        let drawn = parts.iter_mut().map(|part| self.draw(part, &shares)).collect::<Result<Vec<_>>>()?;
        let counts = self.count(parts, &shares, &drawn)?;
        let counts = |i: usize| &counts[i * micro_batches..(i + 1) * micro_batches];
        let mut sums: Vec<Sum> = (0..parts.len()).map(|i| Sum::before(counts(i))).collect();
        let mut results: Vec<Results> = vec![Results::default(); parts.len() * micro_batches];
        let mut gradients = Gradients::default();
        let mut hinges: Vec<Scope> = parts.iter().map(|part| self.scope(&part.term, deal.apart())).collect();
        // Micro-batch by micro-batch, each through all terms.
        for (at, share) in shares.iter().enumerate() {
            let micro = share.micro;
            let forward = |i: usize| {
                let (part, micro_batch) = (&parts[i], &drawn[i][at]);
                let own = micro_batch.counts(&part.term, self.options.gamma_scope);
                let (of_value, of_mean) = own.share_of(&counts(i)[micro]);
                let Step { model, adapter, options, gamma, .. } = *self;
                let weighs = sums[i].share();
                let forward = Forward {
                    model,
                    adapter,
                    options,
                    gamma,
                    part,
                    micro_batch,
                    stream: i as u64,
                    weighs,
                    of_value,
                    of_mean,
                };
                own.any().then_some(forward)
            };
            let forwards: Vec<Option<Forward<'_>>> = (0..parts.len()).map(forward).collect();
            let ran = if self.beside_each_other(&forwards) {
                beside_each_other(&forwards, reference, &mut hinges)?
            } else {
                let terms = forwards.iter().zip(&mut hinges);
                terms
                    .map(|(forward, hinge)| self.term(micro, forward.as_ref(), reference, hinge))
                    .collect::<Result<_>>()?
            };
            // In the order of the terms, whichever was done first.
            for (i, ran) in ran.into_iter().enumerate() {
                if let Some((result, own)) = ran {
                    results[i * micro_batches + micro] = result;
                    gradients.merge(own, 1.0)?;
                }
            }
        }
        let operations = self.add_up(&mut results, &mut hinges, (operations() - before) as f64)?;
        for (i, ((part, sum), hinge)) in parts.iter().zip(&mut sums).zip(hinges).enumerate() {
            match hinge {
                Scope::Own => results[i * micro_batches..(i + 1) * micro_batches].iter().for_each(|r| sum.add(*r)),
                Scope::Shared(ends) => ends.iter().for_each(|end| sum.add_hinge(end, sum.share())),
                Scope::Step(hinge, own) => {
                    let end = hinge.finish(self.gamma);
                    sum.add_hinge(&end, 1.0);
                    if let Some(divisor) = end.divisor {
                        gradients.merge(own, part.term.weight / divisor)?;
                    }
                }
            }
        }
        Ok(Done { sums, gradients, operations })
    }

    /// Whether the terms of a micro-batch run at the same time. Products of few numbers are too short to be shared by
    /// threads; what they keep for backward is small too.
    fn beside_each_other(&self, forwards: &[Option<Forward<'_>>]) -> bool {
        let width = self.model.config.intermediate_size;
        let small = |forward: &Forward<'_>| forward.micro_batch.batch.tokens * width <= SMALL;
        let (alone, composed) = (self.group.size() == 1, eraser_ops::form::is_composed());
        alone && !composed && self.model.decoder.device().is_cpu() && forwards.iter().flatten().all(small)
    }

    /// A term over a micro-batch, if it has one.
    fn term(
        &self,
        micro: usize,
        forward: Option<&Forward<'_>>,
        reference: &mut Reference<'_>,
        hinge: &mut Scope,
    ) -> Result<Option<Ran>> {
        let Scope::Shared(ends) = hinge else {
            return forward.map(|forward| forward.scoped(forward.known(reference)?, hinge)).transpose();
        };
        let Some(forward) = forward else {
            // The other ranks wait for what this one has of the micro-batch.
            *ends = self.shared(micro, &[])?;
            return Ok(None);
        };
        let (known, mut gradients) = (forward.known(reference)?, Gradients::default());
        let (value, losses) = forward.run(known, forward.weight(), &mut gradients, |nll, _| {
            *ends = self.shared(micro, nll)?;
            Ok(ends[micro].value(nll.len()))
        })?;
        Ok(Some((forward.result(&value, &losses), gradients)))
    }

    /// The samples of a term that are this rank's.
    fn draw(&self, part: &mut Part<'_>, shares: &[Share]) -> Result<Vec<MicroBatch>> {
        let (accumulate, rows) = (self.options.grad_accum, self.options.micro_batch);
        let draw = |share: &Share| {
            let from = (self.number * accumulate + share.micro) * rows + share.rows.start;
            Ok(MicroBatch::new(&part.term, part.feed.draw(from, share.rows.len())?, from))
        };
        shares.iter().map(draw).collect()
    }

    /// What is counted of each term's micro-batches, by term and then micro-batch.
    fn count(&self, parts: &[Part<'_>], shares: &[Share], drawn: &[Vec<MicroBatch>]) -> Result<Vec<Counts>> {
        let micro_batches = self.options.grad_accum;
        let mut numbers = vec![[0.0; Counts::NUMBERS]; parts.len() * micro_batches];
        for (i, (part, drawn)) in parts.iter().zip(drawn).enumerate() {
            for (share, micro_batch) in shares.iter().zip(drawn) {
                let counts = micro_batch.counts(&part.term, self.options.gamma_scope);
                numbers[i * micro_batches + share.micro] = counts.numbers();
            }
        }
        sum_f64(self.group, numbers.as_flattened_mut())?;
        Ok(numbers.iter().map(Counts::of).collect())
    }

    /// What the value of a term is taken over. `apart`: ranks share micro-batches.
    fn scope(&self, term: &Term, apart: bool) -> Scope {
        match self.options.gamma_scope {
            GammaScope::Batch if term.loss == Loss::Hinge => Scope::Step(StepHinge::default(), Gradients::default()),
            GammaScope::MicroBatch if term.loss == Loss::Hinge && apart => Scope::Shared(Vec::new()),
            _ => Scope::Own,
        }
    }

    /// The hinges of all micro-batches, of which each rank has a share of one: here of `micro`, with these losses.
    fn shared(&self, micro: usize, nll: &[f32]) -> Result<Vec<StepValue>> {
        let mut own = StepHinge::default();
        own.add(nll);
        let mut sums = vec![[0.0; 2]; self.options.grad_accum];
        sums[micro] = own.sums();
        sum_f64(self.group, sums.as_flattened_mut())?;
        Ok(sums.into_iter().map(|sums| StepHinge::of(sums).finish(self.gamma)).collect())
    }

    /// Adds up what the ranks have computed; the sum of `operations`.
    fn add_up(&self, results: &mut [Results], hinges: &mut [Scope], operations: f64) -> Result<f64> {
        let mut numbers = results.as_flattened().to_vec();
        let of_results = numbers.len();
        for hinge in &*hinges {
            if let Scope::Step(hinge, _) = hinge {
                numbers.extend(hinge.sums());
            }
        }
        numbers.push(operations);
        sum_f64(self.group, &mut numbers)?;
        let (found, rest) = numbers.split_at(of_results);
        results.as_flattened_mut().copy_from_slice(found);
        let steps =
            hinges.iter_mut().filter_map(|hinge| if let Scope::Step(hinge, _) = hinge { Some(hinge) } else { None });
        for (hinge, sums) in steps.zip(rest.as_chunks().0) {
            *hinge = StepHinge::of(*sums);
        }
        Ok(numbers.last().copied().unwrap_or(operations))
    }
}

/// A term over a micro-batch: its result, and the gradient, where the scope has none of its own.
type Ran = (Results, Gradients);

/// Each term on a thread of its own. What the frozen model computes of them is shared by threads as ever.
fn beside_each_other(
    forwards: &[Option<Forward<'_>>],
    reference: &mut Reference<'_>,
    hinges: &mut [Scope],
) -> Result<Vec<Option<Ran>>> {
    let mut known = Vec::with_capacity(forwards.len());
    for forward in forwards {
        known.push(forward.as_ref().map(|forward| forward.known(reference)).transpose()?);
    }
    let terms = forwards.par_iter().with_max_len(1).zip(known).zip(hinges);
    terms
        .map(|((forward, known), hinge)| {
            forward.as_ref().zip(known).map(|(forward, known)| forward.scoped(known, hinge)).transpose()
        })
        .collect()
}

/// What the value of a term is taken over.
enum Scope {
    /// A micro-batch, or less: the value of a share of one is part of a sum.
    Own,
    /// A micro-batch that ranks share: whether its hinge is open is known when all have run forward. The hinges of all
    /// micro-batches.
    Shared(Vec<StepValue>),
    /// The step: whether its hinge is open is known at its end. Until then it has a gradient of its own.
    Step(StepHinge, Gradients),
}

/// How the rows of a step go to the ranks of `group`.
pub(crate) fn deal(group: &dyn Group, options: &TrainOptions) -> Deal {
    let (rank, ranks) = (group.rank(), group.size());
    Deal { rank, ranks, micro_batches: options.grad_accum, rows: options.micro_batch }
}

/// Forward and backward of one term over one micro-batch.
struct Forward<'a> {
    model: &'a Model,
    adapter: &'a Adapter,
    options: &'a TrainOptions,
    /// Threshold of the hinge, in nats per token.
    gamma: f64,
    part: &'a Part<'a>,
    micro_batch: &'a MicroBatch,
    /// Number of the term: what its dropout depends on.
    stream: u64,
    /// What the micro-batch weighs in the step.
    weighs: f64,
    /// What this rank's rows weigh in the value of the micro-batch, and in the mean of its tokens' losses.
    of_value: f64,
    of_mean: f64,
}

/// What the frozen model computes for a term: the input of the first adapted block, and its final states.
struct Known {
    lower: Tensor,
    states: Option<Tensor>,
}

impl Forward<'_> {
    /// The weight of its gradient.
    fn weight(&self) -> f64 {
        self.weighs * self.part.term.weight
    }

    /// What it adds to its [`Sum`].
    fn result(&self, value: &Value, losses: &[f32]) -> Results {
        let (mean, (closed, all)) = (objective::mean(losses).unwrap_or(0.0), value.capped);
        [value.value * self.of_value * self.weighs, mean * self.of_mean * self.weighs, closed as f64, all as f64]
    }

    /// Runs it with a hinge that is this rank's alone, or with that of the step.
    fn scoped(&self, known: Known, hinge: &mut Scope) -> Result<Ran> {
        let mut gradients = Gradients::default();
        let (value, losses) = match hinge {
            Scope::Step(hinge, own) => self.run(known, 1.0, own, |nll, _| Ok(hinge.add(nll)))?,
            Scope::Own | Scope::Shared(_) => {
                let weight = self.weight() * self.of_value;
                self.run(known, weight, &mut gradients, |nll, base| Ok(self.value(nll, base)))?
            }
        };
        Ok((self.result(&value, &losses), gradients))
    }

    /// What the frozen model computes.
    fn known(&self, reference: &mut Reference<'_>) -> Result<Known> {
        let MicroBatch { drawn, batch, scored, .. } = self.micro_batch;
        let lower = reference.lower(drawn, batch, self.part.feed.repeats())?;
        let states = match self.part.term.loss {
            Loss::Npo(Npo { reference: true, .. }) | Loss::Preference(_) | Loss::Logits(LogitLoss::Distilled(_)) => {
                Some(reference.states(drawn, batch, scored, &lower)?)
            }
            Loss::Kl(_) => Some(match &self.micro_batch.anchors {
                Some(anchors) => reference.anchor_states(anchors, scored)?,
                None => reference.states(drawn, batch, scored, &lower)?,
            }),
            _ => None,
        };
        Ok(Known { lower, states })
    }

    /// Adds `weight` times the gradient of the term to `gradients`; the term's value, as `value` makes it of the losses
    /// of the scored tokens (and of the base model's, where the term compares with them), and the losses of the samples'
    /// own tokens. A term that weighs nothing, or whose hinges are all closed, has no backward.
    fn run(
        &self,
        known: Known,
        weight: f64,
        gradients: &mut Gradients,
        value: impl FnOnce(&[f32], Option<&[f32]>) -> Result<Value>,
    ) -> Result<(Value, Vec<f32>)> {
        let (decoder, adapter) = (&self.model.decoder, self.adapter);
        let MicroBatch { batch, scored, from, .. } = self.micro_batch;
        let loss = self.part.term.loss;
        let Known { lower, states } = known;
        if let Loss::States(form) = loss {
            return Ok((self.run_states(form, lower, weight, gradients)?, Vec::new()));
        }
        let options = trace_options(self.options, *from, self.stream);
        if let Loss::Latent(form) = loss {
            let layers = self.options.loss_layers(self.model.config.num_layers);
            let attacked = Attacked { decoder, adapter, micro_batch: self.micro_batch, options, layers };
            let (value, nll) = attacked.run(form, weight, gradients)?;
            return Ok((value, self.micro_batch.own(&nll).to_vec()));
        }
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
        let value = value(&values, base.as_deref())?;
        if weight != 0.0 && value.weights.iter().any(|&w| w != 0.0) {
            let weights = Tensor::from_slice(&value.weights, values.len(), decoder.device())?.affine(weight, 0.0)?;
            trace.backward_losses(&losses, &weights, gradients)?;
        }
        let own = self.micro_batch.own(&nll.unwrap_or(values)).to_vec();
        Ok((value, own))
    }

    /// As [`Self::run`], of a loss on hidden states: the head is not computed, nor are the blocks above them.
    fn run_states(&self, form: StateLoss, lower: Tensor, weight: f64, gradients: &mut Gradients) -> Result<Value> {
        let Forward { model, adapter, options, .. } = *self;
        let MicroBatch { batch, scored, from, .. } = self.micro_batch;
        let (decoder, width, blocks) = (&model.decoder, model.config.hidden_size, model.config.num_layers);
        let first = adapter.first_block();
        // Behind the blocks below the first adapted one, nothing has changed.
        let layers = if form == StateLoss::Distance { (first..blocks).collect() } else { options.loss_layers(blocks) };
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
        let (gamma, scored) = (self.gamma, &self.micro_batch.scored);
        match self.part.term.loss {
            Loss::Hinge if self.options.gamma_scope == GammaScope::Sample => {
                objective::sample_hinges(losses, &scored.segments(), gamma)
            }
            Loss::Hinge if self.options.gamma_scope == GammaScope::Token => objective::token_hinges(losses, gamma),
            Loss::Hinge => objective::hinge_of_mean(losses, gamma),
            Loss::Ascent => objective::signed(losses, -1.0),
            Loss::WeightedAscent(a, b) => objective::weighted_ascent(losses, a, b),
            Loss::Npo(form) => objective::npo(losses, base, &scored.segments(), form),
            Loss::Preference(form) => objective::preference(losses, base.unwrap_or_default(), &scored.segments(), form),
            Loss::Logits(LogitLoss::WithoutToken) => objective::after_first(losses, &scored.segments()),
            Loss::CrossEntropy | Loss::Logits(_) | Loss::States(_) | Loss::Latent(_) => objective::signed(losses, 1.0),
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
    let dropout = (options.dropout() > 0.0).then_some(Dropout { p: options.dropout() as f32, seed: mix });
    let checkpoint = match options.checkpoint_activations {
        CheckpointActivations::Auto => Checkpoint::Beyond(ACTIVATIONS),
        CheckpointActivations::On => Checkpoint::Always,
        CheckpointActivations::Off => Checkpoint::Never,
    };
    TraceOptions { dropout, checkpoint, blocks: None }
}
