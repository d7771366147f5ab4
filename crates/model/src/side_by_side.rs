//! Several adapters beside each other. In: adapters of one model, the base among them; out: one pair of each module in
//! which each has a part of the rank. Invariant: a row that an adapter owns is computed as with that adapter alone, up
//! to rounding, while the base's products are computed once for the rows of all.

use crate::adapter::{Adapter, Lora, Pairs};
use crate::lora_config::Module;
use crate::{Error, Result};
use candle_core::{Tensor, Var};
use eraser_ops::Owners;
use eraser_ops::block::Linears;

/// Adapters beside each other.
#[derive(Debug)]
pub struct SideBySide {
    /// Pairs by layer, each with the ranks of all adapters.
    layers: Vec<Pairs>,
    /// Of each layer and module, where each adapter's part of the rank begins, and where the last one ends.
    starts: Vec<Linears<Vec<usize>>>,
    adapters: usize,
}

impl SideBySide {
    /// `adapters` beside each other; None is the base model. All are on one device.
    ///
    /// # Errors
    /// Adapters of models with other numbers of layers.
    pub fn new(adapters: &[Option<&Adapter>]) -> Result<Self> {
        let count = adapters.iter().flatten().map(|adapter| adapter.layers.len()).max().unwrap_or_default();
        if adapters.iter().flatten().any(|adapter| adapter.layers.len() != count) {
            return Err(Error::request("the adapters are of models with different numbers of layers"));
        }
        let (mut layers, mut starts) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for layer in 0..count {
            let (mut pairs, mut parts) = (Pairs::default(), Linears::<Vec<usize>>::default());
            for module in Module::ALL {
                let own = |adapter: Option<&Adapter>| adapter.and_then(|a| a.layers[layer][module].clone());
                let own: Vec<Option<Lora>> = adapters.iter().copied().map(own).collect();
                let mut ends = vec![0];
                for lora in &own {
                    let rank = lora.as_ref().map_or(Ok(0), |lora| lora.a.dim(0))?;
                    ends.push(ends.last().copied().unwrap_or_default() + rank);
                }
                pairs[module] = stacked(&own)?;
                parts[module] = ends;
            }
            layers.push(pairs);
            starts.push(parts);
        }
        Ok(Self { layers, starts, adapters: adapters.len() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.adapters
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.adapters == 0
    }

    /// The pairs of a layer; None where no adapter has any.
    pub(crate) fn pairs(&self, layer: usize) -> Option<&Pairs> {
        self.layers.get(layer)
    }

    /// What each row uses of the pair of a module.
    pub(crate) fn owners<'a>(&'a self, layer: usize, module: Module, rows: &'a [u32]) -> Option<Owners<'a>> {
        Some(Owners { rows, starts: &self.starts.get(layer)?[module] })
    }
}

/// The pairs as one, with their scales in `b`.
fn stacked(pairs: &[Option<Lora>]) -> Result<Option<Lora>> {
    let (mut a, mut b): (Vec<Tensor>, Vec<Tensor>) = (Vec::new(), Vec::new());
    for lora in pairs.iter().flatten() {
        a.push(lora.a.detach());
        b.push(lora.b.detach().affine(f64::from(lora.scale), 0.0)?);
    }
    if a.is_empty() {
        return Ok(None);
    }
    let (a, b) = (Tensor::cat(&a, 0)?, Tensor::cat(&b, 1)?.contiguous()?);
    Ok(Some(Lora { a: Var::from_tensor(&a)?, b: Var::from_tensor(&b)?, scale: 1.0, identity: None }))
}
