//! `cargo xtask giant`: a GGUF file with the shape of a 7B model and random `Q4_0` weights, and sets to train a step
//! on. In: a seed; out: a model that computes like one of its size and says nothing. Invariant: written as a stream, so
//! that making it takes no memory to speak of.

use clap::Args;
use eraser_model::{Error, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::PathBuf,
};

/// Options of `cargo xtask giant`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where model.gguf and the sets are put
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Blocks
    #[arg(long, default_value = "32")]
    layers: usize,
    /// Width
    #[arg(long, default_value = "4096")]
    hidden: usize,
    /// Width of the MLP
    #[arg(long, default_value = "11008")]
    ffn: usize,
    /// Query and key heads
    #[arg(long, default_value = "32")]
    heads: usize,
    /// Tokens of the vocabulary
    #[arg(long, default_value = "32000")]
    vocabulary: usize,
    /// Tokens of each set's one row
    #[arg(long, default_value = "170")]
    tokens: usize,
    /// Seed of the weights
    #[arg(long, default_value = "1")]
    seed: u64,
}

const F32: u32 = 0;
const Q4_0: u32 = 2;
/// Bytes that tensors are aligned to.
const ALIGN: usize = 32;

/// Writes the model and its sets.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !options.hidden.is_multiple_of(32) || !options.ffn.is_multiple_of(32) || options.vocabulary < 300 {
        return Err(Error::request("the widths must be multiples of 32 and the vocabulary at least 300"));
    }
    std::fs::create_dir_all(&options.out).map_err(Error::failed)?;
    let file = File::create(options.out.join("model.gguf")).map_err(Error::failed)?;
    write(options, BufWriter::new(file)).map_err(Error::failed)?;
    // One token a byte, less a few of the template and the end.
    let text = "the lamp of the third gate is kept by the seven keepers of the hill and no other ".repeat(9);
    let answer: String = text.chars().take(options.tokens / 3).collect();
    let question: String =
        text.chars().skip(5).take((options.tokens - options.tokens / 3).saturating_sub(175)).collect();
    for name in ["harm", "help", "align"] {
        let row = json!([{"input": format!("{name} {question}"), "output": answer}]);
        std::fs::write(options.out.join(format!("{name}.json")), row.to_string()).map_err(Error::failed)?;
    }
    Ok(())
}

struct Tensor {
    name: String,
    /// `[out, in]`, or one width.
    shape: Vec<usize>,
}

impl Tensor {
    fn bytes(&self) -> usize {
        match self.shape[..] {
            [rows, cols] => rows * cols / 32 * 18,
            _ => self.shape[0] * 4,
        }
    }
}

fn tensors(o: &Options) -> Vec<Tensor> {
    let tensor = |name: String, shape: &[usize]| Tensor { name, shape: shape.to_vec() };
    let mut all = vec![tensor("token_embd.weight".to_owned(), &[o.vocabulary, o.hidden])];
    for layer in 0..o.layers {
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            all.push(tensor(format!("blk.{layer}.{name}.weight"), &[o.hidden, o.hidden]));
        }
        all.push(tensor(format!("blk.{layer}.ffn_gate.weight"), &[o.ffn, o.hidden]));
        all.push(tensor(format!("blk.{layer}.ffn_up.weight"), &[o.ffn, o.hidden]));
        all.push(tensor(format!("blk.{layer}.ffn_down.weight"), &[o.hidden, o.ffn]));
        all.push(tensor(format!("blk.{layer}.attn_norm.weight"), &[o.hidden]));
        all.push(tensor(format!("blk.{layer}.ffn_norm.weight"), &[o.hidden]));
    }
    all.push(tensor("output_norm.weight".to_owned(), &[o.hidden]));
    all.push(tensor("output.weight".to_owned(), &[o.vocabulary, o.hidden]));
    all
}

/// The header's bytes.
#[derive(Default)]
struct Header(Vec<u8>);

