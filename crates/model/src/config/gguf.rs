//! The shape of a decoder from GGUF metadata. Invariant: as for config.json, a key that changes the computation is either
//! honoured or refused.

use super::{Family, ModelConfig, RopeScaling};
use crate::{
    Error, Result,
    gguf::{GgufFile, dequantize},
};

impl ModelConfig {
    /// The shape that the metadata and the tensor directory of `file` describe.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let at = |e: Error| e.context(file.path().display());
        let architecture =
            file.string("general.architecture")?.ok_or_else(|| file.missing("general.architecture"))?.to_owned();
        let key = |name: &str| format!("{architecture}.{name}");
        let family = match architecture.as_str() {
            // Mistral files say llama; only the window tells them apart.
            "llama" if file.u64(&key("attention.sliding_window"))?.is_some_and(|n| n > 0) => Family::Mistral,
            "llama" => Family::Llama,
            "qwen2" => Family::Qwen2,
            other => {
                return Err(at(Error::request(format!("`general.architecture` {other} is not supported"))
                    .hint("supported are llama (Llama, Mistral, SmolLM2) and qwen2")));
            }
        };
        let optional = |name: &str| Ok::<_, Error>(file.u32(&key(name))?.map(|n| n as usize));
        let size = |name: &str| optional(name)?.ok_or_else(|| file.missing(&key(name)));
        refuse(file, &architecture, family)?;

        let hidden_size = size("embedding_length")?;
        let num_heads = size("attention.head_count")?;
        let head_dim = match optional("attention.key_length")? {
            Some(n) => n,
            None if num_heads > 0 && hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                return Err(at(Error::request(format!(
                    "`{}` ({hidden_size}) is not a multiple of `{}` ({num_heads})",
                    key("embedding_length"),
                    key("attention.head_count")
                ))));
            }
        };
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let Some(n) = optional(name)?
                && n != head_dim
            {
                return Err(at(Error::request(format!("`{}` is {n}, must be the head width {head_dim}", key(name)))));
            }
        }
        let embedding = file
            .tensor("token_embd.weight")
            .ok_or_else(|| at(Error::request("tensor `token_embd.weight` is missing")))?;
        let mut config = Self {
            family,
            hidden_size,
            intermediate_size: size("feed_forward_length")?,
            num_layers: size("block_count")?,
            num_heads,
            num_kv_heads: optional("attention.head_count_kv")?.unwrap_or(num_heads),
            head_dim,
            vocab_size: embedding.shape.first().copied().unwrap_or(0),
            rms_norm_eps: f64::from(
                file.f32(&key("attention.layer_norm_rms_epsilon"))?
                    .ok_or_else(|| file.missing(&key("attention.layer_norm_rms_epsilon")))?,
            ),
            rope_theta: file.f32(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            rope_scaling: None,
            tie_word_embeddings: file.tensor("output.weight").is_none(),
            qkv_bias: family == Family::Qwen2,
            sliding_window: optional("attention.sliding_window")?.filter(|n| *n > 0),
            max_position_embeddings: optional("context_length")?.unwrap_or(2048),
        };
        let name = |hf: &str| match hf {
            "hidden_size" => key("embedding_length"),
            "intermediate_size" => key("feed_forward_length"),
            "num_hidden_layers" => key("block_count"),
            "num_attention_heads" => key("attention.head_count"),
            "num_key_value_heads" => key("attention.head_count_kv"),
            "head_dim" => key("attention.key_length"),
            "vocab_size" => "token_embd.weight".to_owned(),
            "max_position_embeddings" => key("context_length"),
            "sliding_window" => key("attention.sliding_window"),
            "rms_norm_eps" => key("attention.layer_norm_rms_epsilon"),
            "rope_theta" => key("rope.freq_base"),
            "rope_scaling.factor" => key("rope.scaling.factor"),
            other => other.to_owned(),
        };
        // The sizes first: the scaling is computed from them.
        config.check(&name).map_err(at)?;
        config.rope_scaling = scaling(file, &architecture, &config)?;
        config.check(&name).map_err(at)?;
        Ok(config)
    }
}

