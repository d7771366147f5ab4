//! Training passes through the decoder, one autograd tape per block. In: packed ids, then the gradient at the end of
//! the residual stream; out: gradients of everything trainable. Invariant: no tape is made, and nothing is
//! differentiated, below the first block that has something to train.
//!
//! A tape per block, not one for the whole network, frees each block's activations as soon as its backward has run, and
//! makes activation checkpointing a matter of not keeping the tape.

use crate::{
    Adapter, Decoder, Result,
    adapter::Module,
    decoder::{BlockContext, Pack},
};
use candle_core::{Tensor, TensorId, Var, backprop::GradStore};
use eraser_ops::{
    Dropout, Segments, backward_from,
    block::{self, Saved},
    device,
};
use std::collections::HashMap;

/// How a training pass runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct TraceOptions {
    /// Dropout on the adapter's inputs; the seed is mixed with layer and module.
    pub dropout: Option<Dropout>,
    /// Which blocks keep only their input and run again in backward: less memory for up to one more forward.
    pub checkpoint: Checkpoint,
    /// The first blocks that run, so many; None: all.
    pub blocks: Option<usize>,
}

/// Activation checkpointing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpoint {
    /// No block runs again.
    #[default]
    Never,
    /// Every block does.
    Always,
    /// As many of the first blocks as it takes to keep at most this many bytes of activations.
    Beyond(usize),
}

/// A forward pass that can be differentiated once.
pub struct Trace<'a> {
    decoder: &'a Decoder,
    adapter: Option<&'a Adapter>,
    options: TraceOptions,
    segments: Segments,
    positions: Vec<u32>,
    added: &'a [(usize, Tensor)],
    /// The embedding's own tape, when it is trained.
    embedded: Option<Tensor>,
    blocks: Vec<(BlockTape, Activations)>,
    output: Var,
}

/// A block that has a backward.
struct BlockTape {
    layer: usize,
    input: Tensor,
    /// Whether the input's gradient is wanted; then, on a tape, `input` is a variable.
    want_input: bool,
}

/// How a block ran, and what it left for its backward; with nothing left, it runs again.
enum Activations {
    /// As one operation.
    Fused(Option<Box<Saved>>),
    /// As single operations; the output, with the tape behind it.
    Tape(Option<Tensor>),
}

/// Gradients by tensor id, summed over calls.
#[derive(Default)]
pub struct Gradients {
    map: HashMap<TensorId, Tensor>,
}

impl Gradients {
    /// Adds to the gradient of `of`.
    pub fn add(&mut self, of: &Tensor, grad: Tensor) -> Result<()> {
        self.add_by_id(of.id(), grad)
    }

    /// The gradient of `of`, if anything was added.
    pub fn get(&self, of: &Tensor) -> Option<&Tensor> {
        self.map.get(&of.id())
    }

    /// Adds `scale` times every gradient of `other`.
    pub fn merge(&mut self, other: Gradients, scale: f64) -> Result<()> {
        for (id, grad) in other.map {
            self.add_by_id(id, grad.affine(scale, 0.0)?)?;
        }
        Ok(())
    }

    fn add_by_id(&mut self, id: TensorId, grad: Tensor) -> Result<()> {
        let sum = match self.map.remove(&id) {
            Some(before) => (before + grad)?,
            None => grad,
        };
        self.map.insert(id, sum);
        Ok(())
    }

    /// Moves the gradients of `tensors` out of a backward pass, where it has them.
    pub fn collect<'t>(&mut self, store: &mut GradStore, tensors: impl Iterator<Item = &'t Tensor>) -> Result<()> {
        for t in tensors {
            if let Some(grad) = store.remove(t) {
                self.add(t, grad)?;
            }
        }
        Ok(())
    }
}

