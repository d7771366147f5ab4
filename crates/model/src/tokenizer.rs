//! Tokenizers. In: the tokenizer files of a Hugging Face directory, or (`tokenizer_gguf`) the metadata of a GGUF file;
//! out: text to ids and back, the special ids, files to export. Invariant: ids are those that transformers gives for
//! the same files, and every id a [`Tokenizer`] returns is below its [`Tokenizer::vocab_size`].

use crate::config::check_ends;
use crate::error::PathContext;
use crate::files::{json_hint, no_pointer, write_atomic};
use crate::tokenizer_check::{MAX_ID, as_id, check};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use tokenizers::AddedToken;

/// End-of-turn markers of the common chat formats; where one is a special token, it ends a generation.
const TURN_ENDS: [&str; 3] = ["<|im_end|>", "<|eot_id|>", "<|end|>"];

/// A tokenizer with its special tokens. Cheap to clone, thread-safe.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    library: tokenizers::Tokenizer,
    roles: Roles,
    stops: Vec<u32>,
    special: BTreeSet<u32>,
    plain: Vec<u32>,
    size: usize,
    /// Rows of the model's embedding.
    rows: usize,
    /// `bos_token` and its like, as a chat template sees them.
    named: BTreeMap<String, String>,
    /// Whether a token's spelling is its bytes, each as a character.
    byte_level: bool,
}

