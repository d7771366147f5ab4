//! Results on stdout. In: text or values; out: whole lines. Invariant: a reader that went away (`| head`) is not an
//! error: what is left of the work goes on without it.

use eraser_model::{Error, Result};
use serde::Serialize;
use std::io::{ErrorKind, Write as _};

/// Writes `text` and flushes.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::failed(format!("cannot write to stdout: {e}"))),
        _ => Ok(()),
    }
}

/// Writes one line.
pub(crate) fn line(line: &str) -> Result<()> {
    text(&format!("{line}\n"))
}

/// Writes `value` as one line of JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<()> {
    line(&serde_json::to_string(value).map_err(|e| Error::failed(format!("cannot write JSON: {e}")))?)
}
