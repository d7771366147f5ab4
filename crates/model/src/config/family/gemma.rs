//! Gemma 1 to 3. Norms multiply by their weight plus one, the activation is GELU, and embeddings are multiplied by the
//! square root of their width. From Gemma 2 on there are norms before and after attention and MLP, and some layers have
//! a sliding window. Gemma 2 caps scores and logits. Gemma 3 has a norm for each head of q and k, and another base for
//! the rotation in layers with a window.

use super::{Defaults, Spec, every, set_windows};
use crate::config::fields::Writer;
use crate::config::keys::Keys;
use crate::config::metadata::Metadata;
use crate::config::rope::plain;
use crate::config::{Family, Mlp, ModelConfig, NormPlacement, QkNorm, Rope};
use crate::{Error, Result};
use serde_json::{Map, Value, json};

/// The tanh form of GELU under every name that it has: transformers reads `hidden_act` of the published files so.
const GELU: &[&str] = &["gelu", "gelu_pytorch_tanh"];

const DEFAULTS: Defaults = Defaults { positions: 8192, tied: true, head_dim: Some(256), ..Defaults::LLAMA };

pub(super) const GEMMA: Spec = Spec {
    family: Family::Gemma,
    model_type: "gemma",
    class: "GemmaForCausalLM",
    inside: None,
    architecture: "gemma",
    interleaved: false,
    reads: &[],
    known: &[],
    activations: GELU,
    defaults: DEFAULTS,
    read: |config, keys| {
        first(config);
        no_bias(keys)
    },
    write: |_, map| hidden_activation(map),
    read_gguf: |config, _| {
        first(config);
        Ok(())
    },
    write_gguf: |_, _| {},
};

pub(super) const GEMMA2: Spec = Spec {
    family: Family::Gemma2,
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    inside: None,
    architecture: "gemma2",
    interleaved: false,
    reads: &["attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"],
    known: &["sliding_window"],
    activations: GELU,
    defaults: DEFAULTS,
    read: |config, keys| {
        second(config);
        tanh_form(keys)?;
        no_bias(keys)?;
        caps(config, keys, [Some(50.0), Some(30.0)])?;
        scale(config, keys.number_f32("query_pre_attn_scalar")?.unwrap_or(256.0));
        windows(config, keys, 2)
    },
    write,
    read_gguf: |config, file| {
        second(config);
        config.layer.attention_cap = Some(file.f32("attn_logit_softcapping")?.unwrap_or(50.0));
        config.layer.logit_cap = Some(file.f32("final_logit_softcapping")?.unwrap_or(30.0));
        // The file has no scale. The 27B has another one than the rest; llama.cpp knows it by its number of layers.
        if config.num_layers == 46 {
            gguf_scale(config, file)?;
        }
        gguf_windows(config, file, 2)
    },
    write_gguf,
};

pub(super) const GEMMA3: Spec = Spec {
    family: Family::Gemma3,
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    inside: Some(("gemma3", "Gemma3ForConditionalGeneration")),
    architecture: "gemma3",
    interleaved: false,
    // transformers has the cap of scores in the class and does not compute with it, so one that is set is refused.
    reads: &["final_logit_softcapping", "query_pre_attn_scalar", "rope_local_base_freq"],
    known: &["_sliding_window_pattern", "sliding_window", "sliding_window_pattern"],
    activations: GELU,
    defaults: Defaults {
        positions: 131_072,
        theta: 1e6,
        window_theta: Some(1e4),
        // The text_config of the larger models leaves out keys that have the default of the class.
        sizes: &[
            ("hidden_size", 2304),
            ("intermediate_size", 9216),
            ("num_hidden_layers", 26),
            ("num_attention_heads", 8),
            ("num_key_value_heads", 4),
            ("vocab_size", 262_208),
        ],
        ..DEFAULTS
    },
    read: |config, keys| {
        second(config);
        config.layer.qk_norm = QkNorm::Head;
        tanh_form(keys)?;
        no_bias(keys)?;
        caps(config, keys, [None, None])?;
        scale(config, keys.number_f32("query_pre_attn_scalar")?.unwrap_or(256.0));
        windows(config, keys, keys.optional_size("sliding_window_pattern")?.unwrap_or(6))
    },
    write,
    read_gguf: |config, file| {
        second(config);
        config.layer.qk_norm = QkNorm::Head;
        config.layer.logit_cap = file.f32("final_logit_softcapping")?;
        let theta = file.f32("rope.freq_base_swa")?.unwrap_or(1e4);
        config.layer.window_rope = Some(Rope { theta, scaling: None });
        // As in Gemma 2, the 27B has another scale; here it has 62 layers.
        if config.num_layers == 62 {
            gguf_scale(config, file)?;
        }
        gguf_windows(config, file, 6)
    },
    write_gguf,
};

