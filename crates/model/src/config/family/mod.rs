//! The model families: how the configuration of each becomes the description of a layer. Invariant: a family, with all
//! its generations, has one file here and a line for each generation in [`ALL`].

mod arcee;
mod cwm;
mod exaone;
mod gemma;
mod granite;
mod llama;
mod ministral;
mod mistral;
mod mixtral;
mod olmo;
mod phi;
mod qwen;
mod seed;
mod smollm;

use super::fields::Writer;
use super::keys::Keys;
use super::metadata::Metadata;
use super::{Family, Mixture, Mlp, ModelConfig};
use crate::Result;
use serde_json::{Map, Value};

/// What is known of a family.
pub(crate) struct Spec {
    pub(super) family: Family,
    /// `model_type` and class of its config.json.
    pub(super) model_type: &'static str,
    pub(super) class: &'static str,
    /// `model_type` and class of the larger model whose text part it is; its keys are in `text_config` there.
    pub(super) inside: Option<(&'static str, &'static str)>,
    /// `general.architecture` of its GGUF files.
    pub(super) architecture: &'static str,
    /// In its GGUF files the rows of q and k are interleaved, as llama.cpp's RoPE needs them.
    pub(crate) interleaved: bool,
    /// Keys of config.json and of GGUF metadata that it reads; a family that does not read them refuses them.
    pub(super) reads: &'static [&'static str],
    /// Other keys that it reads, or that its class in transformers passes over; of what is in no list, a warning tells.
    pub(super) known: &'static [&'static str],
    /// Names that its activation has in config.json.
    pub(super) activations: &'static [&'static str],
    /// The defaults of its class in transformers.
    pub(super) defaults: Defaults,
    /// Adds what only this family reads from config.json.
    pub(super) read: fn(&mut ModelConfig, Keys<'_>) -> Result<()>,
    /// Adds its own keys to a config.json.
    pub(super) write: fn(&ModelConfig, &mut Map<String, Value>),
    /// Adds what only this family reads from GGUF metadata.
    pub(super) read_gguf: fn(&mut ModelConfig, &Metadata<'_>) -> Result<()>,
    /// Adds its own keys to GGUF metadata.
    pub(super) write_gguf: fn(&ModelConfig, &mut Writer<'_>),
}

/// The defaults of a class in transformers, for keys that config.json does not have.
pub(super) struct Defaults {
    pub(super) positions: usize,
    pub(super) eps: f64,
    pub(super) theta: f32,
    /// The base of layers with a window, where it differs.
    pub(super) window_theta: Option<f32>,
    pub(super) tied: bool,
    pub(super) head_dim: Option<usize>,
    /// Sizes with a default, by key. A size that is not listed here must be in config.json.
    pub(super) sizes: &'static [(&'static str, usize)],
}

impl Defaults {
    const LLAMA: Self = Self {
        positions: 2048,
        eps: 1e-6,
        theta: 10_000.0,
        window_theta: None,
        tied: false,
        head_dim: None,
        sizes: &[],
    };
}

const SILU: &[&str] = &["silu", "swish"];

/// Every family.
static ALL: [&Spec; 20] = [
    &llama::SPEC,
    &mistral::SPEC,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &phi::SPEC,
    &olmo::OLMO2,
    &olmo::OLMO3,
    &granite::SPEC,
    &granite::GRANITE4,
    &smollm::SPEC,
    &ministral::SPEC,
    &seed::SPEC,
    &exaone::SPEC,
    &arcee::SPEC,
    &cwm::SPEC,
    &qwen::QWEN3_MOE,
    &mixtral::SPEC,
];

