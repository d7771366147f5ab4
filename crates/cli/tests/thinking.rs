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

/// What the server at `url` sends to a chat.
fn post(url: &str, more: &Value) -> String {
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
    said.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Does something with the address of a server.
fn served<T>(dir: &Dir, options: &str, act: impl FnOnce(&str) -> T) -> T {
    let mut server = dir.start(&format!("serve --model model --port 0 --json {options}"));
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let done = act(serde_json::from_str::<Value>(&line).unwrap()["url"].as_str().unwrap());
    server.kill().unwrap();
    server.wait().unwrap();
    done
}

#[test]
fn a_variable_reaches_the_prompts_of_the_server_and_a_request_wins() {
    let dir = thinking(TEMPLATE);
    let prompt_tokens = |options: &str, more: Value| {
        let answer: Value = serde_json::from_str(&served(&dir, options, |url| post(url, &more))).unwrap();
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
    let refused = dir.refused(&format!("{EVAL} --template-var think=false"));
    assert!(refused.contains("was measured on another model"), "{refused}");
    let without = eval("--template-var think=false --force");
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
fn doctor_says_how_thoughts_are_marked() {
    let dir = thinking(TEMPLATE);
    let doctor = |more: &str| String::from_utf8(dir.eraser(&format!("doctor model {more}")).stdout).unwrap();
    let plain = doctor("");
    for told in ["begin with \"<think>\" and end with \"</think>\"", "at most 512 tokens", "begins a thought by itself"]
    {
        assert!(plain.contains(told), "{told}: {plain}");
    }
    let without = doctor("--template-var think=false");
    assert!(without.contains("under these variables the model does not think"), "{without}");
    let own = doctor("--think-end so: --max-think-tokens 9");
    assert!(own.contains("end with \"so:\"; what they begin with is not known") && own.contains("9 tokens"), "{own}");
    assert!(!doctor("--think-end none").contains("thoughts"));
}

#[test]
fn a_variable_that_the_template_does_not_read_is_told_with_its_neighbour() {
    let dir = thinking(TEMPLATE);
    let told = dir.notes("chat --model model --prompt Why? --max-new-tokens 1 --template-var thinks=false");
    assert!(
        told.contains("it does not read the variable `thinks`, which changes nothing; did you mean `think`?"),
        "{told}"
    );
    // Of a request's, one that is near to a variable is refused; others are told in the answer, streamed or not.
    let [near, other, streamed] = served(&dir, "", |url| {
        let asked = |named: Value, stream: bool| post(url, &json!({"chat_template_kwargs": named, "stream": stream}));
        [
            asked(json!({"thinks": false}), false),
            asked(json!({"xyz": 1, "think": false}), false),
            asked(json!({"xyz": 1}), true),
        ]
    });
    let near: Value = serde_json::from_str(&near).unwrap();
    assert_eq!(
        near["error"]["message"],
        "chat_template_kwargs: the template does not read \"thinks\"; did you mean \"think\"?"
    );
    let other: Value = serde_json::from_str(&other).unwrap();
    assert_eq!(other["unused_chat_template_kwargs"], json!(["xyz"]), "{other}");
    assert!(streamed.contains("\"unused_chat_template_kwargs\":[\"xyz\"]"), "{streamed}");
    let refused = dir.refused("chat --model model --prompt Why? --template-var messages=[] --template-var think");
    assert!(refused.contains("--template-var messages=[]: `messages` is no variable that can be given"), "{refused}");
    assert!(refused.contains("--template-var think: no `=`"), "{refused}");
}

#[test]
fn a_first_run_file_keeps_the_variables() {
    let dir = thinking(TEMPLATE);
    let questions: Vec<String> = (0..12).map(|i| format!("how {i}?\n")).collect();
    dir.write("questions.txt", &questions.concat());
    let how = "--template-var think=false --template-var level=low --think-end </t> --max-think-tokens 9";
    dir.done(&format!("init model --questions questions.txt -o run.toml {how}"));
    let text = dir.text("run.toml");
    let model: toml::Table = toml::from_str(&text).unwrap();
    let model = &model["model"];
    assert_eq!(model["template_vars"]["think"].as_bool(), Some(false), "{text}");
    assert_eq!(model["template_vars"]["level"].as_str(), Some("low"));
    assert_eq!((model["think_end"].as_str(), model["max_think_tokens"].as_integer()), (Some("</t>"), Some(9)));
}

/// What the tiny model says to a question in eight tokens, a byte each, and a character of it that is not its first.
fn spoken(dir: &Dir) -> (String, char) {
    let said = dir.done("chat --model model --prompt Why? --max-new-tokens 24 --greedy --json");
    let text = serde_json::from_str::<Value>(&said).unwrap()["response"].as_str().unwrap().to_owned();
    let mark = text.chars().skip(1).find(|c| c.is_ascii_graphic() && !text.starts_with(*c)).unwrap();
    (text, mark)
}

#[test]
fn the_answer_is_what_follows_the_end_of_the_thought() {
    let dir = thinking(TEMPLATE);
    let (text, mark) = spoken(&dir);
    let (thought, answer) = text.split_once(mark).unwrap();
    // The model says more than it did: what it answers has tokens of its own.
    let chat = |more: &str| -> Value {
        let all = format!("chat --model model --prompt Why? --max-new-tokens 24 --greedy --json {more}");
        serde_json::from_str(&dir.done(&all)).unwrap()
    };
    let said = chat(&format!("--think-end {mark}"));
    assert_eq!(said["thought"], thought.trim());
    assert!(said["response"].as_str().unwrap().starts_with(answer.trim()), "{said}");
    assert_eq!(said["unfinished"], false);
    assert_eq!(chat("--think-end none")["response"], text);
}

/// Such an answer was empty, and so degenerate.
#[test]
fn a_thought_that_does_not_end_is_counted_by_itself() {
    let open = "{# </think> #}{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}\
        {% if add_generation_prompt %}assistant: <think>{% endif %}";
    let dir = thinking(open);
    let eval = "eval --model model --questions seen=ask.csv --max-new-tokens 4 --max-think-tokens 6 --out run";
    let table = dir.done(&format!("{eval} --attacks direct,prefill,prefill-thought --target Sure"));
    assert!(table.contains("the thought unfinished"), "{table}");
    let unfinished = |file: &str| -> Vec<bool> {
        lines(&dir, &format!("run/eval/base/{file}.jsonl"))
            .iter()
            .map(|line| {
                let thought = line["unfinished"] == true;
                assert_eq!(line["tokens"].as_u64().unwrap() > 4, thought, "{line}");
                assert!(!thought || line["degenerate"] == false && line["response"] == "" && line["thought"] != "");
                thought
            })
            .collect()
    };
    assert_eq!(unfinished("direct"), [true; 3]);
    // The opening is that of the answer: the thought is closed before it.
    assert_eq!(unfinished("prefill"), [false; 3]);
    assert_eq!(unfinished("prefill-thought"), [true; 3]);
    let summary: Value = serde_json::from_str(&dir.text("run/summary.json")).unwrap();
    let row = |attack: &str| {
        let rows = summary["subjects"][0]["attacks"].as_array().unwrap();
        rows.iter().find(|row| row["attack"] == attack).unwrap().clone()
    };
    let direct = row("direct");
    assert_eq!(
        (&direct["unfinished"], &direct["asr"], &direct["degenerate"]),
        (&json!(1.0), &Value::Null, &json!(0.0))
    );
    assert!(direct["thought_leaks"].is_number(), "{direct}");
    assert_eq!(row("prefill")["unfinished"], Value::Null);
    dir.done("report run");
    for file in ["run/report.md", "run/report.html", "run/report.csv"] {
        assert!(dir.text(file).contains("unfinished"), "{file}");
    }
}

#[test]
fn the_opening_of_a_thought_needs_a_model_that_thinks() {
    let dir = Dir::with_model();
    let refused =
        dir.refused("eval --model model --questions seen=ask.csv --attacks prefill-thought --target Sure --out run");
    assert!(refused.contains("it is not known how thoughts of this model begin"), "{refused}");
}

#[test]
fn a_server_sends_the_thought_beside_the_answer() {
    let dir = thinking(TEMPLATE);
    let (text, mark) = spoken(&dir);
    let (thought, answer) = text.split_once(mark).unwrap();
    let chat =
        |stream: bool| json!({"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 24, "stream": stream});
    let said = served(&dir, &format!("--think-end {mark}"), |url| post(url, &chat(false)));
    let message = serde_json::from_str::<Value>(&said).unwrap()["choices"][0]["message"].clone();
    assert_eq!(message["content"], answer.trim_start());
    assert_eq!(message["reasoning_content"].as_str().unwrap_or_default(), thought.trim());
    // Streamed, a thought that the prompt begins and that does not end.
    dir.write("model/chat_template.jinja", "{# </think> #}{{ messages[0].content }}: <think>");
    let said = served(&dir, "", |url| post(url, &chat(true)));
    assert!(said.contains("\"delta\":{\"reasoning_content\":\"") && said.contains("[DONE]"), "{said}");
    assert!(!said.contains("\"delta\":{\"content\":"), "{said}");
    // A limit of thoughts was read and not used: a request's own counts both.
    let limited = |options: &str| {
        let said: Value = serde_json::from_str(&served(&dir, options, |url| post(url, &chat(false)))).unwrap();
        said["usage"]["completion_tokens"].as_u64().unwrap()
    };
    assert_eq!(limited("--max-think-tokens 3"), 3);
    assert!(limited("") > 3);
    let said = served(&dir, "--think-end none", |url| post(url, &chat(true)));
    assert!(!said.contains("reasoning_content"), "{said}");
}
