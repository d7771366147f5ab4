//! The network: embedding, blocks, final norm, head. In: packed token ids; out: hidden states or logits. Invariant: a
//! forward pass without a trace builds no autograd graph, whatever is a variable.
//!
//! One block: `x + O(attention(rope(Q n), rope(K n), V n))` with `n = rms_norm(x)`, then
//! `x + Down(silu(Gate m) * Up m)` with `m = rms_norm(x)`.

use crate::{
    Adapter, Error, ModelConfig, Result,
    adapter::{Module, Pairs},
    weights::TensorSource,
};
use candle_core::{DType, Device, Tensor};
use eraser_ops::{
    AttentionShape, Dropout, LoraInput, RopeTable, Segments, Stored, Weight, attention,
    block::{self, BlockLinear, Linears},
    embedding, form, gather_rows, linear, lora_linear,
    quant::TensorType,
    rms_norm, rope, swiglu,
};
use half::{bf16, f16};
use std::{fmt, ops::Range};

/// Positions for which rotary tables are made: longer contexts than this are refused, not silently wrong.
const MAX_POSITIONS: usize = 32_768;

/// The network.
pub struct Decoder {
    config: ModelConfig,
    shape: AttentionShape,
    embedding: Tensor,
    pub(crate) blocks: Vec<Block>,
    norm: Tensor,
    head: Tensor,
    rope: RopeTable,
    held: WeightStorage,
}

/// How weights are held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightStorage {
    /// As tensors of this type.
    Dense(DType),
    /// The linear layers in the blocks that they are stored in, the rest in f32.
    AsStored,
    /// The linear layers in half-precision blocks of this type, the rest in f32.
    Half(TensorType),
    /// Linear layers, embedding and head in bf16 on the CPU, where they are multiplied in bf16 with sums in f32; the rest in
    /// f32.
    MultipliedInBf16,
}

/// A name for each way: `f32`, `as stored`, `bf16 blocks`.
impl fmt::Display for WeightStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense(dtype) => f.write_str(dtype.as_str()),
            Self::AsStored => f.write_str("as stored"),
            Self::Half(kind) => write!(f, "{} blocks", format!("{kind:?}").to_lowercase()),
            Self::MultipliedInBf16 => f.write_str("bf16, multiplied in bf16"),
        }
    }
}

impl From<DType> for WeightStorage {
    fn from(dtype: DType) -> Self {
        Self::Dense(dtype)
    }
}

impl WeightStorage {
    /// Type of what is held as tensors.
    fn dtype(self) -> DType {
        match self {
            Self::Dense(dtype) => dtype,
            Self::AsStored | Self::Half(_) | Self::MultipliedInBf16 => DType::F32,
        }
    }

    /// Type of embedding and head.
    fn head_dtype(self) -> DType {
        match self {
            Self::MultipliedInBf16 => DType::BF16,
            _ => self.dtype(),
        }
    }

    /// The matrix `name` of `source`.
    fn weight(self, source: &dyn TensorSource, name: &str, shape: [usize; 2], device: &Device) -> Result<Weight> {
        let dense = || source.tensor(name, &shape, self.dtype(), device);
        let kind = match self {
            Self::Dense(_) => return Ok(dense()?.into()),
            Self::MultipliedInBf16 => return Ok(source.tensor(name, &shape, DType::BF16, device)?.into()),
            Self::AsStored => {
                return Ok(match source.stored(name, shape)? {
                    Some(stored) => Weight::Stored(stored),
                    None => dense()?.into(),
                });
            }
            Self::Half(kind) => kind,
        };
        let values = dense()?.flatten_all()?.to_vec1::<f32>()?;
        Ok(Weight::Stored(Stored::new(kind, shape[0], shape[1], halves(kind, &values))?))
    }
}

