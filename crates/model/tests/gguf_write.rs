//! GGUF files that are written, against those that llama.cpp's converter writes (recorded by tests/fixtures/gguf.py),
//! and against the checkpoints that they are written from.

#![allow(clippy::unwrap_used, clippy::panic)]

use candle_core::{DType, Device, Tensor};
use eraser_model::gguf::{GgufFile, Value, dequantize};
use eraser_model::weights::{GgufWeights, HfDirectory, TensorSource};
use eraser_model::{Adapter, Decoder, GgufParts, GgufType, ModelConfig};
use std::path::{Path, PathBuf};

/// Keys that say what is the default of a file's family, where the converter leaves them out.
const DEFAULTS: [&str; 5] =
    ["attention.key_length", "attention.value_length", "rope.dimension_count", "rope.freq_base", "vocab_size"];

fn fixtures(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(kind)
}

fn entries(kind: &str, suffix: &str, least: usize) -> Vec<String> {
    let all = std::fs::read_dir(fixtures(kind)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = all.filter_map(|name| name.strip_suffix(suffix).map(str::to_owned)).collect();
    names.sort();
    assert!(names.len() >= least, "{names:?}");
    names
}

fn decoder(config: &ModelConfig, source: &dyn TensorSource) -> Decoder {
    Decoder::load(config, source, DType::F32, &Device::Cpu).unwrap()
}

fn parts<'a>(name: &'a str, config: &'a ModelConfig, decoder: &'a Decoder) -> GgufParts<'a> {
    GgufParts { name, config, decoder, tokenizer: None, template: None }
}

/// What the converter says of a dense Granite 4 besides: settings of experts and of layers of other kinds, which it has
/// none of, and a list of equal numbers; and of Qwen3 with experts the width of an MLP beside them.
fn is_void(name: &str, key: &str) -> bool {
    let void: &[&str] = match name {
        "granite4" => &["granite.ssm.", "granite.expert_", "granite.attention.head_count_kv"],
        "qwen3-moe" => &["qwen3moe.feed_forward_length"],
        _ => &[],
    };
    void.iter().any(|start| key.starts_with(start))
}

/// The tensors of a file, for a model that has gate and up in one.
struct Joined<'a>(GgufWeights<'a>);

impl TensorSource for Joined<'_> {
    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> eraser_model::Result<Tensor> {
        if name.contains("shared_mlp.input_linear") {
            let half = |own| {
                let name = name.replace("shared_mlp.input_linear", own);
                self.0.tensor(&name, &[shape[0] / 2, shape[1]], dtype, device)
            };
            return Ok(Tensor::cat(&[half("mlp.gate_proj")?, half("mlp.up_proj")?], 0)?);
        }
        self.0.tensor(&name.replace("shared_mlp.output_linear", "mlp.down_proj"), shape, dtype, device)
    }
    fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// A value and its type, for comparison.
