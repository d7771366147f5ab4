//! How a decoder layer differs from Llama's. Invariant: the default is Llama's layer, so a family sets only what is
//! different in it.

use super::rope::{Rope, positive};
use crate::{Error, Result};
use eraser_ops::Activation;
use serde::{Deserialize, Serialize};

/// Far more experts than any published model has in a layer.
const MOST_EXPERTS: usize = 1 << 12;

/// Where a layer's norms stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormPlacement {
    /// `x + f(norm(x))`, where `f` is attention or the MLP.
    #[default]
    Before,
    /// `x + norm(f(x))`.
    After,
    /// `x + norm(f(norm(x)))`.
    Both,
}

/// Which norm queries and keys go through before their rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QkNorm {
    /// None.
    #[default]
    None,
    /// One norm for each head.
    Head,
    /// One norm for the whole projection.
    Whole,
}

/// What an MLP computes between its projections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mlp {
    /// `silu(gate) * up`.
    #[default]
    Silu,
    /// `gelu(gate) * up`, with the tanh form of GELU.
    GeluTanh,
    /// `relu(up)^2`, without a gate.
    ReluSquared,
}

impl Mlp {
    /// The operation.
    pub fn activation(self) -> Activation {
        match self {
            Self::Silu => Activation::Silu,
            Self::GeluTanh => Activation::GeluTanh,
            Self::ReluSquared => Activation::ReluSquared,
        }
    }
}

/// Queries are multiplied by `1 + beta * ln(1 + floor(position / original))`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryScale {
    /// Strength.
    pub beta: f32,
    /// Below this position the factor is 1.
    pub original: u32,
}

impl QueryScale {
    /// The factor at a position.
    pub fn at(self, position: usize) -> f32 {
        1.0 + self.beta * (1.0 + (position / self.original.max(1) as usize) as f32).ln()
    }
}

/// Biases besides those of q, k and v.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Biases {
    /// Of attention's output projection.
    pub output: bool,
    /// Of the MLP's projections.
    pub mlp: bool,
}

/// Projections that are one module in the checkpoint and in adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fused {
    /// `qkv_proj`: rows of q, k and v.
    pub qkv: bool,
    /// `gate_up_proj`: rows of gate and up.
    pub gate_up: bool,
}

/// What the modules of the MLP are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MlpNames {
    /// `mlp.gate_proj`, `mlp.up_proj` or both as `mlp.gate_up_proj`, and `mlp.down_proj`.
    #[default]
    Llama,
    /// `shared_mlp.input_linear` (gate and up in one) and `shared_mlp.output_linear`.
    Shared,
    /// Experts as Mixtral has them: `block_sparse_moe.experts.N.w1` (gate), `.w3` (up) and `.w2` (down).
    Mixtral,
}

impl MlpNames {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
    fn is_llama(&self) -> bool {
        *self == Self::Llama
    }
}

/// A mixture of experts in the place of the MLP; `intermediate_size` is the width of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mixture {
    /// How many experts there are.
    pub experts: usize,
    /// How many of them a token has.
    pub used: usize,
    /// The weights of a token's experts add up to 1.
    pub normalised: bool,
}

/// How a decoder layer, and the multiplications before and after the layers, differ from Llama's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Layer {
    /// Where the norms stand.
    pub norms: NormPlacement,
    /// A norm multiplies by its stored weight plus one.
    pub unit_norms: bool,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// The MLP.
    pub mlp: Mlp,
    /// Attention scores are multiplied by it; None means `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f32>,
    /// Soft cap of attention scores.
    pub attention_cap: Option<f32>,
    /// Soft cap of logits.
    pub logit_cap: Option<f32>,
    /// Embeddings are multiplied by it.
    pub embedding_multiplier: Option<f32>,
    /// The outputs of attention and MLP are multiplied by it before they are added to the residual stream.
    pub residual_multiplier: Option<f32>,
    /// Logits are multiplied by it.
    pub logit_multiplier: Option<f32>,
    /// How many elements of a head are rotated; None means all of them.
    pub rotary_dim: Option<usize>,
    /// An element is rotated together with its neighbour, not with the one half a head away.
    pub interleaved: bool,
    /// A factor of the queries that grows with their position.
    pub query_scale: Option<QueryScale>,
    /// Which layers have the sliding window; None means all of them.
    pub windowed: Option<Vec<bool>>,
    /// Which layers rotate queries and keys; None means all of them.
    pub rotated: Option<Vec<bool>>,
    /// The rotation of layers with a window, where it differs from that of the others.
    pub window_rope: Option<Rope>,
    /// Biases besides those of q, k and v.
    pub biases: Biases,
    /// Projections that are one module.
    pub fused: Fused,
    /// Names of the MLP's modules.
    #[serde(skip_serializing_if = "MlpNames::is_llama")]
    pub mlp_names: MlpNames,
    /// Experts in the place of the MLP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixture: Option<Mixture>,
    /// The model is the text part of a larger one, whose names its tensors have.
    pub nested: bool,
}

