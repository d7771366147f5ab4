//! LoRA adapters and their PEFT directories. In: a configuration or a directory; out: low-rank pairs by layer and
//! module. Invariant: every tensor of a directory belongs to a module and has the shape that the model asks for, or
//! loading fails: PEFT itself ignores a misnamed tensor, and the adapter then silently does nothing.

use crate::adapter_gguf::Pair;
use crate::config::{Family, MlpNames};
pub use crate::lora_config::{LoraConfig, Module};
use crate::lora_patterns::{Own, Patterns, warn_unmatched};
use crate::{Error, ModelConfig, Result, error::PathContext};
use candle_core::{DType, Device, Tensor, Var};
use eraser_ops::{Factor, block::Linears};
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use safetensors::{SafeTensors, tensor::TensorView};
use serde_json::{Map, Value, json};
use std::path::Path;

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What the names of a PEFT adapter's tensors begin with.
pub(crate) const PREFIX: &str = "base_model.model.";
/// Paths of the decoder in classes of transformers: of one that is nothing else, and as the text part of a larger
/// model, as version 5 and earlier ones have it.
const PATHS: [&str; 3] = ["model", "model.language_model", "language_model.model"];

/// A block's low-rank pairs, where it has them.
pub type Pairs = Linears<Option<Lora>>;

/// One low-rank pair.
#[derive(Clone, Debug)]
pub struct Lora {
    /// `[r, in]`.
    pub a: Var,
    /// `[out, r]`.
    pub b: Var,
    /// Multiplies `B A`.
    pub scale: f32,
    /// The factor that is the identity and is not trained: the other one is then a change of the whole weight.
    pub identity: Option<Factor>,
}

/// What a class of transformers calls the modules of a decoder.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Names {
    /// Path of the decoder in the class: what tensors' names begin with.
    path: &'static str,
    mlp: MlpNames,
}

impl Names {
    fn of(model: &ModelConfig) -> Self {
        Self { path: model.path(), mlp: model.layer.mlp_names }
    }

    /// The path of a module in the class.
    fn path(self, layer: usize, module: Module) -> String {
        let name = module.hf_name(layer, self.mlp);
        format!("{}{}", self.path, name.strip_prefix(PATHS[0]).unwrap_or(&name))
    }
}

/// A LoRA adapter.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Its settings.
    pub config: LoraConfig,
    /// Pairs by layer.
    pub layers: Vec<Pairs>,
    /// What the checkpoint's class calls the modules.
    names: Names,
}

impl Adapter {
    /// A fresh adapter: A uniform in +-1/sqrt(in) from `seed`, B zero, as PEFT initialises it.
    ///
    /// # Errors
    /// No target, rank 0, or a layer that the model does not have.
    pub fn new(mut config: LoraConfig, model: &ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        // A projection that the model has in one with others is adapted as that.
        config.targets = config.targets.iter().flat_map(|target| target.within(model)).collect();
        config.targets.sort_unstable();
        config.targets.dedup();
        if config.targets.is_empty() {
            let error =
                Error::request("the adapter has no target modules").hint("for example: --targets q_proj,v_proj");
            return Err(match model.layer.mixture {
                Some(_) => error.hint("experts and their router have no adapters: q, k, v and o can have them"),
                None => error,
            });
        }
        if config.r == 0 {
            return Err(Error::request("the adapter's rank is 0").hint("usual ranks are 4 to 64"));
        }
        if let Some(layer) = config.layers.iter().flatten().find(|&&l| l >= model.num_layers) {
            let last = model.num_layers - 1;
            return Err(Error::request(format!("adapted layer {layer} does not exist: the model's last is {last}")));
        }
        let by_module = config.by_module()?;
        let mut layers = Vec::with_capacity(model.num_layers);
        for layer in 0..model.num_layers {
            let mut pairs = Pairs::default();
            let adapted = config.layers.as_ref().is_none_or(|l| l.contains(&layer));
            for &module in config.targets.iter().filter(|_| adapted) {
                let (out, input) = module.shape(model);
                let Own { r, scale, .. } = by_module.of(&Names::of(model).path(layer, module))?;
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream((layer * Module::SINGLE.len() + module.place()) as u64);
                let bound = 1.0 / (input as f32).sqrt();
                let a: Vec<f32> = (0..r * input).map(|_| rng.random_range(-bound..bound)).collect();
                pairs[module] = Some(Lora {
                    a: Var::from_vec(a, (r, input), device)?,
                    b: Var::zeros((out, r), DType::F32, device)?,
                    scale,
                    identity: None,
                });
            }
            layers.push(pairs);
        }
        Ok(Self { config, layers, names: Names::of(model) })
    }

