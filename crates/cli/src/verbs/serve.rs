//! `eraser serve`: one model and its adapters behind an OpenAI-compatible interface. In: options; out: a line that says
//! where, then answers until a signal. Invariant: the key comes from the environment and is never written anywhere.

use crate::interrupt::{self, Graceful};
use crate::options::serve::ServeArgs;
use crate::output;
use crate::page::page;
use crate::progress::{Terminal, note};
use eraser_eval::attack::read_templates;
use eraser_model::{Adapter, Result};
use eraser_run::builtin::Assets;
use eraser_run::{Outcome, Problems};
use eraser_serve::{PLACEHOLDER, PageTemplate, Server, Service};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;

/// What Ctrl-C says while answers are being written.
pub(crate) fn stopping() {
    note("stopping: running answers may end first, no new ones are taken; press Ctrl-C again to stop at once");
}

/// Serves until a signal.
pub(crate) fn serve(args: &ServeArgs, json: bool) -> Outcome {
    let mut problems = Problems::default();
    let plan = args.model.plan(&mut problems);
    args.check(&mut problems);
    let key = problems.ok(args.key()).flatten();
    problems.finish(Some(()))?;
    if key.is_none() && !args.listen.host.is_loopback() {
        tracing::warn!("{} is reachable from elsewhere and asks for no key; see --key-env", args.listen.host);
    }
    let assets = Assets::InCache;
    let paths = args.templates.iter().map(|path| assets.locate(path)).collect::<Result<Vec<_>>>()?;
    let templates = read_templates(&paths)?;
    let templates = templates.iter().map(|t| PageTemplate { name: t.name.clone(), text: t.fill(PLACEHOLDER) });
    let page = page(&args.model.model, &assets, templates.collect())?;
    let model = plan.load(&assets, &mut Terminal::default())?;
    let load = |(name, dir): (&str, &Path)| -> Result<(String, Adapter)> {
        Ok((name.to_owned(), Adapter::load(dir, &model.config, model.decoder.device())?))
    };
    let (name, adapters) = args.names();
    let adapters = adapters.into_iter().map(load).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = std::iter::once(&name).chain(adapters.iter().map(|(n, _)| n)).cloned().collect();
    let service = Service { model, name, adapters, key, page, limits: args.limits.limits() };
    let grace = service.limits.grace;
    eraser_ops::threads::give_memory_back();
    let server = Server::bind(SocketAddr::new(args.listen.host, args.listen.port), service)?;
    let address = server.address()?;
    if json {
        output::json(&json!({ "url": format!("http://{address}"), "models": names }))?;
    } else {
        output::line(&format!("serving {} at http://{address}; the page is http://{address}/", names.join(", ")))?;
        note(&format!(
            "Ctrl-C stops the server: running answers get {} s to end; Ctrl-C again stops at once",
            grace.as_secs()
        ));
    }
    let graceful = Graceful::begin();
    server.run(interrupt::requested)?;
    drop(graceful);
    Ok(())
}