/// Values in half precision: f16, or else bf16.
fn halves(kind: TensorType, values: &[f32]) -> Vec<u8> {
    match kind {
        TensorType::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

/// One block's weights.
pub(crate) struct Block {
    attention_norm: Tensor,
    mlp_norm: Tensor,
    linears: Linears<Linear>,
    /// The weights of q, k and v below each other, and those of gate and up; `linears` then holds parts of them.
    qkv: Option<Weight>,
    gate_up: Option<Weight>,
}

/// A linear module: `[out, in]` and an optional bias `[out]`.
struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

/// What a block needs besides its input.
#[derive(Clone, Copy)]
pub(crate) struct BlockContext<'a> {
    /// Sequence boundaries.
    pub(crate) segments: &'a Segments,
    /// Position of each token in its sequence.
    pub(crate) positions: &'a [u32],
    /// The adapter's pairs for this block.
    pub(crate) lora: Option<&'a Pairs>,
    /// Dropout of the adapter's inputs, seeded for this block.
    pub(crate) dropout: Option<Dropout>,
    /// Whether variables are to be tracked.
    pub(crate) track: bool,
}

/// The tokens of a forward pass without gradient.
#[derive(Clone, Copy)]
pub(crate) struct Pack<'a> {
    /// Sequence boundaries.
    pub(crate) segments: &'a Segments,
    /// Position of each token in its sequence.
    pub(crate) positions: &'a [u32],
    /// The adapter, where it is on.
    pub(crate) adapter: Option<&'a Adapter>,
}

/// Attention other than that of each sequence of a pack to itself: rotated queries, rotated keys and values of one layer in,
/// outputs `[T, heads * head_dim]` out.
pub(crate) trait Attend {
    /// Whether [`Self::rows`] can be called.
    fn takes_rows(&self) -> bool {
        true
    }

    /// From rows in the host's memory.
    fn rows(&mut self, layer: usize, qkv: [&[f32]; 3]) -> Vec<f32>;

    /// From tensors.
    fn tensors(&mut self, layer: usize, qkv: [&Tensor; 3]) -> Result<Tensor>;
}

impl<'a> BlockContext<'a> {
    /// The adapter's pair of `module`, with its own dropout.
    fn lora(&self, module: Module) -> Option<LoraInput<'a>> {
        let lora = self.lora.and_then(|pairs| pairs[module].as_ref())?;
        let dropout = self.dropout.map(|d| Dropout { seed: d.seed.wrapping_add(module as u64), ..d });
        Some(LoraInput { a: &lora.a, b: &lora.b, scale: lora.scale, dropout })
    }
}

impl Decoder {
    /// Reads every tensor of the model from `source`. A tensor that `source` returns as a variable stays one: full
    /// training tracks it, adapter training leaves it alone.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape than `config` says, by name.
    pub fn load(
        config: &ModelConfig,
        source: &dyn TensorSource,
        held: impl Into<WeightStorage>,
        device: &Device,
    ) -> Result<Self> {
        let d = config.hidden_size;
        let held = held.into();
        let get = |name: &str, shape: &[usize]| source.tensor(name, shape, held.dtype(), device);
        let table = |name: &str| source.tensor(name, &[config.vocab_size, d], held.head_dtype(), device);
        let embedding = table("model.embed_tokens.weight")?;
        let blocks = (0..config.num_layers)
            .map(|layer| {
                let linear = |module: Module| {
                    let (out, input) = module.shape(config);
                    let name = module.hf_name(layer);
                    let weight = held.weight(source, &format!("{name}.weight"), [out, input], device)?;
                    let biased = config.qkv_bias && matches!(module, Module::Q | Module::K | Module::V);
                    let bias = biased.then(|| get(&format!("{name}.bias"), &[out])).transpose()?;
                    Ok::<_, Error>(Linear { weight, bias })
                };
                let linears = Linears {
                    q: linear(Module::Q)?,
                    k: linear(Module::K)?,
                    v: linear(Module::V)?,
                    o: linear(Module::O)?,
                    gate: linear(Module::Gate)?,
                    up: linear(Module::Up)?,
                    down: linear(Module::Down)?,
                };
                let norm = |name: &str| get(&format!("model.layers.{layer}.{name}.weight"), &[d]);
                let mut block = Block {
                    attention_norm: norm("input_layernorm")?,
                    mlp_norm: norm("post_attention_layernorm")?,
                    linears,
                    qkv: None,
                    gate_up: None,
                };
                block.stack()?;
                Ok(block)
            })
            .collect::<Result<_>>()?;
        let norm = get("model.norm.weight", &[d])?;
        let head = if config.tie_word_embeddings { embedding.clone() } else { table("lm_head.weight")? };
        let positions = config.max_position_embeddings.min(MAX_POSITIONS);
        let rope = RopeTable::new(&config.inv_freq(), positions, 1.0, device)?;
        let shape = AttentionShape {
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            window: config.sliding_window,
        };
        Ok(Self { config: config.clone(), shape, embedding, blocks, norm, head, rope, held })
    }