    /// An error unless there is a PEFT directory or a GGUF file at `path`; what it holds is seen when it is loaded.
    pub fn check_path(path: &Path) -> Result<()> {
        if path.is_dir() || is_gguf(path) && path.is_file() {
            return Ok(());
        }
        Err(Error::request(format!("{} is no directory and no GGUF file", path.display()))
            .hint("a PEFT adapter is a directory with adapter_config.json; a run's is RUN/adapter"))
    }

    /// Reads a PEFT directory, or a GGUF file of a LoRA adapter.
    ///
    /// # Errors
    /// A file that is missing or malformed, a feature that is not plain LoRA, a tensor that fits no module of `model`.
    pub fn load(dir: &Path, model: &ModelConfig, device: &Device) -> Result<Self> {
        if is_gguf(dir) {
            let found = crate::adapter_gguf::read(dir, model)?;
            let mut config = found.config;
            let read = |((module, is_b), shape, values)| {
                let tensor = Tensor::from_vec::<Vec<usize>, f32>(values, shape, device)?;
                Ok((format!("{PREFIX}{module}.{}", if is_b { "lora_B.weight" } else { "lora_A.weight" }), tensor))
            };
            let layers = read_pairs(found.tensors.into_iter().map(read), &mut config, model);
            return Self { config, layers: layers.map_err(|e| e.context(dir.display()))?, names: Names::of(model) }
                .told(dir);
        }
        let path = dir.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path).at(&path).map_err(|e| {
            e.hint("an adapter is a PEFT directory that holds adapter_config.json and adapter_model.safetensors")
        })?;
        let mut config = crate::adapter_config::read(&text).map_err(|e| e.context(path.display()))?;
        let path = dir.join(WEIGHTS_FILE);
        let pickle = dir.join("adapter_model.bin");
        if !path.exists() && pickle.exists() {
            return Err(Error::request(format!(
                "{}: pickle files are not read, because they can run code",
                pickle.display()
            ))
            .hint(
                "convert it in Python: from safetensors.torch import save_file; import torch; \
                 save_file(torch.load('adapter_model.bin', weights_only=True), 'adapter_model.safetensors')",
            ));
        }
        let bytes = std::fs::read(&path).at(&path).map_err(|e| {
            e.hint("an adapter is a PEFT directory that holds adapter_config.json and adapter_model.safetensors")
        })?;
        crate::files::no_pointer(&bytes, &path)?;
        let layers = read_safetensors(&bytes, &mut config, model, device).map_err(|e| e.context(path.display()))?;
        Self { config, layers, names: Names::of(model) }.told(dir)
    }

    /// Tells of an adapter that changes nothing, or that is taken away from the base.
    fn told(self, path: &Path) -> Result<Self> {
        let (at, alpha) = (path.display(), self.config.alpha);
        let scales: Vec<f32> = self.pairs().map(|lora| lora.scale).collect();
        if alpha < 0.0 && self.config.patterns.is_empty() {
            tracing::warn!("{at}: `lora_alpha` is {alpha}: the adapter is subtracted from the base; was that meant?");
        } else if scales.iter().any(|scale| *scale < 0.0) {
            tracing::warn!("{at}: an alpha is negative: its modules are subtracted from the base; was that meant?");
        } else if scales.iter().all(|scale| *scale == 0.0) {
            tracing::warn!("{at}: `lora_alpha` is {alpha}: the adapter changes nothing");
        } else if self.is_noop()? {
            tracing::warn!("{at}: a factor of every pair is zero: the adapter changes nothing");
        }
        Ok(self)
    }

    /// Writes a GGUF file for llama.cpp, which loads it beside a base model in GGUF. `name` is its `general.name`.
    ///
    /// # Errors
    /// An alpha that is not positive; a module that GGUF has no name for; a file that cannot be written.
    pub fn save_gguf(&self, path: &Path, model: &ModelConfig, name: &str) -> Result<()> {
        let mut pairs = Vec::new();
        for (layer, adapted) in self.layers.iter().enumerate() {
            for module in Module::ALL {
                if let Some(Lora { a, b, scale, .. }) = &adapted[module] {
                    let path = module.hf_name(layer, self.names.mlp);
                    for (module, b) in crate::weights::apart(&path, &b.as_detached_tensor())? {
                        pairs.push(Pair { module, a: a.as_detached_tensor(), b, scale: *scale });
                    }
                }
            }
        }
        crate::adapter_gguf::write(path, name, &pairs, self.config.alpha, model)
    }

    /// Writes a PEFT directory, each file atomically. `base` is `base_model_name_or_path`.
    pub fn save(&self, dir: &Path, base: &str) -> Result<()> {
        std::fs::create_dir_all(dir).writing(dir)?;
        let tensors = self.tensors();
        let tensors: Vec<(String, Tensor)> = tensors.iter().map(|(n, v)| (n.clone(), v.as_detached_tensor())).collect();
        crate::weights::save_safetensors(&dir.join(WEIGHTS_FILE), &tensors, DType::F32)?;
        let mut text = serde_json::to_string_pretty(&self.peft_config(base)).map_err(Error::failed)?;
        text.push('\n');
        crate::files::write_atomic(&dir.join(CONFIG_FILE), text.as_bytes())
    }

    /// The path of a module in the checkpoint's class.
    pub(crate) fn path(&self, layer: usize, module: Module) -> String {
        self.names.path(layer, module)
    }

    /// The first adapted block; 0 when none is.
    pub fn first_block(&self) -> usize {
        self.layers.iter().position(|pairs| pairs.iter().any(Option::is_some)).unwrap_or(0)
    }

    /// True when the adapter leaves every output as it is: of every pair a factor is zero, as a new B is.
    pub fn is_noop(&self) -> Result<bool> {
        for lora in self.pairs() {
            let size = |factor: &Var| factor.as_tensor().abs()?.sum_all()?.to_scalar::<f32>();
            if size(&lora.b)? != 0.0 && size(&lora.a)? != 0.0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The rank of its pairs, or the smallest and the largest.
    pub fn ranks_in_words(&self) -> String {
        let ranks = || self.pairs().filter_map(|lora| lora.a.dim(0).ok());
        match (ranks().min(), ranks().max()) {
            (Some(least), Some(most)) if least < most => format!("ranks {least} to {most}"),
            (least, _) => format!("rank {}", least.unwrap_or(self.config.r)),
        }
    }

    /// The largest scale of a pair, without its sign.
    pub fn largest_scale(&self) -> f32 {
        self.pairs().map(|lora| lora.scale.abs()).fold(0.0, f32::max)
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = &Lora> {
        self.layers.iter().flat_map(Pairs::iter).flatten()
    }

    /// `adapter_config.json` with every key that PEFT writes, sorted.
    fn peft_config(&self, base: &str) -> Value {
        let c = &self.config;
        let mut targets: Vec<&str> = c.targets.iter().map(|m| m.last_name(self.names.mlp)).collect();
        targets.sort_unstable();
        let ranks = c.patterns.ranks.iter().map(|(key, r)| (key.clone(), json!(r)));
        let alphas = c.patterns.alphas.iter().map(|(key, alpha)| (key.clone(), number(*alpha)));
        json!({
            "alpha_pattern": alphas.collect::<Map<_, _>>(),
            "auto_mapping": null,
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": c.layers,
            "loftq_config": {},
            "lora_alpha": number(c.alpha),
            "lora_dropout": c.dropout,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": c.r,
            "rank_pattern": ranks.collect::<Map<_, _>>(),
            "revision": null,
            "target_modules": targets,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": c.rslora,
        })
    }
}

/// A whole number as an integer: vLLM and llama.cpp read `lora_alpha` as one.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e9 { json!(x as i64) } else { json!(x) }
}

/// The pairs of a safetensors file.
fn read_safetensors(bytes: &[u8], config: &mut LoraConfig, model: &ModelConfig, device: &Device) -> Result<Vec<Pairs>> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| {
        Error::request(format!("not a safetensors file: {e}")).hint("the file may be truncated: copy it again")
    })?;
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let tensor = to_f32(&name, &view, device)?;
        Ok((name, tensor))
    });
    read_pairs(tensors, config, model)
}

