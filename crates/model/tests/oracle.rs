//! Against what others computed, on data that is not in the repository; each test says when it is skipped.
//! `ERASER_DATA` names a directory that holds `stories260K/`, the 260K-parameter stories model of llama2.c, whose
//! greedy continuation of nothing is documented word for word. `ERASER_PEER` names one that holds `smollm2.gguf` and
//! `smollm2-hf/`, the same model as transformers de-quantised and saved it.

#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor};
use eraser_model::{BaseDtype, Compute, Decoder, GenerateOptions, LoadOptions, generate, llama2c::Checkpoint, load};
use std::{ops::ControlFlow, path::PathBuf};

/// The directory that the environment variable `name` names.
fn data(name: &str) -> Option<PathBuf> {
    let dir = std::env::var_os(name).map(PathBuf::from);
    if dir.is_none() {
        eprintln!("skipped: {name} is not set");
    }
    dir
}

/// Beginning of sequence, and what ends a text, in every token file of llama2.c.
const BOS: u32 = 1;
/// What `run.c` generates by default.
const STEPS: usize = 256;

#[test]
fn stories260k_writes_its_documented_text() {
    let Some(dir) = data("ERASER_DATA").map(|dir| dir.join("stories260K")) else { return };
    let checkpoint = Checkpoint::open(&dir.join("stories260K.bin")).unwrap();
    let decoder = Decoder::load(checkpoint.config(), &checkpoint, DType::F32, &Device::Cpu).unwrap();
    let options = GenerateOptions::greedy(STEPS, &[BOS]);
    let generated = generate(&decoder, None, &[vec![BOS]], &options, 1, &mut |_, _| ControlFlow::Continue(())).unwrap();

    let tokens = std::fs::read(dir.join("tok512.bin")).unwrap();
    let text = decode(&pieces(&tokens), &generated[0].tokens);
    let page = std::fs::read_to_string(dir.join("stories260K.md")).unwrap();
    let (_, documented) = page.split_once("-t 0.0\n").unwrap();
    let (documented, _) = documented.split_once("\n```").unwrap();
    assert_eq!(text.trim_end(), documented);
}

#[test]
fn a_gguf_file_and_its_dequantised_directory_are_the_same_model() {
    let Some(dir) = data("ERASER_PEER") else { return };
    let options =
        LoadOptions { device: Device::Cpu, base_dtype: BaseDtype::Auto, compute: Compute::F32, chat_template: None };
    let model = |name: &str| load(dir.join(name).to_str().unwrap(), &options).unwrap();
    let (gguf, hf) = (model("smollm2.gguf"), model("smollm2-hf"));
    assert_eq!(gguf.config, hf.config);
    let (gguf, hf) = (gguf.decoder.named_tensors().unwrap(), hf.decoder.named_tensors().unwrap());
    assert_eq!(gguf.len(), hf.len());
    for ((name, a), (same, b)) in gguf.iter().zip(&hf) {
        assert_eq!(name, same);
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let different = flat(a).into_iter().zip(flat(b)).filter(|(a, b)| a.to_bits().abs_diff(b.to_bits()) > 1).count();
        assert_eq!((a.dims(), different), (b.dims(), 0), "{name}");
    }
}

/// The pieces of a token file: the longest length, then score, length and bytes of every piece.
fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = &bytes[4..];
    let mut pieces = Vec::new();
    while let [_, _, _, _, a, b, c, d, tail @ ..] = rest {
        let (piece, tail) = tail.split_at(u32::from_le_bytes([*a, *b, *c, *d]) as usize);
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

/// The text of tokens that follow BOS: no space before the first, `<0x0A>` is a byte.
fn decode(pieces: &[&[u8]], ids: &[u32]) -> String {
    let mut text = Vec::new();
    for (i, id) in ids.iter().enumerate() {
        let piece = pieces[*id as usize];
        let hex = piece.strip_prefix(b"<0x").and_then(|p| p.strip_suffix(b">"));
        match hex {
            Some(hex) => text.push(u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap()),
            None if i == 0 => text.extend_from_slice(piece.strip_prefix(b" ").unwrap_or(piece)),
            None => text.extend_from_slice(piece),
        }
    }
    String::from_utf8(text).unwrap()
}
