//! GGUF metadata that describes a decoder, as llama.cpp's converter writes it. In: a configuration; out: metadata and
//! the small tensors of its rotation. Invariant: what a file cannot say is found by reading back what was written
//! ([`ModelConfig::lost`]), so nothing is left out without a word.

use super::family::Spec;
use super::fields::{FACTORS, LONG_FACTORS, SHORT_FACTORS, Writer};
use super::{MlpNames, ModelConfig, RopeScaling};
use crate::gguf::{Field, Fields};
use serde_json::Value;

impl ModelConfig {
    /// The metadata under the architecture's name, and `general.architecture`.
    pub(crate) fn to_gguf(&self) -> Fields {
        let spec = Spec::of(self.family);
        let mut out = Writer { architecture: spec.architecture, fields: Fields::new() };
        for (key, n) in [
            ("num_hidden_layers", self.num_layers),
            ("max_position_embeddings", self.max_position_embeddings),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_heads),
            ("num_key_value_heads", self.num_kv_heads),
            ("head_dim", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("partial_rotary_factor", self.layer.rotary_dim.unwrap_or(self.head_dim)),
            ("vocab_size", self.vocab_size),
        ] {
            out.size(key, n);
        }
        out.number("rms_norm_eps", self.rms_norm_eps as f32);
        out.number("rope_theta", self.rope_theta);
        self.scaling(&mut out);
        (spec.write_gguf)(self, &mut out);
        let mut fields = out.fields;
        fields.insert("general.architecture".to_owned(), Field::String(spec.architecture.to_owned()));
        fields
    }

    fn scaling(&self, out: &mut Writer<'_>) {
        let kind = |out: &mut Writer<'_>, name: &str| out.put("rope_scaling.type", Field::String(name.to_owned()));
        match &self.rope_scaling {
            Some(RopeScaling::Linear { factor }) => {
                kind(out, "linear");
                out.number("rope_scaling.factor", *factor);
            }
            Some(RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast,
                beta_slow,
                attention_factor,
                truncate: _,
            }) => {
                kind(out, "yarn");
                out.number("rope_scaling.factor", *factor);
                out.size("rope_scaling.original_max_position_embeddings", *original as usize);
                // What is the default is left out, as the converter leaves out what config.json does not have.
                let differs = |a: f32, b: f32| (a - b).abs() > f32::EPSILON * b;
                if differs(*attention_factor, RopeScaling::yarn_attention(*factor, None)) {
                    out.number("rope.scaling.yarn_attn_factor", *attention_factor);
                }
                if differs(*beta_fast, 32.0) || differs(*beta_slow, 1.0) {
                    out.number("rope_scaling.beta_fast", *beta_fast);
                    out.number("rope_scaling.beta_slow", *beta_slow);
                }
            }
            // Tensors hold these.
            None | Some(RopeScaling::Llama3 { .. } | RopeScaling::LongRope { .. } | RopeScaling::Factors(_)) => {}
        }
    }

    /// The tensors of the rotation, by name.
    pub(crate) fn gguf_factors(&self) -> Vec<(&'static str, Vec<f32>)> {
        match &self.rope_scaling {
            Some(RopeScaling::Llama3 { factor, .. }) => {
                let plain = Self { rope_scaling: None, ..self.clone() }.inv_freq();
                let scaled = self.inv_freq();
                // A frequency that is divided by the factor itself gets exactly this, without the rounding of two
                // divisions.
                let divided = |plain: &f32, scaled: &f32| {
                    if scaled.to_bits() == (plain / factor).to_bits() { *factor } else { plain / scaled }
                };
                vec![(FACTORS, plain.iter().zip(&scaled).map(|(plain, scaled)| divided(plain, scaled)).collect())]
            }
            Some(RopeScaling::Factors(factors)) => vec![(FACTORS, factors.clone())],
            Some(RopeScaling::LongRope { short, long, .. }) => {
                vec![(LONG_FACTORS, long.clone()), (SHORT_FACTORS, short.clone())]
            }
            _ => Vec::new(),
        }
    }

    /// The first difference between what this configuration computes and what the other one does, which was read from a
    /// file: the key of config.json, and what it says. None where there is no difference.
    pub(crate) fn lost(&self, read: &Self) -> Option<String> {
        self.first_lost(read).map(|field| said(&field, Spec::of(self.family)))
    }

    fn first_lost(&self, read: &Self) -> Option<String> {
        let plain = |config: &Self| {
            let mut config = config.clone();
            // Names only, and rotations, which are compared below.
            config.family = self.family;
            config.layer.nested = false;
            if config.layer.mlp_names == MlpNames::Mixtral {
                config.layer.mlp_names = MlpNames::Llama;
            }
            if config.layer.mlp_names == MlpNames::Shared {
                config.layer.mlp_names = MlpNames::Llama;
                config.layer.fused.gate_up = false;
            }
            config.rope_scaling = None;
            config.layer.window_rope = None;
            config.layer.rotary_dim.get_or_insert(config.head_dim);
            config.rms_norm_eps = f64::from(config.rms_norm_eps as f32);
            serde_json::to_value(config).unwrap_or_default()
        };
        if let Some(key) = first_difference(&plain(self), &plain(read)) {
            return Some(key);
        }
        let dim = self.layer.rotary_dim.unwrap_or(self.head_dim);
        let close = |a: f32, b: f32| (a - b).abs() <= 1e-5 * a.abs();
        let same = (0..self.num_layers).all(|layer| match (self.rope_of(layer), read.rope_of(layer)) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                let frequencies = a.inv_freq(dim).into_iter().zip(b.inv_freq(dim));
                a.limit() == b.limit()
                    && close(a.scale(), b.scale())
                    && frequencies.into_iter().all(|(a, b)| close(a, b))
            }
            _ => false,
        });
        (!same).then(|| "rope_scaling".to_owned())
    }
}