impl Decoder {
    /// Runs the blocks on packed `ids` and keeps what backward needs.
    pub fn trace<'a>(
        &'a self,
        ids: &[u32],
        segments: &Segments,
        adapter: Option<&'a Adapter>,
        options: TraceOptions,
    ) -> Result<Trace<'a>> {
        self.trace_from(0, self.embed(ids, true)?, segments, adapter, options)
    }

    /// The same from the input `x` `[T, d]` of block `from` on: below it nothing is trained.
    pub fn trace_from<'a>(
        &'a self,
        from: usize,
        x: Tensor,
        segments: &Segments,
        adapter: Option<&'a Adapter>,
        options: TraceOptions,
    ) -> Result<Trace<'a>> {
        self.trace_adding(from, x, segments, adapter, &[], options)
    }

    /// The same with states `[T, d]` that are added to the residual stream behind blocks, each with its block. Those
    /// that are variables get their gradients, as `x` does if it is one.
    pub fn trace_adding<'a>(
        &'a self,
        from: usize,
        x: Tensor,
        segments: &Segments,
        adapter: Option<&'a Adapter>,
        added: &'a [(usize, Tensor)],
        options: TraceOptions,
    ) -> Result<Trace<'a>> {
        let positions = self.positions(segments)?;
        let embedded = x;
        let mut trace = Trace {
            decoder: self,
            adapter,
            options,
            segments: segments.clone(),
            positions,
            added,
            blocks: Vec::with_capacity(self.block_count()),
            output: Var::zeros(0, candle_core::DType::F32, self.device())?,
            embedded: embedded.track_op().then(|| embedded.clone()),
        };
        let mut want_input = embedded.track_op();
        let mut x = embedded.detach();
        let kept_blocks = trace.kept_blocks(&x)?;
        let layers = from..options.blocks.map_or(self.block_count(), |blocks| blocks.min(self.block_count()));
        let first = if want_input { from } else { layers.clone().find(|&l| trace.trainable(l)).unwrap_or(layers.end) };
        let pack = Pack { segments, positions: &trace.positions, adapter, beside: None };
        for layer in from..first {
            x = trace.with_added(layer, self.carry(x, layer..layer + 1, pack, None)?)?;
        }
        for layer in first..layers.end {
            // Those kept are the last: what they keep is gone when the first ones run again.
            let keep = layer >= layers.end.saturating_sub(kept_blocks);
            // Below the first trainable block there is nothing to differentiate, so its input is not a variable.
            let (input, output, activations) = if self.is_fused(layer, &x, true) {
                let fused = self.fused(layer, trace.context(layer, true));
                if keep {
                    let (output, saved) = block::forward_saving(&fused, &x)?;
                    (x, output, Activations::Fused(Some(Box::new(saved))))
                } else {
                    let output = block::forward(&fused, &x)?;
                    (x, output, Activations::Fused(None))
                }
            } else {
                let input = if want_input { Var::from_tensor(&x)?.into_inner() } else { x };
                let output = self.block(layer, &input, trace.context(layer, keep))?;
                (input, output.detach(), Activations::Tape(keep.then_some(output)))
            };
            x = trace.with_added(layer, output)?;
            trace.blocks.push((BlockTape { layer, input, want_input }, activations));
            want_input = true;
        }
        trace.output = Var::from_tensor(&x)?;
        Ok(trace)
    }
}

