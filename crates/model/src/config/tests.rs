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
    if changes.get("model_type").is_some() {
        // It is that of another family.
        config["architectures"] = Value::Null;
    }
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
    let default =
        read(json!({"rope_theta": 7.0, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}})).unwrap();
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
    assert_eq!(qwen(true, 1).unwrap(), Some(8));
    let config =
        read(json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1}));
    let config = config.unwrap();
    assert_eq!((config.window(0), config.window(1)), (None, Some(8)));
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
        (json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}), "rope_scaling.rope_type"),
        (json!({"rope_scaling": {"rope_type": "yarn"}}), "rope_scaling.factor"),
        (json!({"rope_scaling": {"rope_type": "yarn", "factor": 2, "beta_fast": -1}}), "rope_scaling.beta_fast"),
        (json!({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}}), "rope_scaling.long_factor"),
        (
            json!({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}),
            "rope_scaling.short_factor",
        ),
        (json!({"rope_scaling": {"rope_type": "linear"}}), "rope_scaling.factor"),
        (json!({"rope_scaling": {"rope_type": "linear", "factor": 0}}), "rope_scaling.factor"),
        (json!({"rope_parameters": {"rope_type": "dynamic"}}), "rope_parameters.rope_type"),
        (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "rope_parameters.partial_rotary_factor"),
        (
            json!({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}}),
            "high_freq_factor",
        ),
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (json!({"model_type": "mistral", "attention_bias": true}), "attention_bias"),
        (json!({"model_type": "gemma2", "hidden_act": "gelu", "attention_bias": true}), "attention_bias"),
        // It was computed with the tanh form, 3e-3 from what transformers gives.
        (json!({"model_type": "gemma2", "hidden_activation": "gelu"}), "hidden_activation"),
        (json!({"model_type": "gemma3_text", "hidden_activation": "gelu"}), "hidden_activation"),
        // Its positions were counted from another length than in transformers.
        (
            json!({"model_type": "ministral3", "rope_parameters": {"llama_4_scaling_beta": 0.3, "rope_type": "default"}}),
            "rope_parameters.llama_4_scaling_beta",
        ),
        (json!({"model_type": "qwen3", "mlp_bias": true}), "mlp_bias"),
        (json!({"attention_bias": 1}), "attention_bias"),
        (json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        (json!({"model_type": "gemma4_text", "architectures": null}), "gemma4_text"),
        (json!({"model_type": "gemma4", "text_config": {"model_type": "gemma4_text"}}), "gemma4"),
        (json!({"model_type": "mistral3", "text_config": {"model_type": "mamba"}}), "text_config.model_type"),
        (json!({"model_type": "gemma3", "text_config": 1}), "text_config"),
        (json!({"model_type": "gemma3", "text_config": {"sliding_window": "a"}}), "text_config.sliding_window"),
        (json!({"model_type": "gemma3", "text_config": {"layer_types": ["full_attention"]}}), "layer_types"),
        (json!({"model_type": "smollm3", "no_rope_layers": [1]}), "no_rope_layers"),
        (json!({"model_type": "smollm3", "no_rope_layers": 1}), "no_rope_layers"),
        (json!({"model_type": "phi3", "partial_rotary_factor": 0.05}), "partial_rotary_factor"),
        (json!({"model_type": "granite", "logits_scaling": -1.0}), "logits_scaling"),
        (
            json!({"model_type": "gemma2", "hidden_act": "gelu", "final_logit_softcapping": 0.0}),
            "final_logit_softcapping",
        ),
        (json!({"architectures": ["LlamaForSequenceClassification"]}), "architectures"),
        (
            json!({"architectures": ["Qwen2ForCausalLM"]}),
            "`model_type` llama contradicts `architectures` Qwen2ForCausalLM",
        ),
        (json!({"architectures": [1]}), "architectures"),
        (json!({"model_type": "gemma3", "architectures": null}), "`text_config` is missing"),
        (json!({"model_type": null, "architectures": null}), "model_type"),
        (json!({"embedding_multiplier": 12.0}), "embedding_multiplier"),
        (json!({"logits_scaling": 8}), "logits_scaling"),
        (json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        (json!({"num_local_experts": 8}), "num_local_experts"),
        (json!({"no_rope_layers": [1, 0]}), "no_rope_layers"),
        (json!({"use_qk_norm": true}), "use_qk_norm"),
        (json!({"layer_types": ["full_attention", "chunked_attention"]}), "layer_types"),
        (json!({"layer_types": "full_attention"}), "layer_types"),
        (json!({"tie_word_embeddings": 1}), "tie_word_embeddings"),
        (json!({"model_type": "mistral", "sliding_window": 0}), "sliding_window"),
    ] {
        let error = read(changes.clone()).unwrap_err().to_string();
        assert!(error.contains(key), "{changes}: {error}");
    }
    assert!(ModelConfig::from_hf_json(&json!([])).is_err());
    // Keys with values that change nothing, and keys that do not concern the computation.
    let neutral = json!({"num_local_experts": 0, "use_qk_norm": false, "residual_multiplier": 1.0, "pretraining_tp": 2, "attention_dropout": 0.0,
        "use_cache": true, "initializer_range": 0.02, "transformers_version": "5.24.0", "a_key_of_tomorrow": 1});
    assert!(read(neutral).is_ok());
}

