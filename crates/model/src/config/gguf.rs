//! The shape of a decoder from GGUF metadata. Invariant: as for config.json, a key that changes the computation is
//! either honoured or refused.

use super::family::Spec;
use super::fields::{FACTORS, LONG_FACTORS, SHORT_FACTORS, key_of};
use super::known;
use super::metadata::Metadata;
use super::unsupported::Unsupported;
use super::{Family, Layer, ModelConfig, RopeScaling};
use crate::{Error, Result, gguf::GgufFile};

impl ModelConfig {
    /// The shape that the metadata and the tensor directory of `file` describe.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let architecture = file.string("general.architecture")?.ok_or_else(|| file.missing("general.architecture"))?;
        let found = Metadata { file, architecture };
        let at = |e: Error| found.at(e);
        if let Some(kind) = file.string("general.type")?.filter(|kind| *kind != "model") {
            let error = at(Error::request(format!("general.type is `{kind}`: the file is not a model")));
            return Err(if kind == "mmproj" {
                error.hint("it has the images' part of a larger model: take the file of its language model")
            } else {
                error.hint("a LoRA adapter goes to --adapter, beside the model that it was made for")
            });
        }
        let unsupported = || at(Unsupported::Architecture.error("general.architecture", architecture));
        let mut spec = Spec::by_architecture(architecture).ok_or_else(unsupported)?;
        // Files of Mistral and Mixtral have the architecture llama too; the sliding window and experts tell them apart.
        if spec.family == Family::Llama {
            let has_experts = file.u64(&found.key(EXPERTS))?.is_some_and(|n| n > 0);
            match (has_experts, found.window()?) {
                (true, _) => spec = Spec::of(Family::Mixtral),
                (false, Some(_)) => spec = Spec::of(Family::Mistral),
                (false, None) => {}
            }
        }
        refuse(&found, spec)?;
        known::warn(&unknown(&found, spec));
        let mut config = base(&found, spec)?;
        let name = |hf: &str| name(&found, hf);
        // Sizes are checked first, because the rest is computed from them.
        config.check(&name).map_err(at)?;
        config.rope_scaling = scaling(&found, &config)?;
        (spec.read_gguf)(&mut config, &found)?;
        config.check(&name).map_err(at)?;
        Ok(config)
    }
}

/// The key of the number of experts.
const EXPERTS: &str = "expert_count";

/// The part of the configuration that is the same for all families.
fn base(found: &Metadata<'_>, spec: &Spec) -> Result<ModelConfig> {
    let at = |e: Error| found.at(e);
    let hidden_size = found.required("embedding_length")?;
    let num_heads = found.required("attention.head_count")?;
    let head_dim = match found.size("attention.key_length")? {
        Some(n) => n,
        None if num_heads > 0 && hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            return Err(at(Error::request(format!(
                "`{}` ({hidden_size}) is not a multiple of `{}` ({num_heads})",
                found.key("embedding_length"),
                found.key("attention.head_count")
            ))));
        }
    };
    let mut layer = Layer::default();
    for name in ["attention.value_length", "rope.dimension_count"] {
        match found.size(name)? {
            Some(n) if n != head_dim && spec.reads(name) => layer.rotary_dim = Some(n),
            Some(n) if n != head_dim => {
                let key = found.key(name);
                return Err(at(Error::request(format!("`{key}` is {n}, must be the head width {head_dim}"))));
            }
            _ => {}
        }
    }
    let embedding = found
        .file
        .tensor("token_embd.weight")
        .ok_or_else(|| at(Error::request("tensor `token_embd.weight` is missing")))?;
    let eps = "attention.layer_norm_rms_epsilon";
    Ok(ModelConfig {
        family: spec.family,
        hidden_size,
        intermediate_size: found.required("feed_forward_length")?,
        num_layers: found.required("block_count")?,
        num_heads,
        num_kv_heads: found.size("attention.head_count_kv")?.unwrap_or(num_heads),
        head_dim,
        vocab_size: embedding.shape.first().copied().unwrap_or(0),
        rms_norm_eps: f64::from(found.f32(eps)?.ok_or_else(|| found.file.missing(&found.key(eps)))?),
        // The default of llama.cpp, which may differ from that of the class in transformers.
        rope_theta: found.f32("rope.freq_base")?.unwrap_or(10_000.0),
        rope_scaling: None,
        tie_word_embeddings: !found.has("output.weight"),
        qkv_bias: false,
        sliding_window: None,
        max_position_embeddings: found.size("context_length")?.unwrap_or(2048),
        layer,
    })
}

/// What a key of [`ModelConfig::check`] is called in the file.
fn name(found: &Metadata<'_>, key: &str) -> String {
    let has = |own: &str| found.file.metadata(&found.key(own)).is_some();
    match key {
        "vocab_size" => "token_embd.weight".to_owned(),
        "rope_scaling.short_factor" => SHORT_FACTORS.to_owned(),
        "rope_scaling.long_factor" => LONG_FACTORS.to_owned(),
        "head_dim" if !has("attention.key_length") => {
            format!("{} / {}", found.key("embedding_length"), found.key("attention.head_count"))
        }
        "rope_scaling.factor" if !has("rope.scaling.factor") => found.key("rope.scale_linear"),
        "rope_scaling.attention_factor" if has("rope.scaling.yarn_attn_factor") => {
            found.key("rope.scaling.yarn_attn_factor")
        }
        "rope_scaling.original_max_position_embeddings" if !has("rope.scaling.original_context_length") => {
            found.key("context_length")
        }
        other => key_of(other).map_or_else(|| other.to_owned(), |own| found.key(own)),
    }
}

