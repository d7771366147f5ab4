//! One decoder block: its weights, and its computation composed of single operations. In: a source of tensors; out: a
//! block. Invariant: the composed form and the fused one compute the same.

use super::{BlockContext, WeightStorage, experts::Experts, tracked};
use crate::{
    Error, ModelConfig, Result,
    config::{NormPlacement, QkNorm, Rope},
    lora_config::Module,
    weights::TensorSource,
};
use candle_core::{DType, Device, Tensor};
use eraser_ops::{
    Factor, LoraInput, RopeTable, Weight, activate,
    block::{self, Linears, Norms},
    linear, lora_linear, rms_norm, rope,
};

/// Positions for which rotary tables are made: longer contexts than this are refused, not silently wrong.
pub(super) const MAX_POSITIONS: usize = 32_768;

/// One block's weights.
pub(super) struct Block {
    /// Before and after attention, before and after the MLP.
    around: [Option<Norm>; 4],
    /// Of queries and keys.
    of_heads: [Option<Norm>; 2],
    pub(super) linears: Linears<Option<Linear>>,
    /// In the place of the MLP's.
    pub(super) experts: Option<Experts>,
    /// The weights of q, k and v below each other, and those of gate and up, where `linears` has them apart; it then
    /// holds parts of them.
    pub(super) qkv: Option<Weight>,
    pub(super) gate_up: Option<Weight>,
    /// Tables of queries and keys.
    rope: Option<[RopeTable; 2]>,
}

/// A linear module: `[out, in]` and an optional bias `[out]`.
pub(super) struct Linear {
    pub(super) weight: Weight,
    pub(super) bias: Option<Tensor>,
}

/// A norm.
pub(super) struct Norm {
    weight: Tensor,
    plus_one: bool,
    times: Option<f32>,
    /// What a row is multiplied by, where that is not the weight.
    made: Option<Tensor>,
}

impl Norm {
    /// A norm that multiplies by its weight, plus 1 or not, times a constant.
    pub(super) fn new(weight: Tensor, plus_one: bool, times: Option<f32>) -> Result<Self> {
        let mut this = Self { weight, plus_one, times, made: None };
        if plus_one || times.is_some() {
            this.made = Some(this.make()?.detach());
        }
        Ok(this)
    }

    fn make(&self) -> Result<Tensor> {
        let times = f64::from(self.times.unwrap_or(1.0));
        Ok(self.weight.affine(times, if self.plus_one { times } else { 0.0 })?)
    }

    /// The weight as it is in the checkpoint.
    pub(super) fn stored(&self) -> &Tensor {
        &self.weight
    }

    /// What a row is multiplied by.
    fn frozen(&self) -> &Tensor {
        self.made.as_ref().unwrap_or(&self.weight)
    }

    /// The norm of `x`. Its weight is tracked if it is a variable and `track`.
    pub(super) fn apply(&self, x: &Tensor, eps: f64, track: bool) -> Result<Tensor> {
        let weight = match (&self.made, self.weight.is_variable()) {
            (Some(_), true) => tracked(&self.make()?, track),
            (Some(made), false) => made.clone(),
            (None, _) => tracked(&self.weight, track),
        };
        Ok(rms_norm(x, &weight, eps)?)
    }
}

/// The rotary tables of a model: layers that rotate alike share one.
#[derive(Default)]
pub(super) struct Rotation {
    made: Vec<(Rope, [RopeTable; 2])>,
}

impl Rotation {
    fn of(&mut self, rope: Rope, config: &ModelConfig, device: &Device) -> Result<[RopeTable; 2]> {
        if let Some((_, tables)) = self.made.iter().find(|(made, _)| *made == rope) {
            return Ok(tables.clone());
        }
        let layer = &config.layer;
        let frequencies = rope.inv_freq(layer.rotary_dim.unwrap_or(config.head_dim));
        let positions = config.max_positions().min(MAX_POSITIONS);
        let table = |scale: &(dyn Fn(usize) -> f32 + Sync)| {
            RopeTable::scaled(&frequencies, positions, scale, device)?.with_layout(config.head_dim, layer.interleaved)
        };
        let scale = rope.scale();
        let keys = table(&|_| scale)?;
        let queries = match layer.query_scale {
            Some(own) => table(&|position| scale * own.at(position))?,
            None => keys.clone(),
        };
        let tables = [queries, keys];
        self.made.push((rope, tables.clone()));
        Ok(tables)
    }
}

/// Type of the norms' weights. Those that multiply before they round to the residual stream's type are in f32.
pub(super) fn norm_dtype(config: &ModelConfig, held: WeightStorage) -> DType {
    let wide = config.layer.unit_norms || config.layer.norms == NormPlacement::After;
    if wide { DType::F32 } else { held.dtype() }
}