fn shown(file: &GgufFile, key: &str) -> String {
    match file.metadata(key).unwrap() {
        Value::Array(array) => format!("{:?} {:?}", array.element, file.bool_array(key).unwrap()),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_file_has_the_keys_and_tensors_that_the_converter_writes() {
    let dir = tempfile::tempdir().unwrap();
    for name in entries("gguf", ".gguf", 18) {
        let theirs = GgufFile::open(&fixtures("gguf").join(format!("{name}.gguf"))).unwrap();
        let json = std::fs::read(fixtures("gguf").join(format!("{name}.json"))).unwrap();
        let config = ModelConfig::from_hf_json(&serde_json::from_slice(&json).unwrap()).unwrap();
        let decoder = decoder(&config, &Joined(GgufWeights::new(&theirs, &config)));
        let path = dir.path().join("ours.gguf");
        parts(&name, &config, &decoder).save(&path, GgufType::F16).unwrap_or_else(|e| panic!("{name}: {e}"));
        let ours = GgufFile::open(&path).unwrap();
        for key in theirs.all_metadata().keys().filter(|key| !is_void(&name, key)) {
            assert!(ours.metadata(key).is_some(), "{name}: {key} is missing");
            assert_eq!(shown(&ours, key), shown(&theirs, key), "{name}: {key}");
        }
        for key in ours.all_metadata().keys().filter(|key| theirs.metadata(key).is_none()) {
            let own = key.split_once('.').unwrap().1;
            assert!(DEFAULTS.contains(&own), "{name}: {key} is not a key of the converter");
        }
        assert_eq!(ours.tensors().len(), theirs.tensors().len(), "{name}");
        let read = ModelConfig::from_gguf(&ours).unwrap();
        let read = self::decoder(&read, &GgufWeights::new(&ours, &read));
        let difference = distance(&logits(&decoder, &config), &logits(&read, &config));
        assert!(difference < 1e-5, "{name}: {difference}");
        for tensor in theirs.tensors() {
            let own = ours.tensor(&tensor.name).unwrap_or_else(|| panic!("{name}: {} is missing", tensor.name));
            assert_eq!((&own.shape, own.dtype), (&tensor.shape, tensor.dtype), "{name}: {}", tensor.name);
            let (a, b) = (dequantize(own.dtype, ours.data(own)), dequantize(tensor.dtype, theirs.data(tensor)));
            let near = a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs());
            assert!(near, "{name}: {} has other values", tensor.name);
        }
    }
}

fn logits(decoder: &Decoder, config: &ModelConfig) -> Vec<f32> {
    let ids: Vec<u32> = (0..9).map(|i| (i * 5 + 1) % config.vocab_size as u32).collect();
    let hidden = decoder.hidden(&ids, &eraser_ops::Segments::from_lengths([9]), None).unwrap();
    decoder.logits(&hidden).unwrap().to_vec2::<f32>().unwrap().concat()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    let size = a.iter().fold(0f32, |most, x| most.max(x.abs()));
    a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / size
}

#[test]
fn a_written_checkpoint_computes_what_it_computed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut seen, mut refused) = (0, Vec::new());
    for (kind, least) in [("families", 3), ("layers", 26)] {
        for name in entries(kind, "", least) {
            let source = fixtures(kind).join(&name);
            let config = ModelConfig::from_hf_dir(&source).unwrap();
            let own = decoder(&config, &HfDirectory::open(&source).unwrap());
            let path = dir.path().join("written.gguf");
            let write = |kind: GgufType| parts(&name, &config, &own).save(&path, kind);
            if let Err(e) = write(GgufType::F32) {
                let key = e.to_string().split('`').nth(1).unwrap_or_default().to_owned();
                refused.push(format!("{name}: {key}"));
                continue;
            }
            let expected = logits(&own, &config);
            let read = |path: &Path| {
                let file = GgufFile::open(path).unwrap();
                let config = ModelConfig::from_gguf(&file).unwrap();
                logits(&decoder(&config, &GgufWeights::new(&file, &config)), &config)
            };
            let (exact, difference) = (!config.layer.unit_norms, distance(&expected, &read(&path)));
            assert!(difference <= if exact { 1e-6 } else { 1e-5 }, "{name}: {difference}");
            let first = std::fs::read(&path).unwrap();
            write(GgufType::F32).unwrap();
            assert_eq!(first, std::fs::read(&path).unwrap(), "{name}: other bytes the second time");
            for (kind, most) in [(GgufType::F16, 0.02), (GgufType::BF16, 0.1), (GgufType::Q8_0, 0.1)] {
                write(kind).unwrap();
                let difference = distance(&expected, &read(&path));
                assert!(difference < most, "{name}, {kind:?}: {difference}");
            }
            seen += 1;
        }
    }
    // What no file of these families can say.
    let scale = ["gemma2", "gemma3", "gemma3-nested", "gemma3-nested-ranks"];
    assert_eq!(refused.remove(0), "cwm: sliding_window");
    assert_eq!(refused[..4], scale.map(|name| format!("{name}: query_pre_attn_scalar")));
    // llama.cpp takes the weights of Qwen3's experts for ones that add up to 1.
    assert_eq!(refused.remove(4), "qwen3-moe-unnormed: norm_topk_prob");
    assert_eq!(refused[4..], ["qwen3-windows: layer_types", "smollm3: no_rope_layers"]);
    assert!(seen >= 15, "{seen}");
}

