//! The threshold of the hinge as it is used. In: what was asked for, and for `auto` the base model and the harm set;
//! out: nats per token. Invariant: it is measured before the first step of a run and then stays: a resumed run takes it
//! from its checkpoint.

use crate::{
    feed::Feed,
    gamma::Gamma,
    group::{Group, sum_f64},
    options::TrainOptions,
};
use eraser_data::{Batch, Sample};
use eraser_model::{Error, Model, Result};
use serde::{Deserialize, Serialize};

/// Most samples that the base model's loss is measured on: the first that training draws, with their prompt noise.
const SAMPLES: usize = 128;

/// The threshold of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// Nats per token.
    pub gamma: f64,
    /// What it was made from, if it was measured.
    pub measured: Option<BaseLoss>,
}

/// The loss of a set's answers under the base model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaseLoss {
    /// Mean negative log-likelihood, nats per token.
    pub nll: f64,
    /// Samples that it was measured on.
    pub samples: usize,
}

impl Threshold {
    /// The threshold that `options` ask for; `harm` gives the samples that the hinge is taken of.
    ///
    /// # Errors
    /// `auto`, and no answer token of the samples is left to measure.
    pub(crate) fn new(model: &Model, harm: &mut Feed<'_>, options: &TrainOptions, group: &dyn Group) -> Result<Self> {
        match options.gamma {
            Gamma::Nats(gamma) => Ok(Self { gamma, measured: None }),
            Gamma::Auto => {
                let measured = base_loss(model, harm, options.micro_batch, "gamma", group)?;
                Ok(Self { gamma: measured.nll + options.gamma_margin, measured: Some(measured) })
            }
        }
    }
}

/// What the answers of a set cost the base model, of which each rank takes some micro-batches; `option` is the one that
/// asks for it.
///
/// # Errors
/// No answer token of the samples is left to measure.
pub(crate) fn base_loss(
    model: &Model,
    feed: &mut Feed<'_>,
    micro_batch: usize,
    option: &str,
    group: &dyn Group,
) -> Result<BaseLoss> {
    let samples = feed.rows().min(SAMPLES);
    let decoder = &model.decoder;
    // The sum of each micro-batch and its tokens: added up in their order, whichever rank took them.
    let mut sums = vec![[0.0; 2]; samples.div_ceil(micro_batch)];
    let all = sums.iter_mut().zip((0..samples).step_by(micro_batch));
    for (sum, from) in all.skip(group.rank()).step_by(group.size()) {
        let drawn = feed.draw(from, micro_batch.min(samples - from))?;
        let drawn: Vec<&Sample> = drawn.iter().map(|d| &d.sample).collect();
        let batch = Batch::shared(&drawn);
        let scored = batch.supervised();
        if scored.rows.is_empty() {
            continue;
        }
        let blocks = 0..model.config.num_layers;
        let top = decoder.run(decoder.embed(&batch.ids, false)?, blocks, &batch.segments, None)?;
        let hidden = decoder.final_hidden(&top, &scored.rows)?.detach();
        let losses = decoder.cross_entropy(&hidden, &batch.targets())?.to_vec1::<f32>()?;
        *sum = [losses.iter().map(|&x| f64::from(x)).sum(), losses.len() as f64];
    }
    sum_f64(group, sums.as_flattened_mut())?;
    let [total, count] = sums.iter().fold([0.0; 2], |[total, count], [sum, tokens]| [total + sum, count + tokens]);
    let nll = total / count;
    if !nll.is_finite() {
        return Err(Error::request(format!(
            "{option}: the base model's loss on the answers ({samples} measured) is not a finite number"
        ))
        .hint(format!(
            "give --{} as a number, or raise --max-length so that answers are left",
            option.replace('_', "-")
        )));
    }
    Ok(BaseLoss { nll, samples })
}
