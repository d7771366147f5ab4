//! Checkpoints of llama2.c (version 0: a header of seven numbers, then f32 weights). They are read for their published
//! greedy texts, which the decoder must reproduce. Invariant: every weight lies inside the file.
//!
//! Format: `model.py`'s `export` and `run.c` of <https://github.com/karpathy/llama2.c>.

use crate::{
    Error, ModelConfig, Result,
    config::{Family, Layer},
    error::PathContext,
    weights::{TensorSource, check_shape, decode, from_f32, half_split_rows, missing},
};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
};

/// Bytes of the header.
const HEADER: usize = 7 * 4;

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    map: Mmap,
    config: ModelConfig,
    /// Shape and place of every tensor, by Hugging Face name.
    tensors: HashMap<String, (Vec<usize>, Range<usize>)>,
}

impl Checkpoint {
    /// Maps `path` and finds its tensors.
    pub fn open(path: &Path) -> Result<Self> {
        let map = eraser_ops::mmap::map(path).at(path)?;
        let config = header(&map).map_err(|e| e.context(path.display()))?;
        let mut layout = Layout { at: HEADER, tensors: HashMap::new() };
        layout.model(&config);
        let (needed, size) = (layout.at, map.len());
        if needed > size {
            return Err(Error::request(format!("{}: {size} bytes, its header needs {needed}", path.display()))
                .hint("the file is incomplete: download it again"));
        }
        Ok(Self { path: path.to_path_buf(), map, config, tensors: layout.tensors })
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }
}

fn header(bytes: &[u8]) -> Result<ModelConfig> {
    let (numbers, _) = bytes.get(..HEADER).unwrap_or_default().as_chunks::<4>();
    let numbers: Vec<i32> = numbers.iter().map(|b| i32::from_le_bytes(*b)).collect();
    let [dim, hidden, layers, heads, kv_heads, vocab, length] = numbers[..] else {
        return Err(Error::request("too short for a llama2.c checkpoint"));
    };
    let size = |key: &str, n: i32| {
        usize::try_from(n).map_err(|_| Error::request(format!("`{key}` is {n}")).hint("not a llama2.c checkpoint?"))
    };
    let (hidden_size, num_heads) = (size("dim", dim)?, size("n_heads", heads)?);
    if num_heads == 0 || !hidden_size.is_multiple_of(num_heads) {
        return Err(Error::request(format!("`dim` ({dim}) is not a multiple of `n_heads` ({heads})")));
    }
    let config = ModelConfig {
        family: Family::Llama,
        hidden_size,
        intermediate_size: size("hidden_dim", hidden)?,
        num_layers: size("n_layers", layers)?,
        num_heads,
        num_kv_heads: size("n_kv_heads", kv_heads)?,
        head_dim: hidden_size / num_heads,
        vocab_size: vocab.unsigned_abs() as usize,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        // A negative vocabulary size means a head of its own.
        tie_word_embeddings: vocab > 0,
        qkv_bias: false,
        sliding_window: None,
        max_position_embeddings: size("seq_len", length)?,
        layer: Layer::default(),
    };
    config.validate()?;
    Ok(config)
}

/// Walks over the weights in the order of the file.
struct Layout {
    at: usize,
    tensors: HashMap<String, (Vec<usize>, Range<usize>)>,
}

impl Layout {
    fn model(&mut self, c: &ModelConfig) {
        let (d, h, v) = (c.hidden_size, c.intermediate_size, c.vocab_size);
        let (q, kv) = (c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim);
        self.add("model.embed_tokens.weight".to_owned(), &[v, d]);
        self.layers(c, "input_layernorm", &[d]);
        self.layers(c, "self_attn.q_proj", &[q, d]);
        self.layers(c, "self_attn.k_proj", &[kv, d]);
        self.layers(c, "self_attn.v_proj", &[kv, d]);
        self.layers(c, "self_attn.o_proj", &[d, q]);
        self.layers(c, "post_attention_layernorm", &[d]);
        self.layers(c, "mlp.gate_proj", &[h, d]);
        self.layers(c, "mlp.down_proj", &[d, h]);
        self.layers(c, "mlp.up_proj", &[h, d]);
        self.add("model.norm.weight".to_owned(), &[d]);
        // Cosines and sines, which are computed here.
        self.at = self.at.saturating_add(c.max_position_embeddings.saturating_mul(c.head_dim * 4));
        if !c.tie_word_embeddings {
            self.add("lm_head.weight".to_owned(), &[v, d]);
        }
    }

