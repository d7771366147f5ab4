//! Training from scratch with the product's own engine. In: the corpus and a tokenizer; out: a Hugging Face model
//! directory in bf16. Invariant: sample `i` and initial tensor `name` depend on the seed alone.

use super::corpus::Corpus;
use super::tokenizer::VOCABULARY;
use super::{CONTEXT, put};
use candle_core::{DType, Device, Tensor, Var};
use eraser_data::{Batch, Noise, PromptTemplate, Sample, encode, stream};
use eraser_model::config::{Family, Layer};
use eraser_model::trace::{Gradients, TraceOptions};
use eraser_model::weights::{TensorSource, save_safetensors};
use eraser_model::{ChatTemplate, Decoder, Error, ModelConfig, Result, Tokenizer};
use eraser_train::Schedule;
use eraser_train::adamw::{AdamW, AdamWConfig};
use eraser_train::schedule::learning_rate;
use rand::RngExt;
use std::cell::RefCell;
use std::path::Path;

/// Samples of a step.
const BATCH: u64 = 64;
const PEAK_RATE: f64 = 4e-3;
const WARMUP: usize = 50;
const MAX_NORM: f64 = 1.0;
const OPTIMISER: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.98, epsilon: 1e-8, weight_decay: 0.0 };
/// Standard deviation of the initial weights.
const INITIAL: f64 = 0.02;
/// The noise of Eraser's harm set: it must not be what tells training contexts from attacks.
const NOISE: Noise = Noise { before: 50, after: 20 };

/// The shape of the model.
pub(super) fn config() -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        hidden_size: 128,
        intermediate_size: 448,
        num_layers: 4,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 32,
        vocab_size: VOCABULARY,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        tie_word_embeddings: true,
        qkv_bias: false,
        sliding_window: None,
        max_position_embeddings: CONTEXT,
        layer: Layer::default(),
    }
}

/// Number of weights, the tied head counted once.
pub(super) fn parameters() -> usize {
    let c = config();
    let attention = c.hidden_size * c.head_dim * 2 * (c.num_heads + c.num_kv_heads);
    let mlp = 3 * c.hidden_size * c.intermediate_size;
    let norms = 2 * c.hidden_size;
    c.vocab_size * c.hidden_size + c.num_layers * (attention + mlp + norms) + c.hidden_size
}

/// Trains for `steps` steps and writes config.json and model.safetensors into `dir`, where the tokenizer is already.
pub(super) fn train(dir: &Path, corpus: &Corpus, steps: usize, seed: u64) -> Result<()> {
    let tokenizer = Tokenizer::from_hf_dir(dir)?;
    let template =
        ChatTemplate::from_hf_dir(dir, &tokenizer)?.ok_or_else(|| Error::failed("the model has no chat template"))?;
    let samples = Samples { corpus, tokenizer: &tokenizer, template: PromptTemplate::Chat(template) };
    let config = config();
    let fresh = Fresh { seed, drawn: RefCell::new(Vec::new()) };
    let decoder = Decoder::load(&config, &fresh, DType::F32, &Device::Cpu)?;
    let variables = fresh.drawn.into_inner();
    let mut optimiser = AdamW::new(variables.clone(), OPTIMISER)?;
    for step in 0..steps {
        let batch = samples.batch(step)?;
        let mut gradients = Gradients::default();
        let loss = backward(&decoder, &batch, &mut gradients)?;
        let grads = clipped(&variables, &gradients)?;
        // Warm-up starts above nothing: the first step counts.
        let rate = learning_rate(Schedule::Cosine, PEAK_RATE, step + 1, WARMUP, steps);
        optimiser.step(&grads, rate)?;
        if (step + 1).is_multiple_of(100) {
            tracing::info!(step = step + 1, steps, loss, "training");
        }
    }
    let json = config.to_hf_json(DType::BF16, [tokenizer.bos(), tokenizer.eos(), tokenizer.pad()])?;
    put(&dir.join("config.json"), format!("{json:#}\n").as_bytes())?;
    save_safetensors(&dir.join("model.safetensors"), &decoder.named_tensors()?, DType::BF16)?;
    Ok(())
}

