use super::*;
use crate::gguf::tests::{Builder, unhex};
use candle_core::DType;
use proptest::prelude::*;
use serde_json::{Value, json};

fn base() -> Value {
    json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
        "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "max_position_embeddings": 512,
    })
}

fn read(mut changes: Value) -> Result<ModelConfig> {
    let mut config = base();
    config.as_object_mut().unwrap().append(changes.as_object_mut().unwrap());
    ModelConfig::from_hf_json(&config)
}

const LLAMA3: RopeScaling = RopeScaling::Llama3 {
    factor: 32.0,
    low_freq_factor: 1.0,
    high_freq_factor: 4.0,
    original_max_position_embeddings: 8192,
};

#[test]
fn defaults_are_those_of_transformers() {
    let config = read(json!({})).unwrap();
    assert_eq!((config.family, config.head_dim, config.rope_theta), (Family::Llama, 16, 50000.0));
    assert!(!config.tie_word_embeddings && !config.qkv_bias && config.rope_scaling.is_none());
    let null = read(json!({"num_key_value_heads": null, "rope_scaling": null, "head_dim": null})).unwrap();
    assert_eq!((null.num_kv_heads, null.head_dim), (4, 16));
    assert_eq!(read(json!({"head_dim": 32})).unwrap().head_dim, 32);
    let by_class = read(json!({"model_type": null, "architectures": ["Qwen2ForCausalLM"]})).unwrap();
    assert!(by_class.family == Family::Qwen2 && by_class.qkv_bias);
}

#[test]
fn rope_is_read_as_version_4_and_version_5_write_it() {
    let scaling = json!({"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"});
    assert_eq!(read(json!({"rope_scaling": scaling})).unwrap().rope_scaling, Some(LLAMA3));
    let mut parameters = scaling;
    parameters["rope_theta"] = json!(500_000.0);
    let new = read(json!({"rope_theta": null, "rope_parameters": parameters})).unwrap();
    assert_eq!((new.rope_theta, new.rope_scaling), (500_000.0, Some(LLAMA3)));
    let old = read(json!({"rope_scaling": {"type": "linear", "factor": 2}})).unwrap();
    assert_eq!(old.rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
    let default = read(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}})).unwrap();
    assert_eq!((default.rope_theta, default.rope_scaling), (7.0, None));
}

#[test]
fn windows_follow_the_family() {
    let window = |changes| read(changes).map(|config| config.sliding_window);
    assert_eq!(window(json!({"sliding_window": 8})).unwrap(), None);
    assert_eq!(window(json!({"model_type": "mistral", "sliding_window": 8})).unwrap(), Some(8));
    assert_eq!(window(json!({"model_type": "mistral", "sliding_window": null})).unwrap(), None);
    assert_eq!(window(json!({"model_type": "mistral"})).unwrap(), Some(4096));
    let qwen = |on: bool, from: usize| {
        window(json!({"model_type": "qwen2", "use_sliding_window": on, "sliding_window": 8, "max_window_layers": from}))
    };
    assert_eq!(qwen(false, 0).unwrap(), None);
    assert_eq!(qwen(true, 2).unwrap(), None);
    assert_eq!(qwen(true, 0).unwrap(), Some(8));
    assert!(qwen(true, 1).unwrap_err().to_string().contains("max_window_layers"));
}

