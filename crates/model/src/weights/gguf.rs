//! GGUF tensors under Hugging Face names and in Hugging Face layout, and the way back. Invariant: rows of q and k that
//! llama.cpp's converter interleaved for its RoPE come back half-split.

use super::{TensorSource, check_shape, from_f32, missing};
use crate::{
    ModelConfig, Result,
    config::{Family, NormPlacement, Spec},
    gguf::{GgufFile, TensorInfo, TensorType, dequantize},
};
use candle_core::{DType, Device, Tensor};
use eraser_ops::Stored;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;

/// The tensors of a GGUF file, de-quantised as they are read.
#[derive(Debug)]
pub struct GgufWeights<'a> {
    file: &'a GgufFile,
    /// Width of a head, if the file's q and k are interleaved.
    interleaved: Option<usize>,
    /// What the file calls the norm that follows attention in the checkpoint's names.
    after_attention: &'static str,
    /// Norms' weights in the file are what a row is multiplied by: one more than in the checkpoint.
    plus_one: bool,
    /// Names in the file of what was read.
    read: RefCell<HashSet<String>>,
}

impl<'a> GgufWeights<'a> {
    /// The tensors of `file`, whose shape is `config`.
    pub fn new(file: &'a GgufFile, config: &ModelConfig) -> Self {
        let interleaved = Spec::of(config.family).interleaved.then_some(config.head_dim);
        let plus_one = config.layer.unit_norms;
        Self { file, interleaved, after_attention: after_attention(config), plus_one, read: RefCell::default() }
    }

    /// Tensors of decoder layers that nothing has read.
    pub(crate) fn unread(&self) -> impl Iterator<Item = &str> {
        let names = self.file.tensors().iter().map(|tensor| tensor.name.as_str());
        names.filter(|name| name.starts_with("blk.") && !self.read.borrow().contains(*name))
    }
}

impl GgufWeights<'_> {
    /// The place of a tensor in the file, and its bytes in Hugging Face layout.
    fn data(&self, name: &str, shape: &[usize]) -> Result<(&TensorInfo, Cow<'_, [u8]>)> {
        let path = self.file.path();
        if let Some((own, expert)) = of_expert(name) {
            // All experts of a layer are one tensor, `[experts, rows, columns]`.
            let info = self.file.tensor(&own).ok_or_else(|| missing(path, &own))?;
            let count = info.shape.first().copied().unwrap_or(0);
            check_shape(path, &own, &info.shape, &[&[count.max(expert + 1)], shape].concat())?;
            self.read.borrow_mut().insert(info.name.clone());
            let data = self.file.data(info);
            let bytes = data.len() / count;
            return Ok((info, Cow::Borrowed(&data[expert * bytes..(expert + 1) * bytes])));
        }
        let own = named(name, self.after_attention).ok_or_else(|| missing(path, name))?;
        let info = self.file.tensor(&own).ok_or_else(|| missing(path, &own))?;
        check_shape(path, &own, &info.shape, shape)?;
        self.read.borrow_mut().insert(info.name.clone());
        let data = self.file.data(info);
        Ok(match self.interleaved {
            Some(head_dim) if is_interleaved(name) => {
                let rows = info.shape.first().copied().unwrap_or(1);
                (info, Cow::Owned(half_split_rows(data, data.len() / rows, head_dim)))
            }
            _ => (info, Cow::Borrowed(data)),
        })
    }
}

impl TensorSource for GgufWeights<'_> {
    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let (info, data) = self.data(name, shape)?;
        let mut values = dequantize(info.dtype, &data);
        if self.plus_one && name.ends_with("norm.weight") {
            for x in &mut values {
                *x -= 1.0;
            }
        }
        self.file.release();
        from_f32(values, shape, dtype, device)
    }

    fn stored(&self, name: &str, [rows, cols]: [usize; 2]) -> Result<Option<Stored>> {
        let (info, data) = self.data(name, &[rows, cols])?;
        let plain = info.dtype == TensorType::F32;
        let stored = (!plain).then(|| Stored::new(info.dtype, rows, cols, data.into_owned())).transpose()?;
        self.file.release();
        Ok(stored)
    }

    fn contains(&self, name: &str) -> bool {
        let own = of_expert(name).map(|(own, _)| own).or_else(|| named(name, self.after_attention));
        own.is_some_and(|own| self.file.tensor(&own).is_some())
    }
}

