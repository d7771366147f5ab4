//! Clients that leave, send nonsense, too much or too slowly. Whatever they do, the next request is answered.

use crate::common::{Running, agent};
use eraser_serve::Limits;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What a healthy client asks.
fn is_alive(server: &Running) {
    let body = json!({"model": "base", "prompt": "The keeper", "max_tokens": 2});
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!(status, 200, "{answer}");
}

/// Waits for a gauge to fall to `value`.
fn settles(server: &Running, gauge: &str, value: f64) {
    let start = Instant::now();
    while (server.metric(gauge) - value).abs() > 1e-9 {
        assert!(start.elapsed() < Duration::from_secs(20), "{gauge} is {}", server.metric(gauge));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let Some(server) = Running::start(Limits { max_tokens: 64, ..Limits::default() }, None) else { return };
    let chat = |extra: Value| {
        let mut body = json!({"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.post("/v1/chat/completions", &body)
    };
    for (extra, status, word) in [
        (json!({"model": "absent"}), 404, "hardened"),
        (json!({"max_tokens": 65}), 400, "max_tokens"),
        (json!({"max_tokens": -1}), 400, "max_tokens"),
        (json!({"max_tokens": 1.0}), 400, "max_tokens"),
        (json!({"min_tokens": 3}), 400, "min_tokens"),
        (json!({"tool_choice": "required"}), 400, "tool_choice"),
        (json!({"chat_template": "x"}), 400, "chat_template"),
        (json!({"continue_final_message": true}), 400, "continue_final_message"),
        (json!({"guided_regex": "a"}), 400, "guided_regex"),
        (json!({"repeat_penalty": 1.1}), 400, "repeat_penalty"),
        (json!({"temperature": -1}), 400, "temperature"),
        (json!({"temperature": 1e300}), 400, "temperature"),
        (json!({"top_p": 0}), 400, "top_p"),
        (json!({"n": 0}), 400, "n:"),
        (json!({"n": 1_000_000}), 400, "n:"),
        (json!({"stop": vec!["a"; 17]}), 400, "stop"),
        (json!({"stop": 3}), 400, "stop"),
        (json!({"tools": [{}]}), 400, "tools"),
        (json!({"frequency_penalty": 1}), 400, "frequency_penalty"),
        (json!({"response_format": {"type": "json_object"}}), 400, "response_format"),
        (json!({"messages": []}), 400, "messages"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), 400, "role"),
        (json!({"messages": [{"role": "user", "content": "long ".repeat(5000)}]}), 400, "room"),
        (json!({"top_logprobs": 2}), 400, "logprobs"),
        (json!({"lora": [{"id": 0, "scale": 0.5}]}), 400, "lora"),
        (json!({"enable_thinking": false}), 400, "enable_thinking"),
        (json!({"prompt": "Hi"}), 400, "prompt"),
        (json!({"stream_options": {"include_usage": "yes"}}), 400, "stream_options"),
        (json!({"chat_template_kwargs": {"continue_final_message": true}}), 400, "chat_template_kwargs"),
        (json!({"messages": [{"role": "assistant", "content": "Sure", "prefix": true}]}), 400, "prefix"),
        (json!({"messages": [{"role": "user", "content": "Hi", "images": ["aGk="]}]}), 400, "images"),
        (json!({"messages": [{"role": "assistant", "content": "", "refusal": "No."}]}), 400, "refusal"),
    ] {
        let (found, answer) = chat(extra.clone());
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(found == status && message.contains(word), "{extra}: {found} {answer}");
    }
    for body in [
        json!({"model": "base", "prompt": [999_999]}),
        json!({"model": "base", "prompt": []}),
        json!({"model": "base", "prompt": {"a": 1}}),
        json!({"model": "base", "prompt": "Hi", "max_completion_tokens": 1}),
        json!({"model": "base", "prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}]}),
    ] {
        assert_eq!(server.post("/v1/completions", &body).0, 400);
    }
    // What only annotates a request is let through.
    assert_eq!(chat(json!({"user": "u", "metadata": {}, "frequency_penalty": 0, "tools": null})).0, 200);
}

#[test]
fn a_client_that_leaves_frees_its_slot() {
    let Some(server) = Running::start(Limits { slots: 1, ..Limits::default() }, None) else { return };
    let body =
        json!({"model": "base", "prompt": "The keeper", "max_tokens": 200, "temperature": 3, "n": 4, "stream": true});
    for _ in 0..5 {
        let response = agent().post(server.url("/v1/completions")).send_json(&body).unwrap();
        let mut reader = BufReader::new(response.into_body().into_reader());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.starts_with("data: "), "{line}");
    }
    settles(&server, "sequences_active", 0.0);
    settles(&server, "sequences_waiting", 0.0);
    is_alive(&server);
}

#[test]
fn a_full_queue_asks_to_come_back() {
    let Some(server) = Running::start(Limits { slots: 1, max_waiting: 2, ..Limits::default() }, None) else { return };
    // One after the other, these take seconds; the first request may wait even if it is larger than the queue.
    let body =
        json!({"model": "base", "prompt": "The keeper", "max_tokens": 200, "temperature": 3, "n": 96, "stream": true});
    let busy = agent().post(server.url("/v1/completions")).send_json(&body).unwrap();
    let mut reader = BufReader::new(busy.into_body().into_reader());
    reader.read_line(&mut String::new()).unwrap();
    let body = json!({"model": "base", "prompt": "The keeper", "max_tokens": 2});
    let response = agent().post(server.url("/v1/completions")).send_json(&body).unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    drop(reader);
    settles(&server, "sequences_waiting", 0.0);
    is_alive(&server);
}

#[test]
fn large_slow_and_broken_bodies_end() {
    let limits = Limits { max_body: 10_000, read_timeout: Duration::from_secs(1), ..Limits::default() };
    let Some(server) = Running::start(limits, None) else { return };
    let raw = |request: &[u8]| {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
    };
    let head =
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n";
    assert!(raw(format!("{head}content-length: 104857600\r\n\r\n{{").as_bytes()).contains("413"));
    // A body that never ends its second piece.
    assert!(
        raw(format!("{head}transfer-encoding: chunked\r\n\r\n5\r\n{{\"a\":\r\n1000\r\n").as_bytes()).contains("408")
    );
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    assert!(
        raw(format!("{head}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(4)).as_bytes()).contains("413")
    );
    // Half a header, half a body, no HTTP at all.
    assert!(raw(b"POST /v1/compl").is_empty() || raw(b"POST /v1/compl").contains("40"));
    assert!(raw(format!("{head}content-length: 100\r\n\r\n{{\"model\"").as_bytes()).contains("408"));
    assert!(raw(&[0xff; 300]).contains("400"));
    assert!(
        raw(format!("{head}content-length: 2\r\n\r\n{{}}").replace("application/json", "text/plain").as_bytes())
            .contains("415")
    );
    // More senders of unknown length than are read at once: others are answered all the same.
    let slow: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n5\r\n{{\"a\":\r\n").as_bytes()).unwrap();
            stream
        })
        .collect();
    is_alive(&server);
    drop(slow);
    assert!(raw(format!("{head}transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n").as_bytes()).contains("400"));
    is_alive(&server);
}

#[test]
fn keys_origins_and_hosts_are_checked() {
    let Some(server) = Running::start(Limits::default(), Some("sk-right")) else { return };
    let status = |headers: &[(&str, &str)], path: &str| {
        let mut request = agent().get(server.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.call().unwrap().status().as_u16()
    };
    let right = ("authorization", "Bearer sk-right");
    assert_eq!(status(&[right], "/v1/models"), 200);
    for path in ["/v1/models", "/metrics", "/page/setup.json"] {
        assert_eq!(status(&[], path), 401);
        assert_eq!(status(&[("authorization", "Bearer sk-wrong")], path), 401);
    }
    assert_eq!((status(&[], "/"), status(&[], "/health")), (200, 200));
    assert_eq!(status(&[right, ("origin", "http://evil.example")], "/v1/models"), 403);
    assert_eq!(status(&[right, ("origin", &server.url(""))], "/v1/models"), 200);
    assert_eq!(status(&[right, ("host", "evil.example")], "/v1/models"), 403);
}

#[test]
fn bodies_of_any_shape_never_break_the_server() {
    let Some(server) = Running::start(Limits { max_tokens: 4, ..Limits::default() }, None) else { return };
    let bodies = [
        json!({"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "temperature": 0.5}),
        json!({"model": "hardened", "prompt": [[1, 2], [3]], "max_tokens": 1, "logprobs": 1, "echo": true, "n": 2}),
    ];
    let texts: Vec<Vec<u8>> = bodies.iter().map(|b| b.to_string().into_bytes()).collect();
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let agent = agent();
    let edit = (any::<prop::sample::Index>(), any::<u8>(), 0u8..3);
    runner
        .run(&(0usize..2, proptest::collection::vec(edit, 1..6)), |(which, edits)| {
            let mut bytes = texts[which].clone();
            for (at, byte, kind) in edits {
                let at = at.index(bytes.len().max(1)).min(bytes.len());
                match kind {
                    0 if at < bytes.len() => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => bytes.truncate(at),
                }
            }
            let path = ["/v1/chat/completions", "/v1/completions"][which];
            let response =
                agent.post(server.url(path)).header("content-type", "application/json").send(&bytes[..]).unwrap();
            let status = response.status().as_u16();
            prop_assert!(
                status == 200 || (400..500).contains(&status),
                "{}: {:?}",
                status,
                String::from_utf8_lossy(&bytes)
            );
            let _ = response.into_body().read_to_vec();
            Ok(())
        })
        .unwrap();
    settles(&server, "sequences_active", 0.0);
    is_alive(&server);
}

#[test]
fn many_clients_that_come_and_go_leave_nothing_behind() {
    let Some(server) = Running::start(Limits::default(), None) else { return };
    let end = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        for client in 0..16u64 {
            let server = &server;
            scope.spawn(move || {
                let agent = agent();
                let mut round = client;
                while Instant::now() < end {
                    round = round.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let model = if round & 1 == 0 { "base" } else { "hardened" };
                    let body = json!({"model": model, "prompt": "The keeper", "max_tokens": 40, "temperature": 1, "stream": true});
                    let response = agent.post(server.url("/v1/completions")).send_json(&body).unwrap();
                    assert_eq!(response.status().as_u16(), 200);
                    let mut lines = BufReader::new(response.into_body().into_reader()).lines();
                    let leave_after = if round >> 60 < 4 { (round >> 40) as usize % 20 } else { usize::MAX };
                    let read = lines.by_ref().take(leave_after).map_while(Result::ok).last();
                    assert!(leave_after < usize::MAX || read.is_some_and(|last| last.is_empty() || last == "data: [DONE]"));
                }
            });
        }
    });
    settles(&server, "sequences_active", 0.0);
    settles(&server, "sequences_waiting", 0.0);
    settles(&server, "connections", 1.0);
}

/// Clients that ask for much and read nothing, and clients that say nothing, more of them than there are places.
#[test]
fn clients_that_do_not_read_give_way_to_others() {
    let limits = Limits { max_connections: 32, write_timeout: Duration::from_secs(4), ..Limits::default() };
    let Some(server) = Running::start(limits, Some("sk-right")) else { return };
    let ask = "GET /page/page.mjs HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(400);
    let mut held = Vec::new();
    for i in 0..80 {
        let Ok(mut socket) = TcpStream::connect(server.address) else { continue };
        socket.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        if i % 2 == 0 {
            let _ = socket.write_all(ask.as_bytes());
        }
        held.push(socket);
    }
    for _ in 0..5 {
        let start = Instant::now();
        let status = agent().get(server.url("/health")).call().unwrap().status().as_u16();
        assert_eq!(status, 200);
        assert!(start.elapsed().as_secs() < 15, "{:?}", start.elapsed());
    }
    drop(held);
}

/// Parts of bodies; most of what they make is refused, and what is not is short.
const PARTS: [&str; 30] = [
    "\"model\":\"base\"",
    "\"model\":\"\\u0000\"",
    "\"model\":[\"base\"]",
    "\"max_tokens\":1",
    "\"max_tokens\":1e400",
    "\"max_tokens\":18446744073709551616",
    "\"prompt\":\"a\"",
    "\"prompt\":[0,4294967296]",
    "\"prompt\":[[],[[]]]",
    "\"prompt\":\"\\ud800\"",
    "\"prompt\":null",
    "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]",
    "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":{}}]}]",
    "\"messages\":{\"role\":1}",
    "\"messages\":[[[[[[[[[[1]]]]]]]]]]",
    "\"stop\":[\"\",\"\",\"\"]",
    "\"stop\":\"a\"",
    "\"logit_bias\":{\"-1\":1e300,\"99999999999\":0}",
    "\"logprobs\":true",
    "\"logprobs\":99999",
    "\"n\":0.5",
    "\"temperature\":-0.0",
    "\"temperature\":\"hot\"",
    "\"seed\":-9223372036854775808",
    "\"stream\":\"yes\"",
    "\"chat_template_kwargs\":{\"messages\":[],\"a\":{\"b\":[[[]]]}}",
    "\"tools\":[{\"type\":\"function\",\"function\":null}]",
    "\"response_format\":{\"type\":{}}",
    "\"echo\":[true]",
    "\"\":{}",
];

