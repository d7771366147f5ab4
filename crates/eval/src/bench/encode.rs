//! From a context and its continuation to tokens. Invariant: the tokens are those of the whole text; the continuation
//! is what follows as many tokens as the context alone has, as lm-evaluation-harness cuts it.

use eraser_model::{Error, Result, ScoreRequest, Tokenizer};
use serde::{Deserialize, Serialize};

/// Whether a beginning-of-sequence token is put before every text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bos {
    /// As the tokenizer's own default: the harness since 0.4.9.2.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: the harness before 0.4.9.2.
    Off,
}

/// Encodes for one model.
pub(crate) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Put before every text that does not begin with it.
    bos: Option<u32>,
    /// Stands for a context that is empty.
    pub(crate) prefix: u32,
    /// Most tokens that the network takes.
    pub(crate) longest: usize,
}

impl<'a> Encoder<'a> {
    /// For a model whose sequences have at most `longest` tokens.
    ///
    /// # Errors
    /// A tokenizer without the token that is asked for.
    pub(crate) fn new(tokenizer: &'a Tokenizer, bos: Bos, longest: usize) -> Result<Self> {
        let lacks = |what: &str| Error::request(format!("the tokenizer names no {what} token"));
        let own = tokenizer.bos();
        let bos = match bos {
            Bos::Auto => own.filter(|_| tokenizer.adds_bos()),
            Bos::On => Some(own.ok_or_else(|| lacks("beginning-of-sequence").hint("use --bos auto or --bos off"))?),
            Bos::Off => None,
        };
        let prefix = own.or(tokenizer.eos()).ok_or_else(|| {
            lacks("beginning-of-sequence or end-of-sequence")
                .hint("set bos_token or eos_token in tokenizer_config.json")
        })?;
        Ok(Self { tokenizer, bos, prefix, longest })
    }

    /// Token ids of a text.
    pub(crate) fn text(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode(text)?;
        if let Some(bos) = self.bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Token ids of a text that follows another: none is put before it.
    pub(crate) fn bare(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text)
    }

    /// The request that scores `continuation` after `context`. Spaces at the end of the context go to the continuation.
    /// What is longer than the model's positions loses its first tokens.
    pub(crate) fn pair(&self, context: &str, continuation: &str) -> Result<ScoreRequest> {
        let before = context.trim_end();
        let after = format!("{}{continuation}", &context[before.len()..]);
        let (mut ids, scored) = if before.is_empty() {
            let mut ids = self.bare(&after)?;
            if ids.first() != Some(&self.prefix) {
                ids.insert(0, self.prefix);
            }
            let scored = ids.len() - 1;
            (ids, scored)
        } else {
            let mut ids = self.text(before)?;
            let whole = self.text(&format!("{before}{after}"))?;
            let rest = whole.get(ids.len()..).unwrap_or_default();
            ids.extend_from_slice(rest);
            (ids, rest.len())
        };
        if scored == 0 {
            return Err(Error::request(format!("no token is left to score in {continuation:?}")));
        }
        let most = self.longest + 1;
        if ids.len() > most {
            if scored >= most {
                return Err(Error::request(format!(
                    "an answer has {scored} tokens, and the model takes at most {}",
                    self.longest
                )));
            }
            ids.drain(..ids.len() - most);
        }
        Ok(ScoreRequest { ids, scored })
    }
}