/// What a field of the configuration is in the words of config.json.
fn said(field: &str, spec: &Spec) -> String {
    let (key, what) = match field {
        "layer.attention_scale" if spec.reads("attention_multiplier") => {
            ("attention_multiplier", "the scale of scores")
        }
        "layer.attention_scale" => ("query_pre_attn_scalar", "the scale of scores"),
        "layer.attention_cap" => ("attn_logit_softcapping", "the cap of scores"),
        "layer.logit_cap" => ("final_logit_softcapping", "the cap of logits"),
        "layer.windowed" => ("layer_types", "which layers have the sliding window"),
        "sliding_window" => ("sliding_window", "the sliding window"),
        "layer.rotated" if spec.reads("position_embedding_type") => ("position_embedding_type", "the rotation"),
        "layer.rotated" if spec.reads("no_rope_layers") => ("no_rope_layers", "which layers are rotated"),
        "layer.rotated" => ("layer_types", "which layers are rotated"),
        "layer.mixture.normalised" => ("norm_topk_prob", "the weights of experts"),
        "rope_scaling" => ("rope_scaling", "the rotation"),
        "rope_theta" => ("rope_theta", "the base of the rotation"),
        "qkv_bias" | "layer.biases.output" => ("attention_bias", "biases of attention"),
        "layer.biases.mlp" => ("mlp_bias", "biases of the MLP"),
        "rms_norm_eps" | "tie_word_embeddings" | "max_position_embeddings" | "head_dim" => return format!("`{field}`"),
        other => (other.rsplit('.').next().unwrap_or(other), "a setting of the layers"),
    };
    format!("`{key}` ({what})")
}

/// The path of the first value that differs.
fn first_difference(a: &Value, b: &Value) -> Option<String> {
    let (Some(left), Some(right)) = (a.as_object(), b.as_object()) else { return (a != b).then(String::new) };
    let keys = left.keys().chain(right.keys().filter(|key| !left.contains_key(*key)));
    for key in keys {
        let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
        if let Some(rest) = first_difference(&of(left), &of(right)) {
            return Some(if rest.is_empty() { key.clone() } else { format!("{key}.{rest}") });
        }
    }
    None
}
