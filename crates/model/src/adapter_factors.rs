//! The factors of an adapter's pairs, by name, and which of them are trained. In: an adapter, or modules whose weights
//! are to be trained as a whole; out: its tensors. Invariant: a factor that is the identity is not trained, so the other
//! one is a change of the whole weight, and the pair is plain LoRA to everything that reads adapters, PEFT included.

use crate::adapter::{Adapter, Lora, PREFIX};
use crate::lora_config::{LoraConfig, Module};
use crate::lora_patterns::{Own, Patterns};
use crate::{ModelConfig, Result};
use candle_core::{DType, Device, Tensor, Var};
use eraser_ops::Factor;

impl Adapter {
    /// No change yet of the weights of the modules and layers of `config`, whose rank, alpha and dropout have no meaning.
    /// The identity is the factor that is smaller, so it holds at most as many values as the change.
    ///
    /// # Errors
    /// As [`Adapter::new`].
    pub fn whole(config: LoraConfig, model: &ModelConfig, device: &Device) -> Result<Self> {
        let config = LoraConfig { r: 1, alpha: 1.0, dropout: 0.0, rslora: false, ..config };
        let mut made = Self::new(LoraConfig { patterns: Patterns::default(), ..config }, model, 0, device)?;
        let mut owns = Vec::new();
        for layer in 0..made.layers.len() {
            for module in made.config.targets.clone() {
                if made.layers[layer][module].is_none() {
                    continue;
                }
                let (outputs, inputs) = module.shape(model);
                let rank = outputs.min(inputs);
                let unit = Var::from_tensor(&Tensor::eye(rank, DType::F32, device)?)?;
                let change = Var::zeros((outputs, inputs), DType::F32, device)?;
                let (a, b, identity) =
                    if outputs <= inputs { (change, unit, Factor::B) } else { (unit, change, Factor::A) };
                made.layers[layer][module] = Some(Lora { a, b, scale: 1.0, identity: Some(identity) });
                let own = Own { r: rank, alpha: rank as f64, scale: 1.0 };
                owns.push((made.path(layer, module), own));
            }
        }
        // What most adapters have in one number, which is then that of all modules but those that are named.
        let usual = owns.first().map_or(1, |(_, own)| own.r);
        (made.config.r, made.config.alpha) = (usual, usual as f64);
        made.config.patterns = Patterns::naming(&owns, usual, usual as f64);
        Ok(made)
    }

    /// Every trainable tensor under its PEFT name, in a fixed order (layer, module, A then B).
    pub fn parameters(&self) -> Vec<(String, Var)> {
        self.named(|lora| lora.trained().collect())
    }

    /// Every tensor, as [`Self::parameters`] has those that are trained.
    pub fn tensors(&self) -> Vec<(String, Var)> {
        self.named(|lora| vec![(Factor::A, &lora.a), (Factor::B, &lora.b)])
    }

    fn named(&self, which: impl Fn(&Lora) -> Vec<(Factor, &Var)>) -> Vec<(String, Var)> {
        let mut all = Vec::new();
        for (layer, pairs) in self.layers.iter().enumerate() {
            for module in Module::ALL {
                for (factor, variable) in pairs[module].as_ref().map(&which).unwrap_or_default() {
                    let name = self.path(layer, module);
                    all.push((format!("{PREFIX}{name}.lora_{factor:?}.weight"), variable.clone()));
                }
            }
        }
        all
    }

    /// True when some pairs are the change of a whole weight, and others are not.
    pub fn is_whole_in_part(&self) -> bool {
        !self.is_whole() && self.pairs().any(|lora| lora.identity.is_some())
    }

    /// True when every pair is the change of a whole weight.
    pub fn is_whole(&self) -> bool {
        self.pairs().all(|lora| lora.identity.is_some())
    }
}

impl Lora {
    /// A pair; if a factor is the identity at full rank, that is kept in mind.
    ///
    /// # Errors
    /// Factors that are no matrices of numbers.
    pub(crate) fn new(a: Var, b: Var, scale: f32) -> Result<Self> {
        let identity = if is_identity(&a)? {
            Some(Factor::A)
        } else if is_identity(&b)? {
            Some(Factor::B)
        } else {
            None
        };
        Ok(Self { a, b, scale, identity })
    }

    /// The factors that are trained.
    pub(crate) fn trained(&self) -> impl Iterator<Item = (Factor, &Var)> {
        let identity = self.identity;
        [(Factor::A, &self.a), (Factor::B, &self.b)].into_iter().filter(move |(factor, _)| identity != Some(*factor))
    }
}

fn is_identity(matrix: &Tensor) -> Result<bool> {
    let (rows, columns) = matrix.dims2()?;
    if rows != columns {
        return Ok(false);
    }
    let values = matrix.flatten_all()?.to_vec1::<f32>()?;
    let unit = |i: usize| f32::from(u8::from(i.is_multiple_of(columns + 1)));
    Ok(values.iter().enumerate().all(|(i, x)| x.to_bits() == unit(i).to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn model() -> ModelConfig {
        let config = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 11, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 32,
        });
        ModelConfig::from_hf_json(&config).unwrap()
    }

    #[test]
    fn a_change_of_whole_weights_is_plain_lora_in_files_and_the_identity_is_not_trained() {
        let dir = tempfile::tempdir().unwrap();
        let config = LoraConfig {
            r: 8,
            alpha: 16.0,
            dropout: 0.1,
            targets: vec![Module::Down, Module::Up, Module::V],
            layers: Some(vec![1, 2]),
            rslora: true,
            patterns: Patterns::default(),
        };
        let made = Adapter::whole(config, &model(), &Device::Cpu).unwrap();
        let names: Vec<String> = made.parameters().into_iter().map(|(name, _)| name).collect();
        let trained = ["self_attn.v_proj.lora_A", "mlp.up_proj.lora_B", "mlp.down_proj.lora_A"];
        let expected = [1, 2]
            .into_iter()
            .flat_map(|layer| trained.map(|name| format!("base_model.model.model.layers.{layer}.{name}.weight")));
        assert_eq!(names, expected.collect::<Vec<_>>());
        assert_eq!(made.tensors().len(), 2 * names.len());
        assert!(made.is_whole() && made.is_noop().unwrap());
        for (i, (_, variable)) in made.parameters().iter().enumerate() {
            variable.set(&variable.affine(0.0, i as f64 + 1.0).unwrap()).unwrap();
        }
        made.save(dir.path(), "base").unwrap();
        let read = Adapter::load(dir.path(), &model(), &Device::Cpu).unwrap();
        assert_eq!((&read.config, read.is_whole()), (&made.config, true));
        for ((name, a), (other, b)) in made.tensors().into_iter().zip(read.tensors()) {
            let flat = |v: &Var| v.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!((name, flat(&a)), (other, flat(&b)));
        }
        // The smaller one of its two sides is the rank.
        let ranks: Vec<usize> = read.layers[1].iter().flatten().map(|lora| lora.a.dim(0).unwrap()).collect();
        assert_eq!((ranks, read.largest_scale()), (vec![4, 8, 8], 1.0));
    }
}
