//! The experts of a block. In: a source of tensors; out: experts that the fused block takes, and their computation
//! composed of single operations. Invariant: they have no adapter; in adapter training they are frozen.

use super::{WeightStorage, tracked};
use crate::{Error, ModelConfig, Result, config::Mixture, weights::TensorSource};
use candle_core::{DType, Device, Tensor};
use eraser_ops::{Routing, Weight, activate, block, linear, mixture};

/// A router and the experts.
pub(super) struct Experts {
    /// In f32, however the rest is held: the choice of experts hangs on small differences.
    router: Weight,
    routing: Routing,
    /// Gate, up and down of each.
    pub(super) each: Vec<[Weight; 3]>,
}

impl Experts {
    /// Those of block `layer`, where the model has experts.
    pub(super) fn load(
        layer: usize,
        config: &ModelConfig,
        source: &dyn TensorSource,
        held: WeightStorage,
        device: &Device,
    ) -> Result<Option<Self>> {
        let Some(Mixture { experts, used, normalised }) = config.layer.mixture else { return Ok(None) };
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let router = source.tensor(&config.layer.router_name(layer), &[experts, d], DType::F32, device)?;
        let one = |expert| {
            let [gate, up, down] = config.layer.expert_names(layer, expert);
            let weight = |name: &str, shape| held.weight(source, name, shape, device);
            Ok::<_, Error>([weight(&gate, [f, d])?, weight(&up, [f, d])?, weight(&down, [d, f])?])
        };
        let each = (0..experts).map(one).collect::<Result<_>>()?;
        Ok(Some(Self { router: router.into(), routing: Routing { used, normalised }, each }))
    }

    /// As the fused block takes them.
    pub(super) fn fused(&self) -> block::Experts<'_> {
        block::Experts { router: &self.router, routing: self.routing, each: &self.each }
    }

    /// The mixture for rows of `x` `[T, d]`, composed of single operations.
    pub(super) fn composed(&self, config: &ModelConfig, x: &Tensor, track: bool) -> Result<Tensor> {
        let own = |weight: &Weight, dtype| Ok::<_, Error>(tracked(&weight.dense(dtype, x.device())?, track));
        let logits = linear(&x.to_dtype(DType::F32)?, &own(&self.router, DType::F32)?, None)?;
        mixture(x, &logits, self.routing, |number, rows| {
            let [gate, up, down] = &self.each[number];
            let project = |weight: &Weight, x: &Tensor| Ok::<_, Error>(linear(x, &own(weight, x.dtype())?, None)?);
            let h = activate(config.layer.mlp.activation(), Some(&project(gate, rows)?), &project(up, rows)?)?;
            project(down, &h)
        })
    }

    /// Every weight under its Hugging Face name, expanded if it is held as stored.
    pub(super) fn named(
        &self,
        layer: usize,
        config: &ModelConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Vec<(String, Tensor)>> {
        let mut all = vec![(config.layer.router_name(layer), self.router.dense(DType::F32, device)?)];
        for (number, expert) in self.each.iter().enumerate() {
            for (name, weight) in config.layer.expert_names(layer, number).into_iter().zip(expert) {
                all.push((name, weight.dense(dtype, device)?));
            }
        }
        Ok(all)
    }

    /// Its tensors that are held as such.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.router.tensor().into_iter().chain(self.each.iter().flatten().filter_map(Weight::tensor))
    }
}
