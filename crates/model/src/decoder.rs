//! The network: embedding, blocks, final norm, head. In: packed token ids; out: hidden states or logits. Invariant: a
//! forward pass without a trace builds no autograd graph, whatever is a variable.
//!
//! One block, as Llama has it: `x + O(attention(rope(Q n), rope(K n), V n))` with `n = rms_norm(x)`, then `x +
//! Down(silu(Gate m) * Up m)` with `m = rms_norm(x)`. What other families have besides is in [`crate::config::Layer`].

mod experts;
mod layer;
mod storage;

pub use storage::WeightStorage;

use crate::{
    Adapter, Error, ModelConfig, Result, SideBySide, adapter::Pairs, lora_config::Module, weights::TensorSource,
};
use candle_core::{DType, Device, Tensor};
use eraser_ops::{
    AttentionShape, Dropout, LoraInput, Segments, Stored, Weight, attention,
    block::{self, BlockLinear},
    cross_entropy_capped, device, embedding, form, gather_rows, kl_divergence_capped, linear,
    quant::TensorType,
};
use layer::{Block, Linear, Norm, Rotation};
use std::ops::Range;
use storage::halves;

/// The network.
pub struct Decoder {
    config: ModelConfig,
    /// Heads and masking of each block.
    shapes: Vec<AttentionShape>,
    embedding: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
    head: Tensor,
    held: WeightStorage,
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
    /// Whose pairs they are, where they are those of several adapters: the layer, and the adapter of each row.
    pub(crate) beside: Option<(usize, Beside<'a>)>,
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
    /// In its place, several adapters.
    pub(crate) beside: Option<Beside<'a>>,
}

/// Several adapters, and the one of each row.
#[derive(Clone, Copy)]
pub(crate) struct Beside<'a> {
    pub(crate) adapters: &'a SideBySide,
    pub(crate) rows: &'a [u32],
}

