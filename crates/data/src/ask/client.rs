//! The client of every server that is asked. In: requests; out: replies, as they come. Invariant: the key goes into the
//! header of requests to the one host, and nowhere else: not into errors, logs or files.
//!
//! A failure that may pass is retried: refused and lost connections, timeouts, 408, 409, 425, 429, 5xx, and replies
//! that cannot be read. Before an attempt all workers wait for what the server asks (`Retry-After`, or the reset time
//! of an exhausted `x-ratelimit-*`), and the one that failed for the back-off, which doubles each time and has jitter.

use super::trouble::{Trouble, wait};
use crate::stream;
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
    /// Base URL: the routes, as `/chat/completions`, are put behind it.
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

/// One request.
pub(super) struct Call<'a> {
    /// Behind the base URL, as `/chat/completions`; or a whole URL of the same host.
    pub(super) route: &'a str,
    /// What is posted; None: the route is only read.
    pub(super) body: Option<&'a serde_json::Value>,
    /// By these the jitter of its pauses is drawn.
    pub(super) seed: u64,
    /// Its number.
    pub(super) index: usize,
}

/// What a reply holds, by its status, its body or why that could not be read, and the pause that it asks for.
pub(super) type Read<'a, T> =
    &'a dyn Fn(u16, std::result::Result<String, Trouble>, Option<Duration>) -> std::result::Result<T, Trouble>;

/// The server, and how it is asked.
#[derive(Debug)]
pub(super) struct Client {
    base: String,
    key: Option<Key>,
    agent: ureq::Agent,
    concurrency: usize,
    attempts: usize,
    backoff: f64,
    /// No request is sent before this time.
    not_before: Mutex<Option<Instant>>,
}

