//! Loading a model by path or name. In: what the user named; out: configuration, network, tokenizer, template and a
//! fingerprint. Invariant: the parts fit each other, or there is an error.

use crate::{
    Budget, ChatTemplate, Decoder, Error, ModelConfig, Result, Said, Thinking, Tokenizer, decoder::WeightStorage,
    fingerprint::identity, gguf::TensorType, hub, model_files::ModelFiles,
};
use candle_core::{DType, Device};
use eraser_ops::bf16;
use serde::{Serialize, Serializer};
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

/// How to load a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where tensors live.
    pub device: Device,
    /// How the base model's weights are held.
    pub base_dtype: BaseDtype,
    /// In what precision the frozen weights are multiplied on the CPU.
    pub compute: Compute,
    /// What replaces the model's own chat template: a file, a form known by name ([`crate::forms`]), or another one of
    /// the model's named templates.
    pub chat_template: Option<PathBuf>,
}

/// How the weights of the base model are held in memory. What is computed does not depend on it, but for rounding where
/// a narrower type than the stored one is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BaseDtype {
    /// f32 on the CPU, bf16 where the device has it.
    #[default]
    Auto,
    /// 4 bytes a weight: fastest on the CPU.
    F32,
    /// 2 bytes a weight; on the CPU expanded as it is used.
    F16,
    /// 2 bytes a weight; on the CPU expanded as it is used.
    Bf16,
    /// The linear layers as the file has them, quantised blocks included, expanded as they are used: the least memory.
    /// CPU only.
    AsStored,
}

impl BaseDtype {
    /// Every one with its name.
    const NAMES: [(Self, &str); 5] = [
        (Self::Auto, "auto"),
        (Self::F32, "f32"),
        (Self::F16, "f16"),
        (Self::Bf16, "bf16"),
        (Self::AsStored, "as-stored"),
    ];

    /// The names of all.
    pub fn names() -> [&'static str; 5] {
        Self::NAMES.map(|(_, name)| name)
    }
}

impl FromStr for BaseDtype {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let found = Self::NAMES.into_iter().find(|(_, name)| *name == s).map(|(dtype, _)| dtype);
        found.ok_or_else(|| {
            Error::request(format!("unknown type `{s}`")).hint("types are auto, f32, f16, bf16 and as-stored")
        })
    }
}

impl fmt::Display for BaseDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.into_iter().find(|(dtype, _)| dtype == self).map_or("auto", |(_, name)| name))
    }
}

impl Serialize for BaseDtype {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// In what precision the products of the frozen weights are computed on the CPU. Sums, the residual stream, norms,
/// softmax, losses, adapters and the optimiser are in f32 always. Another device computes in the type that it holds the
/// weights in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// f32: the reference.
    #[default]
    F32,
    /// bf16: weights and what they are multiplied by are rounded to 8 bits of significand. About twice as fast, with
    /// half the memory.
    Bf16,
    /// bf16 where the processor has instructions for it and `base_dtype` is auto or as-stored, else f32.
    Auto,
}

impl Compute {
    /// Every one with its name.
    const NAMES: [(Self, &str); 3] = [(Self::F32, "f32"), (Self::Bf16, "bf16"), (Self::Auto, "auto")];

    /// The names of all.
    pub fn names() -> [&'static str; 3] {
        Self::NAMES.map(|(_, name)| name)
    }
}

impl FromStr for Compute {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let found = Self::NAMES.into_iter().find(|(_, name)| *name == s).map(|(compute, _)| compute);
        found
            .ok_or_else(|| Error::request(format!("unknown precision `{s}`")).hint("precisions are f32, bf16 and auto"))
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.into_iter().find(|(compute, _)| compute == self).map_or("f32", |(_, name)| name))
    }
}

