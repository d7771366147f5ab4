//! Models that think before they answer: variables of the template, thoughts apart from answers.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, EVAL, TRAIN};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

/// Thinks unless `think` is false: then it writes a thought without content.
const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}\
    {% if add_generation_prompt %}assistant: {% if think is defined and think is false %}<think></think>{% endif %}{% endif %}";
/// The bytes, and so tokens of the tiny model, of a thought without content.
const EMPTY: u64 = 15;

fn thinking(template: &str) -> Dir {
    let dir = Dir::with_model();
    dir.write("model/chat_template.jinja", template);
    dir
}

fn lines(dir: &Dir, file: &str) -> Vec<Value> {
    dir.text(file).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the server at `url` answers to a chat.
fn ask(url: &str, more: &Value) -> Value {
    let address = url.trim_start_matches("http://").trim();
    let mut body = json!({"messages": [{"role": "user", "content": "how 0?"}], "max_tokens": 1, "temperature": 0});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    serde_json::from_str(said.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn a_variable_reaches_the_prompts_of_the_server_and_a_request_wins() {
    let dir = thinking(TEMPLATE);
    let prompt_tokens = |options: &str, more: Value| {
        let mut server = dir.start(&format!("serve --model model --port 0 --json {options}"));
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = serde_json::from_str::<Value>(&line).unwrap()["url"].as_str().unwrap().to_owned();
        let answer = ask(&url, &more);
        server.kill().unwrap();
        server.wait().unwrap();
        answer["usage"]["prompt_tokens"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    };
    let plain = prompt_tokens("", json!({}));
    assert_eq!(prompt_tokens("--template-var think=false", json!({})), plain + EMPTY);
    let wins = json!({"chat_template_kwargs": {"think": true}});
    assert_eq!(prompt_tokens("--template-var think=false", wins), plain);
    assert_eq!(prompt_tokens("", json!({"chat_template_kwargs": {"think": false}})), plain + EMPTY);
}

/// Answers to prompts without the variable were found again, and training went on with another template.
#[test]
fn a_variable_is_a_setting_of_what_is_trained_and_evaluated() {
    let dir = thinking(TEMPLATE);
    dir.done(&format!("{TRAIN} --steps 2 --out run --template-var think=false"));
    let refused = dir.refused(&format!("{TRAIN} --steps 2 --out run --resume"));
    assert!(refused.contains("chat_template was hash "), "{refused}");
    dir.done(&format!("{TRAIN} --steps 2 --out run --resume --template-var think=false"));
    let eval = |more: &str| {
        dir.done(&format!("{EVAL} {more}"));
        lines(&dir, "run/eval/eraser/direct.jsonl")
    };
    let plain = eval("");
    let without = eval("--template-var think=false");
    assert_eq!(plain.len(), without.len());
    for (a, b) in plain.iter().zip(&without) {
        assert_ne!(a["subject"], b["subject"]);
        assert_ne!(a["fingerprint"], b["fingerprint"]);
    }
    let manifest: Value = serde_json::from_str(&dir.text("run/manifest.json")).unwrap();
    let recorded = manifest["artefacts"]["adapter"]["options"]["model"]["template_vars"].clone();
    assert_eq!(recorded, json!({"think": false}), "{manifest}");
    assert_eq!(eval("--template-var think=false"), without);
}

#[test]
fn a_variable_that_the_template_does_not_read_is_told_with_its_neighbour() {
    let dir = thinking(TEMPLATE);
    let told = dir.notes("chat --model model --prompt Why? --max-new-tokens 1 --template-var thinks=false");
    assert!(told.contains("it does not read the variable `thinks`, which changes nothing; did you mean `think`?"), "{told}");
    let refused = dir.refused("chat --model model --prompt Why? --template-var messages=[] --template-var think");
    assert!(refused.contains("--template-var messages=[]: `messages` is no variable that can be given"), "{refused}");
    assert!(refused.contains("--template-var think: no `=`"), "{refused}");
}

#[test]
fn a_first_run_file_keeps_the_variables() {
    let dir = thinking(TEMPLATE);
    let ten: String = (0..12).map(|i| format!("how {i}?\n")).collect();
    dir.write("questions.txt", &ten);
    let how = "--template-var think=false --template-var level=low --think-end </t> --max-think-tokens 9";
    dir.done(&format!("init model --questions questions.txt -o run.toml {how}"));
    let text = dir.text("run.toml");
    let model: toml::Table = toml::from_str(&text).unwrap();
    let model = &model["model"];
    assert_eq!(model["template_vars"]["think"].as_bool(), Some(false), "{text}");
    assert_eq!(model["template_vars"]["level"].as_str(), Some("low"));
    assert_eq!((model["think_end"].as_str(), model["max_think_tokens"].as_integer()), (Some("</t>"), Some(9)));
}
