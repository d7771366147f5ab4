//! Chat templates. In: the Jinja template of a model directory, a GGUF file or a file of its own, and a list of messages;
//! out: the prompt text that transformers' `apply_chat_template(.., tokenize=False)` gives. Invariant: a template is
//! foreign code, so rendering ends, within a bounded amount of work and of output.

use crate::error::PathContext;
use crate::gguf::GgufFile;
use crate::{Error, Result, Tokenizer};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value, context};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// Work that one render may do, in minijinja's units: an instruction, or 64 bytes of data made, output included.
/// A short chat under a long template takes some thousand; this many take a fraction of a second.
const FUEL: u64 = 2_000_000;

/// Most bytes of a template.
const MAX_SOURCE: usize = 1 << 20;

/// One turn of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Text.
    pub content: String,
}

impl Message {
    /// A user turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".into(), content: content.into() }
    }
    /// An assistant turn.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant".into(), content: content.into() }
    }
    /// A system turn.
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: "system".into(), content: content.into() }
    }
}

/// A compiled Jinja chat template with the model's special tokens. Cheap to clone, thread-safe.
#[derive(Clone)]
pub struct ChatTemplate {
    inner: Arc<Inner>,
}

struct Inner {
    environment: Environment<'static>,
    name: String,
    source: String,
    bos: Option<String>,
    eos: Option<String>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles `source`; `bos` and `eos` are the texts of `bos_token` and `eos_token`. `name` is for error messages.
    pub fn new(name: &str, source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            return Err(Error::request(format!("{name}: chat template of {} bytes is too long", source.len())));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| error(name, &e))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", crate::tojson::tojson);
        environment
            .add_template_owned(TEMPLATE, without_generation_tags(source))
            .map_err(|e| error(name, &e).hint("the template must be Jinja as transformers understands it"))?;
        let inner = Inner {
            environment,
            name: name.into(),
            source: source.into(),
            bos: bos.map(Into::into),
            eos: eos.map(Into::into),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The template of a Hugging Face directory: `chat_template.jinja`, else `chat_template` in `chat_template.json` or
    /// `tokenizer_config.json` (text, or a list of named templates of which `default` is taken). None if there is none.
    pub fn from_hf_dir(dir: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let path = dir.join("chat_template.jinja");
        if path.exists() {
            return Self::from_file(&path, tokenizer).map(Some);
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            let path = dir.join(name);
            if !path.exists() {
                continue;
            }
            let bytes = std::fs::read(&path).at(&path)?;
            let json: serde_json::Value =
                serde_json::from_slice(&bytes).map_err(|e| Error::request(format!("{}: {e}", path.display())))?;
            if let Some(source) = named_default(&json["chat_template"]) {
                return Self::with_tokens(&path.display().to_string(), source, tokenizer).map(Some);
            }
        }
        Ok(None)
    }

    /// The template in a GGUF file's metadata, if it has one.
    pub fn from_gguf(file: &GgufFile, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let key = "tokenizer.chat_template";
        let name = format!("{}: {key}", file.path().display());
        file.string(key)?.map(|source| Self::with_tokens(&name, source, tokenizer)).transpose()
    }

    /// The template in a file of its own.
    pub fn from_file(path: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        let source = std::fs::read_to_string(path).at(path)?;
        Self::with_tokens(&path.display().to_string(), &source, tokenizer)
    }

    fn with_tokens(name: &str, source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id));
        Self::new(name, source, text(tokenizer.bos()).as_deref(), text(tokenizer.eos()).as_deref())
    }

    /// The template's source, as it was given.
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// The prompt text for `messages`, as transformers' `apply_chat_template(..., tokenize=False)`. A template that
    /// refuses the messages (`raise_exception`), or does not come to an end, is an error.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let inner = &*self.inner;
        let token = |t: &Option<String>| t.as_deref().map_or(Value::UNDEFINED, Value::from);
        let turn = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let context = context! {
            messages => messages.iter().map(turn).collect::<Vec<Value>>(),
            add_generation_prompt => add_generation_prompt,
            bos_token => token(&inner.bos),
            eos_token => token(&inner.eos),
            tools => (),
            documents => (),
        };
        let template = inner.environment.get_template(TEMPLATE).map_err(|e| error(&inner.name, &e))?;
        template.render(context).map_err(|e| error(&inner.name, &e))
    }
}

/// The name of the template inside its environment.
const TEMPLATE: &str = "chat_template";

/// One line for a template error: what `raise_exception` said, or what went wrong, and where.
fn error(name: &str, error: &minijinja::Error) -> Error {
    if error.kind() == ErrorKind::OutOfFuel {
        return Error::request(format!("{name}: chat template: it takes too long or writes too much"))
            .hint("give another template with --chat-template");
    }
    let line = error.line().map_or(String::new(), |n| format!(" (line {n} of the template)"));
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::request(format!("{name}: chat template: {what}{line}"))
}

fn named_default(value: &serde_json::Value) -> Option<&str> {
    let named =
        |list: &'_ serde_json::Value| -> Option<usize> { list.as_array()?.iter().position(|t| t["name"] == "default") };
    value.as_str().or_else(|| value[named(value)?]["template"].as_str())
}

/// `{% generation %}` marks what the assistant says, for training masks; it renders nothing of its own. The tags become
/// an empty condition, which keeps their whitespace control.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag[2..].find("%}").map(|n| n + 2) else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        match tag[2..end].trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time now, in C's format.
fn strftime_now(format: &str) -> std::result::Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}")))
}
