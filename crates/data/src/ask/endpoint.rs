//! A server that speaks the chat completions of OpenAI. In: user turns; out: answers, as they come. Invariant: the key
//! goes into the header of requests to the one host, and nowhere else: not into errors, logs or files.
//!
//! A failure that may pass is retried: refused and lost connections, timeouts, 408, 409, 425, 429, 5xx, and replies
//! that cannot be read. Before an attempt all workers wait for what the server asks (`Retry-After`, or the reset time
//! of an exhausted `x-ratelimit-*`), and the one that failed for the back-off, which doubles each time and has jitter.

use super::reply::{self, Trouble};
use super::respond::{Answer, Respond, Sink, interrupted};
use crate::{Sampling, stream};
use eraser_model::{Error, Result};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// The longest pause between attempts that comes from the back-off.
const MOST_BACKOFF: f64 = 60.0;
/// The longest pause that a server may ask for; a longer one ends the work.
const MOST_WAIT: Duration = Duration::from_mins(10);
/// Largest reply, in bytes.
const MOST_BYTES: u64 = 8 << 20;
/// A wait checks this often whether the work is to stop.
const NAP: Duration = Duration::from_millis(50);

/// The secret of an endpoint. It has no `Display`, and its `Debug` does not show it.
struct Key(String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Which server, and how to ask it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointOptions {
    /// Base URL: `/chat/completions` is put behind it.
    pub url: Option<String>,
    /// Model that is asked for.
    pub model: Option<String>,
    /// Environment variable that holds the key; None: no key is sent.
    pub key_env: Option<String>,
    /// Requests under way at a time.
    pub concurrency: usize,
    /// Seconds after which a request is given up.
    pub timeout: f64,
    /// Attempts at a request before the work stops.
    pub attempts: usize,
    /// Seconds before the second attempt; doubled with every further one.
    pub backoff: f64,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self { url: None, model: None, key_env: None, concurrency: 4, timeout: 120.0, attempts: 8, backoff: 0.5 }
    }
}

/// The server, and how it is asked.
#[derive(Debug)]
pub struct Endpoint {
    url: String,
    model: String,
    key: Option<Key>,
    agent: ureq::Agent,
    concurrency: usize,
    attempts: usize,
    backoff: f64,
    /// No request is sent before this time.
    not_before: Mutex<Option<Instant>>,
}

