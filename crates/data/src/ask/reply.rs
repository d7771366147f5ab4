//! Requests and replies of a chat completion. In: a question; status, headers and text of what came back; out: an
//! answer, or what is wrong and whether it may pass. Invariant: a reply is an answer only if it holds the text of one;
//! nothing else is taken for an empty answer.

use super::respond::Answer;
use crate::Sampling;
use eraser_model::think::answer_of;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Most characters of a server's message that are repeated in an error.
const MOST_SAID: usize = 200;

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) what: String,
    /// Another attempt may succeed.
    pub(super) retry: bool,
    /// The server asks for this pause.
    pub(super) wait: Option<Duration>,
    pub(super) hint: Option<&'static str>,
    /// It concerns this question alone: when no attempt is left, the question is one without an answer.
    pub(super) unanswered: bool,
}

impl Trouble {
    pub(super) fn temporary(what: impl Into<String>) -> Self {
        Self { what: what.into(), retry: true, wait: None, hint: None, unanswered: false }
    }

    pub(super) fn permanent(what: impl Into<String>) -> Self {
        Self { retry: false, ..Self::temporary(what) }
    }
}

/// The body of a request. Only keys that every such server takes: top-k and the repetition penalty are not among them.
pub(super) fn request(model: &str, prompt: &str, sampling: &Sampling) -> Value {
    json!({
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    })
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<Content>,
    refusal: Option<String>,
}

/// What was said: a text, or parts of which some are text and others what the model thought.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Value>),
}

impl Content {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => {
                let texts = parts.iter().filter(|part| part["type"] == "text").filter_map(|part| part["text"].as_str());
                texts.collect()
            }
        }
    }
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: Option<usize>,
}

/// What a reply means. `text` is its body, or why that could not be read.
pub(super) fn read(status: u16, text: Result<String, Trouble>, wait: Option<Duration>) -> Result<Answer, Trouble> {
    match status {
        200 => {
            let text = text?;
            serde_json::from_str(&text)
                .map_err(|e| Trouble::temporary(format!("the reply is not a chat completion ({e}){}", message(&text))))
                .and_then(completion)
        }
        408 | 409 | 425 | 429 | 500..=599 => {
            let said = text.map(|t| said(&t)).unwrap_or_default();
            Err(Trouble { wait, ..Trouble::temporary(format!("status {status}{said}")) })
        }
        _ => {
            let text = text.unwrap_or_default();
            if status == 400 && ["content_filter", "content_policy"].iter().any(|code| text.contains(code)) {
                return Ok(Answer { refused: true, stopped: true, ..Answer::default() });
            }
            let hint = match status {
                300..=399 => Some("redirects are not followed: give the URL that this one leads to"),
                401 | 403 => Some("check the key, and the name of the environment variable that holds it"),
                404 => Some("check the base URL (it usually ends with /v1) and the name of the model"),
                _ => None,
            };
            Err(Trouble { hint, ..Trouble::permanent(format!("status {status}{}", said(&text))) })
        }
    }
}

fn completion(completion: Completion) -> Result<Answer, Trouble> {
    let tokens = completion.usage.and_then(|usage| usage.completion_tokens);
    let Some(Choice { message, finish_reason }) = completion.choices.into_iter().next() else {
        return Err(Trouble { unanswered: true, ..Trouble::temporary("the reply has no choices") });
    };
    let filtered = finish_reason.as_deref() == Some("content_filter");
    match message.content.map(Content::text).or(message.refusal.clone()) {
        Some(text) => Ok(Answer {
            text: answer_of(&text).to_owned(),
            tokens,
            stopped: finish_reason.as_deref() != Some("length"),
            refused: filtered || message.refusal.is_some(),
        }),
        // The answer was filtered, or has no text for a reason that the server does not give: this question is left out
        // and counted.
        None => Ok(Answer { tokens, stopped: true, refused: true, ..Answer::default() }),
    }
}

/// `: ` and the message of an error that came with a status of success, if there is one.
fn message(text: &str) -> String {
    let is_error = serde_json::from_str::<Value>(text).is_ok_and(|v| v.pointer("/error/message").is_some());
    if is_error { said(text) } else { String::new() }
}

/// `: ` and what the server says is wrong, in part.
fn said(text: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(text).ok();
    let message =
        parsed.as_ref().and_then(|v| v.pointer("/error/message").or(v.get("message")).and_then(Value::as_str));
    let message: String = message.unwrap_or(text).trim().chars().take(MOST_SAID).collect();
    if message.is_empty() { message } else { format!(": {message}") }
}

/// The pause that the headers of a reply ask for: `Retry-After` in seconds or as a date, else the reset time of a rate
/// limit of which nothing remains.
pub(super) fn wait<'a>(header: &dyn Fn(&str) -> Option<&'a str>) -> Option<Duration> {
    if let Some(value) = header("retry-after-ms").and_then(|v| v.trim().parse::<u64>().ok()) {
        return Some(Duration::from_millis(value));
    }
    if let Some(value) = header("retry-after") {
        return seconds(value.trim()).or_else(|| until(value.trim()));
    }
    let exhausted = |what: &str| {
        let remaining = header(&format!("x-ratelimit-remaining-{what}"))?;
        let spent = remaining.trim().parse::<f64>().is_ok_and(|n| n <= 0.0);
        if spent { header(&format!("x-ratelimit-reset-{what}")).and_then(|v| span(v.trim())) } else { None }
    };
    exhausted("requests").max(exhausted("tokens"))
}

