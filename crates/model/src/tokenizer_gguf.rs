//! The tokenizer of a GGUF file. In: the `tokenizer.ggml.*` metadata; out: the tokenizer that the model's own
//! tokenizer.json describes. Invariant: a token keeps the id of its place in `tokenizer.ggml.tokens`.

use crate::gguf::GgufFile;
use crate::tokenizer::Roles;
use crate::tokenizer_pre::PreTokenizer;
use crate::{Error, Result, Tokenizer};
use serde_json::json;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{NFC, NormalizerWrapper, Prepend, Replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, decoders, normalizers};

/// Bytes of the longest token a SentencePiece-style vocabulary may hold: splitting one into pairs takes time that grows
/// with the square of its length.
const MAX_PIECE: usize = 1024;

// Values of tokenizer.ggml.token_type.
pub(crate) const NORMAL: i32 = 1;
pub(crate) const UNKNOWN: i32 = 2;
pub(crate) const CONTROL: i32 = 3;
pub(crate) const USER_DEFINED: i32 = 4;
pub(crate) const UNUSED: i32 = 5;
pub(crate) const BYTE: i32 = 6;

impl Tokenizer {
    /// The tokenizer that `file` describes: byte-level BPE (`tokenizer.ggml.model` = `gpt2`) with one of the
    /// pre-tokenisers of `tokenizer_pre`, or SentencePiece-style BPE (`llama`).
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let key = "tokenizer.ggml.model";
        let tokenizer = match file.string(key)? {
            Some("gpt2") => Metadata::read(file).and_then(|m| m.byte_level(file)),
            Some("llama") => Metadata::read(file).and_then(|m| m.sentence_piece(file)),
            Some(other) => Err(Error::request(format!("{key} {other:?} is not supported"))
                .hint("supported: gpt2 (byte-level BPE), llama (SentencePiece-style BPE)")),
            None => return Err(file.missing(key)),
        };
        // The file's own getters name it already.
        let path = file.path().display().to_string();
        tokenizer.map_err(|e| if e.to_string().starts_with(&path) { e } else { e.context(path) })
    }
}

struct Metadata<'a> {
    tokens: Vec<&'a str>,
    types: Vec<i32>,
    roles: Roles,
    add_bos: Option<bool>,
}

impl<'a> Metadata<'a> {
    fn read(file: &'a GgufFile) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let tokens = file.string_array(key)?.ok_or_else(|| file.missing(key))?;
        let types = match file.i32_array("tokenizer.ggml.token_type")? {
            Some(types) if types.len() != tokens.len() => {
                let (given, needed) = (types.len(), tokens.len());
                return Err(Error::request(format!(
                    "tokenizer.ggml.token_type has {given} entries for {needed} tokens"
                )));
            }
            Some(types) => types,
            None => vec![NORMAL; tokens.len()],
        };
        let id = |name: &str| -> Result<Option<u32>> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match file.u32(&key)? {
                // llama.cpp's number for none. What pads or is unknown is never needed.
                Some(u32::MAX) => Ok(None),
                Some(id) if id as usize >= tokens.len() && matches!(name, "padding" | "unknown") => Ok(None),
                Some(id) if id as usize >= tokens.len() => {
                    Err(Error::request(format!("{key} is {id}, with {} tokens", tokens.len())))
                }
                id => Ok(id),
            }
        };
        let stops = [id("eot")?, id("eom")?].into_iter().flatten().collect();
        let (bos, eos, pad, unk) = (id("bos")?, id("eos")?, id("padding")?, id("unknown")?);
        let roles = Roles { bos, eos, pad, unk, add_bos: false, stops };
        Ok(Self { tokens, types, roles, add_bos: file.bool("tokenizer.ggml.add_bos_token")? })
    }

    /// Ids of the tokens, those left out that only pad the embedding.
    fn vocab(&self) -> Vocab {
        let used = self.tokens.iter().zip(&self.types).enumerate().filter(|(_, (_, kind))| **kind != UNUSED);
        used.map(|(id, (token, _))| ((*token).to_owned(), id as u32)).collect()
    }

    fn byte_level(self, file: &GgufFile) -> Result<Tokenizer> {
        let pre = file.string("tokenizer.ggml.pre")?.unwrap_or("default");
        let pre = PreTokenizer::named(pre)?;
        let vocab = self.vocab();
        let key = "tokenizer.ggml.merges";
        let merges = file.string_array(key)?.ok_or_else(|| file.missing(key))?;
        let merges = parse_merges(&merges, &vocab)?;
        let bpe = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(pre.whole_words).build();
        let mut library = tokenizers::Tokenizer::new(bpe.map_err(Error::request)?);
        library.with_normalizer(pre.nfc.then_some(NFC)).map_err(Error::failed)?;
        library.with_pre_tokenizer(Some(pre.library()?));
        library.with_decoder(Some(ByteLevel::new(false, true, true)));
        self.finish(library, pre.whole_words)
    }

    /// As SentencePiece: a space before the text, spaces written `▁`, the likeliest pair merged first, bytes for
    /// characters that the vocabulary lacks.
    fn sentence_piece(self, file: &GgufFile) -> Result<Tokenizer> {
        let key = "tokenizer.ggml.scores";
        let scores = file.f32_array(key)?.ok_or_else(|| file.missing(key))?;
        if scores.len() != self.tokens.len() {
            return Err(Error::request(format!("{key} has {} entries for {} tokens", scores.len(), self.tokens.len())));
        }
        let prefix = file.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let vocab = self.vocab();
        let merges = implied_merges(&self.tokens, &self.types, &vocab, &scores)?;
        let mut bpe = BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(true).fuse_unk(true);
        if let Some(unk) = self.roles.unk {
            bpe = bpe.unk_token(self.tokens[unk as usize].to_owned());
        }
        let mut library = tokenizers::Tokenizer::new(bpe.build().map_err(Error::request)?);
        let mut steps: Vec<NormalizerWrapper> = Vec::new();
        if prefix {
            steps.push(Prepend::new("▁".into()).into());
        }
        steps.push(Replace::new(" ", "▁").map_err(Error::failed)?.into());
        library.with_normalizer(Some(normalizers::Sequence::new(steps))).map_err(Error::failed)?;
        let mut steps: Vec<DecoderWrapper> =
            vec![Replace::new("▁", " ").map_err(Error::failed)?.into(), ByteFallback::new().into(), Fuse::new().into()];
        if prefix {
            steps.push(Strip::new(' ', 1, 0).into());
        }
        library.with_decoder(Some(decoders::sequence::Sequence::new(steps)));
        self.finish(library, true)
    }

    /// Adds the tokens that are recognised whole, and BOS.
    fn finish(mut self, mut library: tokenizers::Tokenizer, adds_bos: bool) -> Result<Tokenizer> {
        let named = [self.roles.bos, self.roles.eos, self.roles.pad, self.roles.unk];
        let added: Vec<AddedToken> = self
            .tokens
            .iter()
            .zip(&self.types)
            .enumerate()
            .filter_map(|(id, (token, kind))| {
                let special = [CONTROL, UNKNOWN].contains(kind) || named.contains(&Some(id as u32));
                let added = special || *kind == USER_DEFINED;
                (added && !token.is_empty()).then(|| AddedToken::from(*token, special).normalized(false))
            })
            .collect();
        library.add_tokens(added).map_err(Error::request)?;
        self.roles.add_bos = self.roles.bos.is_some() && self.add_bos.unwrap_or(adds_bos);
        if let (true, Some(bos)) = (self.roles.add_bos, self.roles.bos) {
            let token = self.tokens[bos as usize];
            let piece = |name: &str, id: &str, type_id: u32| json!({ name: { "id": id, "type_id": type_id } });
            let start = |type_id| piece("SpecialToken", token, type_id);
            let processor = json!({
                "type": "TemplateProcessing",
                "single": [start(0), piece("Sequence", "A", 0)],
                "pair": [start(0), piece("Sequence", "A", 0), start(1), piece("Sequence", "B", 1)],
                "special_tokens": { token: { "id": token, "ids": [bos], "tokens": [token] } },
            });
            let processor: tokenizers::PostProcessorWrapper =
                serde_json::from_value(processor).map_err(Error::failed)?;
            library.with_post_processor(Some(processor));
        }
        let roles = [
            ("bos_token", self.roles.bos),
            ("eos_token", self.roles.eos),
            ("pad_token", self.roles.pad),
            ("unk_token", self.roles.unk),
        ];
        let text = |id: u32| self.tokens.get(id as usize).map(|text| (*text).to_owned());
        let named = roles.into_iter().filter_map(|(name, id)| Some((name.to_owned(), text(id?)?))).collect();
        Tokenizer::assemble(library, self.roles, named)
    }
}