    /// The shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// True when all weights fit beside each other in a cache that cores share: then they may be read more than once a pass.
    pub(crate) fn is_small(&self) -> bool {
        const SMALL: usize = 4 << 20;
        let c = &self.config;
        let linears: usize = Module::ALL.iter().map(|module| module.shape(c)).map(|(o, i)| o * i).sum();
        c.num_layers * linears + c.vocab_size * c.hidden_size <= SMALL
    }

    /// True when blocks compute on rows in the host's memory (fused operations), not on tensors of a device.
    pub(crate) fn computes_on_host(&self) -> bool {
        form::fused(&self.norm)
    }

    /// Where the weights live.
    pub fn device(&self) -> &Device {
        self.embedding.device()
    }

    /// Heads and masking.
    pub(crate) fn shape(&self) -> AttentionShape {
        self.shape
    }

    /// Longest sequence that positions are defined for.
    pub fn max_positions(&self) -> usize {
        self.config.max_position_embeddings.min(MAX_POSITIONS)
    }

    /// The embedding matrix, `[V, d]`.
    pub(crate) fn embedding(&self) -> &Tensor {
        &self.embedding
    }

    /// The output head, `[V, d]`.
    pub fn head(&self) -> &Tensor {
        &self.head
    }

    /// Every weight under its Hugging Face name (the head left out when tied), expanded if it is held as stored.
    pub fn named_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut all = vec![("model.embed_tokens.weight".to_owned(), self.embedding.clone())];
        for (layer, block) in self.blocks.iter().enumerate() {
            for module in Module::ALL {
                let (linear, name) = (&block.linears[module], module.hf_name(layer));
                all.push((format!("{name}.weight"), linear.weight.dense(self.norm.dtype(), self.device())?));
                if let Some(bias) = &linear.bias {
                    all.push((format!("{name}.bias"), bias.clone()));
                }
            }
            all.push((format!("model.layers.{layer}.input_layernorm.weight"), block.attention_norm.clone()));
            all.push((format!("model.layers.{layer}.post_attention_layernorm.weight"), block.mlp_norm.clone()));
        }
        all.push(("model.norm.weight".to_owned(), self.norm.clone()));
        if !self.config.tie_word_embeddings {
            all.push(("lm_head.weight".to_owned(), self.head.clone()));
        }
        Ok(all)
    }

    /// Trained tensors outside the blocks: embedding, last norm, head.
    pub fn outer_variables(&self) -> Vec<Tensor> {
        let mut all: Vec<Tensor> = Vec::new();
        for t in [&self.embedding, &self.norm, &self.head] {
            if t.is_variable() && all.iter().all(|seen| seen.id() != t.id()) {
                all.push(t.clone());
            }
        }
        all
    }

    /// Adds `scale * B A` of every pair to the weights.
    pub fn merge(&mut self, adapter: &Adapter) -> Result<()> {
        self.add_scaled(adapter, 1.0)
    }

    /// Takes a merged adapter out of the weights again, up to rounding.
    pub fn unmerge(&mut self, adapter: &Adapter) -> Result<()> {
        self.add_scaled(adapter, -1.0)
    }

    fn add_scaled(&mut self, adapter: &Adapter, factor: f32) -> Result<()> {
        for (block, pairs) in self.blocks.iter_mut().zip(&adapter.layers) {
            for module in Module::ALL {
                if let Some(lora) = &pairs[module] {
                    let delta =
                        lora.b.detach().matmul(&lora.a.detach())?.affine(f64::from(factor * lora.scale), 0.0)?;
                    let linear = &mut block.linears[module];
                    let weight = linear.weight.dense(self.norm.dtype(), self.norm.device())?;
                    // A weight in bf16 stays one.
                    let dtype = linear.weight.tensor().map_or(weight.dtype(), Tensor::dtype);
                    linear.weight = (&weight + delta.to_dtype(weight.dtype())?)?.to_dtype(dtype)?.detach().into();
                }
            }
            block.stack()?;
        }
        Ok(())
    }

    /// Rounds the weights of the linear layers to blocks of `kind` (Q8_0 or Q4_0) and holds them so; embedding and head are
    /// rounded to Q8_0 and held as they were. Rows that are not a number of whole blocks are rounded to f16, as llama.cpp
    /// does.
    pub fn quantise(&mut self, kind: TensorType) -> Result<()> {
        let stored = |kind: TensorType, t: &Tensor| -> Result<Weight> {
            let (rows, cols) = t.dims2()?;
            Ok(Weight::Stored(if cols.is_multiple_of(kind.block()) {
                Stored::quantise(kind, t)?
            } else {
                let values = t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                Stored::new(TensorType::F16, rows, cols, halves(TensorType::F16, &values))?
            }))
        };
        let round = |t: &Tensor| Ok::<_, Error>(stored(TensorType::Q8_0, t)?.dense(t.dtype(), t.device())?);
        for block in &mut self.blocks {
            for module in Module::ALL {
                let weight = &mut block.linears[module].weight;
                *weight = stored(kind, &weight.dense(DType::F32, &Device::Cpu)?)?;
            }
            block.stack()?;
        }
        self.embedding = round(&self.embedding)?;
        self.head = if self.config.tie_word_embeddings { self.embedding.clone() } else { round(&self.head)? };
        Ok(())
    }

    /// How the weights are held.
    pub fn held(&self) -> WeightStorage {
        self.held
    }

    /// Embeddings of `ids`, `[T, d]`, tracked if the table is a variable and `track`.
    pub fn embed(&self, ids: &[u32], track: bool) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            let v = self.config.vocab_size;
            return Err(Error::request(format!("token id {id} is not below the vocabulary size {v}")));
        }
        Ok(embedding(&tracked(&self.embedding, track), ids)?.to_dtype(self.norm.dtype())?)
    }

    /// Positions of the tokens of a pack, checked against the longest sequence.
    pub(crate) fn positions(&self, segments: &Segments) -> Result<Vec<u32>> {
        self.check_length(segments.longest())?;
        Ok(segments.positions())
    }

    /// An error if a sequence of this length has no positions.
    pub(crate) fn check_length(&self, length: usize) -> Result<()> {
        let most = self.max_positions();
        if length > most {
            return Err(Error::request(format!("a sequence of {length} tokens is longer than the model's {most}"))
                .hint("shorten the prompt, or lower the maximum length or the number of new tokens"));
        }
        Ok(())
    }

    /// True when block `layer` runs as one fused operation on `x`: on the CPU in f32, and nothing but adapters tracked.
    pub(crate) fn is_fused(&self, layer: usize, x: &Tensor, track: bool) -> bool {
        form::fused(x) && !(track && self.blocks[layer].variables().next().is_some())
    }

    /// Block `layer` as a fused operation.
    pub(crate) fn fused<'a>(&'a self, layer: usize, context: BlockContext<'a>) -> block::Block<'a> {
        let own = &self.blocks[layer];
        let linear = |module| {
            let linear: &Linear = &own.linears[module];
            BlockLinear { weight: &linear.weight, bias: linear.bias.as_ref(), lora: context.lora(module) }
        };
        let linears = Linears {
            q: linear(Module::Q),
            k: linear(Module::K),
            v: linear(Module::V),
            o: linear(Module::O),
            gate: linear(Module::Gate),
            up: linear(Module::Up),
            down: linear(Module::Down),
        };
        block::Block {
            attention_norm: &own.attention_norm,
            mlp_norm: &own.mlp_norm,
            linears,
            qkv: own.qkv.as_ref(),
            gate_up: own.gate_up.as_ref(),
            eps: self.config.rms_norm_eps,
            shape: self.shape,
            rope: &self.rope,
            positions: context.positions,
            segments: context.segments,
        }
    }

    /// Block `layer` on `x` `[T, d]`, each sequence attending to itself.
    pub(crate) fn block(&self, layer: usize, x: &Tensor, context: BlockContext<'_>) -> Result<Tensor> {
        if self.is_fused(layer, x, context.track) && !context.track {
            return Ok(block::forward(&self.fused(layer, context), x)?);
        }
        self.composed(layer, x, context, |q, k, v| Ok(attention(q, k, v, context.segments, self.shape)?))
    }

    /// Block `layer` composed of single operations, with attention left to `attend`.
    fn composed(
        &self,
        layer: usize,
        x: &Tensor,
        context: BlockContext<'_>,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let block = &self.blocks[layer];
        let n = rms_norm(x, &tracked(&block.attention_norm, context.track), self.config.rms_norm_eps)?;
        let q = rope(&block.project(Module::Q, &n, context)?, &self.rope, context.positions)?;
        let k = rope(&block.project(Module::K, &n, context)?, &self.rope, context.positions)?;
        let v = block.project(Module::V, &n, context)?;
        let x = (x + block.project(Module::O, &attend(&q, &k, &v)?, context)?)?;
        let m = block.mlp(&x, context, self.config.rms_norm_eps)?;
        Ok((x + m)?)
    }

    /// The last norm on `rows` of `x` `[T, d]`: what the head reads, `[n, d]`. Tracked where `x` or the norm's weight is.
    pub fn final_hidden(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        self.last_norm(&gather_rows(x, rows)?, true)
    }

    /// The last norm of `x`. Its weight is tracked if it is a variable and `track`.
    fn last_norm(&self, x: &Tensor, track: bool) -> Result<Tensor> {
        Ok(rms_norm(x, &tracked(&self.norm, track), self.config.rms_norm_eps)?)
    }

    /// Residual stream after the last block, `[T, d]`, of packed sequences. No gradient.
    pub fn residual(&self, ids: &[u32], segments: &Segments, adapter: Option<&Adapter>) -> Result<Tensor> {
        self.run(self.embed(ids, false)?, 0..self.blocks.len(), segments, adapter)
    }

    /// Carries the residual stream `x` `[T, d]` of packed sequences through some of the blocks. No gradient.
    pub fn run(
        &self,
        x: Tensor,
        blocks: Range<usize>,
        segments: &Segments,
        adapter: Option<&Adapter>,
    ) -> Result<Tensor> {
        let positions = self.positions(segments)?;
        self.carry(x, blocks, Pack { segments, positions: &positions, adapter }, None)
    }

    /// Carries the residual stream `x` through some of the blocks, without gradient. Sequences attend to themselves, unless
    /// `attend` says otherwise.
    pub(crate) fn carry(
        &self,
        mut x: Tensor,
        blocks: Range<usize>,
        pack: Pack<'_>,
        mut attend: Option<&mut dyn Attend>,
    ) -> Result<Tensor> {
        let Pack { segments, positions, adapter } = pack;
        for layer in blocks {
            let lora = adapter.map(|a| &a.layers[layer]);
            let context = BlockContext { segments, positions, lora, dropout: None, track: false };
            x = match &mut attend {
                None => self.block(layer, &x, context)?,
                Some(attend) if attend.takes_rows() && self.is_fused(layer, &x, false) => {
                    let attend = |q: &[f32], k: &[f32], v: &[f32]| Ok(attend.rows(layer, [q, k, v]));
                    block::forward_attending(&self.fused(layer, context), &x, attend)?
                }
                Some(attend) => self.composed(layer, &x, context, |q, k, v| attend.tensors(layer, [q, k, v]))?,
            };
        }
        Ok(x)
    }

    /// Final hidden states (after the last norm), `[T, d]`, of packed sequences. No gradient.
    pub fn hidden(&self, ids: &[u32], segments: &Segments, adapter: Option<&Adapter>) -> Result<Tensor> {
        self.normed(&self.residual(ids, segments, adapter)?)
    }

    /// The last norm, without gradient.
    pub(crate) fn normed(&self, x: &Tensor) -> Result<Tensor> {
        self.last_norm(x, false)
    }

    /// Logits of final hidden states `[n, d]`, `[n, V]` in f32. No gradient.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(linear(&hidden.detach(), &self.head.detach(), None)?.to_dtype(DType::F32)?)
    }
}

