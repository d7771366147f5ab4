//! In which types the tensors of a GGUF file are written. In: the type of the file, a tensor's name and shape; out: its
//! type, and its bytes. Invariant: the types are those that llama.cpp's `llama-quantize` gives a file of this type
//! (docs/decisions.md), and a row is never cut.

use crate::config::{Family, ModelConfig};
use crate::gguf::{Field, Fields, TensorType};
use crate::{Error, Result};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

/// The type of a file, by llama.cpp's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, missing_docs)] // llama.cpp's names
pub enum GgufType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_K_M,
}

/// Values that one task rounds at least.
const TASK: usize = 1 << 16;

impl GgufType {
    /// All types, with their names.
    pub const ALL: [(&'static str, Self); 6] = [
        ("f32", Self::F32),
        ("f16", Self::F16),
        ("bf16", Self::BF16),
        ("q8_0", Self::Q8_0),
        ("q4_0", Self::Q4_0),
        ("q4_k_m", Self::Q4_K_M),
    ];

    /// `general.file_type`.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4_K_M => 15,
            Self::BF16 => 32,
        }
    }

    /// The type of most matrices.
    fn usual(self) -> TensorType {
        match self {
            Self::F32 => TensorType::F32,
            Self::F16 => TensorType::F16,
            Self::BF16 => TensorType::BF16,
            Self::Q8_0 => TensorType::Q8_0,
            Self::Q4_0 => TensorType::Q4_0,
            Self::Q4_K_M => TensorType::Q4_K,
        }
    }

    /// The type of the tensor that the file has under `name`; and the one that it would have if its rows were whole
    /// blocks of that, where they are not.
    pub(crate) fn of(self, name: &str, shape: &[usize], config: &ModelConfig) -> (TensorType, Option<TensorType>) {
        let usual = self.usual();
        // Vectors, and routers of experts, are not rounded.
        let &[.., _, cols] = shape else { return (TensorType::F32, None) };
        if name.ends_with("ffn_gate_inp.weight") {
            return (TensorType::F32, None);
        }
        if usual.block() == 1 {
            return (usual, None);
        }
        // A tied embedding is the head.
        let head = if config.tie_word_embeddings { "token_embd.weight" } else { "output.weight" };
        let wanted = if name == head {
            match usual {
                TensorType::Q8_0 => usual,
                _ => TensorType::Q6_K,
            }
        } else if self == Self::Q4_K_M {
            mixed(name, config)
        } else {
            usual
        };
        let fits = |dtype: TensorType| cols.is_multiple_of(dtype.block());
        let smaller = match wanted {
            TensorType::Q4_K => TensorType::Q5_0,
            TensorType::Q5_K => TensorType::Q5_1,
            TensorType::Q6_K => TensorType::Q8_0,
            other => other,
        };
        let found = [wanted, smaller].into_iter().find(|dtype| fits(*dtype)).unwrap_or(TensorType::F16);
        (found, (found != wanted).then_some(wanted))
    }
}

/// The mixture `Q4_K_M`: values and the down projections of some layers have 6 bits.
fn mixed(name: &str, config: &ModelConfig) -> TensorType {
    let parts = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let Some((Ok(layer), module)) = parts.map(|(layer, module)| (layer.parse::<usize>(), module)) else {
        return TensorType::Q4_K;
    };
    let n = config.num_layers;
    let more = layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
    match module {
        "attn_v.weight" | "attn_qkv.weight" | "ffn_down.weight" | "ffn_down_exps.weight" if more => TensorType::Q6_K,
        // llama.cpp knows the models of 70B by their number of layers.
        "attn_v.weight" | "attn_qkv.weight" if n == 80 && is_70b(config) => TensorType::Q5_K,
        _ => TensorType::Q4_K,
    }
}

fn is_70b(config: &ModelConfig) -> bool {
    match config.family {
        Family::Llama | Family::Mistral => config.num_heads != config.num_kv_heads,
        Family::Qwen2 => true,
        _ => false,
    }
}

