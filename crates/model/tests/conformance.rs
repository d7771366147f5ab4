//! Real tokenizers and chat templates against transformers. Runs where `ERASER_CONFORMANCE` names a directory that
//! `tests/fixtures/conformance.py` went through; third parties' files are not in the repository.

#![allow(clippy::unwrap_used, clippy::panic)]

use eraser_model::{ChatTemplate, Conversation, Message, Tokenizer};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

fn recorded(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => recorded(&path, out),
            false if path.ends_with("conformance.json") => out.push(dir.to_owned()),
            false => {}
        }
    }
}

#[test]
fn real_tokenizers_and_templates_give_what_transformers_gives() {
    let Some(root) = std::env::var_os("ERASER_CONFORMANCE") else {
        eprintln!("skipped: ERASER_CONFORMANCE is not set");
        return;
    };
    let (mut dirs, mut wrong) = (Vec::new(), Vec::new());
    recorded(Path::new(&root), &mut dirs);
    dirs.sort();
    for dir in dirs {
        let name = dir.display().to_string();
        let cases: Value = serde_json::from_slice(&std::fs::read(dir.join("conformance.json")).unwrap()).unwrap();
        let tokenizer = match Tokenizer::from_hf_dir(&dir) {
            Ok(tokenizer) => tokenizer,
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        let (mut renders, mut ids, mut own, mut texts) = (0, 0, 0, 0);
        let chats = cases["chats"].as_array().unwrap();
        if !chats.is_empty() {
            let template = ChatTemplate::from_hf_dir(&dir, &tokenizer).unwrap().unwrap();
            for chat in chats {
                wrong.extend(answered(&template, chat).map(|told| format!("{name}: {told}")));
                let mut variables: Map<String, Value> = chat["options"].as_object().unwrap().clone();
                let tools = variables.remove("tools").and_then(|t| t.as_array().cloned());
                let conversation = Conversation {
                    messages: chat["messages"].as_array().unwrap().clone(),
                    tools,
                    add_generation_prompt: chat["prompt"] == true,
                    variables,
                    ..Conversation::default()
                };
                match (template.render_chat(&conversation), chat["text"].as_str()) {
                    (Ok(text), Some(expected)) if text == expected => renders += 1,
                    (Err(_), None) => renders += 1,
                    (got, _) => wrong.push(format!(
                        "{name}: {} gives {got:?} instead of {}{}",
                        chat["messages"], chat["text"], chat["error"]
                    )),
                }
            }
        }
        let lines = cases["lines"].as_array().unwrap();
        for line in lines {
            let text = line[0].as_str().unwrap();
            let found = serde_json::json!(tokenizer.encode(text).unwrap());
            ids += usize::from(found == line[1]);
            own += usize::from(found == line[2]);
            // Where transformers does not follow tokenizer.json, tokenizer.json counts.
            if found != line[1] && (found != line[2] || cases["class"] != "LlamaTokenizer") {
                wrong.push(format!("{name}: {text:?} has ids {found} instead of {}", line[1]));
            }
            let given: Vec<u32> = serde_json::from_value(line[1].clone()).unwrap();
            texts += usize::from(tokenizer.decode(&given, false).unwrap() == line[3].as_str().unwrap());
        }
        println!(
            "{name}: {renders} of {} renders; of {} lines {ids} as in transformers, {own} as in tokenizers, {texts} decoded",
            chats.len(),
            lines.len()
        );
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(30)].join("\n"));
}

/// What is wrong where an answer that is given does not stand where transformers' text has it. Only templates that
/// write a thought without content before the last answer say where that is.
fn answered(template: &ChatTemplate, chat: &Value) -> Option<String> {
    let (messages, expected) = (chat["messages"].as_array()?, chat["text"].as_str()?);
    let (last, before) = messages.split_last()?;
    let thinking = template.thinking()?;
    let answer = last["content"].as_str().filter(|_| last["role"] == "assistant" && chat["prompt"] == false)?;
    if !expected.contains(thinking.end()) || answer.contains(thinking.end()) || chat["options"].get("tools").is_some() {
        return None;
    }
    let turn = |m: &Value| Some(Message { role: m["role"].as_str()?.into(), content: m["content"].as_str()?.into() });
    let before: Vec<Message> = before.iter().map(turn).collect::<Option<_>>()?;
    let found = template.render_for_answer(&before).unwrap() + answer;
    println!("an answer that is given follows {found:?}");
    (!expected.starts_with(&found)).then(|| format!("an answer behind {found:?}, in transformers {expected:?}"))
}
