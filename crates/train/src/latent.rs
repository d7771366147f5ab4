//! Training under an attack on hidden states. In: pairs of answers to the same questions; out: the loss under states that
//! are added to the questions' and that make the unwanted answer likely, and its gradient. Invariant: the attack leaves
//! the adapter and its gradient as they are.

use crate::{
    adamw::{AdamW, AdamWConfig},
    method::Latent,
    micro_batch::MicroBatch,
    objective::{self, Value},
};
use candle_core::{D, DType, Device, Tensor, Var};
use eraser_model::{
    Adapter, Decoder, Error, Result,
    trace::{Gradients, TraceOptions},
};

/// `PyTorch`'s defaults, which the authors leave as they are.
const ADAMW: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };

/// A pass over a micro-batch of pairs.
pub(crate) struct Attacked<'a> {
    pub(crate) decoder: &'a Decoder,
    pub(crate) adapter: &'a Adapter,
    pub(crate) micro_batch: &'a MicroBatch,
    pub(crate) options: TraceOptions,
    /// Blocks behind which states are added; they are added behind the embedding too.
    pub(crate) layers: Vec<usize>,
}

impl Attacked<'_> {
    /// The value under the attack `form`, of which `weight` times the gradient is added to `gradients`, and the losses of
    /// the scored tokens.
    pub(crate) fn run(&self, form: Latent, weight: f64, gradients: &mut Gradients) -> Result<(Value, Vec<f32>)> {
        let device = self.decoder.device();
        let embedded = self.decoder.embed(&self.micro_batch.batch.ids, false)?;
        let places = Places::of(self.micro_batch, device)?;
        let shape = (places.count, embedded.dim(D::Minus1)?);
        let zeros = (0..=self.layers.len()).map(|_| Var::zeros(shape, DType::F32, device));
        let attack: Vec<Var> = zeros.collect::<candle_core::Result<_>>()?;
        let mut optimiser = AdamW::new(attack.clone(), ADAMW)?;
        let over_rows =
            || attack.iter().map(|own| places.over_rows(own)?.to_dtype(embedded.dtype()).map_err(Error::from));
        // A question without a token cannot be attacked.
        for _ in 0..if places.count == 0 { 0 } else { form.steps } {
            // Variables, so that they have gradients.
            let variable = |t: Result<Tensor>| Ok(Var::from_tensor(&t?)?.into_inner());
            let added = over_rows().map(variable).collect::<Result<Vec<Tensor>>>()?;
            let input = Var::from_tensor(&(&embedded + &added[0])?)?.into_inner();
            let mut found = Gradients::default();
            let behind = self.behind(&added);
            self.pass(&input, &behind, false, 1.0, &mut found)?;
            let by = [&input].into_iter().chain(behind.iter().map(|(_, own)| own));
            let gradient = |of| found.get(of).map(|gradient| places.gathered(gradient)).transpose();
            optimiser.step(&by.map(gradient).collect::<Result<Vec<_>>>()?, form.lr)?;
            for own in &attack {
                own.set(&shortened(own, form.epsilon)?)?;
            }
        }
        let added = over_rows().collect::<Result<Vec<Tensor>>>()?;
        self.pass(&(&embedded + &added[0])?, &self.behind(&added), true, weight, gradients)
    }

    /// What is added behind blocks, with the blocks.
    fn behind(&self, added: &[Tensor]) -> Vec<(usize, Tensor)> {
        self.layers.iter().copied().zip(added[1..].iter().cloned()).collect()
    }

    /// One pass, forward and backward. `preferred`: what is wanted is the preferred answer of each pair, not the other.
    fn pass(
        &self,
        input: &Tensor,
        added: &[(usize, Tensor)],
        preferred: bool,
        weight: f64,
        gradients: &mut Gradients,
    ) -> Result<(Value, Vec<f32>)> {
        let Self { decoder, adapter, options, .. } = *self;
        let MicroBatch { batch, scored, .. } = self.micro_batch;
        let trace = decoder.trace_adding(0, input.clone(), &batch.segments, Some(adapter), added, options)?;
        let hidden = decoder.final_hidden(trace.output(), &scored.rows)?;
        let losses = decoder.cross_entropy(&hidden, &batch.targets())?;
        let nll = losses.to_vec1::<f32>()?;
        let value = objective::toward_and_away(&nll, &scored.segments(), preferred);
        if weight != 0.0 && value.weights.iter().any(|&w| w != 0.0) {
            let weights = Tensor::from_slice(&value.weights, nll.len(), decoder.device())?.affine(weight, 0.0)?;
            trace.backward_losses(&losses, &weights, gradients)?;
        }
        Ok((value, nll))
    }
}

/// The tokens of the questions, each of which stands before both answers of a pair and has one added state for both.
struct Places {
    count: usize,
    /// Of each row of the pack its place; the number of places where it has none.
    of_row: Tensor,
    /// The rows of each place, before one answer and before the other.
    rows: [Tensor; 2],
}

impl Places {
    fn of(micro_batch: &MicroBatch, device: &Device) -> Result<Self> {
        let (drawn, all) = (&micro_batch.drawn, micro_batch.batch.all());
        let pairs = drawn.len() / 2;
        let mut rows: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
        for pair in 0..pairs {
            let [one, other] = [pair, pairs + pair];
            // They differ in length only where one had to be cut.
            let most = drawn[one].sample.prompt_len.min(drawn[other].sample.prompt_len);
            let both = all.samples[one].iter().zip(&all.samples[other]).take(most);
            for (&one, &other) in both {
                rows[0].push(one);
                rows[1].push(other);
            }
        }
        let count = rows[0].len();
        let mut of_row = vec![count as u32; micro_batch.batch.ids.len()];
        for side in &rows {
            for (place, &row) in (0..).zip(side) {
                of_row[row as usize] = place;
            }
        }
        let tensor = |values: Vec<u32>| {
            let n = values.len();
            Ok::<_, Error>(Tensor::from_vec(values, n, device)?)
        };
        let [one, other] = rows;
        Ok(Self { count, of_row: tensor(of_row)?, rows: [tensor(one)?, tensor(other)?] })
    }

    /// Of states of the places `[P, d]` those that are added to each row of the pack, `[T, d]`.
    fn over_rows(&self, states: &Tensor) -> Result<Tensor> {
        let states = states.detach();
        let none = Tensor::zeros((1, states.dim(1)?), states.dtype(), states.device())?;
        let all = if self.count == 0 { none } else { Tensor::cat(&[&states, &none], 0)? };
        Ok(all.index_select(&self.of_row, 0)?)
    }

    /// Of a gradient by each row's states, `[T, d]`, that by the places', `[P, d]`.
    fn gathered(&self, gradient: &Tensor) -> Result<Tensor> {
        let gradient = gradient.to_dtype(DType::F32)?;
        let [one, other] = &self.rows;
        Ok((gradient.index_select(one, 0)? + gradient.index_select(other, 0)?)?)
    }
}

/// Rows of `states` that are longer than `most`, at that length.
fn shortened(states: &Tensor, most: f64) -> Result<Tensor> {
    let times = (states.detach().sqr()?.sum_keepdim(1)?.sqrt()? / most)?;
    Ok(states.detach().broadcast_div(&times.maximum(1f32)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_states_are_cut_and_short_ones_kept() {
        let states = Tensor::new(&[[3f32, 4.0], [0.3, -0.4], [0.0, 0.0]], &Device::Cpu).unwrap();
        let found = shortened(&states, 2.5).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(found, [[1.5, 2.0], [0.3, -0.4], [0.0, 0.0]]);
    }
}