/// The file has no scale of scores and, in Gemma 2 and 3, no list of layers with a window: both are in llama.cpp's code.
fn write_gguf(config: &ModelConfig, out: &mut Writer<'_>) {
    let caps =
        [("attn_logit_softcapping", config.layer.attention_cap), ("final_logit_softcapping", config.layer.logit_cap)];
    for (key, cap) in caps {
        if let Some(cap) = cap {
            out.number(key, cap);
        }
    }
    out.window(config);
    if let Some(rope) = &config.layer.window_rope {
        out.number("rope_local_base_freq", rope.theta);
    }
}

fn first(config: &mut ModelConfig) {
    config.layer.unit_norms = true;
    config.layer.mlp = Mlp::GeluTanh;
    config.layer.embedding_multiplier = Some((config.hidden_size as f64).sqrt() as f32);
}

fn second(config: &mut ModelConfig) {
    first(config);
    config.layer.norms = NormPlacement::Both;
}

/// One over the square root of `scalar`, which in most models is the width of a head.
#[allow(clippy::float_cmp)] // whole numbers
fn scale(config: &mut ModelConfig, scalar: f32) {
    config.layer.attention_scale = (scalar != config.head_dim as f32).then(|| 1.0 / scalar.sqrt());
}

/// The scale of the 27B models: by the width of a head as it would be if all heads together were as wide as the model.
fn gguf_scale(config: &mut ModelConfig, file: &Metadata<'_>) -> Result<()> {
    let width = config.hidden_size / config.num_heads;
    if width == 0 {
        let [length, heads] = ["embedding_length", "attention.head_count"].map(|key| file.key(key));
        let (d, n) = (config.hidden_size, config.num_heads);
        return Err(file.at(Error::request(format!("`{length}` ({d}) is less than `{heads}` ({n})"))));
    }
    scale(config, width as f32);
    Ok(())
}

/// A cap: none where the key is null, the default of the class where it is absent.
fn caps(config: &mut ModelConfig, keys: Keys<'_>, [attention, logit]: [Option<f32>; 2]) -> Result<()> {
    let cap = |key: &str, default| if keys.map.contains_key(key) { keys.number_f32(key) } else { Ok(default) };
    config.layer.attention_cap = cap("attn_logit_softcapping", attention)?;
    config.layer.logit_cap = cap("final_logit_softcapping", logit)?;
    Ok(())
}

/// From Gemma 2 on the class takes `hidden_activation` at its word.
fn tanh_form(keys: Keys<'_>) -> Result<()> {
    let key = "hidden_activation";
    match keys.string(key)? {
        Some("gelu") => {
            let what =
                format!("`{}` gelu, the form with erf, is not supported (gelu_pytorch_tanh is)", keys.named(key));
            Err(Error::request(what))
        }
        _ => Ok(()),
    }
}

fn no_bias(keys: Keys<'_>) -> Result<()> {
    if keys.flag("attention_bias")? {
        return Err(Error::request("`attention_bias` true is not supported in Gemma"));
    }
    Ok(())
}

fn windows(config: &mut ModelConfig, keys: Keys<'_>, period: usize) -> Result<()> {
    let window = keys.size_or("sliding_window", Some(4096))?;
    let windowed = keys.windowed(config.num_layers)?.unwrap_or_else(|| every(period, config.num_layers));
    set_windows(config, window, windowed);
    one_rope(config);
    Ok(())
}

fn gguf_windows(config: &mut ModelConfig, file: &Metadata<'_>, period: usize) -> Result<()> {
    let windowed = file.pattern(config.num_layers)?.unwrap_or_else(|| every(period, config.num_layers));
    set_windows(config, file.window()?, windowed);
    one_rope(config);
    Ok(())
}

/// Removes the rotation of layers with a window where there are none.
fn one_rope(config: &mut ModelConfig) {
    if config.sliding_window.is_none() {
        config.layer.window_rope = None;
    }
}

fn hidden_activation(map: &mut Map<String, Value>) {
    map.insert("hidden_activation".to_owned(), "gelu_pytorch_tanh".into());
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    hidden_activation(map);
    let layer = &config.layer;
    let scalar = layer.attention_scale.map_or(config.head_dim as f64, |scale| plain(1.0 / (scale * scale)).round());
    map.insert("query_pre_attn_scalar".to_owned(), json!(scalar as u64));
    map.insert("attn_logit_softcapping".to_owned(), json!(layer.attention_cap.map(plain)));
    map.insert("final_logit_softcapping".to_owned(), json!(layer.logit_cap.map(plain)));
    map.insert("sliding_window".to_owned(), config.sliding_window.unwrap_or(4096).into());
    if let Some(rope) = &layer.window_rope {
        map.insert("rope_local_base_freq".to_owned(), json!(plain(rope.theta)));
    }
    let windowed: Vec<bool> = (0..config.num_layers).map(|layer| config.window(layer).is_some()).collect();
    let name = |windowed: bool| if windowed { "sliding_attention" } else { "full_attention" };
    map.insert("layer_types".to_owned(), windowed.into_iter().map(name).collect());
}