/// Attention other than that of each sequence of a pack to itself: rotated queries, rotated keys and values of one
/// layer in, outputs `[T, heads * head_dim]` out.
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
        let owners = self.beside.and_then(|(layer, beside)| beside.adapters.owners(layer, module, beside.rows));
        Some(LoraInput { a: &lora.a, b: &lora.b, scale: lora.scale, dropout, owners, identity: lora.identity })
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
        let table = |name: &str| source.tensor(name, &[config.vocab_size, d], held.head_dtype(), device);
        let embedding = table("model.embed_tokens.weight")?;
        let mut rotations = Rotation::default();
        let blocks = (0..config.num_layers)
            .map(|layer| Block::load(layer, config, source, held, device, &mut rotations))
            .collect::<Result<_>>()?;
        let norm = source.tensor("model.norm.weight", &[d], layer::norm_dtype(config, held), device)?;
        // Logits are products with what the last norm gives.
        let norm = Norm::new(norm, config.layer.unit_norms, config.layer.logit_multiplier)?;
        let head = if config.tie_word_embeddings { embedding.clone() } else { table("lm_head.weight")? };
        let shape = |layer| AttentionShape {
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            window: config.window(layer),
            scale: config.layer.attention_scale,
            cap: config.layer.attention_cap,
        };
        let shapes = (0..config.num_layers).map(shape).collect();
        Ok(Self { config: config.clone(), shapes, embedding, blocks, norm, head, held })
    }

    /// The shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// True when all weights fit beside each other in a cache that cores share: then they may be read more than once a
    /// pass.
    pub(crate) fn is_small(&self) -> bool {
        const SMALL: usize = 4 << 20;
        let c = &self.config;
        let linears: usize = Module::of(c).into_iter().map(|module| module.shape(c)).map(|(o, i)| o * i).sum();
        let experts = c.layer.mixture.map_or(0, |m| 3 * m.experts * c.hidden_size * c.intermediate_size);
        self.device().is_cpu() && c.num_layers * (linears + experts) + c.vocab_size * c.hidden_size <= SMALL
    }

    /// True when blocks compute on rows in the host's memory (fused operations), not on tensors of a device.
    pub(crate) fn computes_on_host(&self) -> bool {
        self.dtype() == DType::F32 && form::fused(self.norm.stored())
    }

    /// True when the device has attention to caches of its own.
    pub(crate) fn attends_to_caches(&self) -> bool {
        device::has_operations(self.device()) && !form::is_composed() && self.dtype() != DType::F16
    }

    /// Where the weights live.
    pub fn device(&self) -> &Device {
        self.embedding.device()
    }

    /// Heads and masking of each block.
    pub(crate) fn shapes(&self) -> &[AttentionShape] {
        &self.shapes
    }

    /// How many blocks there are.
    pub(crate) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Type of the residual stream.
    fn dtype(&self) -> DType {
        self.held.dtype()
    }

    /// Longest sequence that positions are defined for.
    pub fn max_positions(&self) -> usize {
        self.config.max_positions().min(layer::MAX_POSITIONS)
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
            all.extend(block.named(layer, &self.config, self.dtype(), self.device())?);
        }
        all.push(("model.norm.weight".to_owned(), self.norm.stored().clone()));
        if !self.config.tie_word_embeddings {
            all.push(("lm_head.weight".to_owned(), self.head.clone()));
        }
        Ok(all)
    }

    /// The first tensor with a value that is not finite or is larger than `most`, and that value. One that is not
    /// finite makes every answer meaningless.
    ///
    /// # Errors
    /// Memory, for one block's weights in full.
    pub fn first_beyond(&self, most: f32) -> Result<Option<(String, f32)>> {
        let broken = |all: Vec<(String, Tensor)>| -> Result<Option<(String, f32)>> {
            for (name, tensor) in all {
                let values = tensor.detach().to_dtype(DType::F32)?.abs()?.flatten_all()?;
                let sum = values.sum_all()?.to_scalar::<f32>()?;
                if sum <= most {
                    continue;
                }
                let beyond = |x: &f32| x.is_nan() || *x > most;
                if let Some(x) = values.to_vec1::<f32>()?.into_iter().find(beyond) {
                    return Ok(Some((name, x)));
                }
            }
            Ok(None)
        };
        let name = |name: &str| name.to_owned();
        if let Some(found) = broken(vec![(name("model.embed_tokens.weight"), self.embedding.clone())])? {
            return Ok(Some(found));
        }
        for (layer, block) in self.blocks.iter().enumerate() {
            if let Some(found) = broken(block.named(layer, &self.config, self.dtype(), self.device())?)? {
                return Ok(Some(found));
            }
        }
        broken(vec![
            (name("model.norm.weight"), self.norm.stored().clone()),
            (name("lm_head.weight"), self.head.clone()),
        ])
    }

    /// Trained tensors outside the blocks: embedding, last norm, head.
    pub fn outer_variables(&self) -> Vec<Tensor> {
        let mut all: Vec<Tensor> = Vec::new();
        for t in [&self.embedding, self.norm.stored(), &self.head] {
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
                if let (Some(lora), Some(linear)) = (&pairs[module], &mut block.linears[module]) {
                    let delta =
                        lora.b.detach().matmul(&lora.a.detach())?.affine(f64::from(factor * lora.scale), 0.0)?;
                    let weight = linear.weight.dense(self.held.dtype(), self.embedding.device())?;
                    // A weight in bf16 stays one.
                    let dtype = linear.weight.tensor().map_or(weight.dtype(), Tensor::dtype);
                    linear.weight = (&weight + delta.to_dtype(weight.dtype())?)?.to_dtype(dtype)?.detach().into();
                }
            }
            block.stack()?;
        }
        Ok(())
    }

    /// Rounds the weights of the linear layers to blocks of `kind` (Q8_0 or Q4_0) and holds them so; embedding and head
    /// are rounded to Q8_0 and held as they were. Rows that are not a number of whole blocks are rounded to f16, as
    /// llama.cpp does.
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
                if let Some(Linear { weight, .. }) = &mut block.linears[module] {
                    *weight = stored(kind, &weight.dense(DType::F32, &Device::Cpu)?)?;
                }
            }
            for weight in block.experts.iter_mut().flat_map(|experts| &mut experts.each).flatten() {
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
        let x = embedding(&tracked(&self.embedding, track), ids)?.to_dtype(self.dtype())?;
        Ok(match self.config.layer.embedding_multiplier {
            Some(factor) => (x * f64::from(factor))?,
            None => x,
        })
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
            let error = Error::request(format!("a sequence of {length} tokens is longer than the model's {most}"))
                .hint("shorten the prompt, or lower the maximum length or the number of new tokens");
            return Err(match self.config.beyond_original() {
                Some(all) => error.hint(format!(
                    "of its {all} positions only those of the original length are supported: LongRoPE has other \
                     frequencies in longer sequences"
                )),
                None => error,
            });
        }
        Ok(())
    }

    /// True when block `layer` runs as one fused operation on `x`: on the CPU in f32, and nothing but adapters tracked.
    pub(crate) fn is_fused(&self, layer: usize, x: &Tensor, track: bool) -> bool {
        let block = &self.blocks[layer];
        // What a trained norm multiplies by has to be made anew, where that is not its weight.
        let fresh = track || self.config.layer.unit_norms;
        form::fused(x) && !(fresh && block.variables().next().is_some())
    }

    /// About how many bytes a block on a tape keeps for each token: what goes into and comes out of each operation.
    pub(crate) fn tape_bytes_per_token(&self) -> usize {
        let c = &self.config;
        let heads = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim;
        let mixture = c.layer.mixture;
        let (width, copies) = (c.intermediate_size * mixture.map_or(1, |m| m.used), mixture.map_or(0, |m| 4 * m.used));
        self.dtype().size_in_bytes() * ((8 + copies) * c.hidden_size + 3 * heads + 4 * width)
    }

    /// Block `layer` as a fused operation.
    pub(crate) fn fused<'a>(&'a self, layer: usize, context: BlockContext<'a>) -> block::Block<'a> {
        let own = &self.blocks[layer];
        let module = |module| {
            let linear: Option<&Linear> = own.linears[module].as_ref();
            let lora = context.lora(module);
            linear.map(|linear| BlockLinear { weight: &linear.weight, bias: linear.bias.as_ref(), lora })
        };
        let all = |module: Module| own.linears[module].as_ref().map(|linear| &linear.weight);
        block::Block {
            norms: own.norms(),
            linears: Module::each(module),
            qkv: own.qkv.as_ref().or(all(Module::Qkv)),
            gate_up: own.gate_up.as_ref().or(all(Module::GateUp)),
            experts: own.experts.as_ref().map(experts::Experts::fused),
            eps: self.config.rms_norm_eps,
            shape: self.shapes[layer],
            rope: own.rope(),
            activation: self.config.layer.mlp.activation(),
            residual: self.config.layer.residual_multiplier.unwrap_or(1.0),
            positions: context.positions,
            segments: context.segments,
        }
    }

    /// Block `layer` on `x` `[T, d]`, each sequence attending to itself.
    pub(crate) fn block(&self, layer: usize, x: &Tensor, context: BlockContext<'_>) -> Result<Tensor> {
        if self.is_fused(layer, x, context.track) && !context.track {
            return Ok(block::forward(&self.fused(layer, context), x)?);
        }
        self.composed(layer, x, context, |q, k, v| Ok(attention(q, k, v, context.segments, self.shapes[layer])?))
    }

    /// Block `layer` composed of single operations, with attention left to `attend`.
    fn composed(
        &self,
        layer: usize,
        x: &Tensor,
        context: BlockContext<'_>,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        self.blocks[layer].composed(&self.config, x, context, attend)
    }

    /// Trained weights of a block.
    pub(crate) fn block_variables(&self, layer: usize) -> impl Iterator<Item = &Tensor> {
        self.blocks[layer].variables()
    }

    /// The last norm on `rows` of `x` `[T, d]`: what the head reads, `[n, d]`. Tracked where `x` or the norm's weight
    /// is.
    pub fn final_hidden(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        self.last_norm(&gather_rows(x, rows)?, true)
    }

    /// The last norm of `x`. Its weight is tracked if it is a variable and `track`.
    fn last_norm(&self, x: &Tensor, track: bool) -> Result<Tensor> {
        self.norm.apply(x, self.config.rms_norm_eps, track)
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
        self.carry(x, blocks, Pack { segments, positions: &positions, adapter, beside: None }, None)
    }

    /// Carries the residual stream `x` through some of the blocks, without gradient. Sequences attend to themselves,
    /// unless `attend` says otherwise.
    pub(crate) fn carry(
        &self,
        mut x: Tensor,
        blocks: Range<usize>,
        pack: Pack<'_>,
        mut attend: Option<&mut dyn Attend>,
    ) -> Result<Tensor> {
        let Pack { segments, positions, adapter, beside } = pack;
        for layer in blocks {
            let lora = match beside {
                Some(beside) => beside.adapters.pairs(layer),
                None => adapter.map(|a| &a.layers[layer]),
            };
            let beside = beside.map(|beside| (layer, beside));
            let context = BlockContext { segments, positions, lora, beside, dropout: None, track: false };
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
        self.tracked_logits(&hidden.detach())
    }

    /// The same, tracked where the states are. The head is taken for frozen.
    pub fn tracked_logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = linear(hidden, &self.head.detach(), None)?.to_dtype(DType::F32)?;
        Ok(match self.config.layer.logit_cap.map(f64::from) {
            Some(cap) => ((logits / cap)?.tanh()? * cap)?,
            None => logits,
        })
    }

    /// Negative log-likelihood of each target under final hidden states `[n, d]`, `[n]`. Tracked where they are, or the
    /// head.
    pub fn cross_entropy(&self, hidden: &Tensor, targets: &[u32]) -> Result<Tensor> {
        Ok(cross_entropy_capped(hidden, &self.head, targets, self.config.layer.logit_cap)?)
    }

    /// KL divergence of each row of final hidden states `[n, d]` from the distribution of `reference` `[n, d]`, `[n]`.
    pub fn kl_divergence(&self, hidden: &Tensor, reference: &Tensor) -> Result<Tensor> {
        Ok(kl_divergence_capped(hidden, reference, &self.head, self.config.layer.logit_cap)?)
    }
}

/// The tensor as it is, or cut from the graph.
fn tracked(t: &Tensor, track: bool) -> Tensor {
    if track { t.clone() } else { t.detach() }
}