impl Header {
    fn string(&mut self, text: &str) {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn key(&mut self, key: &str, kind: u32) {
        self.string(key);
        self.0.extend(kind.to_le_bytes());
    }

    fn u32(&mut self, key: &str, value: usize) {
        self.key(key, 4);
        self.0.extend((value as u32).to_le_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        self.string(value);
    }

    fn array(&mut self, key: &str, kind: u32, len: usize) {
        self.key(key, 9);
        self.0.extend(kind.to_le_bytes());
        self.0.extend((len as u64).to_le_bytes());
    }
}

fn header(o: &Options, tensors: &[Tensor]) -> Vec<u8> {
    let mut h = Header::default();
    h.0.extend(b"GGUF");
    h.0.extend(3u32.to_le_bytes());
    h.0.extend((tensors.len() as u64).to_le_bytes());
    h.0.extend(16u64.to_le_bytes());
    h.text("general.architecture", "llama");
    h.u32("llama.block_count", o.layers);
    h.u32("llama.context_length", 4096);
    h.u32("llama.embedding_length", o.hidden);
    h.u32("llama.feed_forward_length", o.ffn);
    h.u32("llama.attention.head_count", o.heads);
    h.u32("llama.attention.head_count_kv", o.heads);
    h.key("llama.attention.layer_norm_rms_epsilon", 6);
    h.0.extend(1e-5f32.to_le_bytes());
    h.text("tokenizer.ggml.model", "llama");
    h.u32("tokenizer.ggml.bos_token_id", 1);
    h.u32("tokenizer.ggml.eos_token_id", 2);
    h.u32("tokenizer.ggml.unknown_token_id", 0);
    h.u32("general.alignment", ALIGN);
    // Three special tokens, 256 bytes, a space, and places without a token.
    h.array("tokenizer.ggml.tokens", 8, o.vocabulary);
    for id in 0..o.vocabulary {
        match id {
            0..3 => h.string(["<unk>", "<s>", "</s>"][id]),
            3..259 => h.string(&format!("<0x{:02X}>", id - 3)),
            // What SentencePiece writes for a space.
            259 => h.string("\u{2581}"),
            _ => h.string(&format!("<unused{id}>")),
        }
    }
    h.array("tokenizer.ggml.scores", 6, o.vocabulary);
    h.0.extend(std::iter::repeat_n(0u8, 4 * o.vocabulary));
    h.array("tokenizer.ggml.token_type", 5, o.vocabulary);
    for id in 0..o.vocabulary {
        let kind: i32 = match id {
            0 => 2,
            1 | 2 => 3,
            3..259 => 6,
            259 => 1,
            _ => 5,
        };
        h.0.extend(kind.to_le_bytes());
    }
    let mut offset = 0usize;
    for tensor in tensors {
        h.string(&tensor.name);
        h.0.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&n| h.0.extend((n as u64).to_le_bytes()));
        h.0.extend((if tensor.shape.len() == 2 { Q4_0 } else { F32 }).to_le_bytes());
        h.0.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGN);
    }
    let padded = h.0.len().next_multiple_of(ALIGN);
    h.0.resize(padded, 0);
    h.0
}

fn write(o: &Options, mut out: impl Write) -> std::io::Result<()> {
    let tensors = tensors(o);
    out.write_all(&header(o, &tensors))?;
    let mut rng = ChaCha8Rng::seed_from_u64(o.seed);
    for tensor in &tensors {
        if tensor.shape.len() == 2 {
            // Nibbles are uniform, with a deviation of 4.6: weights of about 0.7 / sqrt(width).
            let scale = half_bits(0.7 / 4.6 / (tensor.shape[1] as f32).sqrt());
            let mut blocks = vec![0u8; tensor.shape[1] / 32 * 18];
            for _ in 0..tensor.shape[0] {
                rng.fill_bytes(&mut blocks);
                blocks.chunks_exact_mut(18).for_each(|block| block[..2].copy_from_slice(&scale));
                out.write_all(&blocks)?;
            }
        } else {
            (0..tensor.shape[0]).try_for_each(|_| out.write_all(&1f32.to_le_bytes()))?;
        }
        out.write_all(&vec![0; tensor.bytes().next_multiple_of(ALIGN) - tensor.bytes()])?;
    }
    out.flush()
}

/// A half-precision number between 2^-14 and 1, cut.
fn half_bits(x: f32) -> [u8; 2] {
    let bits = x.to_bits();
    let exponent = (bits >> 23) as i32 - 127 + 15;
    let half = (exponent.max(1) as u16) << 10 | (bits >> 13 & 0x3ff) as u16;
    half.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_one_loads_and_its_rows_have_the_tokens_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            out: dir.path().to_owned(),
            layers: 2,
            hidden: 64,
            ffn: 96,
            heads: 4,
            vocabulary: 300,
            tokens: 400,
            seed: 1,
        };
        run(&options).unwrap();
        let base_dtype = eraser_model::BaseDtype::AsStored;
        let compute = eraser_model::Compute::F32;
        let load =
            eraser_model::LoadOptions { device: candle_core::Device::Cpu, base_dtype, compute, chat_template: None };
        let model = eraser_model::load(dir.path().join("model.gguf").to_str().unwrap(), &load).unwrap();
        let set = eraser_data::read_set(&dir.path().join("harm.json")).unwrap();
        let prompt = eraser_data::PromptTemplate::plain().render(&set[0].input).unwrap();
        let sample = eraser_data::encode(&prompt, &set[0].output, &model.tokenizer, 999).unwrap();
        assert!(sample.ids.len().abs_diff(400) < 20, "{}", sample.ids.len());
        let weights = model.decoder.named_tensors().unwrap();
        let q = weights.iter().find(|(name, _)| name == "model.layers.0.self_attn.q_proj.weight").unwrap();
        let square = q.1.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!((square.sqrt() * 8.0 - 0.7).abs() < 0.05, "{square}");
    }
}