/// The configurations of published files, some of which leave out most keys, and what they are read as.
#[test]
#[allow(clippy::float_cmp)] // values that are given, not computed
fn a_family_is_read_with_the_defaults_of_its_class() {
    let sized = json!({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "num_attention_heads": 4,
        "vocab_size": 128});
    let read = |model_type: &str, changes: Value| {
        let mut config = sized.clone();
        config["model_type"] = json!(model_type);
        config.as_object_mut().unwrap().append(&mut changes.as_object().unwrap().clone());
        ModelConfig::from_hf_json(&config).unwrap_or_else(|e| panic!("{model_type}: {e}"))
    };
    let windows = |config: &ModelConfig| (0..8).map(|layer| config.window(layer).is_some()).collect::<Vec<_>>();
    let rotated = |config: &ModelConfig| (0..8).map(|layer| config.rope_of(layer).is_some()).collect::<Vec<_>>();
    let three_of_four = [true, true, true, false, true, true, true, false];

    let qwen = read("qwen3", json!({"rope_theta": 1e6, "max_window_layers": 2, "sliding_window": null}));
    assert_eq!((qwen.head_dim, qwen.layer.qk_norm, qwen.sliding_window), (128, QkNorm::Head, None));
    let gemma = read("gemma2", json!({"hidden_act": "gelu_pytorch_tanh"}));
    assert_eq!((gemma.layer.attention_cap, gemma.layer.logit_cap), (Some(50.0), Some(30.0)));
    assert_eq!((gemma.layer.embedding_multiplier, gemma.layer.attention_scale), (Some(8.0), None));
    assert_eq!(windows(&gemma), [true, false, true, false, true, false, true, false]);
    assert!(gemma.tie_word_embeddings && gemma.layer.unit_norms && gemma.layer.norms == NormPlacement::Both);
    let capless = read("gemma2", json!({"attn_logit_softcapping": null, "query_pre_attn_scalar": 144}));
    assert_eq!((capless.layer.attention_cap, capless.layer.attention_scale), (None, Some(1.0 / 12.0)));
    let olmo = read(
        "olmo3",
        json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "yarn", "factor": 8.0,
        "original_max_position_embeddings": 8192, "attention_factor": 1.2079}, "max_position_embeddings": 65536}),
    );
    assert_eq!(windows(&olmo), three_of_four);
    let scaled = |layer: usize| olmo.rope_of(layer).unwrap().scaling.is_some();
    assert!(scaled(3) && !scaled(2) && olmo.rope_of(2).unwrap().theta == 500_000.0);
    let smol = read("smollm3", json!({"rope_theta": 5e6, "num_key_value_heads": 4}));
    assert_eq!((rotated(&smol), smol.tie_word_embeddings), (three_of_four.to_vec(), true));
    let exaone = read("exaone4", json!({"sliding_window": 4096, "sliding_window_pattern": "LLLG"}));
    assert_eq!((windows(&exaone), rotated(&exaone)), (three_of_four.to_vec(), three_of_four.to_vec()));
    let small = read("exaone4", json!({"sliding_window": null, "sliding_window_pattern": null}));
    assert_eq!((windows(&small), rotated(&small)), (vec![false; 8], vec![true; 8]));
    let granite =
        read("granite", json!({"attention_multiplier": 0.25, "logits_scaling": 8.0, "residual_multiplier": 0.22}));
    assert_eq!((granite.layer.logit_multiplier, granite.layer.residual_multiplier), (Some(0.125), Some(0.22)));
    let phi = read(
        "phi3",
        json!({"partial_rotary_factor": 0.75, "original_max_position_embeddings": 64,
        "max_position_embeddings": 256, "rope_scaling": {"type": "su", "short_factor": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        "long_factor": [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]}}),
    );
    assert_eq!((phi.layer.rotary_dim, phi.max_positions()), (Some(12), 64));
    assert!((phi.rope().scale() - (1.0f32 + 4f32.ln() / 64f32.ln()).sqrt()).abs() < 1e-6);
    let seed = read("seed_oss", json!({"num_key_value_heads": 4}));
    assert!(seed.qkv_bias && !seed.layer.biases.output && seed.head_dim == 128);
}

