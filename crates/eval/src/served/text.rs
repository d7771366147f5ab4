//! Tokenizer and chat template of a model that is served elsewhere. Invariant: its identity changes whenever the same
//! conversation could become another prompt.

use eraser_model::files::hex;
use eraser_model::{ChatTemplate, Result, Tokenizer};
use sha2::{Digest as _, Sha256};

/// What is known here of the model that is served: all but its weights.
#[derive(Clone)]
pub struct Text {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template; None when it has none.
    pub template: Option<ChatTemplate>,
    /// Most tokens of a sequence.
    pub positions: usize,
}

impl Text {
    /// Changes whenever the same conversation could become another prompt.
    ///
    /// # Errors
    /// The tokenizer cannot be written.
    pub fn identity(&self) -> Result<String> {
        let template = self.template.as_ref().map(ChatTemplate::identity).unwrap_or_default();
        let mut hash = Sha256::new();
        for part in [self.tokenizer.to_json()?, template] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Ok(hex(&hash.finalize()))
    }
}
