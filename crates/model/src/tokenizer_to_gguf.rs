//! A tokenizer as GGUF metadata. In: a tokenizer; out: the `tokenizer.ggml.*` keys that llama.cpp's converter writes of
//! its files. Invariant: a tokenizer that llama.cpp cannot take from a file is refused.

use crate::gguf::{Field, Fields};
use crate::tokenizer::Tokenizer;
use crate::tokenizer_gguf::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, implied_merges};
use crate::tokenizer_pre::PreTokenizer;
use crate::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use tokenizers::models::bpe::Vocab;

/// Tokens that llama.cpp takes for the end of a turn or a text by their spelling.
const KNOWN_ENDS: [&str; 9] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|return|>",
    "<EOT>",
];

impl Tokenizer {
    /// The metadata of this tokenizer, for an embedding of `rows` rows: each gets a token, and tokens beyond them are
    /// left out.
    ///
    /// # Errors
    /// A form of tokenizer that llama.cpp does not have.
    pub(crate) fn to_gguf(&self, rows: usize) -> Result<Fields> {
        let root: Value = serde_json::from_str(&self.to_json()?).map_err(Error::failed)?;
        let mut tokens = Tokens::new(self, &root, rows);
        let mut fields = Fields::new();
        let mut put = |key: &str, field: Field| fields.insert(format!("tokenizer.ggml.{key}"), field);
        let merges = merges(&root);
        if self.is_byte_level() {
            let pre = PreTokenizer::name_of(&root).ok_or_else(|| {
                refused(
                    "its pre_tokenizer splits text in a way that has no name in llama.cpp, or that is not known here",
                )
                .hint(format!("known: {}", PreTokenizer::all_names()))
            })?;
            put("model", Field::String("gpt2".into()));
            put("pre", Field::String(pre.into()));
            // A space in a token is written as byte-level vocabularies write it, since it stands between the two.
            let part = |text: &str| text.replace(' ', "Ġ");
            put("merges", Field::Strings(merges.iter().map(|(a, b)| format!("{} {}", part(a), part(b))).collect()));
        } else {
            let prefix = space_prefix(&root)?;
            let scores = tokens.scores(&merges)?;
            put("model", Field::String("llama".into()));
            put("pre", Field::String("default".into()));
            put("scores", Field::F32s(scores));
            put("add_space_prefix", Field::Bool(prefix));
        }
        put("tokens", Field::Strings(std::mem::take(&mut tokens.texts)));
        put("token_type", Field::I32s(tokens.types));
        let end = |id: &u32| self.token_text(*id).is_some_and(|text| KNOWN_ENDS.contains(&text.as_str()));
        let mut others = self.stops().iter().copied().filter(|id| Some(*id) != self.eos() && !end(id));
        let ids = [
            ("bos", self.bos()),
            ("eos", self.eos()),
            ("unknown", self.unk()),
            ("padding", self.pad()),
            ("eot", others.next()),
            ("eom", others.next()),
        ];
        for (role, id) in ids {
            if let Some(id) = id.filter(|id| (*id as usize) < rows) {
                put(&format!("{role}_token_id"), Field::U32(id));
            }
        }
        put("add_bos_token", Field::Bool(self.adds_bos()));
        put("add_eos_token", Field::Bool(false));
        Ok(fields)
    }
}

fn refused(why: &str) -> Error {
    Error::request(format!("the tokenizer cannot be written to a GGUF file: {why}")).hint(
        "write a Hugging Face directory (without --format gguf) and convert that by llama.cpp's convert_hf_to_gguf.py",
    )
}

/// What each row of the embedding stands for.
struct Tokens {
    texts: Vec<String>,
    types: Vec<i32>,
}