/// The special ids, which the vocabulary itself does not tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roles {
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) pad: Option<u32>,
    pub(crate) unk: Option<u32>,
    pub(crate) add_bos: bool,
    /// Further ids that end a generation.
    pub(crate) stops: Vec<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("size", &self.inner.size).field("roles", &self.inner.roles).finish()
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a Hugging Face directory and, where present, `tokenizer_config.json`,
    /// `special_tokens_map.json`, `generation_config.json` and `config.json` for the special tokens.
    pub fn from_hf_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            return Err(Error::request(format!("{}: no tokenizer.json", dir.display())).hint(
                "a slow tokenizer (tokenizer.model, vocab.json) is converted by transformers: \
                 AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
            ));
        }
        let bytes = std::fs::read(&path).at(&path)?;
        no_pointer(&bytes, &path)?;
        let side = SideFiles {
            config: read_object(&dir.join("tokenizer_config.json"))?,
            special: read_object(&dir.join("special_tokens_map.json"))?,
            generation: read_object(&dir.join("generation_config.json"))?,
            model: read_object(&dir.join("config.json"))?,
        };
        Self::from_parts(&bytes, &side).map_err(|e| e.context(path.display()))
    }

    fn from_parts(bytes: &[u8], side: &SideFiles) -> Result<Self> {
        let root: Value = serde_json::from_slice(bytes)
            .map_err(|e| Error::request(format!("not valid JSON: {e}")).hint(json_hint(bytes)))?;
        check(&root)?;
        let mut library = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| Error::request(format!("not a tokenizer that can be read: {e}")))?;
        // As transformers: neither applies unless the caller asks for it.
        library.with_truncation(None).map_err(Error::request)?;
        library.with_padding(None);
        for token in root["added_tokens"].as_array().into_iter().flatten() {
            let (content, id) = (token["content"].as_str().unwrap_or_default(), token["id"].as_u64());
            require_id(&library, content, id)?;
        }
        add_declared(&mut library, side)?;
        let id = |key: &str| side.token(key).and_then(|t| library.token_to_id(&t));
        for key in ["bos_token", "eos_token"] {
            if let Some(text) = side.token(key).filter(|text| library.token_to_id(text).is_none()) {
                tracing::warn!("`{key}` {text:?} is no token of the tokenizer: are the files those of one model?");
            }
        }
        let ends = side.end_ids(&library)?;
        let mut roles = Roles {
            bos: id("bos_token"),
            eos: id("eos_token").or(ends.first().copied()),
            pad: id("pad_token"),
            unk: id("unk_token"),
            add_bos: false,
            stops: ends,
        };
        // As transformers 5: beside a tokenizer.json, `add_bos_token` decides nothing (`tests/fixtures/prompts.py`).
        roles.add_bos = match (template_start(&root["post_processor"]), roles.bos) {
            (Some(first), Some(bos)) => library.token_to_id(first) == Some(bos),
            _ => false,
        };
        Self::assemble(library, roles, side.named_tokens())
    }

    /// Ties a library tokenizer to its roles. Ids that are not in the vocabulary are refused.
    pub(crate) fn assemble(
        library: tokenizers::Tokenizer,
        roles: Roles,
        named: BTreeMap<String, String>,
    ) -> Result<Self> {
        let vocab = library.get_vocab(true);
        let ids: BTreeSet<u32> = vocab.into_values().collect();
        let size = ids.last().map_or(0, |&id| id as usize + 1);
        if size as u64 > MAX_ID {
            return Err(Error::request(format!("token id {} is too large (limit {MAX_ID})", size - 1)));
        }
        let mut special: BTreeSet<u32> =
            library.get_added_tokens_decoder().into_iter().filter(|(_, t)| t.special).map(|(id, _)| id).collect();
        special.extend([roles.bos, roles.eos, roles.pad, roles.unk].into_iter().flatten());
        if let Some(id) = special.iter().find(|id| !ids.contains(id)) {
            return Err(Error::request(format!("special token id {id} is not in the vocabulary")));
        }
        let turn_ends = TURN_ENDS.iter().filter_map(|t| library.token_to_id(t)).filter(|id| special.contains(id));
        let mut stops = Vec::new();
        for id in roles.eos.into_iter().chain(roles.stops.iter().copied()).chain(turn_ends) {
            if ids.contains(&id) && !stops.contains(&id) {
                stops.push(id);
            }
        }
        let decoder = library.get_decoder().map(serde_json::to_string).transpose().map_err(Error::failed)?;
        let byte_level = decoder.is_some_and(|json| json.contains("\"ByteLevel\""));
        let plain = ids.difference(&special).copied().collect();
        Ok(Self {
            inner: Arc::new(Inner { library, roles, stops, special, plain, size, rows: usize::MAX, named, byte_level }),
        })
    }

    /// The tokenizer for an embedding of `rows` rows. Ids beyond it are never drawn or waited for, and a text that
    /// needs one is refused.
    #[must_use]
    pub fn within(self, rows: usize) -> Self {
        if self.inner.size <= rows {
            return self;
        }
        let inner = &*self.inner;
        tracing::warn!(
            "the tokenizer has {} ids, the embedding {rows} rows: texts with the others are refused",
            inner.size
        );
        let kept = |ids: &[u32]| ids.iter().copied().filter(|&id| (id as usize) < rows).collect::<Vec<u32>>();
        if let Some(id) = inner.stops.iter().find(|id| **id as usize >= rows) {
            let text = self.token_text(*id).unwrap_or_default();
            tracing::warn!("the stop token {text}, id {id}, has no row in the embedding: no answer ends with it");
        }
        let inner = Inner {
            library: inner.library.clone(),
            roles: inner.roles.clone(),
            stops: kept(&inner.stops),
            special: inner.special.clone(),
            plain: kept(&inner.plain),
            size: inner.size,
            rows,
            named: inner.named.clone(),
            byte_level: inner.byte_level,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Token ids of `text`; special tokens written in it are recognised; none is added.
    ///
    /// # Errors
    /// The text has a token that the model's embedding has no row for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding =
            self.inner.library.encode_fast(text, false).map_err(|e| Error::failed(format!("tokenizer: {e}")))?;
        let ids = encoding.get_ids().to_vec();
        let rows = self.inner.rows;
        match ids.iter().find(|&&id| id as usize >= rows) {
            None => Ok(ids),
            Some(&id) => {
                let token = self.token_text(id).unwrap_or_default();
                Err(Error::request(format!(
                    "the text holds the token {token:?}, id {id}: the model's embedding has {rows} rows"
                ))
                .hint("the token was added to the tokenizer without resizing the embedding: leave it out of the text"))
            }
        }
    }

    /// As [`Self::encode`], with BOS before it if the tokenizer's own default adds one.
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(text)?;
        if let (true, Some(bos)) = (self.inner.roles.add_bos, self.inner.roles.bos) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Text of `ids`; special tokens are left out if `skip_special`. Bytes that are not UTF-8 become U+FFFD, ids
    /// outside the vocabulary nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.library.decode(ids, skip_special).map_err(|e| Error::failed(format!("tokenizer: {e}")))
    }

    /// Decodes token by token, see [`DecodeStream`].
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, skip_special, ids: Vec::new(), shown: 0 }
    }

    /// As [`Self::decode_stream`], of text that follows `context`, which decides about a leading space.
    pub fn decode_stream_after(&self, context: &[u32], skip_special: bool) -> DecodeStream<'_> {
        let ids = context[context.len().saturating_sub(CONTEXT)..].to_vec();
        DecodeStream { tokenizer: self, skip_special, shown: ids.len(), ids }
    }

    /// The bytes of a token in the middle of a text; None for special tokens and ids that are not there.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        if self.is_special(id) {
            return None;
        }
        let text = self.token_text(id)?;
        let byte = text.strip_prefix("<0x").and_then(|rest| u8::from_str_radix(rest.strip_suffix('>')?, 16).ok());
        match byte {
            Some(byte) => Some(vec![byte]),
            None if self.inner.byte_level => {
                text.chars().map(byte_of).collect::<Option<_>>().or_else(|| Some(text.into_bytes()))
            }
            None => Some(text.replace('▁', " ").into_bytes()),
        }
    }

    /// Beginning-of-sequence id.
    pub fn bos(&self) -> Option<u32> {
        self.inner.roles.bos
    }

    /// The end-of-sequence id that training appends.
    pub fn eos(&self) -> Option<u32> {
        self.inner.roles.eos
    }

    /// Padding id.
    pub fn pad(&self) -> Option<u32> {
        self.inner.roles.pad
    }

    /// Id of unknown text.
    pub fn unk(&self) -> Option<u32> {
        self.inner.roles.unk
    }

    /// True if the tokenizer's own default puts BOS before a text.
    pub fn adds_bos(&self) -> bool {
        self.inner.roles.add_bos
    }

    /// All ids that end a generation (eos, end-of-turn), eos first.
    pub fn stops(&self) -> &[u32] {
        &self.inner.stops
    }

    /// Number of ids, added ones included: the largest id + 1.
    pub fn vocab_size(&self) -> usize {
        self.inner.size
    }

    /// Whether a token's spelling is its bytes, each as a character, as in GPT-2.
    pub(crate) fn is_byte_level(&self) -> bool {
        self.inner.byte_level
    }

    /// True for special tokens (BOS, EOS, template markers).
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.special.contains(&id)
    }

    /// The special ids, ascending.
    pub fn special_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.inner.special.iter().copied()
    }

    /// The ids that are not special, ascending: those of text.
    pub fn plain_ids(&self) -> &[u32] {
        &self.inner.plain
    }

    /// The special tokens that have a name (`bos_token`, `eos_token`, ..), as transformers hands them to a chat
    /// template.
    pub fn named_tokens(&self) -> &BTreeMap<String, String> {
        &self.inner.named
    }

    /// The vocabulary's own spelling of a token (`Ġthe`, `▁the`, `<|im_end|>`).
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.inner.library.id_to_token(id)
    }

    /// The id of a token in the vocabulary's own spelling.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.library.token_to_id(token)
    }

    /// The content of a `tokenizer.json`. Equal tokenizers give equal bytes, so this is what a fingerprint hashes.
    pub fn to_json(&self) -> Result<String> {
        self.inner.library.to_string(false).map_err(|e| Error::failed(format!("tokenizer: {e}")))
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into the directory `dir`, for transformers and for
    /// [`Self::from_hf_dir`].
    pub fn save_hf(&self, dir: &Path) -> Result<()> {
        let path = dir.join("tokenizer.json");
        write_atomic(&path, self.to_json()?.as_bytes())?;
        let roles = &self.inner.roles;
        let mut config = Map::new();
        config.insert("add_bos_token".into(), json!(roles.add_bos));
        config.insert("clean_up_tokenization_spaces".into(), json!(false));
        config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        for (key, id) in
            [("bos_token", roles.bos), ("eos_token", roles.eos), ("pad_token", roles.pad), ("unk_token", roles.unk)]
        {
            if let Some(token) = id.and_then(|id| self.token_text(id)) {
                config.insert(key.into(), json!(token));
            }
        }
        let path = dir.join("tokenizer_config.json");
        write_atomic(&path, format!("{:#}\n", Value::Object(config)).as_bytes())
    }
}