#[test]
fn generated_bodies_are_answered_or_refused() {
    let Some(server) = Running::start(Limits { max_tokens: 4, ..Limits::default() }, None) else { return };
    let mut state = 9_u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let agent = agent();
    let mut answered = 0;
    for case in 0..120 {
        let parts: Vec<&str> = (0..=below(6)).map(|_| PARTS[below(PARTS.len())]).collect();
        let mut body = format!("{{{}}}", parts.join(","));
        match below(8) {
            0 => body = body.replace('}', ""),
            1 => body = format!("{}{body}", "[".repeat(10_000)),
            2 => body = format!("\u{feff}{body}"),
            _ => {}
        }
        let path = ["/v1/completions", "/v1/chat/completions"][below(2)];
        let start = Instant::now();
        let sent = agent.post(server.url(path)).header("content-type", "application/json").send(body.as_bytes());
        let answer = sent.unwrap_or_else(|e| panic!("case {case}: {e}: {body:.300}"));
        let status = answer.status().as_u16();
        let _ = answer.into_body().read_to_vec();
        assert!(status == 200 || (400..500).contains(&status), "case {case}: {status}: {body:.300}");
        assert!(start.elapsed() < Duration::from_secs(10), "case {case}: {:?}", start.elapsed());
        answered += usize::from(status == 200);
    }
    assert!(answered < 120, "{answered}");
    is_alive(&server);
}
