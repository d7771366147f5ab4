//! One decoder for the Llama, Mistral and Qwen2 families, and what surrounds it: weights, adapters, tokenizer, chat
//! template, generation.

pub mod adapter;
pub mod batch;
pub mod cache;
pub mod config;
pub mod decoder;
mod device;
pub mod error;
pub mod files;
mod fingerprint;
pub mod generate;
pub mod gguf;
mod gradient;
pub mod hub;
pub mod llama2c;
pub mod load;
mod sample;
pub mod score;
pub mod template;
mod tojson;
pub mod tokenizer;
mod tokenizer_check;
mod tokenizer_gguf;
pub mod trace;
mod tree;
pub mod weights;

pub use adapter::{Adapter, LoraConfig};
pub use config::ModelConfig;
pub use decoder::Decoder;
pub use device::DeviceName;
pub use error::{Error, ErrorKind, Result};
pub use generate::{GenerateOptions, Generation, generate, generate_each};
pub use gradient::token_gradient;
pub use load::{BaseDtype, LoadOptions, Model, load};
pub use score::{ScoreRequest, TokenScore, score, score_top};
pub use template::{ChatTemplate, Message};
pub use tokenizer::{DecodeStream, Tokenizer};