impl Serialize for Compute {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A loaded model: everything a stage needs.
pub struct Model {
    /// As the user named it: path or hub name. Goes into `adapter_config.json`.
    pub name: String,
    /// Shape.
    pub config: ModelConfig,
    /// The network.
    pub decoder: Decoder,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template; None when the model has none.
    pub template: Option<ChatTemplate>,
    /// Hex SHA-256 over configuration, tokenizer, and every tensor's name, type, shape and stored bytes; of more than
    /// 1 GiB of tensors, a sample that covers every tensor. Not over the chat template: it does not change the network.
    pub fingerprint: String,
    /// The files it was read from (directory or GGUF file), for export to copy from.
    pub path: PathBuf,
}

impl Model {
    /// Hex SHA-256 of the model as it is loaded: its [`fingerprint`](Self::fingerprint), how its weights are held, and
    /// its chat template with the variables that it is rendered with. Two models of one identity give the same answer
    /// to the same question, up to the order of float additions; so this is what stored answers, scores and checkpoints
    /// are keyed by.
    pub fn identity(&self) -> String {
        let template = self.template.as_ref().map(ChatTemplate::identity);
        identity(&self.fingerprint, self.decoder.held(), template.as_deref())
    }

    /// The identity and, of a model that thinks, how its thoughts are told from its answers: what an answer depends on
    /// besides prompt and sampling.
    pub fn answering(&self) -> String {
        match self.thinking() {
            Some(thinking) => format!("{}, {}", self.identity(), thinking.settings()),
            None => self.identity(),
        }
    }

    /// How the model marks its thoughts; None for one that does not think.
    pub fn thinking(&self) -> Option<&Arc<Thinking>> {
        self.template.as_ref()?.thinking()
    }

    /// Whether a prompt ends inside a thought.
    pub fn thinks_after(&self, prompt: &str) -> bool {
        self.thinking().is_some_and(|thinking| thinking.opens(prompt))
    }

    /// The limits of a sequence, for [`GenerateOptions::budget`](crate::GenerateOptions): the prompt ends inside a
    /// thought if it is `open`, and there is `room` for so many tokens. None for a model that does not think.
    pub fn budget(&self, open: bool, room: usize) -> Option<Budget> {
        let thinking = self.thinking()?;
        Some(Budget::new(Arc::clone(thinking), self.tokenizer.clone(), open, room))
    }

    /// Thought and answer of new tokens.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn said(&self, ids: &[u32], open: bool) -> Result<Said> {
        match self.thinking() {
            Some(thinking) => Ok(thinking.split(&thinking.decode(&self.tokenizer, ids)?, open)),
            None => Ok(Said { answer: self.tokenizer.decode(ids, true)?, ..Said::default() }),
        }
    }

    /// The chat template.
    ///
    /// # Errors
    /// The model has none.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| {
            let error = Error::request(format!("{}: the model has no chat template", self.name));
            let forms = crate::forms::NAMES.join(", ");
            let error =
                error.hint(format!("name the form that it was trained with: --chat-template FILE, or one of {forms}"));
            match crate::template::named_templates(&self.path) {
                Ok(Some((file, all))) if !all.contains_key("default") => {
                    let names: Vec<&str> = all.keys().map(String::as_str).collect();
                    error.hint(format!(
                        "{file} has templates without a default, which can be named too: {}",
                        names.join(", ")
                    ))
                }
                _ => error,
            }
        })
    }
}

/// Loads `spec`: a Hugging Face directory, a `.gguf` file, or a hub name `org/name` (if no such path exists).
pub fn load(spec: &str, options: &LoadOptions) -> Result<Model> {
    let path = locate(spec)?;
    let held = held(options)?;
    let files = ModelFiles::open(&path)?;
    let mut config = files.config()?;
    let tokenizer = files.tokenizer()?;
    let template = files.template(options.chat_template.as_deref(), &tokenizer)?;
    let (decoder, mut fingerprint) = files.decoder(&mut config, held, &options.device)?;
    let tokenizer = tokenizer.within(config.vocab_size);
    if tokenizer.plain_ids().is_empty() {
        return Err(Error::request(format!("{spec}: the tokenizer has no id that the embedding has a row for"))
            .hint("the tokenizer files are of another model"));
    }
    fingerprint.config(&config)?;
    fingerprint.tokenizer(&tokenizer)?;
    let fingerprint = fingerprint.finish();
    Ok(Model { name: spec.to_owned(), config, decoder, tokenizer, template, fingerprint, path })
}