impl Endpoint {
    /// Makes the endpoint that the options describe; the key is read from the environment.
    pub fn new(options: &EndpointOptions) -> Result<Self> {
        let missing = |what: &str| Error::request(format!("the endpoint needs {what}"));
        let base = options.url.as_deref().ok_or_else(|| missing("a base URL"))?;
        let model = options.model.clone().ok_or_else(|| missing("the name of a model"))?;
        let base = base.trim_end_matches('/');
        let Some(rest) = base.strip_prefix("https://").or_else(|| base.strip_prefix("http://")) else {
            return Err(Error::request(format!("endpoint {base}: not an http or https URL"))
                .hint("for example https://api.openai.com/v1, or http://127.0.0.1:8000/v1"));
        };
        if rest.split('/').next().is_some_and(|host| host.contains('@')) {
            return Err(Error::request("the endpoint's URL holds a user name or password")
                .hint("put the key into an environment variable and name that"));
        }
        let key = options.key_env.as_deref().map(read_key).transpose()?;
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        if key.is_some() && base.starts_with("http://") && !matches!(host, "localhost" | "127.0.0.1" | "[") {
            tracing::warn!("{base}: the key is sent without encryption");
        }
        let timeout = Duration::try_from_secs_f64(options.timeout)
            .map_err(|_| Error::request("the endpoint's timeout is not a number of seconds"))?;
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            // A redirect could take the question, or the key, to another host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("eraser/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            url: format!("{base}/chat/completions"),
            model,
            key,
            agent: config.new_agent(),
            concurrency: options.concurrency.max(1),
            attempts: options.attempts.max(1),
            backoff: options.backoff,
            not_before: Mutex::new(None),
        })
    }

    /// One question, tried until it is answered.
    fn answer(&self, index: usize, prompt: &str, sampling: &Sampling, stop: &AtomicBool) -> Result<Option<Answer>> {
        let body = reply::request(&self.model, prompt, sampling);
        let mut attempt = 1;
        loop {
            if !self.wait(stop) {
                return Ok(None);
            }
            let trouble = match self.attempt(&body) {
                Ok(answer) => return Ok(Some(answer)),
                Err(trouble) => trouble,
            };
            let what = self.redacted(&trouble.what);
            if trouble.unanswered && attempt >= self.attempts {
                tracing::warn!("endpoint {}: {what}: this question is one without an answer", self.url);
                return Ok(Some(Answer { refused: true, stopped: true, ..Answer::default() }));
            }
            if !trouble.retry || attempt >= self.attempts {
                let tries = if attempt == 1 { String::new() } else { format!(" ({attempt} attempts)") };
                let error = Error::failed(format!("endpoint {}: {what}{tries}", self.url));
                return Err(match trouble.hint {
                    Some(hint) => error.hint(hint),
                    None => error.hint("answers so far are kept: run the same command again to continue"),
                });
            }
            tracing::info!("endpoint: {what}; attempt {attempt} of {}", self.attempts);
            if let Some(wait) = trouble.wait {
                if wait > MOST_WAIT {
                    let seconds = wait.as_secs();
                    return Err(Error::failed(format!(
                        "endpoint {}: {what}; the server asks to wait {seconds} s",
                        self.url
                    ))
                    .hint("answers so far are kept: run the same command again later"));
                }
                self.hold(wait);
            }
            let doubled = self.backoff * 2_f64.powi(i32::try_from(attempt - 1).unwrap_or(i32::MAX).min(32));
            let mut rng = stream(sampling.seed, "backoff", &[index as u64, attempt as u64]);
            let pause = doubled.min(MOST_BACKOFF) * rng.random_range(0.5..1.0);
            if !nap_until(Instant::now() + Duration::from_secs_f64(pause.max(0.0)), stop) {
                return Ok(None);
            }
            attempt += 1;
        }
    }

    /// One request.
    fn attempt(&self, body: &serde_json::Value) -> std::result::Result<Answer, Trouble> {
        let mut request = self.agent.post(&self.url);
        if let Some(Key(key)) = &self.key {
            let mut value = ureq::http::HeaderValue::try_from(format!("Bearer {key}"))
                .map_err(|_| Trouble::permanent("the key holds characters that no header can"))?;
            value.set_sensitive(true);
            request = request.header("authorization", value);
        }
        let mut response = request.send_json(body).map_err(|e| Trouble::temporary(e.to_string()))?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let wait = reply::wait(&header);
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(MOST_BYTES).read_to_string();
        if status == 200
            && let Some(wait) = wait.filter(|wait| *wait <= MOST_WAIT)
        {
            // This request was answered; the next would be refused.
            self.hold(wait);
        }
        let text = text.map_err(|e| Trouble::temporary(e.to_string()));
        let mut answer = reply::read(status, text, wait)?;
        answer.text = self.redacted(&answer.text);
        Ok(answer)
    }

    /// `text` without the key: a server may repeat what it was sent.
    fn redacted(&self, text: &str) -> String {
        match &self.key {
            Some(Key(key)) => text.replace(key.as_str(), "[key]"),
            None => text.to_owned(),
        }
    }

    /// Makes every worker wait this long before its next request.
    fn hold(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = Some(not_before.map_or(until, |earlier| earlier.max(until)));
    }

    /// Waits until a request may be sent; false when the work is to stop.
    fn wait(&self, stop: &AtomicBool) -> bool {
        loop {
            let until = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
            match until.filter(|until| *until > Instant::now()) {
                // The pause may have been made longer meanwhile.
                Some(until) if nap_until(until, stop) => {}
                Some(_) => return false,
                None => return !stop.load(Ordering::Relaxed),
            }
        }
    }
}