    fn layers(&mut self, c: &ModelConfig, module: &str, shape: &[usize]) {
        for layer in 0..c.num_layers {
            self.add(format!("model.layers.{layer}.{module}.weight"), shape);
        }
    }

    fn add(&mut self, name: String, shape: &[usize]) {
        let bytes = shape.iter().fold(4usize, |n, dim| n.saturating_mul(*dim));
        let end = self.at.saturating_add(bytes);
        self.tensors.insert(name, (shape.to_vec(), self.at..end));
        self.at = end;
    }
}

impl TensorSource for Checkpoint {
    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let (found, range) = self.tensors.get(name).ok_or_else(|| missing(&self.path, name))?;
        check_shape(&self.path, name, found, shape)?;
        let bytes = self.map.get(range.clone()).unwrap_or_default();
        let values = if name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight") {
            let halves = half_split_rows(bytes, self.config.hidden_size * 4, self.config.head_dim);
            decode(&halves, f32::from_le_bytes)
        } else {
            decode(bytes, f32::from_le_bytes)
        };
        from_f32(values, shape, dtype, device)
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(header: [i32; 7], weights: usize) -> Vec<u8> {
        let weights = (0..weights).flat_map(|i| (i as f32).to_le_bytes());
        header.into_iter().flat_map(i32::to_le_bytes).chain(weights).collect()
    }

    fn open(bytes: &[u8]) -> Result<(tempfile::TempDir, Checkpoint)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.bin");
        std::fs::write(&path, bytes).unwrap();
        Checkpoint::open(&path).map(|checkpoint| (dir, checkpoint))
    }

    /// Width 4, MLP 2, one layer, one head, vocabulary 3, length 5.
    const HEADER: [i32; 7] = [4, 2, 1, 1, 1, 3, 5];
    /// Embedding, norms, q k v o, MLP, and the table of cosines and sines.
    const WEIGHTS: usize = 12 + 3 * 4 + 4 * 16 + 3 * 8 + 5 * 4;

    #[test]
    fn tensors_follow_the_order_of_the_file() {
        let (_dir, checkpoint) = open(&bytes(HEADER, WEIGHTS)).unwrap();
        let first = |name: &str, shape: &[usize]| {
            let tensor = checkpoint.tensor(name, shape, DType::F32, &Device::Cpu).unwrap();
            tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().step_by(4).collect::<Vec<_>>()
        };
        assert_eq!(first("model.embed_tokens.weight", &[3, 4]), [0.0, 4.0, 8.0]);
        assert_eq!(first("model.layers.0.input_layernorm.weight", &[4]), [12.0]);
        // Rows of q in the order 0, 2, 1, 3.
        assert_eq!(first("model.layers.0.self_attn.q_proj.weight", &[4, 4]), [16.0, 24.0, 20.0, 28.0]);
        assert_eq!(first("model.layers.0.self_attn.v_proj.weight", &[4, 4]), [48.0, 52.0, 56.0, 60.0]);
        assert_eq!(first("model.layers.0.mlp.down_proj.weight", &[4, 2]), [92.0, 96.0]);
        assert_eq!(first("model.norm.weight", &[4]), [108.0]);
        assert!(!checkpoint.contains("lm_head.weight"));
    }

    #[test]
    fn faulty_files_are_errors_that_name_them() {
        for (header, weights) in [
            (HEADER, WEIGHTS - 1),
            ([4, 2, 1, 1, 1, -3, 5], WEIGHTS),
            ([0; 7], 0),
            ([4, 2, 1, 3, 1, 3, 5], WEIGHTS),
            ([i32::MAX; 7], WEIGHTS),
            ([i32::MIN; 7], WEIGHTS),
        ] {
            assert!(open(&bytes(header, weights)).unwrap_err().to_string().contains("m.bin: "), "{header:?}");
        }
        assert!(open(&[0; 27]).is_err());
    }

    proptest! {
        #[test]
        fn any_header_gives_a_checkpoint_or_an_error(header in prop::array::uniform7(-3i32..70)) {
            let _ = open(&bytes(header, WEIGHTS));
        }
    }
}