fn seconds(text: &str) -> Option<Duration> {
    text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok())
}

/// The time until an HTTP date, none when it is past.
fn until(text: &str) -> Option<Duration> {
    let then = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(then.duration_since(jiff::Timestamp::now())).unwrap_or_default())
}

/// `20`, `1s`, `6m0s`, `1h2m3.5s` or `120ms`.
fn span(text: &str) -> Option<Duration> {
    if let Some(plain) = seconds(text) {
        return Some(plain);
    }
    let (mut total, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let (unit, len) = match rest {
            _ if rest.starts_with("ms") => (0.001, 2),
            _ if rest.starts_with('s') => (1.0, 1),
            _ if rest.starts_with('m') => (60.0, 1),
            _ if rest.starts_with('h') => (3600.0, 1),
            _ if rest.starts_with('d') => (86_400.0, 1),
            _ => return None,
        };
        total += number * unit;
        rest = &rest[len..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(total).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply(status: u16, text: &str) -> Result<Answer, Trouble> {
        read(status, Ok(text.to_owned()), None)
    }

    fn wait_for(headers: &[(&str, &'static str)]) -> Option<Duration> {
        wait(&|name| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value))
    }

    #[test]
    fn answers() {
        let text =
            r#"{"choices":[{"message":{"content":" yes "},"finish_reason":"length"}],"usage":{"completion_tokens":3}}"#;
        let expected = Answer { text: "yes".into(), tokens: Some(3), stopped: false, refused: false };
        assert_eq!(reply(200, text).unwrap(), expected);
        let refused = r#"{"choices":[{"message":{"content":null,"refusal":"No."},"finish_reason":"stop"}]}"#;
        assert!(reply(200, refused).unwrap().refused);
        let parts =
            r#"{"choices":[{"message":{"content":[{"type":"thinking","text":"hm"},{"type":"text","text":"yes"}]}}]}"#;
        assert_eq!(reply(200, parts).unwrap().text, "yes");
        let filtered = r#"{"choices":[{"message":{"content":null},"finish_reason":"content_filter"}]}"#;
        assert!(reply(200, filtered).unwrap().refused);
        assert!(reply(400, r#"{"error":{"code":"content_filter"}}"#).unwrap().refused);
    }

    #[test]
    fn what_may_pass_and_what_does_not() {
        for (status, text) in
            [(200, "{"), (200, "{}"), (200, r#"{"choices":[]}"#), (429, ""), (500, "x"), (503, "<html>")]
        {
            assert!(reply(status, text).unwrap_err().retry, "{status} {text}");
        }
        let blocked = reply(200, r#"{"choices":[]}"#).unwrap_err();
        assert!(blocked.unanswered, "one question that gets no choice at all does not end the job");
        let said = reply(200, r#"{"error":{"message":"no such route"}}"#).unwrap_err();
        assert!(said.what.ends_with(": no such route") && !said.unanswered, "{}", said.what);
        let no_text = r#"{"choices":[{"message":{"content":null},"finish_reason":"stop"}]}"#;
        assert!(reply(200, no_text).unwrap().refused, "one reply without text does not end the job");
        let denied = reply(401, r#"{"error":{"message":"wrong key"}}"#).unwrap_err();
        assert_eq!((denied.retry, denied.what.as_str(), denied.hint.is_some()), (false, "status 401: wrong key", true));
        assert!(!reply(302, "").unwrap_err().retry);
        assert!(!reply(400, "bad").unwrap_err().retry);
    }

    #[test]
    fn pauses() {
        assert_eq!(wait_for(&[("retry-after", "2")]), Some(Duration::from_secs(2)));
        assert_eq!(wait_for(&[("retry-after-ms", "20"), ("retry-after", "2")]), Some(Duration::from_millis(20)));
        assert_eq!(wait_for(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")]), Some(Duration::ZERO));
        assert!(wait_for(&[("retry-after", "Wed, 21 Oct 2065 07:28:00 GMT")]).is_some_and(|d| d.as_secs() > 1_000_000));
        assert_eq!(wait_for(&[("retry-after", "soon")]), None);
        let spent = [("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "1m0.5s")];
        assert_eq!(wait_for(&spent), Some(Duration::from_millis(60_500)));
        let left = [("x-ratelimit-remaining-requests", "5"), ("x-ratelimit-reset-requests", "1s")];
        assert_eq!(wait_for(&left), None);
        assert_eq!(span("120ms"), Some(Duration::from_millis(120)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_a_server_says_panics(status in 100_u16..600, text in "\\PC{0,60}", header in "[0-9hms.de+-]{0,12}|\\PC{0,12}") {
            let _ = reply(status, &text);
            let _ = (span(&header), seconds(&header), until(&header));
        }
    }
}