/// Tokens of a context that decide how the next one is written.
const CONTEXT: usize = 8;

/// The byte of a character in byte-level vocabularies: printable ones themselves, the others from 256 on.
fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    match u8::try_from(u32::from(c)) {
        Ok(byte) => printable(byte).then_some(byte),
        Err(_) => (0..=255).filter(|&b| !printable(b)).nth((u32::from(c) - 256) as usize),
    }
}

/// Tokens that can make one character: its bytes.
const MAX_CHARACTER: usize = 4;

/// Turns tokens into text as they come: yields only whole characters, and what it yields, put together, is
/// [`Tokenizer::decode`] of all ids, unless bytes follow each other that are no characters.
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The tokens shown last, which decide about a leading space, then those not shown yet.
    ids: Vec<u32>,
    shown: usize,
}

impl DecodeStream<'_> {
    /// Takes one id; gives the text that became complete with it, perhaps none.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        self.advance(false)
    }

    /// The rest, incomplete characters as U+FFFD.
    pub fn finish(mut self) -> Result<String> {
        self.advance(true)
    }

    fn advance(&mut self, last: bool) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.shown], self.skip_special)?;
        let all = self.tokenizer.decode(&self.ids, self.skip_special)?;
        // More tokens than a character has bytes: it will not become one.
        let hopeless = self.ids.len() - self.shown > MAX_CHARACTER;
        if all.ends_with('\u{fffd}') && !last && !hopeless {
            return Ok(String::new());
        }
        let text = match all.strip_prefix(&before) {
            Some(more) => more.to_owned(),
            // Bytes that made characters are part of a run that is no longer valid. What was shown stays; the rest
            // follows.
            None => self.tokenizer.decode(&self.ids[self.shown..], self.skip_special)?,
        };
        if text.is_empty() {
            return Ok(text);
        }
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(text)
    }
}

