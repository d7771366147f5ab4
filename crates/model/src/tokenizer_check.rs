//! What a tokenizer.json may hold. In: its JSON; out: nothing, or an error that names the key. Invariant: what passes
//! does not make the tokenizers library panic, at loading or later.

use crate::{Error, Result};
use serde_json::Value;

/// Ids at or above this are refused: the largest published vocabularies hold about a quarter of a million tokens.
pub(crate) const MAX_ID: u64 = 1 << 22;

/// Refuses what the library would panic on, and what no decoder of the supported families uses.
pub(crate) fn check(root: &Value) -> Result<()> {
    const NORMALIZERS: &[&str] =
        &["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace", "Sequence", "Strip", "StripAccents"];
    const PRE_TOKENIZERS: &[&str] =
        &["ByteLevel", "Digits", "Metaspace", "Punctuation", "Sequence", "Split", "Whitespace", "WhitespaceSplit"];
    const DECODERS: &[&str] = &["ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Sequence", "Strip"];
    let model = &root["model"];
    if !model.is_object() {
        return Err(Error::request("`model`, which holds the vocabulary, is missing or no object")
            .hint("take the tokenizer.json that was published with the weights"));
    }
    // Old files leave the type out.
    if model["type"].as_str().is_some_and(|t| t != "BPE") {
        return Err(Error::request(format!("model type {} is not supported", model["type"]))
            .hint("BPE is, which the tokenizers of all supported families are"));
    }
    if model["dropout"].as_f64().is_some_and(|p| p != 0.0) {
        return Err(Error::request("model.dropout is not 0: encoding would be random"));
    }
    let vocab = model["vocab"].as_object().ok_or_else(|| Error::request("model.vocab is not an object"))?;
    for (token, id) in vocab {
        if as_id(id).is_none() {
            return Err(Error::request(format!("model.vocab: {token:?} has id {id}, not one below {MAX_ID}")));
        }
    }
    let affix = |key: &str| model[key].as_str().is_some_and(|s| !s.is_empty());
    if affix("continuing_subword_prefix") || affix("end_of_word_suffix") {
        return Err(Error::request("model: subword prefixes and suffixes are not supported"));
    }
    for (i, merge) in model["merges"].as_array().into_iter().flatten().enumerate() {
        let pair = match merge {
            Value::String(s) => s.split_once(' '),
            Value::Array(a) if a.len() == 2 => a[0].as_str().zip(a[1].as_str()),
            _ => None,
        };
        let known = |t: &str| vocab.contains_key(t);
        if !pair.is_some_and(|(a, b)| known(a) && known(b) && known(&format!("{a}{b}"))) {
            return Err(Error::request(format!(
                "model.merges[{i}]: {merge} is not a pair of tokens that make a token"
            )));
        }
    }
    check_steps(&root["normalizer"], "normalizer", NORMALIZERS, "normalizers")?;
    check_steps(&root["pre_tokenizer"], "pre_tokenizer", PRE_TOKENIZERS, "pretokenizers")?;
    check_steps(&root["decoder"], "decoder", DECODERS, "decoders")
}

fn check_steps(step: &Value, key: &str, supported: &[&str], list: &str) -> Result<()> {
    if step.is_null() {
        return Ok(());
    }
    let kind = step["type"].as_str().unwrap_or_default();
    if !supported.contains(&kind) {
        return Err(Error::request(format!("{key} of type {kind:?} is not supported"))
            .hint(format!("supported: {}", supported.join(", "))));
    }
    // The library strips past the start of a token that is shorter than `stop`.
    if key == "decoder" && kind == "Strip" && step["stop"].as_u64() != Some(0) {
        return Err(Error::request("decoder Strip with a stop other than 0 is not supported"));
    }
    if let Some(pattern) = step["pattern"]["Regex"].as_str() {
        check_regex(pattern).map_err(|what| {
            let shown: String = pattern.chars().take(SHOWN).collect();
            Error::request(format!("{key}: the regular expression `{shown}` {what}"))
                .hint("take the tokenizer.json that was published with the model")
        })?;
    }
    step[list].as_array().into_iter().flatten().try_for_each(|s| check_steps(s, key, supported, list))
}

/// Characters of a regular expression that a message shows.
const SHOWN: usize = 80;
/// Characters that one is tried on, each many times over, besides those it is written with.
const TRIED: [char; 8] = ['a', 'A', '0', ' ', '\n', '!', 'é', '中'];
/// How often. Time that doubles with every character goes beyond the library's bound long before.
const TIMES: usize = 48;
/// Steps back that one search may take there. Those of published tokenizers take a few hundred; the library's bound is
/// twenty times as high, for texts of any length.
const STEPS: usize = 50_000;
/// Most characters of its own that one is tried on.
const OWN: usize = 40;

/// An error for a regular expression whose search backtracks without end for some text. Where a search gives up, the
/// library leaves the rest of the text in one piece and says nothing.
fn check_regex(pattern: &str) -> std::result::Result<(), String> {
    let regex = fancy_regex::RegexBuilder::new(pattern).backtrack_limit(STEPS).build();
    let regex = regex.map_err(|e| format!("cannot be read: {e}"))?;
    let mut tried = TRIED.to_vec();
    for c in pattern.chars() {
        if tried.len() < TRIED.len() + OWN && !tried.contains(&c) {
            tried.push(c);
        }
    }
    for c in &tried {
        for end in ["", "a", "!", "\n", "\u{0}"] {
            let text = c.to_string().repeat(TIMES) + end;
            if regex.find_iter(&text).any(|found| found.is_err()) {
                return Err(format!("takes exponential time, as for {TIMES} times {c:?}"));
            }
        }
    }
    Ok(())
}

pub(crate) fn as_id(value: &Value) -> Option<u32> {
    value.as_u64().filter(|&id| id < MAX_ID).map(|id| id as u32)
}
