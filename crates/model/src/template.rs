//! Chat templates. In: the Jinja template of a model directory, a GGUF file, a file of its own or a form known by name,
//! and the messages of a chat; out: the prompt text that transformers' `apply_chat_template(.., tokenize=False)` gives.
//! Invariant: every message is in the prompt as the template puts it there, or the template refuses it.

use crate::error::PathContext;
use crate::forms;
use crate::gguf::GgufFile;
use crate::jinja::Jinja;
use crate::think::Thinking;
use crate::{Error, Result, Tokenizer, nearest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

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

/// What a template renders: the arguments of `apply_chat_template`.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// The messages, JSON objects; keys other than `role` and `content` are the template's to use.
    pub messages: Vec<Value>,
    /// Descriptions of tools, if any.
    pub tools: Option<Vec<Value>>,
    /// Whether the prompt ends where the assistant begins.
    pub add_generation_prompt: bool,
    /// Whether the prompt ends inside the last message, which is to be continued.
    pub continue_final_message: bool,
    /// Further variables of the template, such as `enable_thinking`. They come before those of the template itself.
    pub variables: Map<String, Value>,
}

/// A compiled chat template with the model's special tokens. Cheap to clone, thread-safe.
#[derive(Clone)]
pub struct ChatTemplate {
    inner: Arc<Inner>,
    /// What every conversation is rendered with, unless it has a value of its own.
    variables: Arc<Map<String, Value>>,
    thinking: Option<Arc<Thinking>>,
    /// The end of thoughts was given, and not found.
    given_end: bool,
}

/// A name that is no variable of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// As it was given.
    pub name: String,
    /// The variable that was perhaps meant.
    pub near: Option<String>,
}

