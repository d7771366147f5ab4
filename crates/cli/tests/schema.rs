//! `eraser schema`: run files hold to it, and what the parser refuses does not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::Dir;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn schema(dir: &Dir) -> Value {
    serde_json::from_str(&dir.done("schema")).unwrap()
}

/// What is wrong with a run file.
fn wrong(schema: &Value, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    validate(schema, &toml::from_str(text).unwrap(), "", &mut wrong);
    wrong
}

/// The keywords that the schema is made of; another one ends the test.
const KEYWORDS: [&str; 12] = [
    "$schema",
    "title",
    "description",
    "default",
    "type",
    "enum",
    "properties",
    "additionalProperties",
    "required",
    "items",
    "anyOf",
    "minimum",
];

/// A validator of these keywords, as JSON Schema (draft 7) says.
fn validate(schema: &Value, value: &Value, path: &str, wrong: &mut Vec<String>) {
    for keyword in schema.as_object().unwrap().keys() {
        assert!(KEYWORDS.contains(&keyword.as_str()), "{path}: the keyword {keyword} is not looked at");
    }
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            wrong.push(format!("{path}: {what}: {value}"));
        }
    };
    let is = |kind: &Value| match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("{path}: the type {other}"),
    };
    match &schema["type"] {
        Value::Null => {}
        Value::Array(kinds) => expect(kinds.iter().any(is), "type"),
        kind => expect(is(kind), "type"),
    }
    if let Some(names) = schema["enum"].as_array() {
        expect(names.contains(value), "enum");
    }
    if let (Some(least), Some(n)) = (schema["minimum"].as_f64(), value.as_f64()) {
        expect(n >= least, "minimum");
    }
    if let Some(kinds) = schema["anyOf"].as_array() {
        let holds = |kind: &Value| {
            let mut inner = Vec::new();
            validate(kind, value, path, &mut inner);
            inner.is_empty()
        };
        expect(kinds.iter().any(holds), "anyOf");
    }
    for key in schema["required"].as_array().into_iter().flatten() {
        expect(value.get(key.as_str().unwrap()).is_some() || !value.is_object(), "required");
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        match (&schema["properties"][key], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => wrong.push(format!("{path}: unknown key")),
            (Value::Null, others @ Value::Object(_)) => validate(others, inner, &path, wrong),
            (Value::Null, _) => {}
            (known, _) => validate(known, inner, &path, wrong),
        }
    }
    if schema["items"].is_object() {
        for (i, item) in value.as_array().into_iter().flatten().enumerate() {
            validate(&schema["items"], item, &format!("{path}[{i}]"), wrong);
        }
    }
}

/// Every run file of the repository: those of its own, and those in documents and tests.
fn run_files() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    for dir in ["configs", "docs", "crates/cli/tests", "crates/run/src/plan", "crates/run/examples", "."] {
        for entry in fs::read_dir(root.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_owned();
            let Ok(text) = fs::read_to_string(&path) else { continue };
            // Its run files are wrong on purpose.
            if path.ends_with("requests.rs") {
                continue;
            }
            let parts: Vec<&str> = match ending.as_str() {
                "toml" if dir == "configs" => vec![&text],
                "md" => text.split("```toml\n").skip(1).filter_map(|part| part.split("```").next()).collect(),
                "rs" => text.split("r#\"").skip(1).filter_map(|part| part.split("\"#").next()).collect(),
                _ => continue,
            };
            let run_file = |text: &&str| text.contains("[model]") && toml::from_str::<toml::Table>(text).is_ok();
            found.extend(parts.into_iter().filter(run_file).map(|text| (path.clone(), text.to_owned())));
        }
    }
    found
}

#[test]
fn every_run_file_of_the_repository_holds_to_it() {
    let dir = Dir::with_model();
    let schema = schema(&dir);
    let files = run_files();
    assert!(files.len() >= 7, "{files:?}");
    for (path, text) in files {
        assert_eq!(wrong(&schema, &text), Vec::<String>::new(), "{}", path.display());
    }
    let goals = (0..12).map(|i| format!("how to open lock {i}?\n")).collect::<Vec<_>>().concat();
    dir.write("goals.csv", &format!("goal\n{goals}"));
    dir.done("init model --questions goals.csv --templates wrap.txt");
    assert_eq!(wrong(&schema, &dir.text("run.toml")), Vec::<String>::new());
}

#[test]
fn unknown_keys_and_wrong_types_do_not() {
    let schema = schema(&Dir::new());
    for text in [
        "[model]\npath = \"builtin\"\n[trian]\nsteps = 1",
        "[model]\npath = \"builtin\"\n[train]\nstep = 1",
        "[model]\npath = \"builtin\"\n[train]\nsteps = \"many\"",
        "[model]\npath = \"builtin\"\n[train]\nmethod = \"none\"",
        "[model]\npath = \"builtin\"\n[train]\npreset = \"stong\"",
        "[model]\npath = 3",
        "[model]\ndevice = \"cpu\"",
        "[model]\npath = \"builtin\"\n[[variant]]\nretain = false",
        "[model]\npath = \"builtin\"\nbase_dtype = \"f8\"",
        "[model]\npath = \"builtin\"\n[eval]\nattacks = [\"dirct\"]",
        "[model]\npath = \"builtin\"\n[eval]\nquestions = [{ set = \"a\", path = \"b\", colum = \"c\" }]",
        "[model]\npath = \"builtin\"\n[eval.gcg]\nstep = 1",
        "[model]\npath = \"builtin\"\n[[variant]]\nname = 3",
        "[train]\nsteps = 1",
    ] {
        assert!(!wrong(&schema, text).is_empty(), "{text}");
    }
    assert!(wrong(&schema, "[model]\npath = \"builtin\"\n[train]\nsteps = 1").is_empty());
}

/// Keys without a word on what they are would have to be looked up, which is what the schema is to save.
#[test]
fn every_key_says_what_it_means() {
    fn look(value: &Value, path: &str, without: &mut Vec<String>) {
        for (key, value) in value["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            if value["description"].as_str().is_none_or(str::is_empty) && !path.starts_with(".method.") {
                without.push(path.clone());
            }
            look(value, &path, without);
            look(&value["items"], &path, without);
        }
    }
    let mut without = Vec::new();
    look(&schema(&Dir::new()), "", &mut without);
    // The inner tables are described by their keys.
    without.retain(|path| ![".eval.gcg", ".eval.autodan", ".eval.judge"].contains(&path.as_str()));
    without.retain(|path| !path.starts_with(".tune."));
    assert!(without.is_empty(), "{without:?}");
}