impl Block {
    /// A linear module with its adapter pair, if it has one.
    fn project(&self, module: Module, x: &Tensor, context: BlockContext<'_>) -> Result<Tensor> {
        let own = &self.linears[module];
        let weight = tracked(&own.weight.dense(x.dtype(), x.device())?, context.track);
        let bias = own.bias.as_ref().map(|b| tracked(b, context.track));
        let Some(pair) = context.lora(module) else {
            return Ok(linear(x, &weight, bias.as_ref())?);
        };
        let (a, b) = (tracked(pair.a, context.track), tracked(pair.b, context.track));
        Ok(lora_linear(x, &weight, bias.as_ref(), LoraInput { a: &a, b: &b, ..pair })?)
    }

    /// Puts the weights of one input below each other where that can be done.
    fn stack(&mut self) -> Result<()> {
        let mut stacked = |modules: &[Module]| {
            let weights: Vec<&Weight> = modules.iter().map(|&m| &self.linears[m].weight).collect();
            let Some(stack) = Weight::stack(&weights)? else { return Ok::<_, Error>(None) };
            let mut start = 0;
            for &module in modules {
                let own = &mut self.linears[module].weight;
                let rows = own.dims()?.0;
                *own = stack.narrow(start, rows)?;
                start += rows;
            }
            Ok(Some(stack))
        };
        self.qkv = stacked(&[Module::Q, Module::K, Module::V])?;
        self.gate_up = stacked(&[Module::Gate, Module::Up])?;
        Ok(())
    }

    /// The MLP half: `Down(silu(Gate m) * Up m)`.
    fn mlp(&self, x: &Tensor, context: BlockContext<'_>, eps: f64) -> Result<Tensor> {
        let m = rms_norm(x, &tracked(&self.mlp_norm, context.track), eps)?;
        let h = swiglu(&self.project(Module::Gate, &m, context)?, &self.project(Module::Up, &m, context)?)?;
        self.project(Module::Down, &h, context)
    }

    /// Weights of this block that are variables.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &Tensor> {
        let linears = self.linears.iter().flat_map(|l| l.weight.tensor().into_iter().chain(l.bias.as_ref()));
        [&self.attention_norm, &self.mlp_norm].into_iter().chain(linears).filter(|t| t.is_variable())
    }
}

/// The tensor as it is, or cut from the graph.
fn tracked(t: &Tensor, track: bool) -> Tensor {
    if track { t.clone() } else { t.detach() }
}