impl Client {
    /// Makes the client that the options describe; the key is read from the environment.
    pub(super) fn new(options: &EndpointOptions) -> Result<Self> {
        let missing = || Error::request("the endpoint needs a base URL");
        let base = options.url.as_deref().ok_or_else(missing)?;
        let base = base.trim_end_matches('/');
        let Some(rest) = base.strip_prefix("https://").or_else(|| base.strip_prefix("http://")) else {
            return Err(Error::request(format!("endpoint {base}: not an http or https URL"))
                .hint("for example https://api.openai.com/v1, or http://127.0.0.1:8000/v1"));
        };
        if rest.split('/').next().is_some_and(|host| host.contains('@')) {
            return Err(Error::request("the endpoint's URL holds a user name or password")
                .hint("put the key into an environment variable and name that"));
        }
        if rest.contains(['?', '#']) {
            return Err(Error::request("the endpoint's URL holds a query, behind which no route can be put")
                .hint("give the base URL, as http://127.0.0.1:8000/v1, and a key by an environment variable"));
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
            base: base.to_owned(),
            key,
            agent: config.new_agent(),
            concurrency: options.concurrency.max(1),
            attempts: options.attempts.max(1),
            backoff: options.backoff,
            not_before: Mutex::new(None),
        })
    }

    /// The base URL.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The URL of a route.
    pub(super) fn url(&self, route: &str) -> String {
        if route.starts_with('/') { format!("{}{route}", self.base) } else { route.to_owned() }
    }

    /// One request, tried until it is answered; None when the work is to stop. `unanswered` is what a request that gets
    /// no answer while others do counts as; None: it ends the work.
    pub(super) fn ask<T>(
        &self,
        call: &Call<'_>,
        read: Read<'_, T>,
        unanswered: &dyn Fn() -> Option<T>,
        stop: &AtomicBool,
    ) -> Result<Option<T>> {
        let url = self.url(call.route);
        let mut attempt = 1;
        loop {
            if !self.wait(stop) {
                return Ok(None);
            }
            let trouble = match self.attempt(&url, call.body, read) {
                Ok(answer) => return Ok(Some(answer)),
                Err(trouble) => trouble,
            };
            let what = self.redacted(&trouble.what);
            if trouble.unanswered
                && attempt >= self.attempts
                && let Some(nothing) = unanswered()
            {
                tracing::warn!("endpoint {url}: {what}: this question is one without an answer");
                return Ok(Some(nothing));
            }
            if !trouble.retry || attempt >= self.attempts {
                let tries = if attempt == 1 { String::new() } else { format!(" ({attempt} attempts)") };
                let error = Error::failed(format!("endpoint {url}: {what}{tries}"));
                return Err(match trouble.hint {
                    Some(hint) => error.hint(hint),
                    None => error.hint("answers so far are kept: run the same command again to continue"),
                });
            }
            tracing::info!("endpoint: {what}; attempt {attempt} of {}", self.attempts);
            if let Some(wait) = trouble.wait {
                if wait > MOST_WAIT {
                    let seconds = wait.as_secs();
                    return Err(Error::failed(format!("endpoint {url}: {what}; the server asks to wait {seconds} s"))
                        .hint("answers so far are kept: run the same command again later"));
                }
                self.hold(wait);
            }
            let doubled = self.backoff * 2_f64.powi(i32::try_from(attempt - 1).unwrap_or(i32::MAX).min(32));
            let mut rng = stream(call.seed, "backoff", &[call.index as u64, attempt as u64]);
            let pause = doubled.min(MOST_BACKOFF) * rng.random_range(0.5..1.0);
            if !nap_until(Instant::now() + Duration::from_secs_f64(pause.max(0.0)), stop) {
                return Ok(None);
            }
            attempt += 1;
        }
    }

    /// One attempt.
    fn attempt<T>(
        &self,
        url: &str,
        body: Option<&serde_json::Value>,
        read: Read<'_, T>,
    ) -> std::result::Result<T, Trouble> {
        let authorization = match &self.key {
            Some(Key(key)) => {
                let mut value = ureq::http::HeaderValue::try_from(format!("Bearer {key}"))
                    .map_err(|_| Trouble::permanent("the key holds characters that no header can"))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let sent = match (body, authorization) {
            (Some(body), Some(value)) => self.agent.post(url).header("authorization", value).send_json(body),
            (Some(body), None) => self.agent.post(url).send_json(body),
            (None, Some(value)) => self.agent.get(url).header("authorization", value).call(),
            (None, None) => self.agent.get(url).call(),
        };
        let mut response = sent.map_err(|e| Trouble::temporary(e.to_string()))?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let wait = wait(&header);
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(MOST_BYTES).read_to_string();
        if status == 200
            && let Some(wait) = wait.filter(|wait| *wait <= MOST_WAIT)
        {
            // This request was answered; the next would be refused.
            self.hold(wait);
        }
        read(status, text.map_err(|e| Trouble::temporary(e.to_string())), wait)
    }

    /// Does `work` for each of `jobs`, as many at a time as the options allow, and gives `take` the results as they
    /// come. Stops when `alive` says so, which is an interruption.
    pub(super) fn each<T: Send>(
        &self,
        jobs: &[usize],
        work: &(dyn Fn(usize, &AtomicBool) -> Result<Option<T>> + Sync),
        take: &mut dyn FnMut(usize, T) -> Result<()>,
        alive: &mut dyn FnMut() -> bool,
    ) -> Result<bool> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, answers) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.concurrency.min(jobs.len()) {
                let (sender, next, stop) = (sender.clone(), &next, &stop);
                scope.spawn(move || {
                    while let Some(&i) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match work(i, stop) {
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
            let (mut result, mut stopped) = (Ok(()), false);
            loop {
                match answers.recv_timeout(NAP) {
                    Ok(Ok((i, answer))) => {
                        if let Err(e) = take(i, answer) {
                            stop.store(true, Ordering::Relaxed);
                            result = Err(e);
                        }
                    }
                    // The first error is reported; answers that are under way are still stored.
                    Ok(Err(e)) => result = result.and(Err(e)),
                    Err(mpsc::RecvTimeoutError::Disconnected) => return result.map(|()| !stopped),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                }
                if result.is_ok() && !stopped && !alive() {
                    stop.store(true, Ordering::Relaxed);
                    stopped = true;
                }
            }
        })
    }

    /// `text` without the key: a server may repeat what it was sent.
    pub(super) fn redacted(&self, text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> EndpointOptions {
        EndpointOptions { url: Some(url.into()), model: Some("m".into()), ..EndpointOptions::default() }
    }

    #[test]
    fn wrong_servers_are_refused() {
        let message = |o: &EndpointOptions| Client::new(o).unwrap_err().to_string();
        assert!(message(&EndpointOptions::default()).contains("base URL"));
        assert!(message(&options("ftp://x")).contains("not an http"));
        assert!(message(&options("https://a:b@x/v1")).contains("password"));
        // A route behind a query asked for nothing that is there; and a key in it would stand in errors and files.
        assert!(message(&options("https://x/v1?key=abc")).contains("query"));
        assert!(!message(&options("https://x/v1?key=abc")).contains("abc"));
        let no_key = EndpointOptions { key_env: Some("ERASER_NO_SUCH_KEY".into()), ..options("https://x/v1") };
        assert!(message(&no_key).contains("ERASER_NO_SUCH_KEY"));
    }

    #[test]
    fn the_key_is_not_shown() {
        let mut client = Client::new(&options("https://x/v1/")).unwrap();
        client.key = Some(Key("sk-secret".into()));
        assert!(!format!("{client:?}").contains("secret"));
        assert_eq!(client.redacted("no sk-secret here"), "no [key] here");
        assert_eq!(client.url("/models"), "https://x/v1/models");
    }

    #[test]
    fn a_hold_is_never_shortened_and_ends_with_the_work() {
        let client = Client::new(&options("https://x/v1")).unwrap();
        client.hold(Duration::from_mins(1));
        client.hold(Duration::ZERO);
        assert!(!client.wait(&AtomicBool::new(true)));
        assert!(client.not_before.lock().unwrap().unwrap() > Instant::now() + Duration::from_secs(50));
    }
}
