//! Checkpoints as llama.cpp's converter writes them (recorded by tests/fixtures/gguf.py): metadata and tensors of every
//! family give the model that was converted.

#![allow(clippy::unwrap_used, clippy::panic)]

use candle_core::{DType, Device};
use eraser_model::config::{Family, Mlp, MlpNames};
use eraser_model::{Decoder, ModelConfig, gguf::GgufFile, weights::GgufWeights};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf")
}

fn names() -> Vec<String> {
    let entries = std::fs::read_dir(root()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.filter_map(|name| name.strip_suffix(".gguf").map(str::to_owned)).collect();
    names.sort();
    assert!(names.len() >= 18, "{names:?}");
    names
}

fn open(name: &str) -> (GgufFile, ModelConfig) {
    let file = GgufFile::open(&root().join(format!("{name}.gguf"))).unwrap();
    let config = ModelConfig::from_gguf(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
    (file, config)
}

#[test]
fn metadata_gives_the_configuration_that_was_converted() {
    for name in names() {
        let (_, found) = open(&name);
        let json = std::fs::read(root().join(format!("{name}.json"))).unwrap();
        let mut expected = ModelConfig::from_hf_json(&serde_json::from_slice(&json).unwrap()).unwrap();
        // A file's floats are of 32 bits.
        expected.rms_norm_eps = f64::from(expected.rms_norm_eps as f32);
        if expected.family == Family::Granite4 {
            // The converter takes a file of Granite 4 apart as one of Granite.
            expected.family = Family::Granite;
            expected.layer.mlp_names = MlpNames::Llama;
            expected.layer.fused.gate_up = false;
        }
        assert_eq!(found, expected, "{name}");
    }
}

/// Element `i` of a tensor of the checkpoint: tests/fixtures/gguf.py.
fn value(name: &str, i: usize) -> f32 {
    let sum: usize = name.bytes().map(usize::from).sum();
    ((37 * i + 11 * name.len() + sum) % 127) as f32 / 64.0 - 63.0 / 64.0
}

/// The tensor of the checkpoint that a tensor was converted from, and its first element there.
fn origin(checkpoint: &str, tensor: &str, elements: usize) -> (String, usize) {
    let shared = [("mlp.gate_proj", "input_linear", 0), ("mlp.up_proj", "input_linear", elements)];
    let shared = shared.into_iter().chain([("mlp.down_proj", "output_linear", 0)]);
    match shared.into_iter().find(|(own, ..)| checkpoint == "granite4" && tensor.contains(own)) {
        Some((own, joined, start)) => (tensor.replace(own, &format!("shared_mlp.{joined}")), start),
        None => (tensor.to_owned(), 0),
    }
}

#[test]
fn tensors_come_back_in_the_layout_of_the_checkpoint() {
    for name in names() {
        let (file, config) = open(&name);
        let decoder = Decoder::load(&config, &GgufWeights::new(&file, &config), DType::F32, &Device::Cpu).unwrap();
        let all = decoder.named_tensors().unwrap();
        let matrices = if config.layer.fused.qkv { 4 } else { 7 - usize::from(config.layer.mlp == Mlp::ReluSquared) };
        assert!(all.len() > matrices * config.num_layers, "{name}: {}", all.len());
        for (tensor, found) in all {
            let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let (source, start) = origin(&name, &tensor, found.len());
            for (i, found) in found.into_iter().enumerate() {
                let expected = value(&source, start + i);
                assert!((found - expected).abs() < 1e-6, "{name}, {tensor}: element {i} is {found}, not {expected}");
            }
        }
    }
}

#[test]
fn a_file_as_stored_computes_what_its_expansion_computes() {
    use eraser_model::decoder::WeightStorage;
    for name in names() {
        let (file, config) = open(&name);
        let logits = |held: WeightStorage| {
            let decoder = Decoder::load(&config, &GgufWeights::new(&file, &config), held, &Device::Cpu).unwrap();
            let segments = eraser_ops::Segments::from_lengths([9]);
            let hidden = decoder.hidden(&[1, 2, 3, 4, 5, 6, 0, 1, 2], &segments, None).unwrap();
            decoder.logits(&hidden).unwrap().to_vec2::<f32>().unwrap().concat()
        };
        let (expanded, stored) = (logits(DType::F32.into()), logits(WeightStorage::AsStored));
        let size = expanded.iter().fold(1f32, |m, x| m.max(x.abs()));
        for (a, b) in expanded.iter().zip(&stored) {
            assert!((a - b).abs() < 1e-4 * size, "{name}: {a} {b}");
        }
        // bf16 has 8 bits of significand, 8-bit integers 7 and a sign.
        for (a, b) in expanded.iter().zip(logits(WeightStorage::StoredInBf16)) {
            assert!((a - b).abs() < 0.05 * size, "{name} in bf16: {a} {b}");
        }
    }
}