/// The key in the environment variable `name`.
fn read_key(name: &str) -> Result<Key> {
    let valid = !name.is_empty() && !name.contains(['=', '\0']);
    match valid.then(|| std::env::var(name).ok()).flatten().filter(|key| !key.trim().is_empty()) {
        Some(key) => Ok(Key(key.trim().to_owned())),
        None => Err(Error::request(format!("the environment variable `{name}` for the endpoint's key is not set"))
            .hint("set it to the key; the option takes the name of the variable, never the key")),
    }
}

/// Sleeps until that time; false when the work is to stop.
fn nap_until(until: Instant, stop: &AtomicBool) -> bool {
    while !stop.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(NAP));
    }
    false
}

impl Respond for Endpoint {
    fn fingerprint(&self) -> String {
        format!("{} {}", self.url, self.model)
    }

    fn respond(&self, prompts: &[&str], wanted: &[bool], sampling: &Sampling, sink: &mut dyn Sink) -> Result<()> {
        let jobs: Vec<usize> = (0..prompts.len()).filter(|i| wanted[*i]).collect();
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, answers) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.concurrency.min(jobs.len()) {
                let (sender, jobs, next, stop) = (sender.clone(), &jobs, &next, &stop);
                scope.spawn(move || {
                    while let Some(&i) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match self.answer(i, prompts[i], sampling, stop) {
                            // The receiver lives as long as this scope.
                            Ok(Some(answer)) => drop(sender.send(Ok((i, answer)))),
                            Ok(None) => return,
                            Err(e) => {
                                stop.store(true, Ordering::Relaxed);
                                drop(sender.send(Err(e)));
                                return;
                            }
                        }
                    }
                });
            }
            drop(sender);
            let mut result = Ok(());
            loop {
                match answers.recv_timeout(NAP) {
                    Ok(Ok((i, answer))) => {
                        sink.tokens(answer.tokens.unwrap_or(0));
                        if let Err(e) = sink.take(i, answer) {
                            stop.store(true, Ordering::Relaxed);
                            result = Err(e);
                        }
                    }
                    // The first error is reported; answers that are under way are still stored.
                    Ok(Err(e)) => result = result.and(Err(e)),
                    Err(mpsc::RecvTimeoutError::Disconnected) => return result,
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                }
                if result.is_ok() && !sink.alive() {
                    stop.store(true, Ordering::Relaxed);
                    result = Err(interrupted());
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> EndpointOptions {
        EndpointOptions { url: Some(url.into()), model: Some("m".into()), ..EndpointOptions::default() }
    }

    #[test]
    fn wrong_endpoints_are_refused() {
        let message = |o: &EndpointOptions| Endpoint::new(o).unwrap_err().to_string();
        assert!(message(&EndpointOptions::default()).contains("base URL"));
        assert!(message(&options("ftp://x")).contains("not an http"));
        assert!(message(&options("https://a:b@x/v1")).contains("password"));
        let no_key = EndpointOptions { key_env: Some("ERASER_NO_SUCH_KEY".into()), ..options("https://x/v1") };
        assert!(message(&no_key).contains("ERASER_NO_SUCH_KEY"));
    }

    #[test]
    fn the_key_is_not_shown() {
        let mut endpoint = Endpoint::new(&options("https://x/v1/")).unwrap();
        endpoint.key = Some(Key("sk-secret".into()));
        assert!(!format!("{endpoint:?}").contains("secret"));
        assert_eq!(endpoint.redacted("no sk-secret here"), "no [key] here");
        assert_eq!(endpoint.fingerprint(), "https://x/v1/chat/completions m");
    }

    #[test]
    fn a_hold_is_never_shortened_and_ends_with_the_work() {
        let endpoint = Endpoint::new(&options("https://x/v1")).unwrap();
        endpoint.hold(Duration::from_mins(1));
        endpoint.hold(Duration::ZERO);
        assert!(!endpoint.wait(&AtomicBool::new(true)));
        assert!(endpoint.not_before.lock().unwrap().unwrap() > Instant::now() + Duration::from_secs(50));
    }
}
