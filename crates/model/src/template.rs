//! stub
use crate::Result;
use serde::{Deserialize, Serialize};

/// One turn of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Text.
    pub content: String,
}

impl Message {
    /// A user turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".into(), content: content.into() }
    }
    /// An assistant turn.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant".into(), content: content.into() }
    }
    /// A system turn.
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: "system".into(), content: content.into() }
    }
}

/// A compiled Jinja chat template with the model's special tokens. Cheap to clone, thread-safe.
#[derive(Clone)]
pub struct ChatTemplate {}

impl ChatTemplate {
    /// Compiles `source`; `bos` and `eos` are the texts of `bos_token` and `eos_token`. `name` is for error messages.
    pub fn new(_name: &str, _source: &str, _bos: Option<&str>, _eos: Option<&str>) -> Result<Self> {
        todo!()
    }
    /// The prompt text for `messages`, as transformers' `apply_chat_template(..., tokenize=False)`.
    pub fn render(&self, _messages: &[Message], _add_generation_prompt: bool) -> Result<String> {
        todo!()
    }
}