/// Keys of llama.cpp's files that change what a decoder computes, and that most families do not have. Each has the
/// number with which it changes nothing; true counts as 1.
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
    ("rope.scaling.yarn_log_multiplier", 0.0),
    ("use_parallel_residual", 0.0),
];

/// Biases that a file can have, each with the config.json key that families with this bias read.
const BIASES: &[(&str, &str)] = &[
    ("blk.0.attn_q.bias", "attention_bias"),
    ("blk.0.attn_qkv.bias", "attention_bias"),
    ("blk.0.attn_output.bias", "attention_bias"),
    ("blk.0.ffn_up.bias", "mlp_bias"),
];

/// The keys that are not known and not off.
fn unknown(found: &Metadata<'_>, spec: &Spec) -> Vec<String> {
    known::of_metadata(found, spec, &|key| CHANGES.iter().any(|(name, _)| *name == key))
}

/// Refuses keys and tensors that would change the computation and are not implemented.
fn refuse(found: &Metadata<'_>, spec: &Spec) -> Result<()> {
    let at = |e: Error| found.at(e);
    let experts = found.key(EXPERTS);
    if !spec.reads(EXPERTS) && found.file.u64(&experts)?.is_some_and(|n| n > 0) {
        return Err(at(Error::request(format!(
            "`{experts}`: experts are not supported in files of the architecture {}",
            found.architecture
        ))));
    }
    for (name, neutral) in CHANGES.iter().filter(|(name, _)| !spec.reads(name)) {
        let key = found.key(name);
        let value = found.file.number(&key)?;
        if value.is_some_and(|value| (value - neutral).abs() > f64::EPSILON) {
            let value = value.unwrap_or_default();
            return Err(at(Error::request(format!(
                "`{key}` {value} is not supported: it changes what the model computes"
            ))
            .hint(format!("the architecture {} has no such key: is it the file's own?", found.architecture))));
        }
    }
    // Qwen2 always has biases on q, k and v.
    let own = |tensor: &str| spec.family == Family::Qwen2 && tensor == "blk.0.attn_q.bias";
    match BIASES.iter().find(|(tensor, key)| found.has(tensor) && !spec.reads(key) && !own(tensor)) {
        Some((tensor, _)) => Err(at(Error::request(format!("tensor `{tensor}`: this bias is not supported"))
            .hint(format!("the architecture {} has no such bias: is it the file's own?", found.architecture)))),
        None => Ok(()),
    }
}

fn scaling(found: &Metadata<'_>, config: &ModelConfig) -> Result<Option<RopeScaling>> {
    let scaled = |name: &str| format!("rope.scaling.{name}");
    let missing = |name: &str| found.file.missing(&found.key(&scaled(name)));
    if let Some(factors) = found.floats(FACTORS) {
        let original = found.size(&scaled("original_context_length"))?;
        let original = original.and_then(|n| u32::try_from(n).ok());
        return Ok(Some(recognise(&factors, original, config).unwrap_or(RopeScaling::Factors(factors))));
    }
    Ok(match found.string(&scaled("type"))? {
        None => found.f32("rope.scale_linear")?.map(|factor| RopeScaling::Linear { factor }),
        // The factors of LongRoPE are tensors, which the family reads.
        Some("none" | "longrope") => None,
        Some("linear") => {
            let factor = found.f32(&scaled("factor"))?.ok_or_else(|| missing("factor"))?;
            Some(RopeScaling::Linear { factor })
        }
        Some("yarn") => {
            let factor = found.f32(&scaled("factor"))?.ok_or_else(|| missing("factor"))?;
            let original = found.size(&scaled("original_context_length"))?.unwrap_or(config.max_position_embeddings);
            let attention = found.f32(&scaled("yarn_attn_factor"))?.or(found.f32(&scaled("attn_factor"))?);
            Some(RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: u32::try_from(original).unwrap_or(u32::MAX),
                beta_fast: found.f32(&scaled("yarn_beta_fast"))?.unwrap_or(32.0),
                beta_slow: found.f32(&scaled("yarn_beta_slow"))?.unwrap_or(1.0),
                attention_factor: attention.unwrap_or_else(|| RopeScaling::yarn_attention(factor, None)),
                truncate: true,
            })
        }
        Some(other) => {
            let key = found.key(&scaled("type"));
            return Err(found.at(Error::request(format!("`{key}` {other} is not supported"))
                .hint("supported are none, linear, yarn, longrope, and Llama 3's (a tensor `rope_freqs.weight`)")));
        }
    })
}

/// The parameters of Llama 3's scaling, if these factors are what they give. llama.cpp's converter stores the factors
/// only. All published models have `low_freq_factor` 1, `high_freq_factor` 4 and 8192 original positions, and their
/// largest factor is `factor`.
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a helper of tests")]
mod tests {
    use super::*;

    #[test]
    fn keys_that_the_converter_writes_are_known_and_others_are_told() {
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
        let mut read = 0;
        for entry in std::fs::read_dir(fixtures).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|ext| ext != "gguf") {
                continue;
            }
            let file = GgufFile::open(&path).unwrap();
            let Some(architecture) = file.string("general.architecture").unwrap() else { continue };
            let Some(spec) = Spec::by_architecture(architecture) else { continue };
            let told = unknown(&Metadata { file: &file, architecture }, spec);
            assert!(told.is_empty(), "{}: {told:?}", path.display());
            read += 1;
        }
        assert!(read >= 10, "{read}");
        let builder = crate::gguf::tests::Builder::new().u32("llama.key_of_tomorrow", 2).u32("llama.off", 0);
        let (_dir, file) = builder.u32("llama.vocab_size", 9).open();
        assert_eq!(
            unknown(&Metadata { file: &file, architecture: "llama" }, Spec::of(Family::Llama)),
            ["`llama.key_of_tomorrow`"]
        );
    }
}
