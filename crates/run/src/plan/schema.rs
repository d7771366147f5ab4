//! The JSON schema of run files, for editors. In: the lists of keys that the parser has, and the parser itself; out:
//! the schema. Invariant: what a key may hold is found by giving the parser a value of each kind and looking at what
//! it takes, so that the schema and the parser cannot disagree.

use super::measures::{ASKED_FILES, FILE_KEYS};
use super::model::MODEL_KEYS;
use super::prepare::SOURCE_KEYS;
use super::run::{ROOT_KEYS, RUN_KEYS, VARIANT_KEYS, converted};
use super::served::{KEY as SERVED, SERVED_KEYS};
use super::sets::SETS;
use super::source::{ROW_KEYS, SET_KEYS};
use super::{answers, document::Document, section::Section};
use eraser_data::prepare::PrepareOptions;
use eraser_eval::{EvalOptions, attack, judge};
use eraser_model::{BaseDtype, Compute};
use eraser_train::{METHODS, Preset, TrainOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// A text that is no name of anything.
const ANY: &str = "~";
/// Texts that have a meaning for some keys.
const WORDS: [&str; 5] = ["on", "off", "auto", "all-linear", "1-2"];

/// What the keys mean that are no settings: table, key, meaning.
const MEANINGS: [(&str, &str, &str); 61] = [
    ("", "run", "The name of the run, and where it goes"),
    ("", "model", "The model that is hardened"),
    ("", "prepare", "How the sets are made; without this table they are files, named in [data]"),
    ("", "data", "The sets that are files"),
    ("", "train", "How it is trained; the keys are the flags of `eraser train` with _ for -"),
    ("", "method", "Settings of one method, on top of [train]"),
    ("", "variant", "One way to train, on top of [train]; each makes a subject"),
    ("", "eval", "What is measured; the keys are the flags of `eraser eval` with _ for -"),
    ("", "tune", "What `eraser tune` chooses settings by, in place of [eval]"),
    ("run", "name", "The name in tables, and that of the directory below runs/"),
    ("run", "dir", "The run directory [default: runs/NAME]"),
    ("model", "template_vars", "Variables that the chat template is rendered with, as enable_thinking = false"),
    ("model", "path", "A Hugging Face directory, a .gguf file, a hub name, or builtin"),
    ("data", "harm", "Harmful questions with the answers that are forgotten"),
    ("data", "harm_set", "As harm"),
    ("data", "help_set", "Harmless questions about the same things, with answers: they keep knowledge"),
    ("data", "help", "As help_set"),
    ("data", "align", "Harmful questions with refusals: they keep refusing"),
    ("data", "align_set", "As align"),
    ("data", "retain_set", "Questions and answers, or texts, that are kept besides"),
    ("data", "retain", "As retain_set"),
    ("data", "jailbreaks", "Templates that the method rsft learns from: files or directories"),
    ("variant", "name", "The name of the subject"),
    ("variant", "retain", "Whether it sees the retain set"),
    ("prepare", "questions", "Harmful questions: a file and which of its rows"),
    ("prepare", "retain_questions", "Benign requests, which are kept with the model's own answers"),
    ("prepare", "retain_text", "Running texts that are kept"),
    ("eval", "questions", "Questions to attack with"),
    ("eval", "tasks", "Questions with expected answers"),
    ("eval", "over_refusal", "Benign questions that must not be refused"),
    ("eval", "contrast", "Questions that look like them and must be refused"),
    ("eval", "likelihood_set", "Questions with answers, of which it is measured how likely they are"),
    ("eval", "subject", "Subjects that a server has, beside those that are loaded"),
    ("subject", "name", "Its name in tables; the others are compared with base"),
    ("subject", "url", "Base URL of an OpenAI-compatible server"),
    ("subject", "model", "The name of the model or adapter on the server"),
    ("subject", "key_env", "Environment variable that holds the server's key [default: no key is sent]"),
    ("subject", "concurrency", "Requests at a time"),
    ("subject", "timeout", "Seconds after which a request is given up"),
    ("subject", "attempts", "Attempts at a request before the work stops"),
    ("subject", "backoff", "Seconds before the second attempt; doubled with every further one"),
    ("eval", "gcg.top_k", "Replacements that are considered at each place"),
    ("eval", "gcg.buffer", "Suffixes that are kept and taken in turn as the start of a step"),
    ("eval", "autodan.elite", "Candidates that are kept unchanged"),
    ("eval", "autodan.crossover", "Probability that a child exchanges a sentence with its other parent"),
    ("eval", "autodan.mutation", "Probability that a sentence of a child is changed"),
    ("eval", "judge.endpoint_key_env", "Environment variable that holds the key of the server that judges"),
    ("eval", "judge.tokenizer", "Files with the tokenizer and chat template of the server's model, for classifiers"),
    ("eval", "judge.concurrency", "Requests to the server that judges, at a time"),
    ("eval", "judge.max_new_tokens", "New tokens of a judgement"),
    ("eval", "judge.batch", "Judgements of a local model at a time"),
    ("rows", "path", "The file: JSONL, JSON, CSV, Parquet or text"),
    ("rows", "column", "Column of the question [default: a usual name]"),
    ("rows", "input", "Column of the question"),
    ("rows", "output", "Column of the answer"),
    ("rows", "where", "Only rows whose columns have these values"),
    ("rows", "shuffle", "Seed by which the rows are mixed, after where"),
    ("rows", "take", "Rows from 0, after where and shuffle, as \"0-49\" or \"50-\""),
    ("rows", "set", "The name of the set: seen and unseen for attack questions"),
    ("rows", "task", "The name of the task"),
    ("train", "preset", "Settings that go together; keys beside it come on top"),
];

/// The schema. `describe` gives the meaning of a setting by its table and its key, with `.` before the keys of an inner
/// table.
pub fn schema(describe: &dyn Fn(&str, &str) -> Option<String>) -> Value {
    let tell = |table: &str, key: &str| -> Option<String> {
        let own = MEANINGS.iter().find(|(t, k, _)| *t == table && *k == key).map(|(.., text)| (*text).to_owned());
        own.or_else(|| describe(table, key))
    };
    let mut document = Document::default();
    document.file = PathBuf::from("run.toml");
    let section = Section::root(&document);
    let convert = |key: &str, value: &toml::Value| converted(&section, key, value);
    let plain = |_: &str, _: &toml::Value| None;

    let mut train = settings("train", &TrainOptions::default(), &convert, &tell);
    // An option that is not there by default is in no list of fields.
    let presets = Preset::ALL.map(|(name, _)| name);
    set(&mut train, "preset", described(json!({ "enum": presets }), tell("train", "preset")));
    let mut variant = train.clone();
    for key in VARIANT_KEYS {
        let kind = if key == "retain" { json!({ "type": "boolean" }) } else { json!({ "type": "string" }) };
        set(&mut variant, key, described(kind, tell("variant", key)));
    }
    variant["required"] = json!(["name"]);
    let mut prepare = settings("prepare", &PrepareOptions::default(), &plain, &tell);
    for key in SOURCE_KEYS {
        let source = match key {
            "questions" => rows(&ROW_KEYS, &tell),
            "answers_file" => json!({ "anyOf": [{ "type": "string" }, rows(&SET_KEYS, &tell)] }),
            "answers_model" => json!({ "type": "string" }),
            _ => json!({ "anyOf": [{ "type": "string" }, rows(&ROW_KEYS, &tell)] }),
        };
        set(&mut prepare, key, described(source, tell("prepare", key)));
    }
    let eval = eval(&tell);
    let set_source = || json!({ "anyOf": [{ "type": "string" }, rows(&SET_KEYS, &tell)] });
    let mut data = Map::new();
    for (key, alias) in SETS.iter().map(|set| (set.key, set.alias)) {
        data.insert(key.to_owned(), described(set_source(), tell("data", key)));
        data.insert(alias.to_owned(), described(set_source(), tell("data", alias)));
    }
    let paths = json!({ "type": "array", "items": { "type": "string" } });
    data.insert("jailbreaks".to_owned(), described(paths, tell("data", "jailbreaks")));

    let model = MODEL_KEYS.map(|key| {
        let kind = match key {
            "base_dtype" => json!({ "enum": BaseDtype::names() }),
            "compute" => json!({ "enum": Compute::names() }),
            "template_vars" => json!({ "type": "object" }),
            "max_think_tokens" => json!({ "type": "integer", "minimum": 1 }),
            _ => json!({ "type": "string" }),
        };
        (key.to_owned(), described(kind, tell("model", key)))
    });
    let run = RUN_KEYS.map(|key| (key.to_owned(), described(json!({ "type": "string" }), tell("run", key))));
    let methods = METHODS.map(|m| (m.name.to_owned(), train.clone()));
    let mut root = Map::new();
    for key in ROOT_KEYS {
        let value = match key {
            "run" => table(run.clone().into_iter().collect()),
            "model" => {
                let mut model = table(model.clone().into_iter().collect());
                model["required"] = json!(["path"]);
                model
            }
            "prepare" => prepare.clone(),
            "data" => table(data.clone()),
            "train" => train.clone(),
            "method" => table(methods.clone().into_iter().collect()),
            "variant" => json!({ "type": "array", "items": variant }),
            _ => eval.clone(),
        };
        root.insert(key.to_owned(), described(value, tell("", key)));
    }
    let mut schema = table(root);
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "A run file of eraser".into();
    schema["required"] = json!(["model"]);
    schema
}

/// The table `[eval]`.
fn eval(tell: &dyn Fn(&str, &str) -> Option<String>) -> Value {
    let mut eval = settings("eval", &EvalOptions::default(), &|_: &str, _: &toml::Value| None, tell);
    let named = |names: Vec<&'static str>| json!({ "type": "array", "items": { "enum": names } });
    for (key, names) in [("attacks", attack::names()), ("judges", judge::names())] {
        let meaning = eval["properties"][key]["description"].as_str().map(str::to_owned);
        set(&mut eval, key, described(named(names), meaning));
    }
    for key in FILE_KEYS {
        let own = if key == answers::KEY { "set" } else { asked(key) };
        let keys: Vec<&str> = if key == answers::KEY {
            [own].into_iter().chain(SET_KEYS).collect()
        } else {
            [own].into_iter().chain(ROW_KEYS).collect()
        };
        let one = rows(&keys, tell);
        let single = ["over_refusal", "contrast"].contains(&key);
        let value = if single { one } else { json!({ "type": "array", "items": one }) };
        set(&mut eval, key, described(value, tell("eval", key)));
    }
    let subjects = json!({ "type": "array", "items": served(tell) });
    set(&mut eval, SERVED, described(subjects, tell("eval", SERVED)));
    eval
}

/// A table `subject`.
fn served(tell: &dyn Fn(&str, &str) -> Option<String>) -> Value {
    let mut properties = Map::new();
    for key in SERVED_KEYS {
        let kind = match key {
            "concurrency" | "attempts" => json!({ "type": "integer", "minimum": 1 }),
            "timeout" | "backoff" => json!({ "type": "number", "minimum": 0 }),
            _ => json!({ "type": "string" }),
        };
        properties.insert(key.to_owned(), described(kind, tell("subject", key)));
    }
    let mut table = table(properties);
    table["required"] = json!(["name", "url", "model"]);
    table
}

/// The key of the name of a file of questions.
fn asked(key: &str) -> &'static str {
    ASKED_FILES.iter().find(|(list, _)| *list == key).map_or("set", |(_, name)| *name)
}