impl Tokens {
    fn new(tokenizer: &Tokenizer, root: &Value, rows: usize) -> Self {
        let added: BTreeMap<u64, &Value> = root["added_tokens"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|token| Some((token["id"].as_u64()?, token)))
            .collect();
        let bytes = root["model"]["byte_fallback"] == true;
        let (mut texts, mut types) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for id in 0..rows {
            let text = u32::try_from(id).ok().and_then(|id| tokenizer.token_text(id));
            let Some(mut text) = text else {
                texts.push(format!("[PAD{id}]"));
                types.push(UNUSED);
                continue;
            };
            let kind = match added.get(&(id as u64)) {
                _ if bytes && is_byte(&text) => BYTE,
                _ if tokenizer.unk() == Some(id as u32) && !tokenizer.is_byte_level() => UNKNOWN,
                Some(token) if token["special"] == true || looks_special(&text) => CONTROL,
                Some(_) => {
                    // llama.cpp looks for it in the text as it was written.
                    text = text.replace('▁', " ");
                    USER_DEFINED
                }
                None if tokenizer.is_special(id as u32) => CONTROL,
                None => NORMAL,
            };
            texts.push(text);
            types.push(kind);
        }
        Self { texts, types }
    }

    /// Scores that put the merges into their order: a token that is made earlier has a higher one.
    ///
    /// # Errors
    /// No scores do: a file would split words in other places than this tokenizer.
    fn scores(&self, merges: &[(String, String)]) -> Result<Vec<f32>> {
        let mut ranks: HashMap<String, usize> = HashMap::new();
        for (a, b) in merges {
            let next = ranks.len();
            ranks.entry(format!("{a}{b}")).or_insert(next);
        }
        let last = ranks.len();
        let score = |(id, (text, kind)): (usize, (&String, &i32))| match (ranks.get(text), *kind) {
            (_, BYTE | CONTROL | UNKNOWN | UNUSED) => 0.0,
            (Some(rank), _) => -(*rank as f32),
            (None, _) => -((last + id) as f32),
        };
        let scores: Vec<f32> = self.texts.iter().zip(&self.types).enumerate().map(score).collect();
        let texts: Vec<&str> = self.texts.iter().map(String::as_str).collect();
        let used = texts.iter().zip(&self.types).enumerate().filter(|(_, (_, kind))| **kind != UNUSED);
        let vocab: Vocab = used.map(|(id, (text, _))| ((*text).to_owned(), id as u32)).collect();
        let implied = implied_merges(&texts, &self.types, &vocab, &scores)?;
        if implied != merges {
            let at = implied.iter().zip(merges).position(|(a, b)| a != b).unwrap_or(implied.len().min(merges.len()));
            return Err(refused(&format!(
                "its {} merges are not in an order that scores of tokens can say (the first other one is {at})",
                merges.len()
            )));
        }
        Ok(scores)
    }
}

fn is_byte(text: &str) -> bool {
    text.len() == 6 && text.starts_with("<0x") && text.ends_with('>')
}

/// Tokens that publishers list as ordinary ones, and that llama.cpp's converter makes control tokens.
fn looks_special(text: &str) -> bool {
    let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

fn merges(root: &Value) -> Vec<(String, String)> {
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
        other => Some((other[0].as_str()?.to_owned(), other[1].as_str()?.to_owned())),
    };
    root["model"]["merges"].as_array().into_iter().flatten().filter_map(pair).collect()
}

/// Whether a text gets a space before it, where spaces are written as in SentencePiece.
fn space_prefix(root: &Value) -> Result<bool> {
    if root["model"]["byte_fallback"] != true {
        return Err(refused("it has neither byte-level tokens nor tokens for single bytes"));
    }
    let (mut prefix, mut replaced) = (false, false);
    for step in sequence(&root["normalizer"], "normalizers") {
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == "▁" => prefix = true,
            Some("Replace") if step["pattern"]["String"] == " " && step["content"] == "▁" => replaced = true,
            _ => return Err(refused(&format!("its normalizer has the step {}", step["type"]))),
        }
    }
    for step in sequence(&root["pre_tokenizer"], "pretokenizers") {
        match step["type"].as_str() {
            Some("Metaspace") if step["replacement"] == "▁" && step["split"] == false => {
                prefix |= step["prepend_scheme"] != "never";
                replaced = true;
            }
            // It finds nothing once spaces are replaced.
            Some("Split") if replaced && step["pattern"]["String"] == " " => {}
            _ => return Err(refused(&format!("its pre_tokenizer has the step {}", step["type"]))),
        }
    }
    if !replaced {
        return Err(refused("it does not write spaces as ▁"));
    }
    Ok(prefix)
}

