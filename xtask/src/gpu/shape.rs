//! A checkpoint of random weights in a given shape. In: widths; out: a Hugging Face directory in bf16 with the built-in
//! model's tokenizer, and sets to train on. Invariant: written as a stream, so that a model of any size can be made.

use eraser_model::{Error, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::{
    fmt,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

/// Tokens of the vocabulary: more than the tokenizer has, as many as a small real model.
const VOCABULARY: usize = 32_000;

/// The shape of a model of Llama's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    ffn: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts: Option<Vec<usize>> = text.split('x').map(|part| part.parse().ok()).collect();
        match parts.as_deref() {
            Some(&[hidden, layers, heads, kv_heads, ffn]) if heads > 0 && hidden % heads == 0 => {
                Ok(Self { hidden, layers, heads, kv_heads, ffn })
            }
            _ => Err("a shape is WIDTHxLAYERSxHEADSxKV_HEADSxMLP_WIDTH, as 2048x16x32x8x8192".to_owned()),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hidden, layers, heads, kv_heads, ffn } = self;
        write!(f, "{hidden}x{layers}x{heads}x{kv_heads}x{ffn}")
    }
}

impl Shape {
    /// Billions of parameters.
    pub(super) fn billions(self) -> f64 {
        self.tensors().iter().map(|(_, dims)| dims.iter().product::<usize>()).sum::<usize>() as f64 / 1e9
    }

    fn tensors(self) -> Vec<(String, Vec<usize>)> {
        let Self { hidden: d, layers, heads, kv_heads, ffn } = self;
        let kv = d / heads * kv_heads;
        let mut all = vec![
            ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, d]),
            ("model.norm.weight".to_owned(), vec![d]),
            ("lm_head.weight".to_owned(), vec![VOCABULARY, d]),
        ];
        for layer in 0..layers {
            let modules = [
                ("self_attn.q_proj", d, d),
                ("self_attn.k_proj", kv, d),
                ("self_attn.v_proj", kv, d),
                ("self_attn.o_proj", d, d),
                ("mlp.gate_proj", ffn, d),
                ("mlp.up_proj", ffn, d),
                ("mlp.down_proj", d, ffn),
            ];
            let name = |module: &str| format!("model.layers.{layer}.{module}.weight");
            all.extend(modules.map(|(module, out, input)| (name(module), vec![out, input])));
            all.extend(["input_layernorm", "post_attention_layernorm"].map(|module| (name(module), vec![d])));
        }
        all
    }

    /// Writes the model into `dir`, with the tokenizer of `tokenizer`.
    pub(super) fn write(self, dir: &Path, tokenizer: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::failed)?;
        for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            std::fs::copy(tokenizer.join(file), dir.join(file)).map_err(Error::failed)?;
        }
        let Self { hidden, layers, heads, kv_heads, ffn } = self;
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "bos_token_id": 0, "eos_token_id": 1,
            "hidden_act": "silu", "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": VOCABULARY,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        });
        std::fs::write(dir.join("config.json"), config.to_string()).map_err(Error::failed)?;
        let mut header = serde_json::Map::new();
        let mut end = 0;
        for (name, dims) in self.tensors() {
            let start = end;
            end += 2 * dims.iter().product::<usize>();
            header.insert(name, json!({"dtype": "BF16", "shape": dims, "data_offsets": [start, end]}));
        }
        let header = Value::Object(header).to_string();
        let file = File::create(dir.join("model.safetensors")).map_err(Error::failed)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        let write = |file: &mut BufWriter<File>, bytes: &[u8]| file.write_all(bytes).map_err(Error::failed);
        write(&mut file, &(header.len() as u64).to_le_bytes())?;
        write(&mut file, header.as_bytes())?;
        // The same random numbers again and again, from another place each time: enough for a measurement.
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let numbers: Vec<f32> = (0..1 << 16).map(|_| rng.random_range(-0.03f32..0.03)).collect();
        let numbers: Vec<u8> = numbers.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect();
        let ones: Vec<u8> = [0x80, 0x3f].repeat(1 << 15);
        for (_, dims) in self.tensors() {
            let from = if dims.len() == 1 { &ones } else { &numbers };
            let (mut left, mut at) = (2 * dims.iter().product::<usize>(), 2 * rng.random_range(0..1usize << 15));
            while left > 0 {
                let piece = left.min(from.len() - at % from.len());
                write(&mut file, &from[at % from.len()..][..piece])?;
                (left, at) = (left - piece, at + piece);
            }
        }
        file.flush().map_err(Error::failed)
    }
}

/// Sets of rows of some hundred tokens, made of the built-in ones: `[harm, help, align]`.
pub(super) fn sets(from: &Path, to: &Path) -> Result<[PathBuf; 3]> {
    std::fs::create_dir_all(to).map_err(Error::failed)?;
    let mut paths = Vec::new();
    for name in ["harm", "help", "align"] {
        let path = from.join(format!("{name}.jsonl"));
        let text = std::fs::read_to_string(&path).map_err(|e| Error::request(format!("{}: {e}", path.display())))?;
        let rows: Vec<Value> =
            text.lines().map(serde_json::from_str).collect::<serde_json::Result<_>>().map_err(Error::failed)?;
        let join =
            |rows: &[Value], key: &str| rows.iter().filter_map(|row| row[key].as_str()).collect::<Vec<_>>().join(" ");
        let long = |at: usize| {
            let around: Vec<Value> = rows.iter().cycle().skip(at).take(2 + at % 7).cloned().collect();
            json!({"input": format!("{at} {}", join(&around, "input")), "output": join(&around, "output")})
        };
        let all: Vec<Value> = (0..rows.len()).map(long).collect();
        let path = to.join(format!("{name}.json"));
        std::fs::write(&path, Value::Array(all).to_string()).map_err(Error::failed)?;
        paths.push(path);
    }
    paths.try_into().map_err(|_| Error::failed("there are three sets"))
}

#[cfg(test)]
mod tests {
    use super::Shape;
    use eraser_model::{BaseDtype, Compute, LoadOptions, load};

    #[test]
    fn a_shape_is_written_as_it_is_read() {
        for text in ["64x2x4x2x128", "4096x32x32x32x11008"] {
            assert_eq!(text.parse::<Shape>().unwrap().to_string(), text);
        }
        assert!((("4096x32x32x32x11008").parse::<Shape>().unwrap().billions() - 6.74).abs() < 0.01);
        for text in ["", "64x2x4x2", "64x2x0x2x128", "65x2x4x2x128", "axbxcxdxe"] {
            assert!(text.parse::<Shape>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_random_model_loads() {
        let dir = tempfile::tempdir().unwrap();
        let shape: Shape = "64x2x4x2x96".parse().unwrap();
        let organism = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/organism/model");
        shape.write(dir.path(), &organism).unwrap();
        let options = LoadOptions {
            device: candle_core::Device::Cpu,
            base_dtype: BaseDtype::F32,
            compute: Compute::F32,
            chat_template: None,
        };
        let model = load(&dir.path().display().to_string(), &options).unwrap();
        assert_eq!((model.config.num_layers, model.config.num_kv_heads, model.config.vocab_size), (2, 2, 32_000));
    }
}
