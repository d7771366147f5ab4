//! Training passes through the decoder, one autograd tape per block. In: packed ids, then the gradient at the end of the
//! residual stream; out: gradients of everything trainable. Invariant: no tape is made, and nothing is differentiated,
//! below the first block that has something to train.
//!
//! A tape per block, not one for the whole network, frees each block's activations as soon as its backward has run, and
//! makes activation checkpointing a matter of not keeping the tape.

use crate::{Adapter, Decoder, Result, decoder::BlockContext};
use candle_core::{Tensor, TensorId, Var, backprop::GradStore};
use eraser_ops::{Dropout, Segments, backward_from};
use std::collections::HashMap;

/// How a training pass runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct TraceOptions {
    /// Dropout on the adapter's inputs; the seed is mixed with layer and module.
    pub dropout: Option<Dropout>,
    /// Keep only each block's input and run the block again in backward: less memory for one more forward.
    pub checkpoint: bool,
}

/// A forward pass that can be differentiated once.
pub struct Trace<'a> {
    decoder: &'a Decoder,
    adapter: Option<&'a Adapter>,
    options: TraceOptions,
    segments: Segments,
    positions: Vec<u32>,
    /// The embedding's own tape, when it is trained.
    embedded: Option<Tensor>,
    blocks: Vec<BlockTape>,
    output: Var,
}

struct BlockTape {
    layer: usize,
    input: Tensor,
    /// None when checkpointing: made again from `input`.
    output: Option<Tensor>,
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
        let positions = self.positions(segments)?;
        let embedded = self.embed(ids, true)?;
        let mut trace = Trace {
            decoder: self,
            adapter,
            options,
            segments: segments.clone(),
            positions,
            blocks: Vec::with_capacity(self.blocks.len()),
            output: Var::zeros(0, candle_core::DType::F32, self.device())?,
            embedded: embedded.track_op().then(|| embedded.clone()),
        };
        let mut live = embedded.track_op();
        let mut x = embedded.detach();
        for layer in 0..self.blocks.len() {
            let starts = live;
            live |= trace.trainable(layer);
            if !live {
                x = self.block(layer, &x, trace.context(layer, false))?;
                continue;
            }
            // Below the first trainable block there is nothing to differentiate, so its input is not a variable.
            let input = if starts { Var::from_tensor(&x)?.into_inner() } else { x };
            if options.checkpoint {
                x = self.block(layer, &input, trace.context(layer, false))?.detach();
                trace.blocks.push(BlockTape { layer, input, output: None });
            } else {
                let output = self.block(layer, &input, trace.context(layer, true))?;
                x = output.detach();
                trace.blocks.push(BlockTape { layer, input, output: Some(output) });
            }
        }
        trace.output = Var::from_tensor(&x)?;
        Ok(trace)
    }
}

impl Trace<'_> {
    /// The residual stream after the last block, `[T, d]`: a variable, for the head's own tape.
    pub fn output(&self) -> &Var {
        &self.output
    }

    /// Carries the gradient of `sum_i weights[i] * losses[i]` through the head's own tape, from [`Self::output`] to
    /// `losses` `[n]`, and then through the blocks; adds the gradient of every trainable tensor to `gradients`.
    pub fn backward_losses(self, losses: &Tensor, weights: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let mut store = backward_from(losses, weights)?;
        gradients.collect(&mut store, self.decoder.outer_variables().iter())?;
        match store.remove(&self.output) {
            Some(grad) => self.backward(&grad, gradients),
            None => Ok(()),
        }
    }

    /// Carries `grad` (of the loss with respect to [`Self::output`]) through the blocks, last to first, and adds the
    /// gradient of every trainable tensor to `gradients`.
    fn backward(mut self, grad: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let mut grad = grad.clone();
        while let Some(BlockTape { layer, input, output }) = self.blocks.pop() {
            let output = match output {
                Some(output) => output,
                None => self.decoder.block(layer, &input, self.context(layer, true))?,
            };
            let mut store = backward_from(&output, &grad)?;
            let pairs = self.adapter.into_iter().flat_map(|a| a.layers[layer].iter().flatten());
            let lora = pairs.flat_map(|pair| [pair.a.as_tensor(), pair.b.as_tensor()]);
            gradients.collect(&mut store, lora.chain(self.decoder.blocks[layer].variables()))?;
            if !input.is_variable() {
                return Ok(());
            }
            match store.remove(&input) {
                Some(below) => grad = below,
                None => return Ok(()),
            }
        }
        if let Some(embedded) = &self.embedded {
            let mut store = backward_from(embedded, &grad)?;
            let tensors = self.decoder.outer_variables();
            gradients.collect(&mut store, tensors.iter())?;
        }
        Ok(())
    }

    fn trainable(&self, layer: usize) -> bool {
        let adapted = self.adapter.is_some_and(|a| a.layers[layer].iter().any(Option::is_some));
        adapted || self.decoder.blocks[layer].variables().next().is_some()
    }

    fn context(&self, layer: usize, track: bool) -> BlockContext<'_> {
        let lora = self.adapter.map(|a| &a.layers[layer]);
        // Modules add 0..7 to the seed; the odd factor keeps layers apart.
        let dropout = self.options.dropout.map(|d| Dropout {
            seed: d.seed.wrapping_add((layer as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            ..d
        });
        BlockContext { segments: &self.segments, positions: &self.positions, lora, dropout, track }
    }
}