#[test]
fn every_error_names_the_key() {
    for (changes, key) in [
        (json!({"hidden_size": 0}), "hidden_size"),
        (json!({"hidden_size": null}), "hidden_size"),
        (json!({"hidden_size": -64}), "hidden_size"),
        (json!({"hidden_size": 64.0}), "hidden_size"),
        (json!({"hidden_size": "64"}), "hidden_size"),
        (json!({"hidden_size": 66}), "hidden_size"),
        (json!({"hidden_size": u64::MAX}), "hidden_size"),
        (json!({"intermediate_size": 1u64 << 40}), "intermediate_size"),
        (json!({"num_hidden_layers": 1_000_000_000}), "num_hidden_layers"),
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"num_key_value_heads": 0}), "num_key_value_heads"),
        (json!({"head_dim": 15}), "head_dim"),
        (json!({"vocab_size": [1]}), "vocab_size"),
        (json!({"rms_norm_eps": 0}), "rms_norm_eps"),
        (json!({"rms_norm_eps": "small"}), "rms_norm_eps"),
        (json!({"rope_theta": -1.0}), "rope_theta"),
        (json!({"rope_theta": 1e300}), "rope_theta"),
        (json!({"rope_scaling": "linear"}), "rope_scaling"),
        (json!({"rope_scaling": {"rope_type": "yarn", "factor": 2}}), "rope_scaling.rope_type"),
        (json!({"rope_scaling": {"rope_type": "linear"}}), "rope_scaling.factor"),
        (json!({"rope_scaling": {"rope_type": "linear", "factor": 0}}), "rope_scaling.factor"),
        (json!({"rope_parameters": {"rope_type": "dynamic"}}), "rope_parameters.rope_type"),
        (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "rope_parameters.partial_rotary_factor"),
        (
            json!({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}}),
            "high_freq_factor",
        ),
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (json!({"attention_bias": true}), "attention_bias"),
        (json!({"mlp_bias": true}), "mlp_bias"),
        (json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        (json!({"model_type": "gemma2", "architectures": null}), "gemma2"),
        (json!({"architectures": ["LlamaForSequenceClassification"]}), "architectures"),
        (json!({"model_type": null, "architectures": null}), "model_type"),
        (json!({"embedding_multiplier": 12.0}), "embedding_multiplier"),
        (json!({"logits_scaling": 8}), "logits_scaling"),
        (json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        (json!({"num_local_experts": 8}), "num_local_experts"),
        (json!({"no_rope_layers": [1, 0]}), "no_rope_layers"),
        (json!({"use_qk_norm": true}), "use_qk_norm"),
        (json!({"layer_types": ["full_attention", "chunked_attention"]}), "layer_types"),
        (json!({"tie_word_embeddings": 1}), "tie_word_embeddings"),
        (json!({"model_type": "mistral", "sliding_window": 0}), "sliding_window"),
    ] {
        let error = read(changes.clone()).unwrap_err().to_string();
        assert!(error.contains(key), "{changes}: {error}");
    }
    assert!(ModelConfig::from_hf_json(&json!([])).is_err());
    // What leaves the computation as it is, and what has nothing to do with it.
    let neutral = json!({"num_local_experts": 0, "use_qk_norm": false, "residual_multiplier": 1.0, "pretraining_tp": 2, "attention_dropout": 0.0,
        "use_cache": true, "initializer_range": 0.02, "transformers_version": "5.24.0", "a_key_of_tomorrow": 1});
    assert!(read(neutral).is_ok());
}

#[test]
fn files_that_are_not_a_config_are_errors_that_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let read = |text: &str| {
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        ModelConfig::from_hf_dir(dir.path()).unwrap_err().to_string()
    };
    for text in ["", "{", "null", &"[".repeat(100_000), "{\"hidden_size\": 1e999}", "{\"a\": NaN}"] {
        assert!(read(text).contains("config.json: "));
    }
    assert!(ModelConfig::from_hf_dir(&dir.path().join("absent")).unwrap_err().to_string().contains("config.json"));
}

#[test]
fn what_is_written_reads_back() {
    for changes in [
        json!({"tie_word_embeddings": true, "head_dim": 32, "rope_scaling": {"type": "linear", "factor": 0.1}}),
        json!({"model_type": "mistral", "sliding_window": 8}),
        json!({"model_type": "qwen2"}),
        json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 0}),
    ] {
        let mut config = read(changes).unwrap();
        assert_eq!(ModelConfig::from_hf_json(&config.to_hf_json(DType::BF16, Some(1), None).unwrap()).unwrap(), config);
        config.rope_scaling = Some(LLAMA3);
        let json = config.to_hf_json(DType::F32, None, Some(2)).unwrap();
        assert_eq!(ModelConfig::from_hf_json(&json).unwrap(), config);
        config.rope_scaling = Some(RopeScaling::Factors(vec![1.0; config.head_dim / 2]));
        assert!(config.to_hf_json(DType::F32, None, None).is_err());
    }
}

#[test]
fn frequencies_equal_those_of_transformers() {
    let fixture: Value = serde_json::from_str(include_str!("../../tests/fixtures/weights.json")).unwrap();
    for case in fixture["frequencies"].as_array().unwrap() {
        let config = ModelConfig::from_hf_json(&case["config"]).unwrap();
        // Version 5's own form of the same.
        let mut saved = case["config"].clone();
        saved["rope_theta"] = Value::Null;
        saved["rope_scaling"] = Value::Null;
        saved["rope_parameters"] = case["saved"].clone();
        assert_eq!(ModelConfig::from_hf_json(&saved).unwrap(), config);
        let expected = unhex(&case["values"]);
        let expected = expected.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        for (found, expected) in config.inv_freq().into_iter().zip(expected) {
            // Two units in the last place: powf differs by one between mathematical libraries.
            assert!((found - expected).abs() <= 2.0 * f32::EPSILON * expected, "{found} {expected}");
        }
    }
}

fn gguf(architecture: &str) -> Builder {
    let key = |name: &str| format!("{architecture}.{name}");
    Builder::new()
        .string("general.architecture", architecture)
        .u32(&key("block_count"), 2)
        .u32(&key("embedding_length"), 256)
        .u32(&key("feed_forward_length"), 96)
        .u32(&key("attention.head_count"), 4)
        .u32(&key("attention.head_count_kv"), 2)
        .u32(&key("context_length"), 512)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .f32(&key("rope.freq_base"), 500_000.0)
        .tensor("token_embd.weight", &[2, 256], &[0.0; 512])
}