#[test]
#[allow(clippy::float_cmp)] // values that are given, not computed
fn the_text_part_of_a_larger_model_is_read_from_its_own_configuration() {
    let gemma = json!({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
        "vision_config": {"model_type": "siglip_vision_model"}, "text_config": {"model_type": "gemma3_text",
        "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}});
    let config = ModelConfig::from_hf_json(&gemma).unwrap();
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim, config.vocab_size), (8, 4, 256, 262_208));
    assert_eq!((config.window(4), config.window(5)), (Some(1024), None));
    let [windowed, full] = [4, 5].map(|layer| config.rope_of(layer).unwrap());
    assert_eq!((windowed.theta, windowed.scaling), (1e4, None));
    assert_eq!((full.theta, full.scaling), (1e6, Some(RopeScaling::Linear { factor: 8.0 })));
    assert!(config.layer.nested && config.tie_word_embeddings && config.path() == "model.language_model");

    let ministral = json!({"model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"],
        "text_config": {"model_type": "ministral3", "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0,
        "original_max_position_embeddings": 16384, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}}});
    let config = ModelConfig::from_hf_json(&ministral).unwrap();
    assert_eq!((config.family, config.rope().scale()), (Family::Ministral3, 1.0));
    // As transformers has it: the key of the text part, which was read first, says nothing.
    let tied = |outer: Value, inner: Value| {
        let mut file = ministral.clone();
        file["tie_word_embeddings"] = outer;
        file["text_config"]["tie_word_embeddings"] = inner;
        ModelConfig::from_hf_json(&file).unwrap().tie_word_embeddings
    };
    assert_eq!([tied(json!(false), json!(true)), tied(json!(true), json!(false))], [false, true]);
    assert!(tied(json!(null), json!(false)), "the default of the class");
    // Without a rotation in the file the class has this one; there was none.
    let bare = ModelConfig::from_hf_json(&json!({"model_type": "ministral3"})).unwrap();
    assert_eq!((&bare.rope_scaling, &bare.layer.query_scale), (&config.rope_scaling, &config.layer.query_scale));
    let scale = config.layer.query_scale.unwrap();
    assert!(scale.at(16383) == 1.0 && (scale.at(16384) - (1.0 + 0.1 * 2f32.ln())).abs() < 1e-6);
}