struct Inner {
    jinja: Jinja,
    /// The template for chats with tools, where the model has one of its own.
    with_tools: Option<Jinja>,
    name: String,
    source: String,
    /// `bos_token` and its like.
    tokens: BTreeMap<String, String>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

/// The name of the text in error messages.
const WHAT: &str = "chat template";

/// Names of a message's reasoning; transformers fills the first two from whichever is there.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// What a variable would take the place of.
pub const TAKEN: [&str; 7] = [
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "tokenize",
    "conversation",
];

/// Special tokens that templates read.
const SPECIAL: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

/// Stands where a continued message ends.
const CONTINUE: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

impl ChatTemplate {
    /// Compiles `source`; `bos` and `eos` are the texts of `bos_token` and `eos_token`. `name` is for error messages.
    pub fn new(name: &str, source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        let named = [("bos_token", bos), ("eos_token", eos)];
        let tokens = named.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?.to_owned()))).collect();
        Self::with_tokens(name, source, None, tokens, None)
    }

    /// The template of a Hugging Face directory: `chat_template.jinja`, else `chat_template` in `chat_template.json` or
    /// `tokenizer_config.json` (text, or a list of named templates of which `default` is taken, and `tool_use` for
    /// chats with tools). None if there is none.
    pub fn from_hf_dir(dir: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let Some((name, templates)) = named_templates(dir)? else { return Ok(None) };
        let Some(source) = templates.get("default") else { return Ok(None) };
        let tools = templates.get("tool_use").map(String::as_str);
        Self::with_tokens(&name, source, tools, tokenizer.named_tokens().clone(), Some(tokenizer)).map(Some)
    }

    /// The template in a GGUF file's metadata, if it has one.
    pub fn from_gguf(file: &GgufFile, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let key = "tokenizer.chat_template";
        let name = format!("{}: {key}", file.path().display());
        let tools = file.string("tokenizer.chat_template.tool_use")?;
        let tokens = tokenizer.named_tokens();
        let made = |source| Self::with_tokens(&name, source, tools, tokens.clone(), Some(tokenizer));
        file.string(key)?.map(made).transpose()
    }

    /// The template in a file of its own.
    pub fn from_file(path: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        let source = std::fs::read_to_string(path).at(path)?;
        let tokens = tokenizer.named_tokens().clone();
        Self::with_tokens(&path.display().to_string(), &source, None, tokens, Some(tokenizer))
    }

    /// The template that `spec` names: a file, else a form known by name ([`forms::NAMES`]), else one of the named
    /// templates of the model in `dir`.
    pub fn named(spec: &Path, dir: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        if spec.exists() {
            return Self::from_file(spec, tokenizer);
        }
        let tokens = tokenizer.named_tokens().clone();
        let name = spec.to_str().unwrap_or_default();
        if let Some(source) = forms::source(name) {
            // Vicuna's own prompts are encoded with the tokenizer's default; the other forms say where BOS stands.
            let start = if name == "vicuna" && tokenizer.adds_bos() { "{{- bos_token or '' -}}" } else { "" };
            let source = format!("{start}{source}");
            return Self::with_tokens(&format!("the form {name}"), &source, None, tokens, Some(tokenizer));
        }
        let own = named_templates(dir)?;
        if let Some((file, source)) = own.as_ref().and_then(|(file, all)| Some((file, all.get(name)?))) {
            return Self::with_tokens(&format!("{file}: {name}"), source, None, tokens, Some(tokenizer));
        }
        let error = Error::request(format!("chat template {name}: there is no such file or form"));
        let error = error.hint(format!("forms known by name: {}", forms::NAMES.join(", ")));
        Err(match own {
            Some((file, all)) => {
                let names: Vec<&str> = all.keys().map(String::as_str).collect();
                error.hint(format!("templates of {file}: {}", names.join(", ")))
            }
            None => error,
        })
    }

    fn with_tokens(
        name: &str,
        source: &str,
        tools: Option<&str>,
        tokens: BTreeMap<String, String>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Self> {
        let hint = |e: Error| e.hint("give another template with --chat-template FILE");
        let jinja = Jinja::new(name, WHAT, source).map_err(hint)?;
        let with_tools = tools.map(|source| Jinja::new(name, WHAT, source)).transpose().map_err(hint)?;
        let inner = Inner { jinja, with_tools, name: name.into(), source: source.into(), tokens };
        let thinking = Thinking::find(source, tokenizer).map(Arc::new);
        Ok(Self { inner: Arc::new(inner), variables: Arc::default(), thinking, given_end: false })
    }

    /// The template with variables of its own, such as `enable_thinking`. One that it does not read is told of.
    #[must_use]
    pub fn with_variables(self, variables: Map<String, Value>) -> Self {
        let offered = self.reads();
        for Unread { name, near } in self.unread(variables.keys().map(String::as_str)) {
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None if offered.is_empty() => "it reads none but the usual ones".to_owned(),
                None => format!("those that it reads are {}", offered.join(", ")),
            };
            let of = &self.inner.name;
            tracing::warn!("{of}: {WHAT}: it does not read the variable `{name}`, which changes nothing; {hint}");
        }
        Self { variables: Arc::new(variables), ..self }
    }

    /// The variables that the template reads, but for the usual ones.
    pub fn reads(&self) -> Vec<String> {
        let own = |name: &String| !TAKEN.contains(&name.as_str()) && !self.inner.tokens.contains_key(name);
        self.all_reads().into_iter().filter(own).collect()
    }

    fn all_reads(&self) -> Vec<String> {
        let mut read = self.inner.jinja.variables();
        read.extend(self.inner.with_tools.iter().flat_map(Jinja::variables));
        read.sort();
        read.dedup();
        read
    }

    /// Those of `names` that are no variables of the template, each with the variable that was perhaps meant.
    pub fn unread<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Vec<Unread> {
        let (read, offered) = (self.all_reads(), self.reads());
        let unread = names.into_iter().filter(|name| !read.iter().any(|own| own == name));
        let near = |name: &str| nearest(name, offered.iter().map(String::as_str)).map(str::to_owned);
        unread.map(|name| Unread { name: name.to_owned(), near: near(name) }).collect()
    }

    /// The template of a model whose thoughts end with `end`; with `none`, of one that does not think.
    #[must_use]
    pub fn with_think_end(self, end: &str, tokenizer: &Tokenizer) -> Self {
        let known = self.inner.source.contains(end) || tokenizer.token_id(end).is_some();
        if end != "none" && !known {
            let hint = match self.thinking() {
                Some(own) => format!("its own mark is {:?}", own.end()),
                None => "check the spelling".to_owned(),
            };
            tracing::warn!(
                "{}: {WHAT}: the end of thoughts {end:?} is neither in it nor in the vocabulary; a thought that ends \
                 otherwise is taken for the answer: {hint}",
                self.inner.name
            );
        }
        let thinking = (end != "none").then(|| Arc::new(Thinking::ending(end, Some(tokenizer))));
        Self { thinking, given_end: true, ..self }
    }

    /// The template of a model whose thoughts have at most `most` tokens.
    #[must_use]
    pub fn with_most_thought(self, most: usize) -> Self {
        let thinking = self.thinking.as_deref().map(|thinking| Arc::new(thinking.clone().at_most(most)));
        Self { thinking, ..self }
    }

    /// How the model marks its thoughts; None for one that does not think.
    pub fn thinking(&self) -> Option<&Arc<Thinking>> {
        self.thinking.as_ref()
    }

    /// All that decides what is rendered: the source, and the variables and the end of thoughts where they were given.
    pub fn identity(&self) -> String {
        let mut text = self.inner.source.clone();
        // No template holds this character, so that none is taken for another with variables.
        if !self.variables.is_empty() {
            text.push_str("\0variables ");
            text.push_str(&Value::Object((*self.variables).clone()).to_string());
        }
        if self.given_end {
            text.push_str("\0thoughts end with ");
            text.push_str(self.thinking.as_deref().map_or("none", Thinking::end));
        }
        if self.thinking.as_deref().is_some_and(Thinking::by_template) {
            // Earlier versions put them where the thought begins.
            text.push_str("\0known answers behind a thought without content");
        }
        text
    }

    /// The template's source, as it was given.
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// The prompt text for `messages`, as transformers' `apply_chat_template(..., tokenize=False)`. A template that
    /// refuses the messages (`raise_exception`), or does not come to an end, is an error.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let messages = messages.iter().map(|m| json!({ "role": m.role, "content": m.content })).collect();
        self.render_chat(&Conversation { messages, add_generation_prompt, ..Conversation::default() })
    }

    /// The prompt text that an answer which is given follows: [`Self::render`] with the generation prompt and, for a
    /// model that thinks, a thought without content, so that the answer is not taken for a thought.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_for_answer(&self, messages: &[Message]) -> Result<String> {
        let mut prompt = self.render(messages, true)?;
        if let Some(thinking) = &self.thinking {
            prompt.push_str(&thinking.no_thought(&prompt));
        }
        Ok(prompt)
    }

    /// The prompt text that a thought which is given follows.
    ///
    /// # Errors
    /// As [`Self::render`]; a model that does not think, or of which it is not known how its thoughts begin.
    pub fn render_for_thought(&self, messages: &[Message]) -> Result<String> {
        let prompt = self.render(messages, true)?;
        let begun = self.thinking.as_ref().and_then(|thinking| thinking.begun(&prompt));
        let begun = begun.ok_or_else(|| {
            Error::request(format!("{}: {WHAT}: it is not known how thoughts of this model begin", self.inner.name))
                .hint("leave out the attack `prefill-thought`: `prefill` gives the beginning of the answer")
        })?;
        Ok(prompt + &begun)
    }

    /// The prompt text for a conversation, as transformers' `apply_chat_template(..., tokenize=False)`.
    ///
    /// # Errors
    /// The template refuses it or does not come to an end; a final message that cannot be continued.
    pub fn render_chat(&self, chat: &Conversation) -> Result<String> {
        let inner = &*self.inner;
        let mut messages: Vec<Value> = chat.messages.iter().map(normal).collect();
        let last = if chat.continue_final_message { Some(mark_end(chat, &mut messages)?) } else { None };
        let mut variables: Map<String, Value> =
            inner.tokens.iter().map(|(key, text)| (key.clone(), Value::from(text.as_str()))).collect();
        variables.extend((*self.variables).clone());
        variables.extend(chat.variables.clone());
        variables.insert("messages".into(), messages.into());
        variables.insert("tools".into(), chat.tools.clone().into());
        variables.entry("documents").or_insert(Value::Null);
        variables.insert("add_generation_prompt".into(), chat.add_generation_prompt.into());
        let jinja = inner.with_tools.as_ref().filter(|_| chat.tools.is_some()).unwrap_or(&inner.jinja);
        let text = jinja.render(&Value::Object(variables)).map_err(|e| self.unnamed(e))?;
        match last {
            Some(last) => self.cut(&text, &last),
            None => Ok(text),
        }
    }

    /// An error of the template, with the special tokens that it reads and the tokenizer does not name.
    fn unnamed(&self, error: Error) -> Error {
        let named = |name: &String| self.inner.tokens.contains_key(name);
        let lacks: Vec<String> = self.all_reads().into_iter().filter(|name| SPECIAL.contains(&name.as_str())).collect();
        let lacks: Vec<&String> = lacks.iter().filter(|name| !named(name)).collect();
        lacks.into_iter().fold(error, |error, name| {
            error.hint(format!("the template reads `{name}`, and the tokenizer's files name no such token"))
        })
    }

    /// The prompt up to the mark. Where the template trimmed the text, so is the prompt.
    fn cut(&self, text: &str, last: &str) -> Result<String> {
        let at = text.rfind(CONTINUE.trim()).filter(|_| text.contains(last.trim()));
        let Some(at) = at else {
            let name = &self.inner.name;
            return Err(Error::request(format!("{name}: {WHAT}: it does not show the whole text of the last message"))
                .hint("continue_final_message needs a template that does"));
        };
        let kept = &text[..at];
        Ok(if text[at..].starts_with(CONTINUE) { kept } else { kept.trim_end() }.to_owned())
    }
}

