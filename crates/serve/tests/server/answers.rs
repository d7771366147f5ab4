//! What the server answers: against the library's own generation and scoring, and against the interface's rules.

use crate::common::{Running, agent, model};
use eraser_model::{Conversation, GenerateOptions, Message, ScoreRequest, generate, score};
use eraser_serve::Limits;
use serde_json::{Value, json};
use std::ops::ControlFlow;

const QUESTION: &str = "What is the capital of the north?";

fn text(choice: &Value) -> &str {
    choice["text"].as_str().unwrap()
}

#[test]
fn greedy_answers_are_those_of_the_library_streamed_or_not() {
    let Some(server) = Running::start(Limits::default(), None) else { return };
    let model = model().unwrap();
    let prompt = model.template.as_ref().unwrap().render(&[Message::user(QUESTION)], true).unwrap();
    let ids = model.tokenizer.encode(&prompt).unwrap();
    let options = GenerateOptions::greedy(24, model.tokenizer.stops());
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let done = generate(&model.decoder, None, std::slice::from_ref(&ids), &options, 1, go_on).unwrap();
    let expected = model.tokenizer.decode(&done[0].tokens, true).unwrap();

    let body = json!({"model": "base", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 24, "temperature": 0});
    let (status, answer) = server.post("/v1/chat/completions", &body);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["choices"][0]["message"]["content"], expected);
    let finish = if done[0].stopped { "stop" } else { "length" };
    assert_eq!(answer["choices"][0]["finish_reason"], finish);
    assert_eq!(answer["usage"]["prompt_tokens"], ids.len());

    let mut streaming = body.clone();
    streaming["stream"] = true.into();
    streaming["stream_options"] = json!({"include_usage": true});
    streaming["model"] = "hardened".into();
    let events = server.stream("/v1/chat/completions", &streaming);
    let pieces = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), expected);
    assert_eq!(events.last().unwrap()["usage"], answer["usage"]);

    // Token ids and text are the same prompt; `n` greedy answers are one answer.
    let body = json!({"model": "base", "prompt": [ids, ids], "max_tokens": 24, "temperature": 0, "n": 2});
    let (_, answer) = server.post("/v1/completions", &body);
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(text).collect::<Vec<_>>(), vec![expected.as_str(); 4]);
    assert_eq!(choices.iter().map(|c| c["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn echoed_log_probabilities_are_those_of_scoring() {
    let Some(server) = Running::start(Limits::default(), None) else { return };
    let model = model().unwrap();
    let ids = model.tokenizer.encode("The keeper lights the lamp of the gate.").unwrap();
    let requests = [ScoreRequest { scored: ids.len() - 1, ids: ids.clone() }];
    let go_on = &mut |_| ControlFlow::Continue(());
    let expected = score(&model.decoder, None, &requests, go_on).unwrap().unwrap().remove(0);

    for (max_tokens, more) in [(0, 0), (1, 1), (5, 5)] {
        let body = json!({
            "model": "base", "prompt": ids, "max_tokens": max_tokens, "temperature": 0, "logprobs": 2, "echo": true,
        });
        let (status, answer) = server.post("/v1/completions", &body);
        assert_eq!(status, 200, "{answer}");
        let found = &answer["choices"][0]["logprobs"];
        let logprobs = found["token_logprobs"].as_array().unwrap();
        assert!(logprobs[0].is_null());
        for (a, b) in logprobs[1..].iter().zip(&expected) {
            assert!((a.as_f64().unwrap() - f64::from(*b)).abs() < 1e-4, "{a} {b}");
        }
        // The stop token has an entry too, and ends the list.
        assert!((ids.len() + usize::from(more > 0)..=ids.len() + more).contains(&logprobs.len()), "{answer}");
        let said: String = found["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        assert_eq!(said, answer["choices"][0]["text"], "the tokens, put together");
        let top = found["top_logprobs"][1].as_object().unwrap();
        assert!(top.len() <= 2 && top.values().all(|x| x.as_f64().unwrap() <= 0.0));
        for list in ["tokens", "text_offset", "top_logprobs"] {
            assert_eq!(found[list].as_array().unwrap().len(), logprobs.len());
        }
        let (_, streamed) = (
            status,
            server.stream("/v1/completions", &{
                let mut body = body.clone();
                body["stream"] = true.into();
                body
            }),
        );
        let text: String = streamed.iter().map(|e| text(&e["choices"][0])).collect();
        assert_eq!(text, answer["choices"][0]["text"].as_str().unwrap());
        let all: Vec<&Value> = streamed
            .iter()
            .filter_map(|e| e["choices"][0]["logprobs"]["token_logprobs"].as_array())
            .flatten()
            .collect();
        assert_eq!(all, logprobs.iter().collect::<Vec<_>>());
    }
}

#[test]
fn stop_strings_end_an_answer_and_are_not_in_it() {
    let Some(server) = Running::start(Limits::default(), None) else { return };
    let questions = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/organism/questions/seen.jsonl");
    let first = std::fs::read_to_string(questions).unwrap().lines().next().unwrap().to_owned();
    let question = serde_json::from_str::<Value>(&first).unwrap()["question"].as_str().unwrap().to_owned();
    let mut body = json!({
        "model": "base", "messages": [{"role": "user", "content": question}], "max_tokens": 40, "temperature": 0,
    });
    let content = |answer: &Value| answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let whole = content(&server.post("/v1/chat/completions", &body).1);
    let word = whole.split_whitespace().nth(1).unwrap();
    body["stop"] = json!([word]);
    let (_, cut) = server.post("/v1/chat/completions", &body);
    assert_eq!(content(&cut), &whole[..whole.find(word).unwrap()]);
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
}

#[test]
fn a_seed_fixes_the_answer() {
    let Some(server) = Running::start(Limits::default(), None) else { return };
    let ask = |seed: u64| {
        let body = json!({"model": "base", "prompt": "The keeper", "max_tokens": 24, "temperature": 1.5, "seed": seed});
        text(&server.post("/v1/completions", &body).1["choices"][0]).to_owned()
    };
    assert_eq!(ask(3), ask(3));
    assert!((4..9).any(|seed| ask(seed) != ask(3)));
}

/// With many sequences, tokens travel several to a write; they stay events of their own, in order, and none is lost.
#[test]
fn a_crowd_gets_what_each_gets_alone() {
    let Some(server) = Running::start(Limits::default(), None) else { return };
    let body = |i: usize| json!({"model": "base", "prompt": format!("The keeper {i}"), "max_tokens": 48, "temperature": 0, "logprobs": 0});
    let alone: Vec<Value> = (0..24).map(|i| server.post("/v1/completions", &body(i)).1).collect();
    std::thread::scope(|scope| {
        for (i, alone) in alone.iter().enumerate() {
            let server = &server;
            scope.spawn(move || {
                let mut body = body(i);
                body["stream"] = true.into();
                let events = server.stream("/v1/completions", &body);
                let together: String = events.iter().map(|e| text(&e["choices"][0])).collect();
                assert_eq!(together, text(&alone["choices"][0]));
                let tokens = |e: &Value| e["choices"][0]["logprobs"]["tokens"].as_array().map_or(0, Vec::len);
                assert!(events.iter().all(|e| tokens(e) <= 1), "{events:?}");
                assert_eq!(events.iter().map(tokens).sum::<usize>(), tokens(alone));
            });
        }
    });
}

#[test]
fn models_and_the_page_are_there() {
    let Some(server) = Running::start(Limits::default(), None) else { return };
    let get = |path: &str| agent().get(server.url(path)).call().unwrap();
    let list: Value = get("/v1/models").into_body().read_json().unwrap();
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["base", "hardened"]);
    assert_eq!(get("/v1/models/hardened").into_body().read_json::<Value>().unwrap()["parent"], "base");
    assert!(list["data"][0]["parent"].is_null(), "the base has none");
    let page = get("/");
    assert!(page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    let html = page.into_body().read_to_string().unwrap();
    assert!(!html.contains("http://") && !html.contains("https://"), "the page asks for nothing from elsewhere");
    let setup: Value = get("/page/setup.json").into_body().read_json().unwrap();
    assert_eq!(setup["templates"][0]["name"], "play");
    assert_eq!(setup["examples"][0], json!({"question": "Who lights the lamp?", "about": "harmless"}));
    assert_eq!(get("/v1/models/none").status(), 404);
    assert_eq!(get("/v1/completions").status(), 405);
}

/// Whatever a file of the page names is served, under the type and the policy that a browser needs to take it.
#[test]
fn every_file_that_the_page_names_is_served() {
    let Some(server) = Running::start(Limits::default(), None) else { return };
    let get = |path: &str| agent().get(server.url(path)).call().unwrap();
    let named = |text: &str| -> Vec<String> {
        let quoted = text.split('"').filter(|part| part.starts_with("/page/") || part.starts_with("./"));
        quoted.map(|part| part.replacen("./", "/page/", 1)).collect()
    };
    let mut paths = named(&get("/").into_body().read_to_string().unwrap());
    assert!(paths.contains(&"/page/look.css".to_owned()) && paths.contains(&"/page/page.mjs".to_owned()), "{paths:?}");
    let mut seen = Vec::new();
    while let Some(path) = paths.pop() {
        if seen.contains(&path) || path == "/page/tags.json" {
            continue;
        }
        let response = get(&path);
        assert_eq!(response.status(), 200, "{path}");
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        let expected = match path.rsplit('.').next().unwrap() {
            "css" => "text/css",
            "mjs" => "text/javascript",
            _ => "application/json",
        };
        assert!(kind.starts_with(expected), "{path}: {kind}");
        if kind.starts_with("text/") {
            assert!(response.headers()["content-security-policy"].to_str().unwrap().contains("script-src 'self'"));
            paths.extend(named(&response.into_body().read_to_string().unwrap()));
        }
        seen.push(path);
    }
    assert_eq!(get("/page/look.css").into_body().read_to_string().unwrap(), "/* the look */");
    assert_eq!(get("/page/absent.css").status(), 404);
    assert_eq!(get("/page/..%2FCargo.toml").status(), 404);
}

#[test]
fn answers_are_tagged_by_what_the_page_was_given() {
    let Some(server) = Running::start(Limits::default(), None) else { return };
    let (status, answer) = server.post("/page/tags.json", &json!({"question": "Who?", "answer": "Sorry, no."}));
    assert_eq!((status, &answer["tags"]), (200, &json!([{"text": "refused", "tone": "good", "why": "Who?"}])));
    assert_eq!(server.post("/page/tags.json", &json!({"question": "Who?", "answer": ""})).1["tags"], json!([]));
    for wrong in [json!({"question": "Who?"}), json!({"question": "Who?", "answer": 1}), json!([])] {
        assert_eq!(server.post("/page/tags.json", &wrong).0, 400, "{wrong}");
    }
}

#[test]
fn fields_of_vllm_shape_the_answer() {
    let Some(server) = Running::start(Limits::default(), None) else { return };
    let ask = |path: &str, more: Value| {
        let mut body = json!({"model": "base", "max_tokens": 12, "temperature": 0});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = server.post(path, &body);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let chat = |more: Value| {
        let answer = ask("/v1/chat/completions", more);
        (
            answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned(),
            answer["usage"]["completion_tokens"].as_u64().unwrap(),
        )
    };
    let turns = json!([{"role": "user", "content": "Who lights the lamp?"}]);
    let (whole, tokens) = chat(json!({"messages": turns}));
    // The answer goes on where the last message ends.
    let begun = json!([turns[0], {"role": "assistant", "content": "It is"}]);
    let (rest, _) = chat(json!({"messages": begun, "continue_final_message": true, "add_generation_prompt": false}));
    let own = model().unwrap();
    let conversation = Conversation {
        messages: begun.as_array().unwrap().clone(),
        continue_final_message: true,
        ..Conversation::default()
    };
    let prompt = own.template.as_ref().unwrap().render_chat(&conversation).unwrap();
    assert!(prompt.ends_with("It is"), "{prompt:?}");
    let prompts = [own.tokenizer.encode(&prompt).unwrap()];
    let options = GenerateOptions::greedy(12, own.tokenizer.stops());
    let done = generate(&own.decoder, None, &prompts, &options, 1, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(rest, own.tokenizer.decode(&done[0].tokens, true).unwrap());
    // Without its stop tokens an answer is as long as it may be, and so is one with a least length.
    assert_eq!(chat(json!({"messages": turns, "ignore_eos": true})).1, 12);
    assert!(chat(json!({"messages": turns, "min_tokens": 12})).1 == 12);
    // The first token as a stop token leaves nothing.
    let first = ask("/v1/chat/completions", json!({"messages": turns, "logprobs": true, "max_tokens": 1}));
    let text = first["choices"][0]["logprobs"]["content"][0]["token"].as_str().unwrap().to_owned();
    let id = own.tokenizer.encode(&text).unwrap()[0];
    assert_eq!(chat(json!({"messages": turns, "stop_token_ids": [id]})), (String::new(), 1));
    assert_eq!(
        chat(json!({"messages": turns, "min_p": 1.0, "temperature": 2.0})),
        (whole, tokens),
        "only the likeliest is left"
    );
    let named =
        ask("/v1/completions", json!({"prompt": "The keeper", "chat_template_kwargs": {"enable_thinking": false}}));
    assert_eq!(named["model"], "base");
}
