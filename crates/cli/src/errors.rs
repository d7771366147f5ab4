//! What a user sees when something goes wrong. In: errors of the stages; out: `error:` and `hint:` lines on stderr and
//! an exit code. Invariant: every failure ends here, panics included, and nothing else prints an error.

use crate::output::coloured;
use eraser_model::ErrorKind;
use eraser_run::Failure;
use std::any::Any;
use std::io::Write as _;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// 2 when the request was wrong, 130 when interrupted, else 1.
pub(crate) fn exit_code(failure: &Failure) -> u8 {
    match failure.kind() {
        ErrorKind::Failed => 1,
        ErrorKind::Interrupted => 130,
        ErrorKind::Request => 2,
    }
}

/// Prints every error with its hints to stderr. A hint shared by several errors is printed once, after the last; a
/// wrong request that nobody has a hint for gets one about the file or the option that it names.
pub(crate) fn print(failure: &Failure, verb: &str) {
    let errors = failure.errors();
    let mut text = String::new();
    for (i, error) in errors.iter().enumerate() {
        push_line(&mut text, Label::Error, &error.to_string());
        for hint in error.hints() {
            if !errors[i + 1..].iter().any(|later| later.hints().contains(hint)) {
                push_line(&mut text, Label::Hint, hint);
            }
        }
    }
    if let Some(first) = errors.first().filter(|_| failure.kind() == ErrorKind::Request)
        && errors.iter().all(|e| e.hints().is_empty())
    {
        push_line(&mut text, Label::Hint, &fallback_hint(&first.to_string(), verb));
    }
    // Nothing can be done about a stderr that is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// What to do about a message without a hint: correct the file that it begins with, or else look at the options.
fn fallback_hint(message: &str, verb: &str) -> String {
    let place = message.split(": ").next().unwrap_or_default();
    let path = place.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(':');
    match [place, path].into_iter().find(|path| Path::new(path).is_file()) {
        Some(file) => format!("correct {file}, or name another file"),
        None => format!("see `eraser {verb} --help`"),
    }
}

/// How to go on with work that was interrupted: `--force` would begin it again.
pub(crate) fn again(force: bool) -> &'static str {
    if force {
        "run the same command without --force to go on; what is there already is kept"
    } else {
        "run the same command again to go on; what is there already is kept"
    }
}

/// What a line on stderr starts with.
#[derive(Clone, Copy)]
pub(crate) enum Label {
    /// What is wrong.
    Error,
    /// What to do about it.
    Hint,
    /// What may be wrong.
    Warning,
}

/// Appends `label: text` in the label's colour when stderr is a terminal that wants one.
pub(crate) fn push_line(out: &mut String, label: Label, text: &str) {
    let (name, colour) = match label {
        Label::Error => ("error", "\x1b[1;31m"),
        Label::Hint => ("hint", "\x1b[1;36m"),
        Label::Warning => ("warning", "\x1b[1;33m"),
    };
    if coloured(&std::io::stderr()) {
        out.extend([colour, name, ":\x1b[0m ", text, "\n"]);
    } else {
        out.extend([name, ": ", text, "\n"]);
    }
}

/// Turns a panic, on whichever thread, into one error line. Only the first one is printed; panics that follow from it
/// are not.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        static SPOKEN: AtomicBool = AtomicBool::new(false);
        if !SPOKEN.swap(true, Ordering::SeqCst) {
            let _ = std::io::stderr().write_all(panic_text(info).as_bytes());
            if std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v != "0") {
                let trace = std::backtrace::Backtrace::force_capture().to_string();
                let _ = std::io::stderr().write_all(trace.as_bytes());
            }
        }
    }));
}

/// The lines of a panic.
fn panic_text(info: &PanicHookInfo<'_>) -> String {
    let message = payload_text(info.payload()).split_whitespace().collect::<Vec<_>>().join(" ");
    let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
    let mut text = String::new();
    push_line(&mut text, Label::Error, &format!("internal error: {message}{place}"));
    push_line(&mut text, Label::Hint, "this is a bug in eraser: please report it with the command and this line");
    text
}

/// The message a panic was raised with.
fn payload_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use eraser_model::Error;

    #[test]
    fn to_go_on_nobody_is_told_to_begin_again() {
        assert!(again(true).contains("without --force") && !again(false).contains("--force"));
    }

    #[test]
    fn exit_codes_follow_the_gravest_error() {
        let code = |errors: Vec<Error>| exit_code(&errors.into());
        assert_eq!(code(vec![Error::request("a")]), 2);
        assert_eq!(code(vec![Error::request("a"), Error::failed("b")]), 1);
        assert_eq!(code(vec![Error::new(ErrorKind::Interrupted, "a")]), 130);
    }
}