/// Puts the mark behind the text of the last message; gives that text.
fn mark_end(chat: &Conversation, messages: &mut [Value]) -> Result<String> {
    if chat.add_generation_prompt {
        return Err(Error::request("continue_final_message and add_generation_prompt exclude each other"));
    }
    let content = messages.last_mut().and_then(|m| m.get_mut("content"));
    let text = match content {
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        other => other,
    };
    let Some(Value::String(text)) = text else {
        return Err(Error::request("continue_final_message: the last message has no text to continue"));
    };
    let last = text.clone();
    text.push_str(CONTINUE);
    Ok(last)
}

/// A message as transformers hands it to a template: without keys that are null, with its reasoning under both names.
fn normal(message: &Value) -> Value {
    let Some(object) = message.as_object() else { return message.clone() };
    let mut out: Map<String, Value> =
        object.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    if let Some(reasoning) = REASONING.iter().find_map(|key| out.get(*key)).cloned() {
        out.entry("thinking").or_insert_with(|| reasoning.clone());
        out.insert("reasoning_content".into(), reasoning);
    }
    Value::Object(out)
}

/// The templates of a Hugging Face directory by name, and the file that they are in; a single one is `default`.
pub fn named_templates(dir: &Path) -> Result<Option<(String, BTreeMap<String, String>)>> {
    let path = dir.join("chat_template.jinja");
    if path.exists() {
        let mut all = BTreeMap::from([("default".to_owned(), std::fs::read_to_string(&path).at(&path)?)]);
        let more = dir.join("additional_chat_templates");
        for entry in std::fs::read_dir(&more).into_iter().flatten() {
            let file = entry.at(&more)?.path();
            let name = file
                .file_stem()
                .and_then(|stem| stem.to_str())
                .filter(|_| file.extension().is_some_and(|e| e == "jinja"));
            if let Some(name) = name {
                all.insert(name.to_owned(), std::fs::read_to_string(&file).at(&file)?);
            }
        }
        return Ok(Some((path.display().to_string(), all)));
    }
    for name in ["chat_template.json", "tokenizer_config.json"] {
        let path = dir.join(name);
        if !path.exists() {
            continue;
        }
        let bytes = std::fs::read(&path).at(&path)?;
        let json: Value =
            serde_json::from_slice(&bytes).map_err(|e| Error::request(format!("{}: {e}", path.display())))?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let all: BTreeMap<String, String> = match &json["chat_template"] {
            Value::Null => continue,
            Value::String(source) => BTreeMap::from([("default".to_owned(), source.clone())]),
            Value::Array(list) => {
                list.iter().filter_map(|t| Some((text(&t["name"])?, text(&t["template"])?))).collect()
            }
            Value::Object(map) => map.iter().filter_map(|(name, t)| Some((name.clone(), text(t)?))).collect(),
            _ => BTreeMap::new(),
        };
        if all.is_empty() {
            return Err(Error::request(format!("{}: chat_template is neither a text nor named texts", path.display())));
        }
        return Ok(Some((path.display().to_string(), all)));
    }
    Ok(None)
}
