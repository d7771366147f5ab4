//! `eraser serve`.

use super::model::ModelArgs;
use clap::{Args, ValueHint};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::PathBuf;

/// Options of `eraser serve`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Routes: /v1/models, /v1/completions, /v1/chat/completions, /metrics, /health, and / for the web \
                        page. Ctrl-C lets running answers end."
)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// PEFT adapter, served beside the base model under NAME [default name: hardened]
    #[arg(long = "adapter", short = 'a', value_name = "[NAME=]DIR", value_hint = ValueHint::DirPath)]
    pub(crate) adapters: Vec<String>,
    /// Name of the base model [default: the last part of --model]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Jailbreak templates that the web page offers: files or directories; `builtin/templates` has some
    #[arg(long, value_name = "PATH")]
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

/// An address, or what a name stands for, IPv4 first.
fn host(text: &str) -> Result<IpAddr, String> {
    if let Ok(address) = text.trim_matches(['[', ']']).parse() {
        return Ok(address);
    }
    let found = (text, 0).to_socket_addrs().map_err(|e| format!("not an address, and no name that is known: {e}"))?;
    let mut addresses: Vec<IpAddr> = found.map(|found| found.ip()).collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses.first().copied().ok_or_else(|| "the name stands for no address".to_owned())
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
    /// Sequences that may wait for a slot; the next gets 429
    #[arg(long, value_name = "N", default_value = "256")]
    pub(crate) max_waiting: usize,
    /// Largest body, MB
    #[arg(long, value_name = "MB", default_value = "4")]
    pub(crate) max_body_mb: usize,
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn a_host_is_an_address_or_a_name() {
        assert!(host("localhost").unwrap().is_loopback());
        assert_eq!(host("0.0.0.0").unwrap().to_string(), "0.0.0.0");
        assert!(host("[::1]").unwrap().is_loopback());
        assert!(host("no such name").is_err());
    }
}