#[test]
fn an_unsupported_family_is_told_the_nearest_one_and_where_to_add_it() {
    for (name, nearest) in [
        ("gemma4_text", "is gemma3_text;"),
        ("qwen2_moe", "is qwen2;"),
        ("olmo_hybrid", "is olmo"),
        ("granitemoe", "is granite;"),
        ("phi", "is phi3;"),
        ("mamba", "supported are"),
    ] {
        let error = ModelConfig::from_hf_json(&json!({"model_type": name})).unwrap_err();
        let hints = error.hints().join("\n");
        assert!(hints.contains(nearest) && hints.contains("ARCHITECTURE.md"), "{name}: {hints}");
    }
}

#[test]
fn a_granite_4_with_experts_or_layers_of_other_kinds_is_refused_by_the_key() {
    let granite = |changes: Value| {
        let mut keys = json!({"model_type": "granitemoehybrid", "num_local_experts": 0, "shared_intermediate_size": 20,
            "layer_types": ["attention", "attention"], "position_embedding_type": "rope"});
        keys.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        read(keys)
    };
    let dense = granite(json!({})).unwrap();
    assert_eq!((dense.intermediate_size, dense.layer.rotated.clone()), (20, None));
    assert_eq!(granite(json!({"position_embedding_type": null})).unwrap().layer.rotated, Some(vec![false; 2]));
    assert_eq!(granite(json!({"layer_types": null, "layers_block_type": ["attention", "attention"]})).unwrap(), dense);
    for (changes, key) in [
        (json!({"num_local_experts": 8}), "`num_local_experts` 8"),
        (json!({"num_local_experts": null}), "`num_local_experts` is missing, which makes it a mixture of experts"),
        (json!({"layer_types": ["mamba", "attention"]}), "`layer_types`: mamba is not supported: a model with layers"),
        (json!({"layer_types": ["attention", "linear_attention"]}), "`layer_types`: linear_attention is not supported"),
        (json!({"layer_types": null}), "`layer_types` is missing, which makes it a model with layers of other kinds"),
        (json!({"layer_types": ["attention"]}), "`layer_types` has 1 names for 2 layers"),
        (json!({"layer_types": ["attention", "sliding_attention"]}), "`layer_types`: sliding_attention"),
        (json!({"position_embedding_type": "nope"}), "`position_embedding_type` nope"),
    ] {
        let error = granite(changes.clone()).unwrap_err().to_string();
        assert!(error.contains(key), "{changes}: {error}");
    }
}

/// They were read without a word: windows on other layers than was meant, and answers without an end.
#[test]
fn a_list_of_another_length_and_ends_that_are_no_tokens_are_refused_in_every_family() {
    for spec in Spec::all() {
        let own = |changes: Value| {
            let (granite, layers) = (spec.model_type == "granitemoehybrid", ["full_attention"; 2]);
            let mut keys = json!({"model_type": spec.model_type});
            if granite {
                keys = json!({"model_type": spec.model_type, "num_local_experts": 0, "layer_types": layers});
            }
            keys.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            read(keys)
        };
        let name = spec.model_type;
        own(json!({"eos_token_id": [5, 127]})).unwrap_or_else(|e| panic!("{name}: {e}"));
        own(json!({"eos_token_id": null})).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (changes, what) in [
            (json!({"layer_types": vec!["full_attention"; 3]}), "`layer_types` has 3 names for 2 layers"),
            (json!({"layer_types": ["full_attention"]}), "`layer_types` has 1 names for 2 layers"),
            (json!({"eos_token_id": 128}), "`eos_token_id` 128 is beyond the vocabulary of 128 tokens"),
            (json!({"eos_token_id": [2, 999]}), "`eos_token_id` 999 is beyond the vocabulary of 128 tokens"),
            (json!({"eos_token_id": []}), "`eos_token_id` is [], so no token ends an answer"),
            (json!({"eos_token_id": "</s>"}), "`eos_token_id` must be the id of a token or a list of them"),
            (json!({"eos_token_id": -1}), "`eos_token_id` must be the id of a token or a list of them"),
        ] {
            let error = own(changes.clone()).unwrap_err().to_string();
            assert!(error.contains(what), "{name}, {changes}: {error}");
        }
    }
}