impl Block {
    /// Block `layer` of the model.
    pub(super) fn load(
        layer: usize,
        config: &ModelConfig,
        source: &dyn TensorSource,
        held: WeightStorage,
        device: &Device,
        rotations: &mut Rotation,
    ) -> Result<Self> {
        let linear = |module: Module| {
            let (out, input) = module.shape(config);
            let name = module.hf_name(layer, config.layer.mlp_names);
            let weight = held.weight(source, &format!("{name}.weight"), [out, input], device)?;
            let bias = || source.tensor(&format!("{name}.bias"), &[out], held.dtype(), device);
            let bias = module.is_biased(config).then(bias).transpose()?;
            Ok::<_, Error>(Linear { weight, bias })
        };
        let mut linears = Linears::default();
        for module in Module::of(config) {
            linears[module] = Some(linear(module)?);
        }
        let norm = |name: &str, width: usize| {
            let name = format!("model.layers.{layer}.{name}.weight");
            let weight = source.tensor(&name, &[width], norm_dtype(config, held), device)?;
            Norm::new(weight, config.layer.unit_norms, None)
        };
        let mut around = [const { None }; 4];
        for (around, name) in around.iter_mut().zip(config.layer.norm_names()) {
            *around = name.map(|name| norm(name, config.hidden_size)).transpose()?;
        }
        let heads = match config.layer.qk_norm {
            QkNorm::None => None,
            QkNorm::Head => Some([1, 1]),
            QkNorm::Whole => Some([config.num_heads, config.num_kv_heads]),
        };
        let mut of_heads = [const { None }; 2];
        if let Some([q, k]) = heads {
            let own = |name: &str, heads: usize| norm(name, heads * config.head_dim).map(Some);
            of_heads = [own("self_attn.q_norm", q)?, own("self_attn.k_norm", k)?];
        }
        let rope = config.rope_of(layer).map(|rope| rotations.of(rope, config, device)).transpose()?;
        let experts = Experts::load(layer, config, source, held, device)?;
        let mut block = Self { around, of_heads, linears, experts, qkv: None, gate_up: None, rope };
        block.stack()?;
        Ok(block)
    }

