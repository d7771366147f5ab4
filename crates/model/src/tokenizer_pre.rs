//! How byte-level vocabularies split text into words, by llama.cpp's names (`tokenizer.ggml.pre`). Invariant: reading
//! and writing GGUF files use this one table, so a name stands for the same words both ways.

use crate::{Error, Result};
use serde_json::Value;
use std::borrow::Cow;
use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

/// How words are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    /// GPT-2's pattern, which is part of `ByteLevel`.
    Gpt2,
    /// The same, after every digit was made a word.
    Gpt2Digits,
    /// A pattern of its own, in pieces.
    Pattern(&'static [&'static str]),
}

/// A way to split text, and what else a name of llama.cpp stands for.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    /// llama.cpp's names for it, the one that is written first.
    names: &'static [&'static str],
    words: Words,
    /// A word that is a token is never split.
    pub(crate) whole_words: bool,
    /// Text is brought to the form NFC first. llama.cpp does not do this.
    pub(crate) nfc: bool,
}

/// Llama 3's pattern, which has three digits in one word; Qwen2's has one.
const LLAMA3: &[&str] = &[CONTRACTIONS, r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}", REST];
const QWEN2: &[&str] = &[CONTRACTIONS, r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", REST];
/// Mistral's, which splits words where capitals begin, and GPT-4o's, with contractions.
const TEKKEN: &[&str] = &[BEFORE, CAPITALS_SMALL, "|", BEFORE, CAPITALS, "|", r"\p{N}", REST_WITH_PATHS];
const GPT4O: &[&str] =
    &[BEFORE, CAPITALS_SMALL, CONTRACTIONS, "?|", BEFORE, CAPITALS, CONTRACTIONS, "?|", r"\p{N}{1,3}", REST_WITH_PATHS];
/// Seed's, which keeps ends of lines apart from marks before them.
const SEED: &[&str] =
    &[CONTRACTIONS, r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"];
const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const BEFORE: &str = r"[^\r\n\p{L}\p{N}]?";
const CAPITALS_SMALL: &str = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+";
const CAPITALS: &str = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*";
const REST: &str = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const REST_WITH_PATHS: &str = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Every way. The patterns are those of the models' own tokenizer.json.
const ALL: [PreTokenizer; 8] = [
    // EXAONE 4 has the last name.
    pre(&["gpt-2", "default", "exaone4"], Words::Gpt2, false),
    // Files of Granite have the second name, and the same words.
    pre(&["smollm", "refact"], Words::Gpt2Digits, false),
    pre(&["llama-bpe", "llama3", "llama-v3"], Words::Pattern(LLAMA3), true),
    // OLMo 2 and 3, Phi-4.
    pre(&["dbrx"], Words::Pattern(LLAMA3), false),
    PreTokenizer { nfc: true, ..pre(&["qwen2", "deepseek-r1-qwen"], Words::Pattern(QWEN2), false) },
    // Mistral Nemo and what came after it.
    pre(&["tekken"], Words::Pattern(TEKKEN), true),
    // Phi-4-mini.
    pre(&["gpt-4o"], Words::Pattern(GPT4O), false),
    // Seed-OSS.
    pre(&["seed-coder"], Words::Pattern(SEED), false),
];

const fn pre(names: &'static [&'static str], words: Words, whole_words: bool) -> PreTokenizer {
    PreTokenizer { names, words, whole_words, nfc: false }
}

impl PreTokenizer {
    /// The way that has this name.
    ///
    /// # Errors
    /// No way has it.
    pub(crate) fn named(name: &str) -> Result<&'static Self> {
        ALL.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
            Error::request(format!("tokenizer.ggml.pre {name:?} is not supported"))
                .hint(format!("supported: {}", Self::all_names()))
                .hint("or load the model from its Hugging Face directory, whose tokenizer.json is used as it is")
        })
    }

    /// All names, for messages.
    pub(crate) fn all_names() -> String {
        ALL.iter().flat_map(|pre| pre.names).copied().collect::<Vec<_>>().join(", ")
    }

    /// The name of the way that a tokenizer.json describes; None for one that is not in the table.
    pub(crate) fn name_of(root: &Value) -> Option<&'static str> {
        let whole_words = root["model"]["ignore_merges"].as_bool().unwrap_or(false);
        let words = steps(&root["pre_tokenizer"])?;
        // llama.cpp knows no normalisation; what NFC changes is no ordinary text.
        let normalizer = &root["normalizer"];
        if !(normalizer.is_null() || normalizer["type"] == "NFC") {
            return None;
        }
        let same = |pre: &&Self| pre.whole_words == whole_words && pre.words.steps() == words;
        ALL.iter().find(same).and_then(|pre| pre.names.first().copied())
    }

    /// As the tokenizers library has it.
    pub(crate) fn library(&self) -> Result<Sequence> {
        let bytes = |pattern: bool| ByteLevel::new(false, true, pattern);
        let steps: Vec<PreTokenizerWrapper> = match self.words {
            Words::Gpt2 => vec![bytes(true).into()],
            Words::Gpt2Digits => vec![Digits::new(true).into(), bytes(true).into()],
            Words::Pattern(pattern) => {
                let pattern = SplitPattern::Regex(pattern.concat());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(Error::failed)?;
                vec![split.into(), bytes(false).into()]
            }
        };
        Ok(Sequence::new(steps))
    }
}

