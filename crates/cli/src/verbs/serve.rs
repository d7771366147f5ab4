//! `eraser serve`: one model and its adapters behind an OpenAI-compatible interface. In: options; out: a line that says
//! where, then answers until a signal. Invariant: the key comes from the environment and is never written anywhere.

use crate::interrupt::{self, Graceful};
use crate::options::serve::ServeArgs;
use crate::output;
use crate::progress::Terminal;
use eraser_eval::attack::read_templates;
use eraser_model::{Adapter, Error, Result};
use eraser_run::builtin::Assets;
use eraser_run::{Outcome, Problems};
use eraser_serve::{Limits, PLACEHOLDER, PageTemplate, Server, Service};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;

/// Serves until a signal.
pub(crate) fn serve(args: &ServeArgs, json: bool) -> Outcome {
    let mut problems = Problems::default();
    let plan = args.model.plan(&mut problems);
    let name = args.name.clone().unwrap_or_else(|| base_name(&args.model.model));
    let adapters: Vec<(&str, &Path)> = args.adapters.iter().map(|spec| named(spec)).collect();
    check(args, &name, &adapters, &mut problems);
    let key = problems.ok(read_key(args.listen.key_env.as_deref())).flatten();
    problems.finish(Some(()))?;
    if key.is_none() && !args.listen.host.is_loopback() {
        tracing::warn!("{} is reachable from elsewhere and asks for no key; see --key-env", args.listen.host);
    }
    let assets = Assets::InCache;
    let paths = args.templates.iter().map(|path| assets.locate(path)).collect::<Result<Vec<_>>>()?;
    let templates = read_templates(&paths)?;
    let templates = templates.iter().map(|t| PageTemplate { name: t.name.clone(), text: t.fill(PLACEHOLDER) });
    let model = plan.load(&assets, &mut Terminal::default())?;
    let load = |(name, dir): (&str, &Path)| -> Result<(String, Adapter)> {
        Ok((name.to_owned(), Adapter::load(dir, &model.config, model.decoder.device())?))
    };
    let adapters = adapters.into_iter().map(load).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = std::iter::once(&name).chain(adapters.iter().map(|(n, _)| n)).cloned().collect();
    let limits = &args.limits;
    let limits = Limits {
        slots: limits.slots,
        cache_bytes: limits.cache_mb << 20,
        max_tokens: limits.max_tokens,
        max_waiting: limits.max_waiting,
        max_body: limits.max_body_mb << 20,
        ..Limits::default()
    };
    let service = Service { model, name, adapters, key, templates: templates.collect(), limits };
    eraser_ops::threads::give_memory_back();
    let server = Server::bind(SocketAddr::new(args.listen.host, args.listen.port), service)?;
    let address = server.address()?;
    if json {
        output::json(&json!({ "url": format!("http://{address}"), "models": names }))?;
    } else {
        output::line(&format!("serving {} at http://{address}; the page is http://{address}/", names.join(", ")))?;
    }
    let graceful = Graceful::begin();
    server.run(interrupt::requested)?;
    drop(graceful);
    Ok(())
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

fn check(args: &ServeArgs, name: &str, adapters: &[(&str, &Path)], problems: &mut Problems) {
    let limits = &args.limits;
    let positive = [
        ("slots", limits.slots),
        ("cache-mb", limits.cache_mb),
        ("max-tokens", limits.max_tokens),
        ("max-body-mb", limits.max_body_mb),
    ];
    for (flag, _) in positive.iter().filter(|(_, value)| *value == 0) {
        problems.push(Error::request(format!("--{flag}: must be at least 1")));
    }
    let mut names = vec![name];
    for (name, dir) in adapters {
        if names.contains(name) {
            let error = Error::request(format!("--adapter: two models would be called `{name}`"));
            problems.push(error.hint("give each a name: --adapter NAME=DIR"));
        }
        names.push(name);
        if !dir.is_dir() {
            let error = Error::request(format!("--adapter: {} is not a directory", dir.display()));
            problems.push(error.hint("a PEFT adapter is a directory with adapter_config.json; a run's is RUN/adapter"));
        }
    }
}

fn read_key(variable: Option<&str>) -> Result<Option<String>> {
    let Some(variable) = variable else { return Ok(None) };
    match std::env::var(variable).map(|key| key.trim().to_owned()) {
        Ok(key) if !key.is_empty() => Ok(Some(key)),
        _ => Err(Error::request(format!("--key-env: the environment variable {variable} is not set"))
            .hint(format!("set {variable} to the key, or leave the option out"))),
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
}