    /// The block's norms.
    pub(super) fn norms(&self) -> Norms<'_> {
        let [attention, after_attention, mlp, after_mlp] =
            self.around.each_ref().map(|norm| norm.as_ref().map(Norm::frozen));
        let [q, k] = self.of_heads.each_ref().map(|norm| norm.as_ref().map(Norm::frozen));
        Norms { attention, after_attention, mlp, after_mlp, q, k }
    }

    /// The block's rotary tables.
    pub(super) fn rope(&self) -> Option<block::Rope<'_>> {
        self.rope.as_ref().map(|[q, k]| block::Rope { q, k })
    }

    /// Every weight under its Hugging Face name, expanded if it is held as stored.
    pub(super) fn named(
        &self,
        layer: usize,
        config: &ModelConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::new();
        for module in Module::ALL {
            let Some(linear) = &self.linears[module] else { continue };
            let name = module.hf_name(layer, config.layer.mlp_names);
            all.push((format!("{name}.weight"), linear.weight.dense(dtype, device)?));
            if let Some(bias) = &linear.bias {
                all.push((format!("{name}.bias"), bias.clone()));
            }
        }
        if let Some(experts) = &self.experts {
            all.extend(experts.named(layer, config, dtype, device)?);
        }
        let names = config.layer.norm_names().into_iter().zip(&self.around);
        let heads = [Some("self_attn.q_norm"), Some("self_attn.k_norm")].into_iter().zip(&self.of_heads);
        for (name, norm) in names.chain(heads) {
            if let (Some(name), Some(norm)) = (name, norm) {
                all.push((format!("model.layers.{layer}.{name}.weight"), norm.weight.clone()));
            }
        }
        Ok(all)
    }

    /// Weights of this block that are variables.
    pub(super) fn variables(&self) -> impl Iterator<Item = &Tensor> {
        let linears = self.linears.iter().flatten();
        let linears = linears.flat_map(|l| l.weight.tensor().into_iter().chain(l.bias.as_ref()));
        let norms = self.around.iter().chain(&self.of_heads).flatten().map(|norm| &norm.weight);
        norms.chain(linears).chain(self.experts.iter().flat_map(Experts::tensors)).filter(|t| t.is_variable())
    }

    /// Puts the weights of one input below each other where that can be done.
    pub(super) fn stack(&mut self) -> Result<()> {
        let mut stacked = |modules: &[Module]| {
            let weights: Vec<&Weight> =
                modules.iter().filter_map(|&m| self.linears[m].as_ref()).map(|linear| &linear.weight).collect();
            if weights.len() < modules.len() {
                return Ok(None);
            }
            let Some(stack) = Weight::stack(&weights)? else { return Ok::<_, Error>(None) };
            let mut start = 0;
            for &module in modules {
                if let Some(Linear { weight, .. }) = &mut self.linears[module] {
                    let rows = weight.dims()?.0;
                    *weight = stack.narrow(start, rows)?;
                    start += rows;
                }
            }
            Ok(Some(stack))
        };
        self.qkv = stacked(&[Module::Q, Module::K, Module::V])?;
        self.gate_up = stacked(&[Module::Gate, Module::Up])?;
        Ok(())
    }

    /// The block on `x` `[T, d]`, composed of single operations, with attention left to `attend`.
    pub(super) fn composed(
        &self,
        config: &ModelConfig,
        x: &Tensor,
        context: BlockContext<'_>,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (eps, layer) = (config.rms_norm_eps, &config.layer);
        let norm = |i: usize, x: &Tensor| match &self.around[i] {
            Some(norm) => norm.apply(x, eps, context.track),
            None => Ok(x.clone()),
        };
        let add = |x: &Tensor, y: Tensor| match layer.residual_multiplier {
            Some(factor) => Ok::<_, Error>((x + (y * f64::from(factor))?)?),
            None => Ok((x + y)?),
        };
        let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let n = norm(0, x)?;
        let apart = [(Module::Q, q), (Module::K, kv), (Module::V, kv)];
        let qkv = self.project_apart(Module::Qkv, &apart, &n, context)?;
        let [Some(q), Some(k), Some(v)] = <[Option<Tensor>; 3]>::try_from(qkv).unwrap_or_default() else {
            return Err(Error::failed("a block has no query, key or value projection"));
        };
        let (q, k) = (self.turn(0, &q, eps, context)?, self.turn(1, &k, eps, context)?);
        let x = add(x, norm(1, &self.project(Module::O, &attend(&q, &k, &v)?, context)?)?)?;
        let m = norm(2, &x)?;
        if let Some(experts) = &self.experts {
            return add(&x, norm(3, &experts.composed(config, &m, context.track)?)?);
        }
        let f = config.intermediate_size;
        let gate_up = self.project_apart(Module::GateUp, &[(Module::Gate, f), (Module::Up, f)], &m, context)?;
        let [gate, Some(up)] = <[Option<Tensor>; 2]>::try_from(gate_up).unwrap_or_default() else {
            return Err(Error::failed("a block has no up projection"));
        };
        let h = activate(layer.mlp.activation(), gate.as_ref(), &up)?;
        add(&x, norm(3, &self.project(Module::Down, &h, context)?)?)
    }

    /// Queries (0) or keys (1), normed and rotated.
    fn turn(&self, side: usize, x: &Tensor, eps: f64, context: BlockContext<'_>) -> Result<Tensor> {
        let normed = match &self.of_heads[side] {
            None => None,
            Some(norm) => {
                let ((rows, width), piece) = (x.dims2()?, norm.weight.elem_count());
                let pieces = x.reshape((rows * width / piece, piece))?;
                Some(norm.apply(&pieces, eps, context.track)?.reshape((rows, width))?)
            }
        };
        let x = normed.as_ref().unwrap_or(x);
        Ok(match &self.rope {
            Some(tables) => rope(x, &tables[side], context.positions)?,
            None => x.clone(),
        })
    }

    /// Modules that share an input, each with its width, or parts of the one module `all` that they are; None for one
    /// that is not there.
    fn project_apart(
        &self,
        all: Module,
        modules: &[(Module, usize)],
        x: &Tensor,
        context: BlockContext<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        if self.linears[all].is_none() {
            let one = |(module, _): &(Module, usize)| {
                self.linears[*module].is_some().then(|| self.project(*module, x, context)).transpose()
            };
            return modules.iter().map(one).collect();
        }
        let (together, mut at) = (self.project(all, x, context)?, 0);
        let part = |(_, width): &(Module, usize)| {
            at += width;
            Ok(Some(together.narrow(1, at - width, *width)?.contiguous()?))
        };
        modules.iter().map(part).collect()
    }

    /// A linear module with its adapter pair, if it has one.
    fn project(&self, module: Module, x: &Tensor, context: BlockContext<'_>) -> Result<Tensor> {
        let Some(own) = &self.linears[module] else {
            return Err(Error::failed(format!("a block has no {module}")));
        };
        let weight = tracked(&own.weight.dense(x.dtype(), x.device())?, context.track);
        let bias = own.bias.as_ref().map(|b| tracked(b, context.track));
        let Some(pair) = context.lora(module) else {
            return Ok(linear(x, &weight, bias.as_ref())?);
        };
        let factor = |factor, t: &Tensor| tracked(t, context.track && pair.identity != Some(factor));
        let (a, b) = (factor(Factor::A, pair.a), factor(Factor::B, pair.b));
        Ok(lora_linear(x, &weight, bias.as_ref(), LoraInput { a: &a, b: &b, ..pair })?)
    }
}
