//! Checkpoints in 4 bits of bitsandbytes against the weights that bitsandbytes expands them to, and transformers'
//! logits (recorded by `tests/fixtures/four_bits.py`).

#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device};
use eraser_model::weights::{HfDirectory, TensorSource};
use eraser_model::{Decoder, ModelConfig};
use eraser_ops::Segments;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};
use std::path::{Path, PathBuf};

const KINDS: [&str; 5] = ["fp4", "nf4", "nf4-double", "nf4-double-f16", "nf4-in-bf16"];

fn home(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bitsandbytes").join(kind)
}

fn floats(view: &TensorView<'_>) -> Vec<f32> {
    let halves = || view.data().chunks_exact(2).map(|b| u16::from_le_bytes(b.try_into().unwrap()));
    match view.dtype() {
        Dtype::F32 => view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::BF16 => halves().map(|bits| half::bf16::from_bits(bits).to_f32()).collect(),
        _ => halves().map(|bits| half::f16::from_bits(bits).to_f32()).collect(),
    }
}

#[test]
fn every_value_is_the_one_of_bitsandbytes_and_logits_follow() {
    for kind in KINDS {
        let source = HfDirectory::open(&home(kind)).unwrap();
        let bytes = std::fs::read(home(kind).join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let mut matrices = 0;
        for name in expected.names() {
            let Some(own) = name.strip_prefix("weight.") else { continue };
            let view = expected.tensor(name).unwrap();
            let ours = source.tensor(own, view.shape(), DType::F32, &Device::Cpu).unwrap();
            let ours: Vec<f32> = ours.flatten_all().unwrap().to_vec1().unwrap();
            // Of fp4 a code for -0 has the value 0 in the file.
            let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || kind == "fp4" && a.abs().max(b.abs()) <= 0.0;
            let differ = ours.iter().zip(floats(&view)).filter(|(a, b)| !same(**a, *b)).count();
            assert_eq!((ours.len(), differ), (view.shape().iter().product(), 0), "{kind}: {own}");
            matrices += 1;
        }
        assert_eq!(matrices, 14, "{kind}");

        let config = ModelConfig::from_hf_dir(&home(kind)).unwrap();
        let decoder = Decoder::load(&config, &source, DType::F32, &Device::Cpu).unwrap();
        let ids = expected.tensor("ids").unwrap();
        let ids: Vec<u32> = ids.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        let hidden = decoder.hidden(&ids, &Segments::from_lengths([ids.len()]), None).unwrap();
        let ours: Vec<f32> = decoder.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let theirs = floats(&expected.tensor("logits").unwrap());
        let apart = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(ours.len() == theirs.len() && apart < 1e-4, "{kind}: logits are {apart} apart");
    }
}

/// The fixture's file with its tensors changed; what reading a matrix then says.
fn told(change: impl Fn(&str, &[u8]) -> Option<Vec<u8>>) -> String {
    let bytes = std::fs::read(home("nf4-double").join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let changed: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = file
        .iter()
        .filter_map(|(name, view)| {
            let data = change(name, view.data())?;
            let shape = if data.len() == view.data().len() { view.shape().to_vec() } else { vec![data.len()] };
            Some((name.to_owned(), view.dtype(), shape, data))
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let views = changed
        .iter()
        .map(|(name, dtype, shape, data)| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    let source = HfDirectory::open(dir.path()).unwrap();
    let name = "model.layers.0.mlp.down_proj.weight";
    assert!(source.stored(name, [40, 56]).unwrap().is_none());
    source.tensor(name, &[40, 56], DType::F32, &Device::Cpu).unwrap_err().to_string()
}

#[test]
fn what_is_beside_a_matrix_in_four_bits_is_checked() {
    let down = "model.layers.0.mlp.down_proj.weight";
    let without = |end: &'static str| told(move |name, data| (name != format!("{down}{end}")).then(|| data.to_vec()));
    for end in [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"] {
        assert!(without(end).contains(&format!("`{down}{end}` is missing")), "{end}");
    }
    let described = |from: &'static str, to: &'static str| {
        told(move |name, data| {
            let is_state = name == format!("{down}.quant_state.bitsandbytes__nf4");
            Some(if is_state { String::from_utf8_lossy(data).replace(from, to).into_bytes() } else { data.to_vec() })
        })
    };
    for (from, to, wanted) in [
        ("[40, 56]", "[56, 40]", "has shape [56, 40]"),
        ("\"blocksize\": 64", "\"blocksize\": 32", "in blocks of 32 has not 1120 bytes, 35 scales"),
        ("\"blocksize\": 64", "\"blocksize\": 0", "blocks of 0 values"),
        ("bfloat16", "complex64", "its `quant_state` is none"),
        ("nested_offset", "unheard_of", "does not say how"),
        ("\"nested_blocksize\": 256", "\"nested_blocksize\": 16", "lack some of their own scales"),
    ] {
        let error = described(from, to);
        assert!(error.contains(down) && error.contains(wanted), "{to}: {error}");
    }
}