fn parse_merges(lines: &[&str], vocab: &Vocab) -> Result<Merges> {
    let pair = |(i, line): (usize, &&str)| {
        let pair = line.split_once(' ').filter(|(a, b)| {
            vocab.contains_key(*a) && vocab.contains_key(*b) && vocab.contains_key(&format!("{a}{b}"))
        });
        pair.map(|(a, b)| (a.to_owned(), b.to_owned())).ok_or_else(|| {
            Error::request(format!("tokenizer.ggml.merges[{i}]: {line:?} is not a pair of tokens that make a token"))
        })
    };
    lines.iter().enumerate().map(pair).collect()
}

/// The merges that the scores imply, in the order of transformers' converter: every way to make a piece from two,
/// best score first, then longer left part, then longer right part.
pub(crate) fn implied_merges(tokens: &[&str], types: &[i32], vocab: &Vocab, scores: &[f32]) -> Result<Merges> {
    let whole = |kind: i32| [UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE].contains(&kind);
    let part = |text: &str| vocab.get(text).copied().filter(|&id| !whole(types[id as usize]));
    let mut merges = Vec::new();
    for ((token, kind), score) in tokens.iter().zip(types).zip(scores) {
        if whole(*kind) {
            continue;
        }
        if token.len() > MAX_PIECE {
            return Err(Error::request(format!("a token of {} bytes is too long (limit {MAX_PIECE})", token.len())));
        }
        let mut pairs: Vec<(u32, u32, &str, &str)> = token
            .char_indices()
            .skip(1)
            .map(|(at, _)| token.split_at(at))
            .filter_map(|(a, b)| Some((part(a)?, part(b)?, a, b)))
            .collect();
        pairs.sort_unstable_by_key(|p| (p.0, p.1));
        merges.extend(pairs.into_iter().map(|(_, _, a, b)| (*score, a, b)));
    }
    merges.sort_by(|x, y| y.0.total_cmp(&x.0).then_with(|| lengths(y).cmp(&lengths(x))));
    Ok(merges.into_iter().map(|(_, a, b)| (a.to_owned(), b.to_owned())).collect())
}

fn lengths(merge: &(f32, &str, &str)) -> (usize, usize) {
    (merge.1.chars().count(), merge.2.chars().count())
}
