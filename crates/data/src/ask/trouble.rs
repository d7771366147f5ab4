//! What is wrong with a reply, and how long the server asks to wait. In: status, headers and text of what came back;
//! out: its body, or what is wrong and whether it may pass. Invariant: a body is given only of a reply of success.

use serde_json::Value;
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

/// The body of a reply of success. `text` is what was read, or why that was not possible.
pub(super) fn body(status: u16, text: Result<String, Trouble>, wait: Option<Duration>) -> Result<String, Trouble> {
    match status {
        200 => text,
        408 | 409 | 425 | 429 | 500..=599 => {
            let said = text.map(|t| said(&t)).unwrap_or_default();
            Err(Trouble { wait, ..Trouble::temporary(format!("status {status}{said}")) })
        }
        _ => {
            let text = text.unwrap_or_default();
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

/// `: ` and the message of an error that came with a status of success, if there is one.
pub(super) fn message(text: &str) -> String {
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

    fn wait_for(headers: &[(&str, &'static str)]) -> Option<Duration> {
        wait(&|name| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value))
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
        fn no_status_and_no_header_panics(
            status in 100_u16..600,
            text in "\\PC{0,60}",
            header in "[0-9hms.de+-]{0,12}|\\PC{0,12}",
        ) {
            let _ = (body(status, Ok(text), None), span(&header), seconds(&header), until(&header));
        }
    }
}
