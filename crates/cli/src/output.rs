//! Results on stdout. In: text or values; out: whole lines. Invariant: a reader that went away (`| head`) is not an
//! error: what is left of the work goes on without it.

use eraser_model::{Error, Result};
use serde::Serialize;
use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, StdoutLock, Write as _};

/// Writes `text` and flushes. What a model wrote can hold sequences that a terminal acts on: it gets none of them.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let text = if out.is_terminal() { harmless(text) } else { text.into() };
    write(&mut out, &text)
}

fn write(out: &mut StdoutLock<'_>, text: &str) -> Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::failed(format!("cannot write to stdout: {e}"))),
        _ => Ok(()),
    }
}

/// Whether a stream is a terminal that wants colours.
pub(crate) fn coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// As [`text`], dimmed in a terminal: what a model thought before it answered.
pub(crate) fn dimmed(thought: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if thought.is_empty() || !coloured(&out) {
        drop(out);
        return text(thought);
    }
    write(&mut out, &format!("\x1b[2m{}\x1b[0m", harmless(thought)))
}

/// `text` with U+FFFD for every control character but line ends and tabs.
fn harmless(text: &str) -> Cow<'_, str> {
    let control = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(control) { text.replace(control, "\u{fffd}").into() } else { text.into() }
}

/// Writes one line.
pub(crate) fn line(line: &str) -> Result<()> {
    text(&format!("{line}\n"))
}

/// Writes `value` as one line of JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<()> {
    line(&serde_json::to_string(value).map_err(|e| Error::failed(format!("cannot write JSON: {e}")))?)
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn escape_sequences_of_a_model_do_not_reach_a_terminal() {
        assert_eq!(
            harmless("a\x1b[2J\x1b]0;t\x07b\u{9b}31m\r\x08c\n\td\u{e9}"),
            "a\u{fffd}[2J\u{fffd}]0;t\u{fffd}b\u{fffd}31m\u{fffd}\u{fffd}c\n\td\u{e9}"
        );
        assert_eq!(harmless("plain \u{1f642}\n"), "plain \u{1f642}\n");
    }
}