impl Layer {
    /// True where a layer is Llama's.
    pub fn is_llama(&self) -> bool {
        *self == Self::default()
    }

    /// Names of the norms around attention and MLP, as the checkpoint has them: before and after attention, before and
    /// after the MLP.
    pub fn norm_names(&self) -> [Option<&'static str>; 4] {
        let (input, after) = (Some("input_layernorm"), Some("post_attention_layernorm"));
        let (before_mlp, after_mlp) = (Some("pre_feedforward_layernorm"), Some("post_feedforward_layernorm"));
        match self.norms {
            // Llama's `post_attention_layernorm` is the norm before the MLP: it comes after attention.
            NormPlacement::Before => [input, None, after, None],
            NormPlacement::After => [None, after, None, after_mlp],
            NormPlacement::Both => [input, after, before_mlp, after_mlp],
        }
    }

    /// The weight of the router of block `layer`, as the checkpoint has it.
    pub(crate) fn router_name(&self, layer: usize) -> String {
        format!("model.layers.{layer}.{}.gate.weight", self.experts_part())
    }

    /// The weights of gate, up and down of an expert.
    pub(crate) fn expert_names(&self, layer: usize, expert: usize) -> [String; 3] {
        let own = match self.mlp_names {
            MlpNames::Mixtral => ["w1", "w3", "w2"],
            _ => ["gate_proj", "up_proj", "down_proj"],
        };
        own.map(|own| format!("model.layers.{layer}.{}.experts.{expert}.{own}.weight", self.experts_part()))
    }

    fn experts_part(&self) -> &'static str {
        if self.mlp_names == MlpNames::Mixtral { "block_sparse_moe" } else { "mlp" }
    }

    /// Checks every number, for a model of `layers` layers and heads of `head_dim`.
    pub(super) fn check(&self, layers: usize, head_dim: usize, name: &dyn Fn(&str) -> String) -> Result<()> {
        for (key, value) in [
            ("attention_scale", self.attention_scale),
            ("attn_logit_softcapping", self.attention_cap),
            ("final_logit_softcapping", self.logit_cap),
            ("embedding_multiplier", self.embedding_multiplier),
            ("residual_multiplier", self.residual_multiplier),
            ("logits_scaling", self.logit_multiplier),
        ] {
            value.map_or(Ok(()), |value| positive(&name(key), value))?;
        }
        if let Some(Mixture { experts, used, .. }) = self.mixture
            && !((1..=MOST_EXPERTS).contains(&experts) && (1..=experts).contains(&used))
        {
            let (all, own) = (name("num_experts"), name("num_experts_per_tok"));
            return Err(Error::request(format!(
                "`{own}` is {used} of `{all}` {experts}: must be 1 to all of at most {MOST_EXPERTS}"
            )));
        }
        if let Some(n) = self.rotary_dim
            && !(n >= 2 && n <= head_dim && n.is_multiple_of(2))
        {
            let key = name("partial_rotary_factor");
            return Err(Error::request(format!("`{key}` rotates {n} of {head_dim} elements: must be even, 2 or more")));
        }
        for (key, flags) in [("layer_types", &self.windowed), ("no_rope_layers", &self.rotated)] {
            if let Some(n) = flags.as_ref().map(Vec::len).filter(|n| *n != layers) {
                return Err(Error::request(format!("`{}` is for {n} layers, the model has {layers}", name(key))));
            }
        }
        if let Some(scale) = self.query_scale
            && !(scale.beta.is_finite() && scale.beta >= 0.0 && scale.original > 0)
        {
            let key = name("llama_4_scaling_beta");
            return Err(Error::request(format!("`{key}` is {}, must not be negative", scale.beta)));
        }
        Ok(())
    }
}
