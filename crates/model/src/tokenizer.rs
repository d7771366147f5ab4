//! stub
use crate::Result;

/// A tokenizer with its special tokens. Cheap to clone, thread-safe.
#[derive(Clone)]
pub struct Tokenizer {}

impl Tokenizer {
    /// Token ids of `text`; special tokens written in it are recognised; none is added.
    pub fn encode(&self, _text: &str) -> Result<Vec<u32>> {
        todo!()
    }
    /// As [`Self::encode`], with BOS before it if the tokenizer's own default adds one.
    pub fn encode_with_special(&self, _text: &str) -> Result<Vec<u32>> {
        todo!()
    }
    /// Text of `ids`; special tokens are left out if `skip_special`.
    pub fn decode(&self, _ids: &[u32], _skip_special: bool) -> Result<String> {
        todo!()
    }
    /// Beginning-of-sequence id.
    pub fn bos(&self) -> Option<u32> {
        todo!()
    }
    /// The end-of-sequence id that training appends.
    pub fn eos(&self) -> Option<u32> {
        todo!()
    }
    /// All ids that end a generation (eos, end-of-turn).
    pub fn stops(&self) -> &[u32] {
        todo!()
    }
    /// Number of ids, added ones included.
    pub fn vocab_size(&self) -> usize {
        todo!()
    }
    /// True for special tokens (BOS, EOS, template markers).
    pub fn is_special(&self, _id: u32) -> bool {
        todo!()
    }
}