/// The steps of a part of tokenizer.json: none, one, or those of a sequence.
fn sequence<'a>(part: &'a Value, list: &str) -> Vec<&'a Value> {
    if part.is_null() {
        return Vec::new();
    }
    match part[list].as_array() {
        Some(all) => all.iter().flat_map(|step| sequence(step, list)).collect(),
        None => vec![part],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{GgufFile, GgufWriter};
    use serde_json::json;
    use std::path::{Path, PathBuf};

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer")
    }

    fn written(tokenizer: &Tokenizer, rows: usize) -> (tempfile::TempDir, GgufFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.gguf");
        let fields = tokenizer.to_gguf(rows).unwrap();
        GgufWriter::create(&path, &fields, &[]).unwrap().finish().unwrap();
        let file = GgufFile::open(&path).unwrap();
        (dir, file)
    }

    #[test]
    fn a_written_tokenizer_gives_the_same_ids_and_text() {
        let recorded: Value =
            serde_json::from_slice(&std::fs::read(fixtures().join("tokenizer.json")).unwrap()).unwrap();
        let texts: Vec<String> = serde_json::from_value(recorded["texts"].clone()).unwrap();
        let bytes = ["default", "smollm", "llama-bpe", "qwen2", "dbrx", "tekken", "gpt-4o"];
        for name in bytes.into_iter().chain(["llama", "llama-no-prefix"]) {
            let theirs = GgufFile::open(&fixtures().join(format!("{name}.gguf"))).unwrap();
            let own = Tokenizer::from_gguf(&theirs).unwrap();
            let (_dir, file) = written(&own, own.vocab_size() + 3);
            let read = Tokenizer::from_gguf(&file).unwrap();
            for text in &texts {
                let ids = own.encode_with_special(text).unwrap();
                assert_eq!(read.encode_with_special(text).unwrap(), ids, "{name}: {text:?}");
                assert_eq!(read.decode(&ids, true).unwrap(), own.decode(&ids, true).unwrap(), "{name}: {text:?}");
            }
            assert_eq!((read.bos(), read.eos(), read.unk()), (own.bos(), own.eos(), own.unk()), "{name}");
            assert_eq!(read.adds_bos(), own.adds_bos(), "{name}");
            let types = file.i32_array("tokenizer.ggml.token_type").unwrap().unwrap();
            let list = |file: &GgufFile, key: &str| -> Option<Vec<String>> {
                let all = file.string_array(&format!("tokenizer.ggml.{key}")).unwrap()?;
                Some(all.into_iter().map(str::to_owned).collect())
            };
            let tokens = list(&file, "tokens").unwrap().into_iter().zip(list(&theirs, "tokens").unwrap());
            for ((own, their), kind) in tokens.zip(&types) {
                assert!(own == their || *kind == UNUSED, "{name}: {own:?} for {their:?}");
            }
            assert_eq!(list(&file, "merges"), list(&theirs, "merges"), "{name}");
            assert_eq!(types.len(), own.vocab_size() + 3, "{name}: each row of the embedding has a token");
            assert_eq!(types.last(), Some(&UNUSED), "{name}");
        }
    }

    #[test]
    fn a_tokenizer_that_llama_cpp_has_no_name_for_is_refused() {
        let tokenizer = |change: &dyn Fn(&mut Value)| {
            let own = Tokenizer::from_gguf(&GgufFile::open(&fixtures().join("smollm.gguf")).unwrap()).unwrap();
            let dir = tempfile::tempdir().unwrap();
            own.save_hf(dir.path()).unwrap();
            let path = dir.path().join("tokenizer.json");
            let mut root: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            change(&mut root);
            std::fs::write(&path, root.to_string()).unwrap();
            Tokenizer::from_hf_dir(dir.path()).unwrap()
        };
        assert!(tokenizer(&|_| ()).to_gguf(50).is_ok());
        let splits = tokenizer(&|root| root["pre_tokenizer"] = json!({ "type": "Whitespace" }));
        let error = splits.to_gguf(50).unwrap_err();
        assert!(error.to_string().contains("pre_tokenizer") && error.hints().len() == 2, "{error}");
        let lower = tokenizer(&|root| root["normalizer"] = json!({ "type": "Lowercase" }));
        assert!(lower.to_gguf(50).is_err());
    }
}