/// A table with these keys and no others.
fn table(properties: Map<String, Value>) -> Value {
    let properties = Value::Object(properties);
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn set(table: &mut Value, key: &str, value: Value) {
    table["properties"][key] = value;
}

fn described(mut value: Value, meaning: Option<String>) -> Value {
    if let Some(meaning) = meaning {
        value["description"] = meaning.into();
    }
    value
}

/// A file and which of its rows are meant.
fn rows(keys: &[&str], tell: &dyn Fn(&str, &str) -> Option<String>) -> Value {
    let mut properties = Map::new();
    for key in keys {
        let kind = match *key {
            "where" => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
            "shuffle" => json!({ "type": "integer", "minimum": 0 }),
            "take" => json!({ "type": ["string", "integer"] }),
            _ => json!({ "type": "string" }),
        };
        properties.insert((*key).to_owned(), described(kind, tell("rows", key)));
    }
    let mut table = table(properties);
    table["required"] = json!(["path"]);
    table
}

/// Rewrites a value before it is read.
type Convert<'a> = &'a dyn Fn(&str, &toml::Value) -> Option<Result<toml::Value, String>>;

/// The table of a settings struct.
fn settings<T: Serialize + DeserializeOwned>(
    name: &str,
    defaults: &T,
    convert: Convert<'_>,
    tell: &dyn Fn(&str, &str) -> Option<String>,
) -> Value {
    let base = toml::Table::try_from(defaults).unwrap_or_default();
    let try_value = |path: &[&str], value: toml::Value| -> Result<(), String> {
        let value = match path {
            [key] => convert(key, &value).unwrap_or(Ok(value))?,
            _ => value,
        };
        let mut table = base.clone();
        insert(&mut table, path, value);
        table.try_into::<T>().map(|_| ()).map_err(|e| e.message().to_owned())
    };
    let all = serde_json::to_value(defaults).unwrap_or_default();
    fields(name, &[], &all, &try_value, tell)
}

/// Puts a value into a table of tables.
fn insert(table: &mut toml::Table, path: &[&str], value: toml::Value) {
    match path {
        [] => {}
        [last] => {
            table.insert((*last).to_owned(), value);
        }
        [first, rest @ ..] => {
            let inner = table.entry((*first).to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// Whether the parser takes a value at a path, and why not.
type Try<'a> = &'a dyn Fn(&[&str], toml::Value) -> Result<(), String>;

fn fields(
    name: &str,
    path: &[&str],
    defaults: &Value,
    takes: Try<'_>,
    tell: &dyn Fn(&str, &str) -> Option<String>,
) -> Value {
    let mut properties = Map::new();
    for (key, default) in defaults.as_object().into_iter().flatten() {
        let path: Vec<&str> = path.iter().copied().chain([key.as_str()]).collect();
        let field = if default.is_object() {
            fields(name, &path, default, takes, tell)
        } else {
            let mut field = kinds(&path, takes);
            if !default.is_null() {
                field["default"] = default.clone();
            }
            field
        };
        properties.insert(key.clone(), described(field, tell(name, &path.join("."))));
    }
    table(properties)
}

/// What a key may hold.
fn kinds(path: &[&str], takes: Try<'_>) -> Value {
    let takes_it = |value: toml::Value| takes(path, value).is_ok();
    let mut kinds = Vec::new();
    if takes_it(true.into()) {
        kinds.push(json!({ "type": "boolean" }));
    }
    if takes_it(1.5.into()) {
        kinds.push(json!({ "type": "number" }));
    } else if takes_it(1.into()) {
        kinds.push(json!({ "type": "integer" }));
    }
    kinds.extend(texts(&|text| takes(path, text.into())));
    let list = |item: toml::Value| takes_it(toml::Value::Array(vec![item]));
    if takes_it(toml::Value::Array(Vec::new())) || WORDS.iter().any(|word| list((*word).into())) {
        let items = if list(1.into()) {
            Some(json!({ "type": "integer" }))
        } else {
            texts(&|text| takes(path, toml::Value::Array(vec![text.into()])))
        };
        let mut list = json!({ "type": "array" });
        if let Some(items) = items {
            list["items"] = items;
        }
        kinds.push(list);
    }
    match kinds.len() {
        1 => kinds.remove(0),
        _ => json!({ "anyOf": kinds }),
    }
}

/// Which texts are taken: any, or those that the parser names when it takes another one not.
fn texts(takes: &dyn Fn(&str) -> Result<(), String>) -> Option<Value> {
    let Err(error) = takes(ANY) else { return Some(json!({ "type": "string" })) };
    let words: Vec<&str> = WORDS.into_iter().filter(|word| takes(word).is_ok()).collect();
    // A list of names or a range, in one text.
    if words.iter().any(|word| ["all-linear", "1-2"].contains(word)) {
        return Some(json!({ "type": "string" }));
    }
    let named: Vec<String> = names(&error).into_iter().filter(|name| takes(name).is_ok()).collect();
    let all: Vec<&str> = if named.is_empty() { words } else { named.iter().map(String::as_str).collect() };
    (!all.is_empty()).then(|| json!({ "enum": all }))
}

/// The names in the message of an unknown one: "expected `a` or `b`", "known are a, b".
fn names(error: &str) -> Vec<String> {
    if let Some((_, known)) = error.split_once("known are ") {
        return known.split(", ").map(|name| name.trim().to_owned()).collect();
    }
    let expected = error.split_once("expected").map_or("", |(_, expected)| expected);
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_what_the_parser_says() {
        assert_eq!(names("unknown variant `~`, expected `a` or `b`"), ["a", "b"]);
        assert_eq!(names("unknown method `~`, known are x, y-z"), ["x", "y-z"]);
        assert_eq!(names("invalid type: string \"~\", expected a boolean"), Vec::<String>::new());
    }

    #[test]
    fn what_a_key_may_hold_is_what_the_parser_takes() {
        let schema = schema(&|_, _| None);
        let of = |table: &str, key: &str| schema["properties"][table]["properties"][key].clone();
        assert_eq!(of("train", "method")["enum"], json!(METHODS.map(|m| m.name)));
        assert_eq!(of("train", "beta")["type"], "number");
        assert_eq!(of("train", "steps")["type"], "integer");
        assert_eq!(of("train", "lr")["type"], "number");
        assert_eq!(of("train", "gamma")["anyOf"][1]["enum"], json!(["auto"]));
        assert_eq!(of("train", "preset")["enum"], json!(["paper", "strong"]));
        assert_eq!(of("train", "noise")["anyOf"], json!([{ "type": "boolean" }, { "enum": ["on", "off"] }]));
        assert_eq!(of("prepare", "answers")["enum"], json!(["file", "endpoint", "model", "random"]));
        assert_eq!(of("eval", "gcg")["properties"]["steps"]["type"], "integer");
        assert_eq!(of("eval", "likelihood_cuts")["items"]["type"], "integer");
        assert!(of("eval", "judges")["items"]["enum"].as_array().unwrap().contains(&"leak".into()));
        assert_eq!(of("train", "rank")["default"], 8);
    }
}