/// The error for a value that is not finite in a type.
pub fn no_place(x: f32, dtype: &str) -> Error {
    if x.is_finite() {
        return Error::request(format!("the value {x} is too large for {dtype}")).hint("write f32 or bf16");
    }
    Error::request(format!("it holds the value {x}"))
        .hint("the model is damaged, or the training that made it has diverged: `eraser doctor` looks at both")
}

/// `values`, rows of `cols` each, as they are stored in `dtype`.
///
/// # Errors
/// A value that is not finite in the type.
pub(crate) fn encode(values: &[f32], cols: usize, dtype: TensorType) -> Result<Vec<u8>> {
    let largest = if dtype == TensorType::F16 { f16::MAX.to_f32() } else { f32::MAX };
    if let Some(x) = values.par_iter().copied().find_first(|x| x.is_nan() || x.abs() > largest) {
        return Err(no_place(x, &format!("{dtype:?}")));
    }
    let kind = match dtype {
        TensorType::F32 => return Ok(each(values, f32::to_le_bytes)),
        TensorType::F16 => return Ok(each(values, |x| f16::from_f32(x).to_le_bytes())),
        TensorType::BF16 => return Ok(each(values, |x| bf16::from_f32(x).to_le_bytes())),
        TensorType::Q4_0 => GgmlDType::Q4_0,
        TensorType::Q4_1 => GgmlDType::Q4_1,
        TensorType::Q5_0 => GgmlDType::Q5_0,
        TensorType::Q5_1 => GgmlDType::Q5_1,
        TensorType::Q8_0 => GgmlDType::Q8_0,
        TensorType::Q4_K => GgmlDType::Q4K,
        TensorType::Q5_K => GgmlDType::Q5K,
        TensorType::Q6_K => GgmlDType::Q6K,
    };
    let rows = (TASK / cols.max(1)).max(1);
    let pieces: Vec<Vec<u8>> = values
        .par_chunks(rows * cols)
        .map(|piece| {
            let piece = Tensor::from_slice(piece, (piece.len() / cols, cols), &Device::Cpu)?;
            Ok(QTensor::quantize(&piece, kind)?.data()?.into_owned())
        })
        .collect::<Result<_>>()?;
    Ok(pieces.concat())
}

fn each<const B: usize>(values: &[f32], convert: impl Fn(f32) -> [u8; B] + Sync) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * B];
    let chunks = bytes.par_chunks_mut(TASK * B).zip(values.par_chunks(TASK));
    chunks.for_each(|(bytes, values)| {
        for (out, x) in bytes.as_chunks_mut::<B>().0.iter_mut().zip(values) {
            *out = convert(*x);
        }
    });
    bytes
}

/// Metadata that every file has.
pub(crate) fn general(name: &str, what: &str, kind: GgufType) -> Fields {
    let all = [
        ("general.type", Field::String(what.to_owned())),
        ("general.name", Field::String(name.to_owned())),
        ("general.file_type", Field::U32(kind.number())),
        // Of the layout of quantised blocks.
        ("general.quantization_version", Field::U32(2)),
    ];
    all.into_iter().map(|(key, field)| (key.to_owned(), field)).collect()
}