#[test]
fn gguf_metadata_gives_the_same_shape() {
    let (_dir, file) = gguf("llama").open();
    let config = ModelConfig::from_gguf(&file).unwrap();
    let sizes = (config.hidden_size, config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim);
    assert_eq!(sizes, (256, 2, 4, 2, 64));
    assert_eq!((config.vocab_size, config.intermediate_size, config.max_position_embeddings), (2, 96, 512));
    assert!(config.family == Family::Llama && config.tie_word_embeddings && !config.qkv_bias);

    let (_dir, file) = gguf("qwen2").tensor("output.weight", &[2, 256], &[0.0; 512]).open();
    let config = ModelConfig::from_gguf(&file).unwrap();
    assert!(config.family == Family::Qwen2 && config.qkv_bias && !config.tie_word_embeddings);

    let (_dir, file) = gguf("llama").u32("llama.attention.sliding_window", 8).open();
    let config = ModelConfig::from_gguf(&file).unwrap();
    assert!(config.family == Family::Mistral && config.sliding_window == Some(8));

    let linear = gguf("llama").string("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4.0);
    let config = ModelConfig::from_gguf(&linear.open().1).unwrap();
    assert_eq!(config.rope_scaling, Some(RopeScaling::Linear { factor: 4.0 }));
}

#[test]
fn rope_factors_of_gguf_are_recognised_or_kept() {
    let plain = ModelConfig::from_gguf(&gguf("llama").open().1).unwrap();
    let scaled = ModelConfig { rope_scaling: Some(LLAMA3), ..plain.clone() };
    let mut factors: Vec<f32> = plain.inv_freq().iter().zip(scaled.inv_freq()).map(|(p, s)| p / s).collect();
    let read = |factors: &[f32]| {
        let (_dir, file) = gguf("llama").tensor("rope_freqs.weight", &[factors.len()], factors).open();
        ModelConfig::from_gguf(&file)
    };
    assert_eq!(read(&factors).unwrap(), scaled);
    factors[3] = 1.5;
    let config = read(&factors).unwrap();
    assert_eq!(config.rope_scaling, Some(RopeScaling::Factors(factors.clone())));
    assert!((config.inv_freq()[3] * 1.5 - plain.inv_freq()[3]).abs() < 1e-7);
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        factors[3] = bad;
        assert!(read(&factors).unwrap_err().to_string().contains("rope_freqs.weight"));
    }
    assert!(read(&[1.0; 3]).unwrap_err().to_string().contains("rope_freqs.weight"));
}

#[test]
fn gguf_errors_name_file_and_key() {
    for (builder, key) in [
        (Builder::new(), "general.architecture"),
        (Builder::new().string("general.architecture", "gemma2"), "gemma2"),
        (Builder::new().string("general.architecture", "llama"), "llama.embedding_length"),
        (gguf("llama").u32("llama.expert_count", 8), "llama.expert_count"),
        (gguf("llama").f32("llama.final_logit_softcapping", 30.0), "llama.final_logit_softcapping"),
        (gguf("llama").f32("llama.embedding_scale", 12.0), "llama.embedding_scale"),
        (gguf("llama").f32("llama.attention.scale", 0.5), "llama.attention.scale"),
        (gguf("llama").u32("llama.rope.dimension_count", 32), "llama.rope.dimension_count"),
        (gguf("llama").u32("llama.attention.key_length", 63), "llama.attention.key_length"),
        (gguf("llama").string("llama.rope.scaling.type", "yarn"), "llama.rope.scaling.type"),
        (gguf("llama").string("llama.rope.scaling.type", "linear"), "llama.rope.scaling.factor"),
        (gguf("llama").tensor("blk.0.attn_q.bias", &[1], &[0.0]), "blk.0.attn_q.bias"),
        (gguf("qwen2").tensor("blk.0.attn_output.bias", &[1], &[0.0]), "blk.0.attn_output.bias"),
    ] {
        let (_dir, file) = builder.open();
        let error = ModelConfig::from_gguf(&file).unwrap_err().to_string();
        assert!(error.contains("m.gguf: ") && error.contains(key), "{key}: {error}");
    }
}

proptest! {
    #[test]
    fn any_values_give_a_valid_config_or_an_error(
        hidden in any::<i64>(), heads in 0u64..9, kv in 0u64..9, dim in prop::option::of(any::<u32>()), theta in any::<f64>(),
    ) {
        let changes = json!({"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv,
            "head_dim": dim, "rope_theta": theta});
        if let Ok(config) = read(changes) {
            config.validate().unwrap();
        }
    }
}