/// The values of a tensor of a checkpoint, of rows of `row` values, as llama.cpp's converter stores them.
pub(crate) fn to_gguf(name: &str, values: Vec<f32>, row: usize, config: &ModelConfig) -> Vec<f32> {
    let swapped = Spec::of(config.family).interleaved && is_interleaved(name);
    let mut values = if swapped { interleave_rows(&values, row, config.head_dim) } else { values };
    if config.layer.unit_norms && name.ends_with("norm.weight") {
        for x in &mut values {
            *x += 1.0;
        }
    }
    values
}

/// A tensor of the checkpoint as a GGUF file has it, under Llama's names: gate and up, which Granite 4 has in one, are
/// apart there. `name` is that of a tensor, or the path of a module with a tensor whose rows are those of its weight.
pub(crate) fn apart(name: &str, tensor: &Tensor) -> Result<Vec<(String, Tensor)>> {
    let (joined, down) = ("shared_mlp.input_linear", "shared_mlp.output_linear");
    if name.contains(joined) {
        let rows = tensor.dim(0)? / 2;
        let half = |own: &str, start| {
            Ok::<_, crate::Error>((name.replace(joined, own), tensor.narrow(0, start, rows)?.contiguous()?))
        };
        return Ok(vec![half("mlp.gate_proj", 0)?, half("mlp.up_proj", rows)?]);
    }
    Ok(vec![(name.replace(down, "mlp.down_proj"), tensor.clone())])
}

/// Whether the rows of a tensor are those of rotated heads.
pub(crate) fn is_interleaved(name: &str) -> bool {
    ["q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias"].iter().any(|end| name.ends_with(end))
}

/// The name that llama.cpp's converter gives to a tensor of a model; those of all experts of a layer have one name.
pub(crate) fn gguf_name(name: &str, config: &ModelConfig) -> Option<String> {
    if let Some((own, _)) = of_expert(name) {
        return Some(own);
    }
    named(name, after_attention(config))
}

/// The norm that follows attention in the checkpoint's names: in Llama it stands before the MLP. Files of Seed-OSS have
/// it under the checkpoint's own name.
fn after_attention(config: &ModelConfig) -> &'static str {
    let before_mlp = config.layer.norms == NormPlacement::Before && config.family != Family::SeedOss;
    if before_mlp { "ffn_norm" } else { "post_attention_norm" }
}

fn named(name: &str, after_attention: &'static str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        "lm_head.weight" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let own = match module {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => after_attention,
        "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate" | "block_sparse_moe.gate" => "ffn_gate_inp",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{own}.{kind}"))
}

/// Whether a tensor of the checkpoint is one of an expert.
pub(crate) fn is_of_experts(name: &str) -> bool {
    of_expert(name).is_some()
}

/// The tensor of a file that holds a weight of all experts of a layer, and the expert.
fn of_expert(name: &str) -> Option<(String, usize)> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (expert, module) = rest.split_once(".experts.")?.1.strip_suffix(".weight")?.split_once('.')?;
    let own = match module {
        "gate_proj" | "w1" => "ffn_gate_exps",
        "up_proj" | "w3" => "ffn_up_exps",
        "down_proj" | "w2" => "ffn_down_exps",
        _ => return None,
    };
    Some((format!("blk.{layer}.{own}.weight"), expert.parse().ok()?))
}

/// Reorders the rows of each head from interleaved pairs (`2i` rotates with `2i + 1`) to halves (`i` rotates with
/// `i + head_dim / 2`). `data` holds whole heads of `head_dim` rows of `row` elements.
pub(crate) fn half_split_rows<T: Copy>(data: &[T], row: usize, head_dim: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(data.len());
    for head in data.chunks(row * head_dim) {
        for parity in 0..2 {
            for pair in head.chunks(2 * row) {
                out.extend_from_slice(&pair[parity * row..][..row]);
            }
        }
    }
    out
}

/// The inverse of [`half_split_rows`].
fn interleave_rows<T: Copy>(data: &[T], row: usize, head_dim: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(data.len());
    for head in data.chunks(row * head_dim) {
        let (first, second) = head.split_at(row * head_dim / 2);
        for (a, b) in first.chunks(row).zip(second.chunks(row)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}
