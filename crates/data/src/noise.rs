//! Prompt noise. In: a question, a tokenizer, a random stream; out: the question among random vocabulary tokens, as
//! text. Invariant: the question itself is in the result unchanged, and a given stream gives a given result.

use eraser_model::{Error, Result, Tokenizer};
use rand::RngExt;

/// The prompt noise T of Eraser (arXiv 2404.05880): random vocabulary tokens before and after the question, decoded to
/// text. It stands for the text that a jailbreak puts around a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    /// Most tokens before the question (uniform in 0..=before).
    pub before: usize,
    /// Most tokens after the question (uniform in 0..=after).
    pub after: usize,
}

impl Noise {
    /// `text` wrapped, a space between it and the noise; BOS, EOS and other special tokens are never drawn.
    pub fn apply(&self, text: &str, tokenizer: &Tokenizer, rng: &mut impl rand::Rng) -> Result<String> {
        let before = draw(self.before, tokenizer, rng)?;
        let after = draw(self.after, tokenizer, rng)?;
        let parts = [before.as_str(), text, after.as_str()];
        Ok(parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" "))
    }
}

/// The text of 0 to `most` tokens.
fn draw(most: usize, tokenizer: &Tokenizer, rng: &mut impl rand::Rng) -> Result<String> {
    let plain = tokenizer.plain_ids();
    let count = rng.random_range(0..=most);
    if count > 0 && plain.is_empty() {
        return Err(Error::request(
            "the tokenizer has special tokens only, so there are no tokens to draw prompt noise from",
        ));
    }
    let ids: Vec<u32> = (0..count).map(|_| plain[rng.random_range(0..plain.len())]).collect();
    tokenizer.decode(&ids, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tokenizer;

    #[test]
    fn the_question_stays_and_special_tokens_do_not_come() {
        let tokenizer = tokenizer();
        let mut longest = 0;
        for i in 0..300 {
            let noise = Noise { before: 5, after: 3 };
            let text = noise.apply("ab ba", &tokenizer, &mut crate::stream(1, "noise", &[i])).unwrap();
            assert!(text.contains("ab ba") && !text.contains('<'), "{text}");
            assert_eq!(text, noise.apply("ab ba", &tokenizer, &mut crate::stream(1, "noise", &[i])).unwrap());
            longest = longest.max(tokenizer.encode(&text).unwrap().len());
        }
        assert!(longest > 8);
    }

    #[test]
    fn counts_cover_their_whole_range() {
        let tokenizer = tokenizer();
        let noise = Noise { before: 2, after: 0 };
        let mut counts = [0; 3];
        for i in 0..3000 {
            let text = noise.apply("?", &tokenizer, &mut crate::stream(0, "noise", &[i])).unwrap();
            // Every plain token of the test vocabulary but the merged one is one letter.
            let ids = tokenizer.encode(text.trim_end_matches('?').trim_end_matches(' ')).unwrap();
            counts[ids.len().min(2)] += 1;
        }
        assert!(counts.iter().all(|&n| n > 600), "{counts:?}");
    }

    #[test]
    fn no_noise_is_the_text_itself() {
        let noise = Noise { before: 0, after: 0 };
        assert_eq!(noise.apply("ab", &tokenizer(), &mut crate::stream(0, "noise", &[])).unwrap(), "ab");
    }
}