impl Trace<'_> {
    /// What leaves block `layer`, with the states that are added behind it.
    fn with_added(&self, layer: usize, output: Tensor) -> Result<Tensor> {
        let mut own = self.added.iter().filter(|(at, _)| *at == layer);
        own.try_fold(output, |x, (_, added)| Ok((x + added.detach())?))
    }

    /// The residual stream after block `layer`, `[T, d]`, without a tape; None where that block has no backward.
    pub fn state(&self, layer: usize) -> Option<Tensor> {
        let at = self.blocks.iter().position(|(block, _)| block.layer == layer)?;
        let above = self.blocks.get(at + 1).map_or(self.output.as_tensor(), |(block, _)| &block.input);
        Some(above.detach())
    }

    /// The residual stream after the last block that runs, `[T, d]`: a variable, for the head's own tape.
    pub fn output(&self) -> &Var {
        &self.output
    }

    /// Carries the gradient of `sum_i weights[i] * losses[i]` through the head's own tape, from [`Self::output`] to
    /// `losses` `[n]`, and then through the blocks; adds the gradient of every trainable tensor to `gradients`.
    pub fn backward_losses(self, losses: &Tensor, weights: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let mut store = backward_from(losses, weights)?;
        gradients.collect(&mut store, self.decoder.outer_variables().iter())?;
        match store.remove(&self.output) {
            Some(grad) => self.backward(Some(grad), &[], gradients),
            None => Ok(()),
        }
    }

    /// Carries gradients of the loss with respect to [`Self::state`] of some layers through the blocks, and adds the
    /// gradient of every trainable tensor to `gradients`.
    pub fn backward_states(self, states: &[(usize, Tensor)], gradients: &mut Gradients) -> Result<()> {
        self.backward(None, states, gradients)
    }

    /// Carries `grad` (of the loss with respect to [`Self::output`]) through the blocks, last to first, each with what
    /// `states` has of its output, and adds the gradient of every trainable tensor to `gradients`.
    fn backward(
        mut self,
        mut grad: Option<Tensor>,
        states: &[(usize, Tensor)],
        gradients: &mut Gradients,
    ) -> Result<()> {
        while let Some((block, activations)) = self.blocks.pop() {
            for (_, own) in states.iter().filter(|(layer, _)| *layer == block.layer) {
                grad = Some(match grad {
                    Some(grad) => (grad + own)?,
                    None => own.clone(),
                });
            }
            // Above the last state that the loss looks at there is nothing to carry.
            let Some(above) = &grad else { continue };
            for (_, added) in self.added.iter().filter(|(at, added)| *at == block.layer && added.is_variable()) {
                gradients.add(added, above.clone())?;
            }
            grad = match activations {
                Activations::Tape(output) => self.backward_tape(block, output, above, gradients)?,
                Activations::Fused(saved) => self.backward_fused(block, saved, above, gradients)?,
            };
        }
        if let (Some(embedded), Some(grad)) = (&self.embedded, &grad) {
            let mut store = backward_from(embedded, grad)?;
            let tensors = self.decoder.outer_variables();
            // The input itself, where the caller made it a variable.
            let input = Some(embedded).filter(|x| x.is_variable());
            gradients.collect(&mut store, tensors.iter().chain(input))?;
        }
        Ok(())
    }

    /// Backward of a block on a tape of its own; the gradient of its input, if wanted.
    fn backward_tape(
        &self,
        block: BlockTape,
        output: Option<Tensor>,
        grad: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let BlockTape { layer, input, want_input } = block;
        let output = match output {
            Some(output) => output,
            None => self.decoder.block(layer, &input, self.context(layer, true))?,
        };
        let mut store = backward_from(&output, grad)?;
        let pairs = self.adapter.into_iter().flat_map(|a| a.layers[layer].iter()).flatten();
        let lora = pairs.flat_map(|pair| [pair.a.as_tensor(), pair.b.as_tensor()]);
        gradients.collect(&mut store, lora.chain(self.decoder.block_variables(layer)))?;
        Ok(if want_input { store.remove(&input) } else { None })
    }

    /// Backward of a block as one operation; the gradient of its input, if wanted.
    fn backward_fused(
        &self,
        block: BlockTape,
        saved: Option<Box<Saved>>,
        grad: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let BlockTape { layer, input, want_input } = block;
        let fused = self.decoder.fused(layer, self.context(layer, true));
        let saved = match saved {
            Some(saved) => *saved,
            None => block::forward_saving(&fused, &input)?.1,
        };
        let mut found = block::backward(&fused, &input, saved, grad, want_input)?;
        let Some(adapter) = self.adapter else { return Ok(found.input) };
        for module in Module::ALL {
            if let (Some(pair), Some(found)) = (&adapter.layers[layer][module], found.pairs[module].take()) {
                for (variable, gradient) in [&pair.a, &pair.b].into_iter().zip(found) {
                    if let Some(gradient) = gradient {
                        gradients.add(variable, gradient)?;
                    }
                }
            }
        }
        Ok(found.input)
    }

    /// How many blocks keep what their backward needs.
    fn kept_blocks(&self, x: &Tensor) -> Result<usize> {
        let budget = match self.options.checkpoint {
            Checkpoint::Never => return Ok(usize::MAX),
            Checkpoint::Always => return Ok(0),
            // A device's memory is its own: nothing else waits for it.
            Checkpoint::Beyond(bytes) => device::free_memory(self.decoder.device()).map_or(bytes, |free| free / 2),
        };
        let per_token = if self.decoder.is_fused(0, x, true) {
            self.decoder.fused(0, self.context(0, true)).bytes_kept_per_token()?
        } else {
            self.decoder.tape_bytes_per_token()
        };
        Ok(budget / (x.dims2()?.0 * per_token).max(1))
    }

    fn trainable(&self, layer: usize) -> bool {
        let adapted = self.adapter.is_some_and(|a| a.layers[layer].iter().any(Option::is_some));
        let added = self.added.iter().any(|(at, added)| *at == layer && added.is_variable());
        adapted || added || self.decoder.block_variables(layer).next().is_some()
    }

    fn context(&self, layer: usize, track: bool) -> BlockContext<'_> {
        let lora = self.adapter.map(|a| &a.layers[layer]);
        // Modules add 0..9 to the seed; the odd factor keeps layers apart.
        let dropout = self.options.dropout.map(|d| Dropout {
            seed: d.seed.wrapping_add((layer as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            ..d
        });
        BlockContext { segments: &self.segments, positions: &self.positions, lora, beside: None, dropout, track }
    }
}
