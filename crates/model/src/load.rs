//! stub
use crate::{ChatTemplate, Decoder, ModelConfig, Result, Tokenizer};
use candle_core::{DType, Device};
use std::path::PathBuf;

/// How to load a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where tensors live.
    pub device: Device,
    /// Type of the weights; None = f32 on CPU, bf16 where the device has it.
    pub dtype: Option<DType>,
    /// A chat template file that replaces the model's own.
    pub chat_template: Option<PathBuf>,
}

/// A loaded model: everything a stage needs.
pub struct Model {
    /// As the user named it: path or hub name. Goes into adapter_config.json.
    pub name: String,
    /// Shape.
    pub config: ModelConfig,
    /// The network.
    pub decoder: Decoder,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template; None when the model brings none.
    pub template: Option<ChatTemplate>,
    /// Hex SHA-256 over weights (sampled: names, shapes, sizes and strided content) and tokenizer.
    pub fingerprint: String,
    /// The files it was read from (directory or GGUF file), for export to copy from.
    pub path: PathBuf,
}

/// Loads `spec`: a Hugging Face directory, a `.gguf` file, or a hub name `org/name`.
pub fn load(_spec: &str, _options: &LoadOptions) -> Result<Model> {
    todo!()
}