impl Spec {
    /// The family's.
    pub(crate) fn of(family: Family) -> &'static Self {
        ALL.into_iter().find(|spec| spec.family == family).unwrap_or(&llama::SPEC)
    }

    /// All of them.
    pub(super) fn all() -> &'static [&'static Self] {
        &ALL
    }

    pub(super) fn by_model_type(name: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|spec| spec.model_type == name)
    }

    /// By a class of transformers, that of a larger model included.
    pub(super) fn by_class(name: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|spec| spec.class == name || spec.inside.is_some_and(|(_, class)| class == name))
    }

    /// By the `model_type` of a larger model.
    pub(super) fn inside(name: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|spec| spec.inside.is_some_and(|(model_type, _)| model_type == name))
    }

    /// The first with this `general.architecture`.
    pub(super) fn by_architecture(name: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|spec| spec.architecture == name)
    }

    /// `general.architecture` of its GGUF files.
    pub(crate) fn architecture(&self) -> &'static str {
        self.architecture
    }

    pub(super) fn reads(&self, key: &str) -> bool {
        self.reads.contains(&key)
    }
}

/// Biases as Llama has them: one flag for q, k, v and the output projection, one for the MLP.
fn read_biases(config: &mut ModelConfig, keys: Keys<'_>) -> Result<()> {
    config.qkv_bias = keys.flag("attention_bias")?;
    config.layer.biases.output = config.qkv_bias;
    config.layer.biases.mlp = keys.flag("mlp_bias")?;
    Ok(())
}

fn write_biases(config: &ModelConfig, map: &mut Map<String, Value>) {
    map.insert("attention_bias".to_owned(), config.layer.biases.output.into());
    map.insert("mlp_bias".to_owned(), config.layer.biases.mlp.into());
}

/// Biases, as the tensors of a GGUF file show them.
fn gguf_biases(config: &mut ModelConfig, file: &Metadata<'_>) {
    config.qkv_bias = file.has("blk.0.attn_q.bias") || file.has("blk.0.attn_qkv.bias");
    config.layer.biases.output = file.has("blk.0.attn_output.bias");
    config.layer.biases.mlp = file.has("blk.0.ffn_up.bias");
}

/// The experts that config.json describes; `defaults` are how many there are, and how many a token has.
fn experts(keys: Keys<'_>, [all, own]: [usize; 2], normalised: bool) -> Result<Mixture> {
    // Files of transformers 5 have the second name in every class.
    let all = keys.optional_size("num_experts")?.or(keys.optional_size("num_local_experts")?).unwrap_or(all);
    let used = keys.optional_size("num_experts_per_tok")?.unwrap_or(own);
    Ok(Mixture { experts: all, used, normalised })
}

/// The experts, as GGUF metadata has them.
fn gguf_experts(config: &ModelConfig, out: &mut Writer<'_>) {
    if let Some(Mixture { experts, used, .. }) = config.layer.mixture {
        out.size("num_experts", experts);
        out.size("num_experts_per_tok", used);
    }
}

fn write_experts(config: &ModelConfig, map: &mut Map<String, Value>) {
    if let Some(Mixture { experts, used, .. }) = config.layer.mixture {
        map.insert("num_local_experts".to_owned(), experts.into());
        map.insert("num_experts_per_tok".to_owned(), used.into());
    }
}

/// `layer_types` as transformers writes it.
fn write_layer_types(config: &ModelConfig, map: &mut Map<String, Value>) {
    let same = || vec![config.sliding_window.is_some(); config.num_layers];
    let windowed = config.layer.windowed.clone().unwrap_or_else(same);
    let name = |windowed: &bool| if *windowed { "sliding_attention" } else { "full_attention" };
    map.insert("layer_types".to_owned(), windowed.iter().map(name).collect());
}

/// A sliding window on all layers but every `period`-th.
pub(super) fn every(period: usize, layers: usize) -> Vec<bool> {
    (1..=layers).map(|i| period != 0 && !i.is_multiple_of(period)).collect()
}

/// The layers with a sliding window in their simplest form: no window where no layer has it, no list where all have it.
fn set_windows(config: &mut ModelConfig, window: Option<usize>, windowed: Vec<bool>) {
    let some = window.is_some() && windowed.contains(&true);
    config.sliding_window = window.filter(|_| some);
    config.layer.windowed = (some && windowed.contains(&false)).then_some(windowed);
}

impl Mlp {
    /// The name in config.json.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_pytorch_tanh",
            Self::ReluSquared => "relu2",
        }
    }
}