/// The values of a tensor, whatever it is held in.
pub(crate) fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;
    use crate::gguf::dequantize;

    fn model(layers: usize, width: usize, tied: bool) -> ModelConfig {
        ModelConfig {
            family: Family::Llama,
            hidden_size: width,
            intermediate_size: 4 * width,
            num_layers: layers,
            num_heads: 8,
            num_kv_heads: 2,
            head_dim: width / 8,
            vocab_size: 11,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: None,
            tie_word_embeddings: tied,
            qkv_bias: false,
            sliding_window: None,
            max_position_embeddings: 32,
            layer: Layer::default(),
        }
    }

    /// Read off the files that `llama-quantize` writes of models of 30 layers: the first 3, the last 4, and every third
    /// between them.
    #[test]
    fn the_mixture_has_six_bits_where_llama_quantize_has_them() {
        let (config, kind) = (model(30, 512, true), GgufType::Q4_K_M);
        let six: Vec<usize> = (0..30)
            .filter(|i| kind.of(&format!("blk.{i}.attn_v.weight"), &[128, 512], &config).0 == TensorType::Q6_K)
            .collect();
        assert_eq!(six, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]);
        for i in 0..30 {
            let of = |module: &str| kind.of(&format!("blk.{i}.{module}.weight"), &[512, 512], &config).0;
            assert_eq!(of("ffn_down"), of("attn_v"));
            assert_eq!(of("attn_q"), TensorType::Q4_K);
        }
        assert_eq!(kind.of("token_embd.weight", &[11, 512], &config).0, TensorType::Q6_K);
        let untied = model(30, 512, false);
        assert_eq!(kind.of("token_embd.weight", &[11, 512], &untied).0, TensorType::Q4_K);
        assert_eq!(kind.of("output.weight", &[11, 512], &untied).0, TensorType::Q6_K);
        let large = model(80, 512, false);
        assert_eq!(kind.of("blk.11.attn_v.weight", &[128, 512], &large).0, TensorType::Q5_K);
    }

    #[test]
    fn a_row_that_is_not_whole_blocks_gets_a_type_of_smaller_blocks() {
        let config = model(30, 576, true);
        let of = |kind: GgufType, name: &str, cols: usize| kind.of(name, &[4, cols], &config).0;
        assert_eq!(of(GgufType::Q4_K_M, "blk.3.attn_q.weight", 576), TensorType::Q5_0);
        assert_eq!(of(GgufType::Q4_K_M, "blk.0.attn_v.weight", 576), TensorType::Q8_0);
        assert_eq!(of(GgufType::Q4_K_M, "token_embd.weight", 576), TensorType::Q8_0);
        assert_eq!(of(GgufType::Q4_0, "token_embd.weight", 576), TensorType::Q8_0);
        assert_eq!(of(GgufType::Q4_0, "token_embd.weight", 512), TensorType::Q6_K);
        assert_eq!(of(GgufType::Q4_K_M, "blk.3.attn_q.weight", 40), TensorType::F16);
        assert_eq!(of(GgufType::Q8_0, "blk.3.attn_q.weight", 40), TensorType::F16);
        assert_eq!(GgufType::Q8_0.of("blk.0.attn_norm.weight", &[64], &config).0, TensorType::F32);
        assert_eq!(GgufType::F16.of("blk.0.attn_q.bias", &[64], &config).0, TensorType::F32);
    }

    #[test]
    fn values_come_back_as_near_as_the_type_allows() {
        let values: Vec<f32> = (0..512 * 300).map(|i| ((i * 37 % 1009) as f32 / 504.5 - 1.0) * 0.1).collect();
        let largest = [
            (TensorType::F32, 0.0),
            (TensorType::F16, 1e-4),
            (TensorType::BF16, 1e-3),
            (TensorType::Q8_0, 1e-3),
            (TensorType::Q6_K, 5e-3),
            (TensorType::Q5_K, 1e-2),
            (TensorType::Q5_0, 1e-2),
            (TensorType::Q5_1, 1e-2),
            (TensorType::Q4_K, 2e-2),
            (TensorType::Q4_0, 2e-2),
        ];
        for (dtype, most) in largest {
            let bytes = encode(&values, 512, dtype).unwrap();
            assert_eq!(bytes, encode(&values, 512, dtype).unwrap(), "{dtype:?}");
            let back = dequantize(dtype, &bytes);
            assert_eq!(back.len(), values.len());
            let error = values.iter().zip(&back).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(error <= most, "{dtype:?}: {error}");
        }
    }

    #[test]
    fn a_value_that_the_type_cannot_hold_is_an_error() {
        assert!(encode(&[1e5], 1, TensorType::F16).is_err());
        assert!(encode(&[1e5], 1, TensorType::BF16).is_ok());
        for dtype in [TensorType::F32, TensorType::Q8_0] {
            assert!(encode(&[f32::NAN; 32], 32, dtype).is_err(), "{dtype:?}");
        }
    }
}