/// A step of a pre-tokeniser, as far as it decides about words.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    Digits,
    Bytes { pattern: bool },
    Split(Cow<'a, str>),
}

impl Words {
    fn steps(self) -> Vec<Step<'static>> {
        match self {
            Self::Gpt2 => vec![Step::Bytes { pattern: true }],
            Self::Gpt2Digits => vec![Step::Digits, Step::Bytes { pattern: true }],
            Self::Pattern(pattern) => vec![Step::Split(pattern.concat().into()), Step::Bytes { pattern: false }],
        }
    }
}

/// The steps of a pre-tokeniser of tokenizer.json; None where one is of another kind.
fn steps(value: &Value) -> Option<Vec<Step<'_>>> {
    Some(match value["type"].as_str()? {
        "Sequence" => {
            let all = value["pretokenizers"].as_array()?.iter().map(steps).collect::<Option<Vec<_>>>()?;
            all.into_iter().flatten().collect()
        }
        "ByteLevel" if value["add_prefix_space"] == false => {
            vec![Step::Bytes { pattern: value["use_regex"].as_bool().unwrap_or(true) }]
        }
        "Digits" if value["individual_digits"] == true => vec![Step::Digits],
        "Split" if value["behavior"] == "Isolated" && value["invert"] == false => {
            // Some files write these characters themselves, which a pattern takes for the same.
            let pattern = value["pattern"]["Regex"].as_str()?;
            vec![Step::Split(pattern.replace('\r', r"\r").replace('\n', r"\n").into())]
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_found_again_by_what_the_library_writes_of_it() {
        for pre in &ALL {
            let mut root = serde_json::json!({
                "normalizer": null,
                "pre_tokenizer": pre.library().unwrap(),
                "model": { "ignore_merges": pre.whole_words },
            });
            assert_eq!(PreTokenizer::name_of(&root), Some(pre.names[0]));
            root["normalizer"] = serde_json::json!({ "type": "Lowercase" });
            assert_eq!(PreTokenizer::name_of(&root), None);
            for name in pre.names {
                assert_eq!(PreTokenizer::named(name).unwrap().words, pre.words);
            }
        }
        let root = serde_json::json!({
            "normalizer": null,
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "Split", "behavior": "Isolated", "invert": false,
                  "pattern": { "Regex": SEED.concat().replace(r"\r", "\r").replace(r"\n", "\n") } },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
            ] },
            "model": { "ignore_merges": false },
        });
        assert_eq!(PreTokenizer::name_of(&root), Some("seed-coder"), "ends of lines written as characters");
        assert!(PreTokenizer::named("bloom").unwrap_err().hints()[0].contains("tekken"));
    }
}
