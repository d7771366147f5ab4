//! `eraser serve`.

use super::model::ModelArgs;
use clap::{Args, ValueHint};
use eraser_model::{Adapter, Error, Result};
use eraser_run::Problems;
use eraser_serve::Limits;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

/// Options of `eraser serve`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Routes: /v1/models, /v1/completions, /v1/chat/completions, /metrics, /health, and / for the web \
                        page. Ctrl-C lets running answers end."
)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Adapter, a PEFT directory or a GGUF file, served beside the base model under NAME [default name: hardened]
    #[arg(long = "adapter", short = 'a', value_name = "[NAME=]PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) adapters: Vec<String>,
    /// Name of the base model [default: the last part of --model]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Jailbreak templates that the web page offers: files or directories, with commas or repeated;
    /// `builtin/templates/seen` has some
    #[arg(long, alias = "template", value_name = "PATH", value_delimiter = ',')]
    pub(crate) templates: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// Where to listen.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Listening")]
pub(crate) struct ListenArgs {
    /// Address or name; anything but loopback is reachable from elsewhere and should have a key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = host)]
    pub(crate) host: IpAddr,
    /// Port; 0 takes a free one
    #[arg(long, value_name = "N", default_value = "8000")]
    pub(crate) port: u16,
    /// Environment variable that holds the key clients must send [default: no key is asked for]
    #[arg(long, value_name = "NAME")]
    pub(crate) key_env: Option<String>,
}

/// An address, or that of a name, IPv4 first.
fn host(text: &str) -> std::result::Result<IpAddr, String> {
    if let Ok(address) = text.trim_matches(['[', ']']).parse() {
        return Ok(address);
    }
    let found = (text, 0).to_socket_addrs().map_err(|e| format!("not an address, and no name that is known: {e}"))?;
    let mut addresses: Vec<IpAddr> = found.map(|found| found.ip()).collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses.first().copied().ok_or_else(|| "the name has no address".to_owned())
}

/// What is taken at most.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Sequences that run at once: more gives more tokens per second in all, and fewer to each
    #[arg(long, value_name = "N", default_value = "32")]
    pub(crate) slots: usize,
    /// Memory of keys and values of running sequences, MB
    #[arg(long, value_name = "MB", default_value = "2048")]
    pub(crate) cache_mb: usize,
    /// Most new tokens of one answer
    #[arg(long, value_name = "N", default_value = "1024")]
    pub(crate) max_tokens: usize,
    /// Sequences that may wait for a slot; further requests are answered with status 429
    #[arg(long, value_name = "N", default_value = "256")]
    pub(crate) max_waiting: usize,
    /// Largest body, MB
    #[arg(long, value_name = "MB", default_value = "4")]
    pub(crate) max_body_mb: usize,
}

impl ServeArgs {
    /// The base model's name, and the adapters with theirs.
    pub(crate) fn names(&self) -> (String, Vec<(&str, &Path)>) {
        let name = self.name.clone().unwrap_or_else(|| base_name(&self.model.model));
        (name, self.adapters.iter().map(|spec| named(spec)).collect())
    }

    /// Notes limits of 0, names that two models would have, and adapters that are not there.
    pub(crate) fn check(&self, problems: &mut Problems) {
        let limits = &self.limits;
        let positive = [
            ("slots", limits.slots),
            ("cache-mb", limits.cache_mb),
            ("max-tokens", limits.max_tokens),
            ("max-body-mb", limits.max_body_mb),
        ];
        for (flag, _) in positive.iter().filter(|(_, value)| *value == 0) {
            problems.push(Error::request(format!("--{flag}: must be at least 1")));
        }
        let (name, adapters) = self.names();
        let mut names = vec![name.as_str()];
        for (name, dir) in adapters {
            if names.contains(&name) {
                let error = Error::request(format!("--adapter: two models would have the name `{name}`"));
                problems.push(error.hint("give each a name: --adapter NAME=DIR"));
            }
            names.push(name);
            if let Err(e) = Adapter::check_path(dir) {
                problems.push(e.context("--adapter"));
            }
        }
    }

    /// The key that clients must send, from the environment.
    ///
    /// # Errors
    /// A variable that is not set.
    pub(crate) fn key(&self) -> Result<Option<String>> {
        let Some(variable) = &self.listen.key_env else { return Ok(None) };
        match std::env::var(variable).map(|key| key.trim().to_owned()) {
            Ok(key) if !key.is_empty() => Ok(Some(key)),
            _ => Err(Error::request(format!("--key-env: the environment variable {variable} is not set"))
                .hint(format!("set {variable} to the key, or leave the option out"))),
        }
    }
}

impl LimitArgs {
    /// The limits as the server takes them.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            slots: self.slots,
            cache_bytes: self.cache_mb << 20,
            max_tokens: self.max_tokens,
            max_waiting: self.max_waiting,
            max_body: self.max_body_mb << 20,
            ..Limits::default()
        }
    }
}

/// The last part of a path or hub name, without `.gguf`.
fn base_name(spec: &str) -> String {
    let last = Path::new(spec).file_name().map_or_else(|| "base".into(), |name| name.to_string_lossy());
    last.strip_suffix(".gguf").unwrap_or(&last).to_owned()
}

/// `NAME=DIR`, or a directory alone.
fn named(spec: &str) -> (&str, &Path) {
    match spec.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !name.contains(['/', '\\']) => (name, Path::new(dir)),
        _ => ("hardened", Path::new(spec)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_have_names() {
        assert_eq!(named("a=runs/x/adapter"), ("a", Path::new("runs/x/adapter")));
        assert_eq!(named("runs/x=1/adapter"), ("hardened", Path::new("runs/x=1/adapter")));
        assert_eq!(base_name("models/smollm2.gguf"), "smollm2");
        assert_eq!(base_name("org/name"), "name");
        assert_eq!(base_name("builtin"), "builtin");
    }

    #[test]
    fn a_host_is_an_address_or_a_name() {
        assert!(host("localhost").unwrap().is_loopback());
        assert_eq!(host("0.0.0.0").unwrap().to_string(), "0.0.0.0");
        assert!(host("[::1]").unwrap().is_loopback());
        assert!(host("no such name").is_err());
    }
}