/// What llama.cpp computes from a base and an adapter, each in its file, is what the merged model's file holds.
#[test]
fn a_written_adapter_is_what_merging_adds_to_the_written_base() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for (kind, least) in [("families", 3), ("layers", 26)] {
        for name in entries(kind, "", least) {
            let source = fixtures(kind).join(&name);
            let config = ModelConfig::from_hf_dir(&source).unwrap();
            let mut own = decoder(&config, &HfDirectory::open(&source).unwrap());
            let adapter = Adapter::load(&source.join("adapter"), &config, &Device::Cpu).unwrap();
            let [base, merged, file] =
                ["base", "merged", "adapter"].map(|stem| dir.path().join(format!("{stem}.gguf")));
            if parts(&name, &config, &own).save(&base, GgufType::F32).is_err() {
                continue;
            }
            adapter.save_gguf(&file, &config, &name).unwrap();
            own.merge(&adapter).unwrap();
            parts(&name, &config, &own).save(&merged, GgufType::F32).unwrap();
            let [base, merged, pairs] = [base, merged, file.clone()].map(|path| GgufFile::open(&path).unwrap());
            assert_eq!(pairs.string("general.type").unwrap(), Some("adapter"), "{name}");
            let alpha = pairs.f32("adapter.lora.alpha").unwrap().unwrap();
            let values = |file: &GgufFile, name: &str| {
                let tensor = file.tensor(name).unwrap();
                let values = dequantize(tensor.dtype, file.data(tensor));
                Tensor::from_vec(values, tensor.shape.clone(), &Device::Cpu).unwrap()
            };
            for tensor in pairs.tensors().iter().filter_map(|tensor| tensor.name.strip_suffix(".lora_a")) {
                let (a, b) = (values(&pairs, &format!("{tensor}.lora_a")), values(&pairs, &format!("{tensor}.lora_b")));
                let delta = (b.matmul(&a).unwrap() * f64::from(alpha / a.dims()[0] as f32)).unwrap();
                let sum = (values(&base, tensor) + delta).unwrap();
                let off = (sum - values(&merged, tensor)).unwrap().abs().unwrap().max_all().unwrap();
                let off = off.to_scalar::<f32>().unwrap();
                assert!(off < 1e-5, "{name}: {tensor}: {off}");
            }
            let read = Adapter::load(&file, &config, &Device::Cpu).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(read.config.targets, adapter.config.targets, "{name}");
            // A file has one alpha; what other modules have instead is in their B.
            let pairs = |adapter: &Adapter| {
                let pairs = adapter.layers.iter().flat_map(|layer| layer.iter().flatten().cloned());
                pairs
                    .map(|lora| (lora.a.to_vec2::<f32>().unwrap(), &*lora.b * f64::from(lora.scale)))
                    .collect::<Vec<_>>()
            };
            for ((a, b), (other, scaled)) in pairs(&adapter).into_iter().zip(pairs(&read)) {
                assert_eq!(a, other, "{name}");
                let off = (b.unwrap() - scaled.unwrap()).unwrap().abs().unwrap().max_all().unwrap();
                assert!(off.to_scalar::<f32>().unwrap() < 1e-6, "{name}: {off}");
            }
            // A scale of NaN made every answer empty, without a word.
            let mut bytes = std::fs::read(&file).unwrap();
            let key = b"adapter.lora.alpha";
            let at = bytes.windows(key.len()).position(|part| part == key).unwrap() + key.len() + 4;
            bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
            std::fs::write(&file, bytes).unwrap();
            let error = Adapter::load(&file, &config, &Device::Cpu).unwrap_err().to_string();
            assert!(error.contains("adapter.lora.alpha is NaN"), "{name}: {error}");
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen}");
}

/// They were written without a word, and llama.cpp computed something else of them.
#[test]
fn a_rhythm_of_windows_that_llama_cpp_does_not_have_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["olmo3", "exaone4"] {
        let source = fixtures("layers").join(name);
        let config = ModelConfig::from_hf_dir(&source).unwrap();
        let own = decoder(&config, &HfDirectory::open(&source).unwrap());
        let error = parts(name, &config, &own).check(dir.path()).unwrap_err().to_string();
        assert!(error.contains("`layer_types`: the model has the sliding window on "), "{name}: {error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn an_adapter_and_a_model_are_not_taken_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let config = |name: &str| ModelConfig::from_hf_dir(&fixtures("layers").join(name)).unwrap();
    let qwen = config("qwen3");
    let adapter = Adapter::load(&fixtures("layers").join("qwen3/adapter"), &qwen, &Device::Cpu).unwrap();
    let path = dir.path().join("adapter.gguf");
    adapter.save_gguf(&path, &qwen, "adapter").unwrap();
    let error = ModelConfig::from_gguf(&GgufFile::open(&path).unwrap()).unwrap_err();
    assert!(error.to_string().contains("general.type is `adapter`"), "{error}");
    let error = Adapter::load(&path, &config("phi3"), &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("for the architecture qwen3, the model has phi3"), "{error}");
    let model = fixtures("gguf").join("qwen3.gguf");
    let error = Adapter::load(&model, &qwen, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("not a LoRA adapter"), "{error}");
}
