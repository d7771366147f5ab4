//! The words that a classifier answers with, as tokens. In: words, a tokenizer, a prompt; out: how likely each is to
//! come next. Invariant: no token stands for two words.

use eraser_data::ask::NextTokens;
use eraser_model::{Error, Result, Tokenizer};

/// Tokens of each word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Words(Vec<Vec<u32>>);

impl Words {
    /// The tokens that are a word, with or without a space before it and in any case; of a word that is no token, the
    /// tokens that it begins with.
    ///
    /// # Errors
    /// A word that no token stands for.
    pub(super) fn new(tokenizer: &Tokenizer, words: &[&str]) -> Result<Self> {
        let mut found: Vec<Vec<u32>> = vec![Vec::new(); words.len()];
        for &id in tokenizer.plain_ids() {
            let Some(text) = tokenizer.token_bytes(id).and_then(|bytes| String::from_utf8(bytes).ok()) else {
                continue;
            };
            if let Some(i) = words.iter().position(|word| text.trim_start_matches(' ').eq_ignore_ascii_case(word)) {
                found[i].push(id);
            }
        }
        for (ids, word) in found.iter_mut().zip(words).filter(|(ids, _)| ids.is_empty()) {
            let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
            let capital = first.to_uppercase() + rest;
            for form in [(*word).to_owned(), capital.clone(), format!(" {word}"), format!(" {capital}")] {
                ids.extend(tokenizer.encode(&form)?.first().filter(|id| !tokenizer.is_special(**id)));
            }
            ids.sort_unstable();
            ids.dedup();
        }
        let all = found.clone();
        for (i, ids) in found.iter_mut().enumerate() {
            ids.retain(|id| all.iter().enumerate().all(|(j, other)| i == j || !other.contains(id)));
            if ids.is_empty() {
                return Err(missing(words[i]));
            }
        }
        Ok(Self(found))
    }

    /// The token that is exactly a word, of each word.
    ///
    /// # Errors
    /// A word that is no token.
    pub(super) fn exact(tokenizer: &Tokenizer, words: &[&str]) -> Result<Self> {
        let token = |word: &&str| {
            let ids = tokenizer
                .plain_ids()
                .iter()
                .filter(|id| tokenizer.token_bytes(**id).is_some_and(|b| b == word.as_bytes()));
            let ids: Vec<u32> = ids.copied().collect();
            if ids.is_empty() { Err(missing(word)) } else { Ok(ids) }
        };
        Ok(Self(words.iter().map(token).collect::<Result<_>>()?))
    }

    /// The probability that each word comes next behind `prompt`, of all that may.
    pub(super) fn chances(&self, model: &dyn NextTokens, prompt: &[u32]) -> Result<Vec<f64>> {
        let mut found = model.chances(prompt, &self.0.concat())?.into_iter();
        Ok(self.0.iter().map(|ids| found.by_ref().take(ids.len()).sum()).collect())
    }

    #[cfg(test)]
    pub(super) fn ids(&self) -> &[Vec<u32>] {
        &self.0
    }
}

fn missing(word: &str) -> Error {
    Error::request(format!("the model that judges has no token for the word `{word}`"))
        .hint("name the model that this judge was made of")
}
