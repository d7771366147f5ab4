//! AdamW (Loshchilov and Hutter, 2019), in `PyTorch`'s order of operations. In: parameters and their gradients; out:
//! the parameters, changed in place. Invariant: moments are in the order of the parameters, f32, and part of a
//! checkpoint.

use candle_core::{Tensor, Var};
use eraser_model::{Error, Result};
use eraser_ops::device::{self, AdamWStep};

/// Settings that stay the same over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// The optimiser and its state.
pub struct AdamW {
    config: AdamWConfig,
    variables: Vec<Var>,
    moments: Vec<Held>,
    steps: u32,
}

/// Moments where the parameter is.
enum Held {
    Host(Moments),
    /// First and second moment, on a device with an optimiser of its own.
    Device([Tensor; 2]),
}

impl Held {
    fn new(variable: &Var, moments: Moments) -> Result<Self> {
        if !device::has_operations(variable.device()) {
            return Ok(Self::Host(moments));
        }
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, variable.shape(), variable.device());
        Ok(Self::Device([tensor(moments.first)?, tensor(moments.second)?]))
    }

    fn moments(&self) -> Result<Moments> {
        match self {
            Self::Host(moments) => Ok(moments.clone()),
            Self::Device([first, second]) => {
                let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
                Ok(Moments { first: values(first)?, second: values(second)? })
            }
        }
    }
}

/// First and second moment of one parameter, flat.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Running mean of the gradient.
    pub first: Vec<f32>,
    /// Running mean of its square.
    pub second: Vec<f32>,
}

impl AdamW {
    /// An optimiser with zero moments.
    ///
    /// # Errors
    /// A device without room for them.
    pub fn new(variables: Vec<Var>, config: AdamWConfig) -> Result<Self> {
        let zeros = |v: &Var| Moments { first: vec![0.0; v.elem_count()], second: vec![0.0; v.elem_count()] };
        let moments = variables.iter().map(|v| Held::new(v, zeros(v))).collect::<Result<_>>()?;
        Ok(Self { config, variables, moments, steps: 0 })
    }

    /// Moments by parameter, and the steps done: what a checkpoint keeps.
    ///
    /// # Errors
    /// A device that cannot be read.
    pub fn state(&self) -> Result<(Vec<Moments>, u32)> {
        Ok((self.moments.iter().map(Held::moments).collect::<Result<_>>()?, self.steps))
    }

    /// Continues from a checkpoint.
    ///
    /// # Errors
    /// Moments of another number or size than the parameters.
    pub fn restore(&mut self, moments: Vec<Moments>, steps: u32) -> Result<()> {
        let fits = |v: &Var, m: &Moments| m.first.len() == v.elem_count() && m.second.len() == v.elem_count();
        if moments.len() != self.moments.len() || !self.variables.iter().zip(&moments).all(|(v, m)| fits(v, m)) {
            return Err(Error::request("the optimiser state belongs to another adapter"));
        }
        let held = self.variables.iter().zip(moments).map(|(v, m)| Held::new(v, m));
        (self.moments, self.steps) = (held.collect::<Result<_>>()?, steps);
        Ok(())
    }

    /// One step with learning rate `lr`. A parameter without gradient stays as it is.
    pub fn step(&mut self, gradients: &[Option<Tensor>], lr: f64) -> Result<()> {
        self.steps += 1;
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        let steps = f64::from(self.steps);
        // theta <- theta (1 - lr wd) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
        let size = (lr / (1.0 - beta1.powf(steps))) as f32;
        let correction = (1.0 - beta2.powf(steps)).sqrt() as f32;
        let keep = (1.0 - lr * weight_decay) as f32;
        let (beta2, epsilon) = (beta2 as f32, epsilon as f32);
        // In f64: 1 - 0.999 in f32 is off by a hundred thousandth.
        let (less_beta1, less_beta2) = ((1.0 - beta1) as f32, (1.0 - self.config.beta2) as f32);
        let numbers = AdamWStep { size, correction, keep, less_beta1, beta2, less_beta2, epsilon };
        for ((variable, moments), gradient) in self.variables.iter().zip(&mut self.moments).zip(gradients) {
            let Some(gradient) = gradient else { continue };
            let moments = match moments {
                Held::Host(moments) => moments,
                Held::Device([first, second]) => {
                    device::adamw(variable, first, second, gradient, numbers)?;
                    continue;
                }
            };
            let g = gradient.flatten_all()?.to_vec1::<f32>()?;
            let mut theta = variable.flatten_all()?.to_vec1::<f32>()?;
            let state = moments.first.iter_mut().zip(&mut moments.second);
            for ((theta, (m, v)), &g) in theta.iter_mut().zip(state).zip(&g) {
                *m += (g - *m) * less_beta1;
                *v = *v * beta2 + g * g * less_beta2;
                *theta = *theta * keep - size * *m / (v.sqrt() / correction + epsilon);
            }
            variable.set(&Tensor::from_vec(theta, variable.shape(), variable.device())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Recorded from `torch.optim.AdamW` 2.15 (f32): theta = [1, -2, 0.5], lr 0.1, weight decay 0.01, betas (0.9,
    /// 0.999), gradients [0.5, -1, 2], [0.1, 0.3, -1], [0, 2, 1] in three steps (tests/fixtures/adamw.py).
    #[test]
    fn three_steps_equal_pytorch() {
        let theta = Var::new(&[1f32, -2.0, 0.5], &Device::Cpu).unwrap();
        let config = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
        let mut optimiser = AdamW::new(vec![theta.clone()], config).unwrap();
        for gradient in [[0.5f32, -1.0, 2.0], [0.1, 0.3, -1.0], [0.0, 2.0, 1.0]] {
            let gradient = Tensor::new(&gradient, &Device::Cpu).unwrap();
            optimiser.step(&[Some(gradient)], 0.1).unwrap();
        }
        let expected: [f32; 3] = serde_json::from_str(include_str!("../tests/fixtures/adamw.json")).unwrap();
        for (ours, theirs) in theta.to_vec1::<f32>().unwrap().into_iter().zip(expected) {
            assert!((ours - theirs).abs() < 1e-6, "{ours} against {theirs}");
        }
    }
}