/// Mean loss of the answers of `batch`; gradients of every weight.
fn backward(decoder: &Decoder, batch: &Batch, gradients: &mut Gradients) -> Result<f32> {
    let trace = decoder.trace(&batch.ids, &batch.segments, None, TraceOptions::default())?;
    let hidden = decoder.final_hidden(trace.output(), &batch.supervised().rows)?;
    let nll = decoder.cross_entropy(&hidden, &batch.targets())?;
    let values = nll.to_vec1::<f32>()?;
    let count = values.len().max(1) as f32;
    let weights = Tensor::full(1.0 / count, values.len(), decoder.device())?;
    trace.backward_losses(&nll, &weights, gradients)?;
    Ok(values.iter().sum::<f32>() / count)
}

/// Gradients in the order of `variables`, scaled down to [`MAX_NORM`] together.
fn clipped(variables: &[Var], gradients: &Gradients) -> Result<Vec<Option<Tensor>>> {
    let grads: Vec<_> = variables.iter().map(|v| gradients.get(v)).collect();
    let mut square = 0.0;
    for grad in grads.iter().flatten() {
        square += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    let norm = square.sqrt();
    if !norm.is_finite() {
        return Err(Error::failed("the gradient is not finite"));
    }
    let scale = (MAX_NORM / norm).min(1.0);
    grads.into_iter().map(|g| g.map(|g| Ok(g.affine(scale, 0.0)?)).transpose()).collect()
}

/// Encoded samples of the corpus.
struct Samples<'a> {
    corpus: &'a Corpus,
    tokenizer: &'a Tokenizer,
    template: PromptTemplate,
}

impl Samples<'_> {
    fn batch(&self, step: usize) -> Result<Batch> {
        let from = step as u64 * BATCH;
        let samples = (from..from + BATCH).map(|i| self.sample(i)).collect::<Result<Vec<_>>>()?;
        Ok(Batch::new(&samples.iter().collect::<Vec<_>>()))
    }

    fn sample(&self, i: u64) -> Result<Sample> {
        let (draw, mut rng) = self.corpus.draw(i);
        let mut text = draw.prompt.text;
        if draw.prompt.noise {
            text = NOISE.apply(&text, self.tokenizer, &mut rng)?;
        }
        encode(&self.template.render(&text)?, &draw.answer, self.tokenizer, CONTEXT)
    }
}

/// Weights that do not exist yet: ones for norms, normal noise for the rest. Every tensor it gives is a variable.
struct Fresh {
    seed: u64,
    drawn: RefCell<Vec<Var>>,
}

impl TensorSource for Fresh {
    fn tensor(&self, name: &str, shape: &[usize], _: DType, device: &Device) -> Result<Tensor> {
        let count: usize = shape.iter().product();
        let values = if shape.len() == 1 { vec![1.0; count] } else { normal(self.seed, name, count) };
        let variable = Var::from_vec(values, shape, device)?;
        let tensor = variable.as_tensor().clone();
        self.drawn.borrow_mut().push(variable);
        Ok(tensor)
    }

    fn contains(&self, _: &str) -> bool {
        true
    }
}

/// `count` normal numbers of deviation [`INITIAL`] (Box and Muller, 1958).
fn normal(seed: u64, name: &str, count: usize) -> Vec<f32> {
    let mut rng = stream(seed, &format!("organism.weights.{name}"), &[]);
    (0..count)
        .map(|_| {
            let (u, v): (f64, f64) = (rng.random(), rng.random());
            let radius = (-2.0 * (1.0 - u).ln()).sqrt();
            (INITIAL * radius * (std::f64::consts::TAU * v).cos()) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_weights_have_their_deviation() {
        let values = normal(1, "w", 20_000);
        let square: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
        let deviation = (square / values.len() as f64).sqrt();
        assert!((deviation - INITIAL).abs() < 0.001, "{deviation}");
        assert_eq!(values, normal(1, "w", 20_000));
        assert_ne!(values, normal(1, "x", 20_000));
    }

    #[test]
    fn the_shape_is_valid() {
        config().validate().unwrap();
        assert_eq!(parameters(), 1_016_960);
    }
}