/// The settings beside `tokenizer.json`; empty where there is no such file.
#[derive(Default)]
struct SideFiles {
    config: Map<String, Value>,
    special: Map<String, Value>,
    generation: Map<String, Value>,
    model: Map<String, Value>,
}

impl SideFiles {
    /// The text of `bos_token` and its like: a string, or an object with `content`.
    fn token(&self, key: &str) -> Option<String> {
        [&self.config, &self.special].into_iter().find_map(|m| m.get(key).and_then(token_content))
    }

    /// Every special token that the files give a name, whether the vocabulary has it or not.
    fn named_tokens(&self) -> BTreeMap<String, String> {
        const NAMES: [&str; 7] =
            ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
        let mut named: BTreeMap<String, String> =
            NAMES.iter().filter_map(|name| Some(((*name).to_owned(), self.token(name)?))).collect();
        // Tokens of one model's own, such as `image_token`.
        let own = self.config.get("extra_special_tokens").and_then(Value::as_object).into_iter().flatten();
        named.extend(own.filter_map(|(name, token)| Some((name.clone(), token_content(token)?))));
        named
    }

    /// `eos_token_id` of `generation_config.json`, else of `config.json`: a number or a list. One that the tokenizer
    /// does not have ends nothing: it is told, and refused where nothing else says what ends an answer. One beyond the
    /// vocabulary of the model, or none at all, is refused.
    fn end_ids(&self, library: &tokenizers::Tokenizer) -> Result<Vec<u32>> {
        let key = "eos_token_id";
        let files = [("generation_config.json", &self.generation), ("config.json", &self.model)];
        let found = files.into_iter().find_map(|(file, map)| Some((file, map.get(key)?)));
        let Some((file, value)) = found else { return Ok(Vec::new()) };
        let rows = [Some(&self.model), self.model.get("text_config").and_then(Value::as_object)];
        let rows = rows.into_iter().flatten().find_map(|keys| keys.get("vocab_size")?.as_u64());
        let ids =
            value.as_u64().is_some() || value.as_array().is_some_and(|all| all.iter().all(|id| id.as_u64().is_some()));
        if ids {
            check_ends(key, value, rows.map(|n| n as usize)).map_err(|e| e.context(file))?;
        }
        let all = match value {
            Value::Null => &[],
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        let known = |value: &&Value| as_id(value).is_some_and(|id| library.id_to_token(id).is_some());
        let (ids, unknown): (Vec<&Value>, Vec<&Value>) = all.iter().partition(known);
        if let Some(first) = unknown.first() {
            let what = format!("{file}: `{key}` {first} is no id of the tokenizer");
            if ids.is_empty() && self.token("eos_token").is_none() {
                return Err(Error::request(what).hint("take the tokenizer files and the configuration of one model"));
            }
            tracing::warn!("{what}, so no answer ends with it: are the files those of one model?");
        }
        Ok(ids.into_iter().filter_map(as_id).collect())
    }
}

fn token_content(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// The JSON object in the file at `path`; empty if there is no such file.
fn read_object(path: &Path) -> Result<Map<String, Value>> {
    if !path.exists() {
        return Ok(Map::new());
    }
    let bytes = std::fs::read(path).at(path)?;
    no_pointer(&bytes, path)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::request(format!("{}: not a JSON object: {e}", path.display())).hint(json_hint(&bytes)))
}

/// Adds what the side files call special but tokenizer.json does not list, as transformers does on loading.
fn add_declared(library: &mut tokenizers::Tokenizer, side: &SideFiles) -> Result<()> {
    let listed = side.config.get("added_tokens_decoder").and_then(Value::as_object);
    let mut listed: Vec<(u64, &Value)> =
        listed.into_iter().flatten().filter_map(|(id, t)| Some((id.parse().ok()?, t))).collect();
    listed.sort_by_key(|(id, _)| *id);
    let known = library.get_added_tokens_decoder();
    for (id, value) in listed {
        let Some(content) = token_content(value).filter(|c| !c.is_empty()) else { continue };
        let flag = |key: &str| value.get(key).and_then(Value::as_bool);
        let token = AddedToken::from(content.as_str(), flag("special").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .single_word(flag("single_word").unwrap_or(false))
            .normalized(flag("normalized").unwrap_or(true));
        if u32::try_from(id).ok().and_then(|id| known.get(&id)) != Some(&token) {
            library.add_tokens([token]).map_err(Error::request)?;
        }
        require_id(library, &content, Some(id)).map_err(|e| e.context("tokenizer_config.json"))?;
    }
    let keys = ["bos_token", "eos_token", "unk_token", "pad_token"];
    let lists = ["additional_special_tokens", "extra_special_tokens"];
    let more =
        lists.iter().filter_map(|k| side.config.get(*k).or_else(|| side.special.get(*k))).filter_map(|v| v.as_array());
    let names = keys.iter().filter_map(|k| side.token(k)).chain(more.flatten().filter_map(token_content));
    let known: BTreeSet<String> = library.get_added_tokens_decoder().into_values().map(|t| t.content).collect();
    // A name that the vocabulary lacks has no row in the embedding: it cannot be used.
    let missing: Vec<AddedToken> = names
        .filter(|t| !known.contains(t) && library.token_to_id(t).is_some())
        .map(|t| AddedToken::from(t, true))
        .collect();
    library.add_special_tokens(missing).map_err(Error::request)?;
    Ok(())
}

fn require_id(library: &tokenizers::Tokenizer, content: &str, id: Option<u64>) -> Result<()> {
    match library.token_to_id(content) {
        Some(found) if Some(u64::from(found)) == id => Ok(()),
        found => Err(Error::request(format!(
            "added token {content:?} should have id {} but gets {}",
            id.map_or("none".into(), |i| i.to_string()),
            found.map_or("none".into(), |i| i.to_string())
        ))),
    }
}

/// The special token that a `TemplateProcessing` starts with, empty if it starts with the text; None if there is no
/// template.
fn template_start(processor: &Value) -> Option<&str> {
    match processor["type"].as_str()? {
        "TemplateProcessing" => Some(processor["single"][0]["SpecialToken"]["id"].as_str().unwrap_or_default()),
        "Sequence" => processor["processors"].as_array()?.iter().find_map(template_start),
        _ => None,
    }
}