#[test]
fn cwm_has_the_rotation_and_the_windows_of_its_class() {
    let cwm = |changes: Value| {
        let mut keys = json!({"model_type": "cwm", "num_hidden_layers": 5});
        keys.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        read(keys)
    };
    let class = cwm(json!({"rope_theta": 5e5})).unwrap();
    assert_eq!(class.rope_theta.to_bits(), 1e6f32.to_bits(), "transformers passes over a base alone");
    assert!(matches!(class.rope_scaling, Some(RopeScaling::Llama3 { factor: 16.0, .. })));
    assert_eq!(class.sliding_window, Some(8192));
    assert_eq!(class.layer.windowed, Some(vec![false, true, true, true, false]));
    assert_eq!(cwm(json!({"rope_parameters": {"rope_type": "default"}})).unwrap().rope_scaling, None);
    assert_eq!(cwm(json!({"sliding_window": 0})).unwrap().sliding_window, None);
    assert!(cwm(json!({"attention_bias": true})).unwrap_err().to_string().contains("`attention_bias`"));
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
        json!({"model_type": "exaone4", "sliding_window": null, "layer_types": null}),
        json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 0}),
    ] {
        let mut config = read(changes).unwrap();
        assert_eq!(
            ModelConfig::from_hf_json(&config.to_hf_json(DType::BF16, [Some(1), None, None]).unwrap()).unwrap(),
            config
        );
        config.rope_scaling = Some(LLAMA3);
        let json = config.to_hf_json(DType::F32, [None, Some(2), Some(3)]).unwrap();
        assert_eq!(json["pad_token_id"], 3);
        assert_eq!(ModelConfig::from_hf_json(&json).unwrap(), config);
        config.rope_scaling = Some(RopeScaling::Factors(vec![1.0; config.head_dim / 2]));
        assert!(config.to_hf_json(DType::F32, [None, None, None]).is_err());
    }
}

