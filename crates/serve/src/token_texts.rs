//! Tokens as text. In: the ids of one answer in order; out: what each adds to the text. Invariant: put together, the
//! texts are what the answer shows: special tokens add nothing, and a character of several tokens comes with its last
//! one.

use eraser_model::{TokenScore, Tokenizer};
use std::collections::HashMap;

/// Tokens before one that decide how it is written: the bytes of a character, and a beginning that loses its space.
const WINDOW: usize = 8;

/// The texts of the tokens of one answer.
pub(crate) struct TokenTexts {
    tokenizer: Tokenizer,
    /// The last tokens that are shown, then those of a character that is not complete.
    ids: Vec<u32>,
    shown: usize,
}

impl TokenTexts {
    /// Of tokens that follow `context`.
    pub(crate) fn new(tokenizer: &Tokenizer, context: &[u32]) -> Self {
        let plain = context.iter().copied().filter(|id| !tokenizer.is_special(*id));
        let mut ids: Vec<u32> = plain.collect();
        ids.drain(..ids.len().saturating_sub(WINDOW));
        Self { tokenizer: tokenizer.clone(), shown: ids.len(), ids }
    }

    /// The text that the next token adds.
    pub(crate) fn push(&mut self, id: u32) -> String {
        if self.tokenizer.is_special(id) {
            return String::new();
        }
        self.ids.push(id);
        let all = self.decode(&self.ids);
        if all.ends_with('\u{fffd}') && self.ids.len() - self.shown < 4 {
            return String::new();
        }
        let before = self.decode(&self.ids[..self.shown]);
        let text = all.strip_prefix(&before).map_or_else(|| self.decode(&self.ids[self.shown..]), str::to_owned);
        self.ids.drain(..self.ids.len().saturating_sub(WINDOW));
        self.shown = self.ids.len();
        text
    }

    /// The texts of the other likely tokens, were they in the place of the next one.
    pub(crate) fn others(&self, score: &TokenScore) -> HashMap<u32, String> {
        let before = self.decode(&self.ids[..self.shown]);
        let text = |id: u32| {
            if self.tokenizer.is_special(id) {
                return self.tokenizer.token_text(id).unwrap_or_default();
            }
            let with: Vec<u32> = self.ids[..self.shown].iter().copied().chain([id]).collect();
            let all = self.decode(&with);
            match all.strip_prefix(&before) {
                Some(text) if !text.contains('\u{fffd}') => text.to_owned(),
                // Part of a character: its bytes.
                _ => self.bytes(id, "").iter().fold("bytes:".to_owned(), |all, byte| all + &format!("\\x{byte:02x}")),
            }
        };
        score.top.iter().filter(|(id, _)| *id != score.id).map(|&(id, _)| (id, text(id))).collect()
    }

    /// The bytes of a token: those of its text, or its own where it is part of a character.
    pub(crate) fn bytes(&self, id: u32, text: &str) -> Vec<u8> {
        if !text.is_empty() {
            return text.as_bytes().to_vec();
        }
        self.tokenizer.token_bytes(id).unwrap_or_default()
    }

    fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, true).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A tokenizer as Llama 2's: a space before every text, bytes for what it does not know, BOS.
    fn sentence_piece() -> Tokenizer {
        let dir = tempfile::tempdir().unwrap();
        let mut vocab = json!({"<unk>": 0, "<s>": 1, "</s>": 2});
        for byte in 0..256 {
            vocab[format!("<0x{byte:02X}>")] = json!(3 + byte);
        }
        for (i, piece) in ["\u{2581}", "t", "h", "e", "c", "a", "th", "the", "\u{2581}the", "ca", "cat", "\u{2581}cat"]
            .iter()
            .enumerate()
        {
            vocab[*piece] = json!(259 + i);
        }
        let merges = ["t h", "th e", "\u{2581} the", "c a", "ca t", "\u{2581} cat"];
        let special = |id: u32, text: &str| json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        let json = json!({
            "version": "1.0",
            "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
            "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "vocab": vocab, "merges": merges, "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true},
        });
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        std::fs::write(
            dir.path().join("tokenizer_config.json"),
            json!({"bos_token": "<s>", "eos_token": "</s>"}).to_string(),
        )
        .unwrap();
        Tokenizer::from_hf_dir(dir.path()).unwrap()
    }

    fn texts(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut said = TokenTexts::new(tokenizer, &[]);
        ids.iter().map(|&id| said.push(id)).collect()
    }

    #[test]
    fn tokens_of_sentence_piece_keep_their_spaces_and_put_together_are_the_text() {
        let tokenizer = sentence_piece();
        for text in ["the cat", "the cat the", "cat \u{e9} the\n\u{1f642}cat", " the"] {
            let ids = tokenizer.encode_with_special(text).unwrap();
            assert_eq!(ids[0], 1, "BOS");
            let texts = texts(&tokenizer, &ids);
            assert_eq!(texts.concat(), tokenizer.decode(&ids, true).unwrap(), "{texts:?}");
            assert_eq!(texts[0], "", "BOS is no part of the text");
        }
        assert_eq!(texts(&tokenizer, &tokenizer.encode("the cat").unwrap()), ["the", " cat"]);
    }

    #[test]
    fn a_likely_token_is_written_as_it_would_be_were_it_the_next() {
        let tokenizer = sentence_piece();
        let id = |token: &str| tokenizer.token_id(token).unwrap();
        let (the, cat, byte) = (id("\u{2581}the"), id("\u{2581}cat"), id("<0xC3>"));
        let mut said = TokenTexts::new(&tokenizer, &[]);
        let score = |id| TokenScore { id, logprob: -1.0, top: vec![(the, -0.5), (cat, -1.0), (byte, -2.0), (2, -3.0)] };
        assert_eq!(said.others(&score(the))[&cat], "cat", "nothing is before it");
        said.push(the);
        let others = said.others(&score(the));
        assert_eq!([&others[&cat], &others[&byte], &others[&2]], [" cat", "bytes:\\xc3", "</s>"]);
        assert_eq!(said.bytes(byte, ""), [0xc3]);
        let mut said = TokenTexts::new(&tokenizer, &[1, the]);
        assert_eq!(said.push(cat), " cat", "the prompt is before it");
    }
}