/// A and B of a module as far as they were found, and what its name says of them.
type Halves = ([Option<Var>; 2], Option<Own>);

/// The pairs that tensors under PEFT names make; fills in the targets and layers of `config` from what is there.
fn read_pairs(
    tensors: impl Iterator<Item = Result<(String, Tensor)>>,
    config: &mut LoraConfig,
    model: &ModelConfig,
) -> Result<Vec<Pairs>> {
    let modules = Module::of(model);
    let by_module = config.by_module()?;
    let example = modules.first().map(|module| module.hf_name(0, model.layer.mlp_names)).unwrap_or_default();
    let mut halves: Vec<Linears<Halves>> = (0..model.num_layers).map(|_| Linears::default()).collect();
    let mut paths = Vec::new();
    for tensor in tensors {
        let (name, values) = tensor?;
        let own = |parsed: &Parsed<'_>| modules.contains(&parsed.module);
        let Parsed { layer, module, half, path } =
            parse_name(&name, model.layer.mlp_names).filter(own).ok_or_else(|| {
                Error::request(format!("tensor '{name}' is no LoRA tensor of a module this model has"))
                    .hint(format!("expected names like base_model.model.{example}.lora_A.weight"))
                    .hint(if name.contains(".shared_mlp.") && model.family == Family::Granite {
                        "it is of a Granite 4 directory, whose MLP is another than that of its GGUF file: take that \
                         directory for the base, or an adapter in GGUF"
                    } else if model.layer.mixture.is_some() {
                        "adapters on experts or their router are not supported: merge it into the model with PEFT"
                    } else {
                        "the adapter was made for another model, or adapts more than the layers' projections"
                    })
            })?;
        let slot = halves.get_mut(layer).ok_or_else(|| {
            Error::request(format!(
                "tensor '{name}' adapts layer {layer}, but the model has {} layers",
                model.num_layers
            ))
            .hint("the adapter was made for another model")
        })?;
        let (out, input) = module.shape(model);
        let own = by_module.of(path)?;
        let shape = if half == 0 { [own.r, input] } else { [out, own.r] };
        if values.dims() != shape {
            return Err(Error::request(format!("tensor '{name}' has shape {:?}, expected {shape:?}", values.dims()))
                .hint(
                    "the adapter was made for another model, or 'r' or 'rank_pattern' in adapter_config.json is wrong",
                ));
        }
        if !values.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Err(Error::request(format!("tensor '{name}' holds values that are not finite"))
                .hint("the training that made the adapter has diverged, or the file is damaged"));
        }
        let (halves, found) = &mut slot[module];
        halves[half] = Some(Var::from_tensor(&values)?);
        *found = Some(own);
        paths.push(path.to_owned());
    }
    warn_unmatched(&config.patterns, &paths)?;
    let (mut targets, mut layers, mut owns) = (Vec::new(), Vec::new(), Vec::new());
    let mut pairs = Vec::with_capacity(halves.len());
    for (layer, mut slot) in halves.into_iter().enumerate() {
        let mut row = Pairs::default();
        for module in Module::ALL {
            let ([a, b], own) = std::mem::take(&mut slot[module]);
            row[module] = match (a, b, own) {
                (Some(a), Some(b), Some(own)) => {
                    targets.push(module);
                    layers.push(layer);
                    owns.push((Names::of(model).path(layer, module), own));
                    Some(Lora::new(a, b, own.scale)?)
                }
                (None, None, _) => None,
                (a, ..) => {
                    let missing = if a.is_none() { "lora_A" } else { "lora_B" };
                    return Err(Error::request(format!("{} has no {missing}", Names::of(model).path(layer, module))));
                }
            };
        }
        pairs.push(row);
    }
    if targets.is_empty() {
        return Err(Error::request("the adapter holds no tensor: it would change nothing"));
    }
    // The file may have other names for the modules than an adapter that is written, which its patterns may not match.
    for (name, own) in &owns {
        if by_module.of(name)? != *own {
            config.patterns = Patterns::naming(&owns, config.r, config.alpha);
            break;
        }
    }
    targets.sort_unstable();
    targets.dedup();
    layers.dedup();
    config.targets = targets;
    config.layers = (layers.len() < model.num_layers).then_some(layers);
    Ok(pairs)
}

