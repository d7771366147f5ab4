use super::*;
use crate::weights::{HfDirectory, TensorSource, save_safetensors};
use candle_core::Tensor;
use eraser_ops::Segments;
use serde_json::json;
use std::fs;

fn options() -> LoadOptions {
    LoadOptions { device: Device::Cpu, base_dtype: BaseDtype::Auto, compute: Compute::F32, chat_template: None }
}

fn error(spec: &Path) -> Error {
    let Err(error) = load(spec.to_str().unwrap(), &options()) else { panic!("{} loads", spec.display()) };
    error
}

/// A one-layer model of constant weights, and a tokenizer of `words` words.
fn tiny(words: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = ModelConfig::from_hf_json(&json!({"model_type": "llama", "hidden_size": 4, "num_attention_heads": 1,
        "num_hidden_layers": 1, "intermediate_size": 4, "vocab_size": 8, "tie_word_embeddings": true}))
    .unwrap();
    let written = config.to_hf_json(DType::F32, [None, None, None]).unwrap();
    fs::write(dir.path().join("config.json"), written.to_string()).unwrap();
    let vocab: serde_json::Map<_, _> = (0..words).map(|i| (format!("w{i}"), json!(i))).collect();
    let tokenizer =
        json!({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let mut tensors =
        vec![("model.embed_tokens.weight".to_owned(), ones(&[8, 4])), ("model.norm.weight".to_owned(), ones(&[4]))];
    for name in ["input_layernorm", "post_attention_layernorm"] {
        tensors.push((format!("model.layers.0.{name}.weight"), ones(&[4])));
    }
    for name in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"] {
        tensors.push((format!("model.layers.0.{name}.weight"), ones(&[4, 4])));
    }
    for name in ["gate_proj", "up_proj", "down_proj"] {
        tensors.push((format!("model.layers.0.mlp.{name}.weight"), ones(&[4, 4])));
    }
    save_safetensors(&dir.path().join("model.safetensors"), &tensors, DType::F32).unwrap();
    dir
}

#[test]
fn a_directory_loads_and_its_fingerprint_follows_its_content() {
    let dir = tiny(8);
    let spec = dir.path().to_str().unwrap();
    let model = load(spec, &options()).unwrap();
    assert_eq!((model.name.as_str(), model.path.as_path()), (spec, dir.path()));
    assert_eq!(model.decoder.named_tensors().unwrap().len(), 11);
    assert!(model.template.is_none());
    assert_eq!(model.fingerprint, load(spec, &options()).unwrap().fingerprint);
    assert_eq!(model.fingerprint, load(tiny(8).path().to_str().unwrap(), &options()).unwrap().fingerprint);
    assert_ne!(model.fingerprint, load(tiny(7).path().to_str().unwrap(), &options()).unwrap().fingerprint);

    fs::write(dir.path().join("chat_template.jinja"), "own").unwrap();
    let rendered = |options: &LoadOptions| load(spec, options).unwrap().template.unwrap().render(&[], false).unwrap();
    assert_eq!(rendered(&options()), "own");
    let other = dir.path().join("other.jinja");
    fs::write(&other, "other").unwrap();
    assert_eq!(rendered(&LoadOptions { chat_template: Some(other), ..options() }), "other");
}

#[test]
fn the_identity_follows_the_files_how_weights_are_held_and_the_template() {
    let dir = tiny(8);
    let identity = |dir: &Path, options: &LoadOptions| load(dir.to_str().unwrap(), options).unwrap().identity();
    let held = |base_dtype| LoadOptions { base_dtype, ..options() };
    let own = identity(dir.path(), &options());
    assert_eq!(own.len(), 64);
    assert_eq!(own, identity(dir.path(), &held(BaseDtype::F32)), "on the CPU, auto is f32");

    let mut identities = vec![own.clone(), identity(tiny(7).path(), &options())];
    for base_dtype in [BaseDtype::F16, BaseDtype::Bf16, BaseDtype::AsStored] {
        identities.push(identity(dir.path(), &held(base_dtype)));
    }
    for text in ["", "one", "two"] {
        let template = dir.path().join("template.jinja");
        fs::write(&template, text).unwrap();
        identities.push(identity(dir.path(), &LoadOptions { chat_template: Some(template), ..options() }));
    }
    let distinct: std::collections::HashSet<&String> = identities.iter().collect();
    assert_eq!(distinct.len(), identities.len(), "{identities:?}");

    fs::write(dir.path().join("chat_template.jinja"), "two").unwrap();
    assert_eq!(identity(dir.path(), &options()), identities[7], "the text counts, not the file that it came from");
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let dir = tiny(9);
    let weights = dir.path().join("model.safetensors");
    assert!(error(&weights).hints()[0].contains("config.json"));
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert!(error(dir.path()).to_string().contains("tokenizer.json"));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(error(dir.path()).to_string().contains("config.json"));
    fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    assert!(error(dir.path()).hints()[0].contains("adapter"));
    fs::write(dir.path().join("m.gguf"), "GGUF").unwrap();
    assert!(error(dir.path()).hints()[0].contains("m.gguf"));
    assert!(error(&dir.path().join("m.gguf")).to_string().contains("m.gguf: "));
    assert!(error(&dir.path().join("absent")).to_string().contains("no such model"));
}

#[test]
fn a_tokenizer_with_more_ids_than_the_embedding_has_rows_refuses_only_texts_that_need_them() {
    let dir = tiny(9);
    let model = load(dir.path().to_str().unwrap(), &options()).unwrap();
    assert!(model.tokenizer.plain_ids().iter().all(|&id| id < 8), "none of them is ever drawn");
    assert_eq!(model.tokenizer.plain_ids().len(), 8);
}

/// A bias of a layer, or a layer more than the configuration has, was left out without a word.
#[test]
fn tensors_of_layers_that_the_network_has_no_place_for_are_known() {
    let dir = tiny(8);
    let path = dir.path().join("model.safetensors");
    let model = load(dir.path().to_str().unwrap(), &options()).unwrap();
    let mut tensors = model.decoder.named_tensors().unwrap();
    let one = Tensor::ones(4, DType::F32, &Device::Cpu).unwrap();
    for name in
        ["layers.0.self_attn.q_proj.bias", "layers.9.input_layernorm.weight", "layers.0.self_attn.rotary_emb.inv_freq"]
    {
        tensors.push((format!("model.{name}"), one.clone()));
    }
    tensors.push(("vision_tower.layers.0.weight".to_owned(), one));
    save_safetensors(&path, &tensors, DType::F32).unwrap();
    let source = HfDirectory::open(dir.path()).unwrap();
    assert!(source.unread().count() > 2, "nothing is read yet");
    Decoder::load(&model.config, &source as &dyn TensorSource, WeightStorage::Dense(DType::F32), &Device::Cpu).unwrap();
    let unread: Vec<&str> = source.unread().collect();
    assert_eq!(unread, ["model.layers.0.self_attn.q_proj.bias", "model.layers.9.input_layernorm.weight"]);
}

#[test]
fn a_head_of_its_own_is_used_whatever_the_configuration_says_of_ties() {
    let dir = tiny(8);
    let path = dir.path().join("model.safetensors");
    let model = load(dir.path().to_str().unwrap(), &options()).unwrap();
    let mut tensors = model.decoder.named_tensors().unwrap();
    assert!(model.config.tie_word_embeddings && tensors.iter().all(|(name, _)| name != "lm_head.weight"));
    let head = Tensor::full(0.5f32, (8, 4), &Device::Cpu).unwrap();
    tensors.push(("lm_head.weight".to_owned(), head));
    save_safetensors(&path, &tensors, DType::F32).unwrap();
    let own = load(dir.path().to_str().unwrap(), &options()).unwrap();
    assert!(!own.config.tie_word_embeddings);
    let logits = |model: &Model| {
        let hidden = model.decoder.hidden(&[1], &Segments::from_lengths([1]), None).unwrap();
        model.decoder.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
    };
    assert!((logits(&own) - logits(&model) / 2.0).abs() < 1e-6);
    assert!(
        own.decoder.named_tensors().unwrap().iter().any(|(name, _)| name == "lm_head.weight"),
        "an export keeps it"
    );
    // The same weights twice are a tie.
    let last = tensors.len() - 1;
    tensors[last].1 = Tensor::ones((8, 4), DType::F32, &Device::Cpu).unwrap();
    save_safetensors(&path, &tensors, DType::F32).unwrap();
    assert!(load(dir.path().to_str().unwrap(), &options()).unwrap().config.tie_word_embeddings);
}

#[test]
fn every_way_to_hold_the_base_computes_the_same() {
    let dir = tiny(8);
    let model = |base_dtype: &str| {
        load(dir.path().to_str().unwrap(), &LoadOptions { base_dtype: base_dtype.parse().unwrap(), ..options() })
            .unwrap()
    };
    let hidden = |base_dtype: &str| {
        let model = model(base_dtype);
        let hidden = model.decoder.hidden(&[1, 2, 3], &Segments::from_lengths([3]), None).unwrap();
        hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let plain = hidden("f32");
    assert_eq!(hidden("auto"), plain);
    for (base_dtype, tolerance) in [("as-stored", 1e-6), ("bf16", 0.05), ("f16", 0.01)] {
        for (got, want) in hidden(base_dtype).iter().zip(&plain) {
            assert!((got - want).abs() < tolerance, "{base_dtype}: {got}, not {want}");
        }
    }
    assert!("f64".parse::<BaseDtype>().unwrap_err().hints()[0].contains("as-stored"));
}

#[test]
fn products_in_bf16_compute_nearly_the_same() {
    let dir = tiny(8);
    let load =
        |base_dtype, compute| load(dir.path().to_str().unwrap(), &LoadOptions { base_dtype, compute, ..options() });
    let hidden = |model: &Model| {
        let hidden = model.decoder.hidden(&[1, 2, 3], &Segments::from_lengths([3]), None).unwrap();
        let logits = model.decoder.logits(&hidden).unwrap();
        [hidden, logits].map(|x| x.flatten_all().unwrap().to_vec1::<f32>().unwrap()).concat()
    };
    let plain = load(BaseDtype::Auto, Compute::F32).unwrap();
    let error = load(BaseDtype::F32, Compute::Bf16).err().unwrap();
    assert!(error.hints()[0].contains("--base-dtype"), "{error}");
    if !eraser_ops::bf16::is_fast() {
        assert!(load(BaseDtype::Auto, Compute::Bf16).is_err());
        assert_eq!(hidden(&load(BaseDtype::Auto, Compute::Auto).unwrap()), hidden(&plain));
        return;
    }
    let half = load(BaseDtype::Auto, Compute::Bf16).unwrap();
    for (got, want) in hidden(&half).iter().zip(hidden(&plain)) {
        assert!((got - want).abs() < 0.05, "{got}, not {want}");
    }
    assert_ne!(half.identity(), plain.identity());
    assert_eq!(half.fingerprint, plain.fingerprint);
    for (compute, held) in [
        (Compute::F32, WeightStorage::AsStored),
        (Compute::Auto, WeightStorage::StoredInBf16),
        (Compute::Bf16, WeightStorage::StoredInBf16),
    ] {
        assert_eq!(load(BaseDtype::AsStored, compute).unwrap().decoder.held(), held);
    }
    assert!("f16".parse::<Compute>().unwrap_err().hints()[0].contains("bf16"));
}