/// Loads what [`load`] does but tokenizer and chat template.
///
/// # Errors
/// Files that are missing, damaged or of a model that is not supported.
pub fn load_network(spec: &str, options: &LoadOptions) -> Result<(ModelConfig, Decoder)> {
    let files = ModelFiles::open(&locate(spec)?)?;
    let mut config = files.config()?;
    let (decoder, _) = files.decoder(&mut config, held(options)?, &options.device)?;
    Ok((config, decoder))
}

/// Reads all of a model but its weights: its configuration, tokenizer and chat template; `spec` and `chat_template` are
/// those of [`load`].
///
/// # Errors
/// Files that are missing, damaged or of a model that is not supported.
pub fn load_text(spec: &str, chat_template: Option<&Path>) -> Result<(ModelConfig, Tokenizer, Option<ChatTemplate>)> {
    let files = ModelFiles::open(&locate(spec)?)?;
    let tokenizer = files.tokenizer()?;
    let template = files.template(chat_template, &tokenizer)?;
    Ok((files.config()?, tokenizer, template))
}

/// Where a model's files are.
fn locate(spec: &str) -> Result<PathBuf> {
    let path = Path::new(spec);
    match path.try_exists() {
        Ok(true) => Ok(path.to_path_buf()),
        _ if hub::is_name(spec) => hub::fetch(spec),
        _ => Err(Error::request(format!("{spec}: there is no such model"))
            .hint("a model is a Hugging Face directory, a .gguf file, or a hub name such as org/name")),
    }
}

fn held(options: &LoadOptions) -> Result<WeightStorage> {
    let cpu = options.device.is_cpu();
    let in_bf16 = match options.base_dtype {
        BaseDtype::Auto | BaseDtype::Bf16 => Some(WeightStorage::MultipliedInBf16),
        BaseDtype::AsStored => Some(WeightStorage::StoredInBf16),
        BaseDtype::F32 | BaseDtype::F16 => None,
    };
    match options.compute {
        Compute::Bf16 if cpu && !bf16::is_fast() => {
            return Err(Error::request("this processor has no instructions for products in bf16")
                .hint("use --compute f32, or auto"));
        }
        Compute::Bf16 if cpu => {
            return in_bf16.ok_or_else(|| {
                Error::request("products in bf16 need weights held in bf16 or as stored")
                    .hint("leave --base-dtype at auto, or compute in f32")
            });
        }
        Compute::Auto if cpu && options.base_dtype != BaseDtype::Bf16 && bf16::is_fast() => {
            if let Some(held) = in_bf16 {
                return Ok(held);
            }
        }
        Compute::F32 | Compute::Bf16 | Compute::Auto => {}
    }
    Ok(match options.base_dtype {
        BaseDtype::AsStored if !cpu => {
            return Err(Error::request("weights as stored are supported on the CPU only")
                .hint("use --base-dtype bf16 on this device"));
        }
        BaseDtype::F32 => WeightStorage::Dense(DType::F32),
        BaseDtype::Auto if cpu => WeightStorage::Dense(DType::F32),
        BaseDtype::Auto => WeightStorage::Dense(options.device.bf16_default_to_f32()),
        BaseDtype::AsStored => WeightStorage::AsStored,
        BaseDtype::F16 if cpu => WeightStorage::Half(TensorType::F16),
        BaseDtype::Bf16 if cpu => WeightStorage::Half(TensorType::BF16),
        BaseDtype::F16 => WeightStorage::Dense(DType::F16),
        BaseDtype::Bf16 => WeightStorage::Dense(DType::BF16),
    })
}

#[cfg(test)]
mod tests;