#[test]
fn frequencies_equal_those_of_transformers() {
    let fixture: Value = serde_json::from_str(include_str!("../../tests/fixtures/weights.json")).unwrap();
    for case in fixture["frequencies"].as_array().unwrap() {
        let config = ModelConfig::from_hf_json(&case["config"]).unwrap();
        // The same as transformers 5 writes it.
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
fn lists_in_metadata_are_read_where_layers_are_alike() {
    let list = |kind: u32, values: &[u8], n: u64| [&kind.to_le_bytes()[..], &n.to_le_bytes(), values].concat();
    let numbers = |values: [u32; 2]| list(4, &values.map(u32::to_le_bytes).concat(), 2);
    let base = || {
        Builder::new()
            .string("general.architecture", "gemma3")
            .u32("gemma3.block_count", 2)
            .u32("gemma3.embedding_length", 256)
            .u32("gemma3.attention.head_count", 4)
            .u32("gemma3.attention.sliding_window", 8)
            .f32("gemma3.attention.layer_norm_rms_epsilon", 1e-5)
            .tensor("token_embd.weight", &[2, 256], &[0.0; 512])
    };
    let file = base()
        .raw("gemma3.feed_forward_length", 9, &numbers([96, 96]))
        .raw("gemma3.attention.head_count_kv", 9, &numbers([2, 2]))
        .raw("gemma3.attention.sliding_window_pattern", 9, &list(7, &[0, 1], 2));
    let (_dir, file) = file.open();
    let config = ModelConfig::from_gguf(&file).unwrap();
    assert_eq!((config.intermediate_size, config.num_kv_heads), (96, 2));
    assert_eq!((config.window(0), config.window(1)), (None, Some(8)));
    for (key, value) in [
        ("gemma3.feed_forward_length", numbers([96, 64])),
        ("gemma3.attention.sliding_window_pattern", list(7, &[1], 1)),
    ] {
        let mut file = base().u32("gemma3.attention.head_count_kv", 2).raw(key, 9, &value);
        if !key.ends_with("feed_forward_length") {
            file = file.u32("gemma3.feed_forward_length", 96);
        }
        let (_dir, file) = file.open();
        let error = ModelConfig::from_gguf(&file).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn gguf_errors_name_file_and_key() {
    for (builder, key) in [
        (gguf("llama").f32("llama.rope.scale_linear", -2.0), "`llama.rope.scale_linear`"),
        (
            gguf("gemma3").u32("gemma3.attention.sliding_window", 8).f32("gemma3.rope.freq_base_swa", -1.0),
            "`gemma3.rope.freq_base_swa`",
        ),
        (gguf("mistral3").f32("mistral3.attention.temperature_scale", -1.0), "`mistral3.attention.temperature_scale`"),
        (gguf("granite").f32("granite.attention.scale", -1.0), "`granite.attention.scale`"),
        (
            gguf("llama")
                .string("llama.rope.scaling.type", "yarn")
                .f32("llama.rope.scaling.factor", 2.0)
                .f32("llama.rope.scaling.yarn_attn_factor", -1.0),
            "`llama.rope.scaling.yarn_attn_factor`",
        ),
        (gguf("gemma2").u32("gemma2.final_logit_softcapping", 0), "gemma2.final_logit_softcapping"),
        (Builder::new(), "general.architecture"),
        (Builder::new().string("general.architecture", "gemma4"), "gemma4"),
        (Builder::new().string("general.architecture", "llama"), "llama.embedding_length"),
        (gguf("llama").u32("llama.expert_count", 8), "llama.expert_used_count"),
        (gguf("llama").u32("llama.expert_count", 8).u32("llama.expert_used_count", 9), "llama.expert_used_count"),
        (gguf("qwen2").u32("qwen2.expert_count", 8), "qwen2.expert_count"),
        (gguf("llama").f32("llama.final_logit_softcapping", 30.0), "llama.final_logit_softcapping"),
        (gguf("llama").f32("llama.embedding_scale", 12.0), "llama.embedding_scale"),
        (gguf("llama").f32("llama.attention.scale", 0.5), "llama.attention.scale"),
        (gguf("llama").u32("llama.rope.dimension_count", 32), "llama.rope.dimension_count"),
        (gguf("llama").u32("llama.attention.key_length", 63), "llama.attention.key_length"),
        (gguf("llama").string("llama.rope.scaling.type", "dynamic"), "llama.rope.scaling.type"),
        (gguf("llama").string("llama.rope.scaling.type", "yarn"), "llama.rope.scaling.factor"),
        (gguf("llama").string("llama.rope.scaling.type", "linear"), "llama.rope.scaling.factor"),
        (gguf("gemma").tensor("blk.0.attn_q.bias", &[1], &[0.0]), "blk.0.attn_q.bias"),
        (gguf("gemma").u32("gemma.rope.dimension_count", 32), "gemma.rope.dimension_count"),
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

#[test]
fn quantised_safetensors_are_refused_by_the_name_of_their_method() {
    let told = |config: serde_json::Value| {
        let base = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 8, "quantization_config": config,
        });
        ModelConfig::from_hf_json(&base).map_err(|e| (e.to_string(), e.hints().len()))
    };
    for (config, name) in [
        (json!({"quant_method": "gptq", "bits": 4}), "quantised by gptq"),
        (json!({"quant_method": "awq", "bits": 4}), "quantised by awq"),
        (json!({"quant_method": "bitsandbytes", "load_in_8bit": true}), "bitsandbytes, 8 bits"),
        (
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}),
            "compressed-tensors, pack-quantized",
        ),
        (json!({"quant_method": "mxfp4"}), "quantised by mxfp4"),
        (json!({"bits": 4}), "no `quant_method`"),
    ] {
        let (error, hints) = told(config).unwrap_err();
        assert!(error.contains(name) && hints > 0, "{error}");
    }
    assert!(told(json!({"quant_method": "fp8", "weight_block_size": [128, 128]})).is_ok());
    assert!(told(json!({"quant_method": "compressed-tensors", "format": "float-quantized"})).is_ok());
    assert!(told(json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false})).is_ok());
}
