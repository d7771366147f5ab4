//! Settings that go together, under a name. In: a name; out: the options that it sets. Invariant: a preset decides how
//! a model is trained, never what on; docs/decisions.md has the measurements behind each.

use crate::gamma::Gamma;
use crate::method::{AlignLoss, Method};
use crate::options::{GammaScope, Preset, Schedule, Templates, TrainOptions};
use eraser_data::NoiseKind;
use eraser_model::adapter::Module;
use eraser_model::{Error, Result};

impl Preset {
    /// Every preset with its name.
    pub const ALL: [(&'static str, Self); 2] = [("paper", Self::Paper), ("strong", Self::Strong)];

    /// That a preset has no settings for a method.
    ///
    /// # Errors
    /// Only the published settings are for every method.
    pub fn check(self, method: Method) -> Result<()> {
        let own = Method::default();
        if self == Self::Paper || method == own {
            return Ok(());
        }
        let what = format!("this preset has settings of the method {}, not of {}", own.name, method.name);
        Err(Error::request(what).hint("`paper` has the published settings of every method"))
    }

    /// Sets the options that the preset decides, and leaves the others.
    pub fn apply(self, options: &mut TrainOptions) {
        let (method, published) = (options.method, TrainOptions::default());
        let published = TrainOptions { method, lr: method.lr, ..published };
        let set = match self {
            Self::Paper => published,
            Self::Strong => strong(published),
        };
        *options = TrainOptions {
            max_length: options.max_length,
            overlong: options.overlong,
            kl_scope: options.kl_scope,
            harm_answers: options.harm_answers,
            retain_take: options.retain_take,
            allow_swapped: options.allow_swapped,
            order: options.order,
            early_stop: options.early_stop,
            checkpoint_activations: options.checkpoint_activations,
            checkpoint_every: options.checkpoint_every,
            extend: options.extend,
            seed: options.seed,
            init_adapter: options.init_adapter.take(),
            dump_grads: options.dump_grads.take(),
            preset: Some(self),
            ..set
        };
    }
}

fn strong(published: TrainOptions) -> TrainOptions {
    TrainOptions {
        targets: Module::ALL.to_vec(),
        rank: 16,
        alpha: 32.0,
        lora_dropout: 0.0,
        lr: 6e-4,
        schedule: Schedule::Cosine,
        max_grad_norm: Some(1.0),
        steps: Some(60),
        micro_batch: 6,
        grad_accum: 1,
        gamma: Gamma::Nats(5.0),
        gamma_scope: GammaScope::Token,
        noise_before: 80,
        noise_after: 20,
        noise_kind: NoiseKind::Mix,
        noise_share: 0.4,
        retain_noise: true,
        retain_weight: 6.0,
        harm_depth: 24,
        align_noise: true,
        align_depth: 24,
        align_loss: AlignLoss::CrossEntropy,
        templates: Templates::Model,
        ..published
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paper_is_the_default_and_every_preset_is_within_the_ranges() {
        for (name, preset) in Preset::ALL {
            let mut options = TrainOptions { seed: 7, ..TrainOptions::default() };
            preset.apply(&mut options);
            assert!(options.check().is_empty(), "{name}: {:?}", options.check());
            assert_eq!((options.seed, serde_json::to_value(preset).unwrap()), (7, name.into()));
            assert_eq!(
                preset == Preset::Paper,
                options == TrainOptions { seed: 7, preset: Some(preset), ..TrainOptions::default() },
                "{name}"
            );
        }
    }

    #[test]
    fn a_preset_takes_another_ones_settings_back() {
        let mut options = TrainOptions::default();
        Preset::Strong.apply(&mut options);
        Preset::Paper.apply(&mut options);
        assert_eq!(options, TrainOptions { preset: Some(Preset::Paper), ..TrainOptions::default() });
    }
}