/// Keys of llama.cpp's files that change what a decoder computes and have no place in the supported families, each with the
/// number that leaves it as it is; true is 1.
const CHANGES: &[(&str, f64)] = &[
    ("attention.causal", 1.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("attention.scale", 0.0),
    ("attention.temperature_length", 0.0),
    ("attention.temperature_scale", 0.0),
    ("embedding_scale", 1.0),
    ("expert_used_count", 0.0),
    ("final_logit_softcapping", 0.0),
    ("logit_scale", 1.0),
    ("pooling_type", 0.0),
    ("residual_scale", 1.0),
    ("rope.scaling.attn_factor", 1.0),
    ("use_parallel_residual", 0.0),
];

/// Refuses what would change the computation and is not implemented.
fn refuse(file: &GgufFile, architecture: &str, family: Family) -> Result<()> {
    let at = |e: Error| e.context(file.path().display());
    let experts = format!("{architecture}.expert_count");
    if file.u64(&experts)?.is_some_and(|n| n > 0) {
        return Err(at(Error::request(format!("`{experts}`: mixtures of experts are not supported"))));
    }
    for (name, neutral) in CHANGES {
        let key = format!("{architecture}.{name}");
        let value = file.number(&key)?;
        if value.is_some_and(|value| (value - neutral).abs() > f64::EPSILON) {
            let value = value.unwrap_or_default();
            return Err(at(Error::request(format!(
                "`{key}` {value} is not supported: it changes what the model computes"
            ))
            .hint("supported are the plain Llama, Mistral and Qwen2 architectures")));
        }
    }
    let mut biases = vec!["blk.0.attn_output.bias", "blk.0.ffn_up.bias"];
    if family != Family::Qwen2 {
        biases.push("blk.0.attn_q.bias");
    }
    match biases.into_iter().find(|name| file.tensor(name).is_some()) {
        Some(name) => Err(at(Error::request(format!("tensor `{name}`: this bias is not supported"))
            .hint("of the supported families only qwen2 has biases, on q, k and v"))),
        None => Ok(()),
    }
}

fn scaling(file: &GgufFile, architecture: &str, config: &ModelConfig) -> Result<Option<RopeScaling>> {
    let at = |e: Error| e.context(file.path().display());
    let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
    if let Some(tensor) = file.tensor("rope_freqs.weight") {
        let factors = dequantize(tensor.dtype, file.data(tensor));
        let original = file.u32(&key("original_context_length"))?;
        return Ok(Some(recognise(&factors, original, config).unwrap_or(RopeScaling::Factors(factors))));
    }
    match file.string(&key("type"))? {
        None => Ok(file.f32(&format!("{architecture}.rope.scale_linear"))?),
        Some("none") => Ok(None),
        Some("linear") => Ok(Some(file.f32(&key("factor"))?.ok_or_else(|| file.missing(&key("factor")))?)),
        Some(other) => Err(at(Error::request(format!("`{}` {other} is not supported", key("type")))
            .hint("supported are none, linear and Llama 3's (a tensor `rope_freqs.weight`)"))),
    }
    .map(|factor| factor.map(|factor| RopeScaling::Linear { factor }))
}

/// Llama 3's parameters, if they give these factors. llama.cpp's converter stores only the factors; the published models
/// all have `low_freq_factor` 1, `high_freq_factor` 4 and 8192 original positions, and their largest factor is `factor`.
fn recognise(factors: &[f32], original: Option<u32>, config: &ModelConfig) -> Option<RopeScaling> {
    let scaling = RopeScaling::Llama3 {
        factor: factors.iter().copied().fold(1.0, f32::max),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: original.unwrap_or(8192),
    };
    let plain = config.inv_freq();
    let scaled = ModelConfig { rope_scaling: Some(scaling.clone()), ..config.clone() }.inv_freq();
    let same = factors.len() == plain.len()
        && factors.iter().zip(plain.iter().zip(&scaled)).all(|(factor, (plain, scaled))| {
            let expected = plain / scaled;
            (factor - expected).abs() <= 1e-4 * expected
        });
    same.then_some(scaling)
}