/// What the name of a tensor says.
struct Parsed<'a> {
    layer: usize,
    module: Module,
    /// 0 for A, 1 for B.
    half: usize,
    /// The module's path, as the file has it.
    path: &'a str,
}

/// `base_model.model.{path}.layers.{layer}.{part}.{module}.lora_{A|B}.weight`, in parts.
fn parse_name(name: &str, names: MlpNames) -> Option<Parsed<'_>> {
    let rest = name.strip_prefix(PREFIX)?;
    let (path, half) = match rest.strip_suffix(".lora_A.weight") {
        Some(path) => (path, 0),
        None => (rest.strip_suffix(".lora_B.weight")?, 1),
    };
    // The longest first: one begins with another.
    let inside = PATHS.iter().rev().find_map(|prefix| path.strip_prefix(prefix)?.strip_prefix(".layers."))?;
    let (layer, module) = inside.split_once('.')?;
    let layer = layer.parse().ok()?;
    let is = |m: &Module| m.hf_name(0, names).strip_prefix("model.layers.0.") == Some(module);
    let module = Module::ALL.into_iter().find(is)?;
    Some(Parsed { layer, module, half, path })
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext == "gguf")
}

fn to_f32(name: &str, view: &TensorView<'_>, device: &Device) -> Result<Tensor> {
    let dtype = match view.dtype() {
        safetensors::Dtype::F32 => DType::F32,
        safetensors::Dtype::F16 => DType::F16,
        safetensors::Dtype::BF16 => DType::BF16,
        other => {
            return Err(Error::request(format!("tensor '{name}' has type {other:?}; F32, F16 and BF16 are supported")));
        }
    };
    let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(tensor.to_device(device)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn model() -> ModelConfig {
        ModelConfig {
            family: crate::config::Family::Llama,
            hidden_size: 8,
            intermediate_size: 12,
            num_layers: 3,
            num_heads: 2,
            num_kv_heads: 1,
            head_dim: 4,
            vocab_size: 11,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: None,
            tie_word_embeddings: true,
            qkv_bias: false,
            sliding_window: None,
            max_position_embeddings: 32,
            layer: crate::config::Layer::default(),
        }
    }

    fn config(layers: Option<Vec<usize>>) -> LoraConfig {
        LoraConfig {
            r: 2,
            alpha: 4.0,
            dropout: 0.0,
            targets: vec![Module::V, Module::Down, Module::Q],
            layers,
            rslora: false,
            patterns: Patterns::default(),
        }
    }

    #[test]
    fn a_saved_adapter_loads_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let made = Adapter::new(config(Some(vec![1, 2])), &model(), 7, &Device::Cpu).unwrap();
        made.save(dir.path(), "some/base").unwrap();
        let read = Adapter::load(dir.path(), &model(), &Device::Cpu).unwrap();
        assert_eq!(read.config, made.config);
        for ((name, a), (other, b)) in made.parameters().into_iter().zip(read.parameters()) {
            assert_eq!(name, other);
            let flat = |v: &Var| v.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(&a), flat(&b));
        }
        assert!(read.is_noop().unwrap());
        assert!(read.layers[0].iter().all(Option::is_none));
    }

    /// Its answers were empty, and nothing said why.
    #[test]
    fn an_adapter_whose_values_are_not_finite_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let made = Adapter::new(config(None), &model(), 7, &Device::Cpu).unwrap();
        let (name, first) = &made.parameters()[0];
        first.set(&first.affine(f64::NAN, 0.0).unwrap()).unwrap();
        made.save(dir.path(), "base").unwrap();
        let error = Adapter::load(dir.path(), &model(), &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains(&format!("tensor '{name}' holds values that are not finite")), "{error}");
    }

    /// Of an alpha of 0 llama.cpp makes a scale of 1.
    #[test]
    fn an_alpha_that_is_not_positive_has_no_place_in_a_gguf_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("adapter.gguf");
        // The last one is 0 in the file's 32 bits.
        for alpha in [0.0, -4.0, 1e-60] {
            let made = Adapter::new(LoraConfig { alpha, ..config(None) }, &model(), 7, &Device::Cpu).unwrap();
            let error = made.save_gguf(&path, &model(), "adapter").unwrap_err();
            assert!(error.to_string().contains("`lora_alpha`") && !path.exists(), "{alpha}: {error}");
            assert!(error.hints()[0].contains("a scale of 1"), "{error:?}");
        }
        let made = Adapter::new(config(None), &model(), 7, &Device::Cpu).unwrap();
        made.save_gguf(&path, &model(), "adapter").unwrap();
    }

    /// Older files of the text part of a larger model have another path in their names, and their patterns name it.
    #[test]
    fn patterns_that_name_an_older_path_are_written_for_the_path_of_the_tensors() {
        let dir = tempfile::tempdir().unwrap();
        let ranks = vec![("language_model.model.layers.1.self_attn.q_proj".to_owned(), 1)];
        let patterns = Patterns { ranks, alphas: vec![("v_proj".to_owned(), 6.0)] };
        let config = LoraConfig { patterns, ..config(None) };
        let model = ModelConfig { layer: crate::config::Layer { nested: true, ..Default::default() }, ..model() };
        let mut made = Adapter::new(config, &model, 7, &Device::Cpu).unwrap();
        made.names.path = PATHS[2];
        made.save(dir.path(), "base").unwrap();
        let error = Adapter::load(dir.path(), &model, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("layers.1.self_attn.q_proj.lora_"), "{error}");
        if let Some(lora) = &mut made.layers[1].q {
            lora.a = Var::from_tensor(&lora.a.narrow(0, 0, 1).unwrap()).unwrap();
            lora.b = Var::from_tensor(&lora.b.narrow(1, 0, 1).unwrap().contiguous().unwrap()).unwrap();
        }
        made.save(dir.path(), "base").unwrap();
        let read = Adapter::load(dir.path(), &model, &Device::Cpu).unwrap();
        let scales = |adapter: &Adapter| adapter.pairs().map(|lora| lora.scale).collect::<Vec<_>>();
        assert_eq!(scales(&read), [2.0, 3.0, 2.0, 4.0, 3.0, 2.0, 2.0, 3.0, 2.0]);
        assert_eq!((read.ranks_in_words().as_str(), read.largest_scale()), ("ranks 1 to 2", 4.0));
        read.save(dir.path(), "base").unwrap();
        let again = Adapter::load(dir.path(), &model, &Device::Cpu).unwrap();
        assert_eq!((scales(&again), again.config), (scales(&read), read.config));
    }

    #[test]
    fn a_tensor_that_fits_no_module_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let made = Adapter::new(config(None), &model(), 7, &Device::Cpu).unwrap();
        made.save(dir.path(), "base").unwrap();
        let smaller = ModelConfig { num_layers: 2, ..model() };
        let error = Adapter::load(dir.path(), &smaller, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("layer 2"), "{error}");
        let wider = ModelConfig { hidden_size: 16, ..model() };
        let error = Adapter::load(dir.path(), &wider, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("shape"), "{error}");
    }

    #[test]
    fn what_is_not_plain_lora_is_refused_by_key() {
        let base = r#"{"peft_type":"LORA","r":2,"lora_alpha":4"#;
        for (extra, key) in [(r#","use_dora":true}"#, "use_dora"), (r#","lora_bias":true}"#, "lora_bias")] {
            let error = crate::adapter_config::read(&format!("{base}{extra}")).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
        assert!(crate::adapter_config::read(&format!("{base}}}")).is_ok());
    }

    proptest! {
        #[test]
        fn random_names_and_configs_never_panic(name in ".{0,60}", text in ".{0,80}") {
            let _ = parse_name(&name, MlpNames::Llama);
            let _ = crate::adapter_config::read(&text);
        }
    }
}
