//! stub
use eraser_model::{ChatTemplate, Result, Tokenizer};

/// How a question becomes a prompt.
#[derive(Clone)]
pub enum PromptTemplate {
    /// The model's own chat template.
    Chat(ChatTemplate),
    /// Text with `{}` where the question goes.
    Text(String),
}

impl PromptTemplate {
    /// The plain form of the paper: "A chat between a curious user and ... USER: {} ASSISTANT:".
    pub fn plain() -> Self {
        todo!()
    }
    /// The prompt text for one question.
    pub fn render(&self, _question: &str) -> Result<String> {
        todo!()
    }
}

/// A tokenised prompt and answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Prompt, then answer, then EOS.
    pub ids: Vec<u32>,
    /// Tokens of the prompt; the rest is supervised.
    pub prompt_len: usize,
}

/// Tokenises prompt and answer separately, without added special tokens, appends EOS, cuts at `max_length`.
pub fn encode(_prompt: &str, _answer: &str, _tokenizer: &Tokenizer, _max_length: usize) -> Result<Sample> {
    todo!()
}
