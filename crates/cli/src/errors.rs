//! What a user sees when something goes wrong. In: errors of the stages; out: `error:` and `hint:` lines on stderr and
//! an exit code. Invariant: every failure ends here, panics included, and nothing else prints an error.

use eraser_model::{Error, ErrorKind};
use std::any::Any;
use std::io::{IsTerminal, Write as _};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};

/// One or more errors that ended the command.
#[derive(Debug)]
pub(crate) struct Failure(Vec<Error>);

/// The result of a verb.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(vec![error])
    }
}

impl From<Vec<Error>> for Failure {
    fn from(errors: Vec<Error>) -> Self {
        Self(errors)
    }
}

impl Failure {
    /// 2 when the request was wrong, 130 when interrupted, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        let has = |kind| self.0.iter().any(|e| e.kind() == kind);
        match () {
            () if has(ErrorKind::Failed) => 1,
            () if has(ErrorKind::Interrupted) => 130,
            () => 2,
        }
    }

    /// Gives every interruption this hint alone: how to go on differs from verb to verb, which a stage does not know.
    pub(crate) fn on_interrupt(self, hint: &str) -> Self {
        let told = |e: Error| match e.kind() {
            ErrorKind::Interrupted => Error::new(ErrorKind::Interrupted, e).hint(hint),
            _ => e,
        };
        Self(self.0.into_iter().map(told).collect())
    }

    /// Prints every error with its hints to stderr. A hint shared by several errors is printed once, after the last; a
    /// wrong request that nobody has a hint for is sent to the help of its verb.
    pub(crate) fn print(&self, verb: &str) {
        let mut text = String::new();
        for (i, error) in self.0.iter().enumerate() {
            push_line(&mut text, Label::Error, &error.to_string());
            for hint in error.hints() {
                if !self.0[i + 1..].iter().any(|later| later.hints().contains(hint)) {
                    push_line(&mut text, Label::Hint, hint);
                }
            }
        }
        if self.exit_code() == 2 && self.0.iter().all(|e| e.hints().is_empty()) {
            push_line(&mut text, Label::Hint, &format!("see `eraser {verb} --help`"));
        }
        // Nothing can be done about a stderr that is gone.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// Errors found so far, so that all can be reported at once.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Error>);

impl Problems {
    /// Notes one.
    pub(crate) fn push(&mut self, error: Error) {
        self.0.push(error);
    }

    /// Notes all of a failure.
    pub(crate) fn extend(&mut self, failure: Failure) {
        self.0.extend(failure.0);
    }

    /// The value, or None with the error noted.
    pub(crate) fn ok<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|e| self.push(e)).ok()
    }

    /// The value if nothing was noted. `value` is None only when something was.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Outcome<T> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ if self.0.is_empty() => Err(Error::failed("a request without errors did not resolve").into()),
            _ => Err(Failure(self.0)),
        }
    }

    /// The messages, for tests.
    #[cfg(test)]
    pub(crate) fn messages(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
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
    if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) {
        out.extend([colour, name, ":\x1b[0m ", text, "\n"]);
    } else {
        out.extend([name, ": ", text, "\n"]);
    }
}

/// Turns a panic, on whichever thread, into one error line. The first one speaks; what follows from it is silent.
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

/// The entry of `known` nearest to `name`, near enough to be what was meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let key = |s: &str| s.to_lowercase().replace(['-', '_'], "");
    let name = key(name);
    let scored = known.into_iter().map(|k| (strsim::jaro_winkler(&name, &key(k)), k));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.8).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_gravest_error() {
        let code = |errors: Vec<Error>| Failure(errors).exit_code();
        assert_eq!(code(vec![Error::request("a")]), 2);
        assert_eq!(code(vec![Error::request("a"), Error::failed("b")]), 1);
        assert_eq!(code(vec![Error::new(ErrorKind::Interrupted, "a")]), 130);
    }

    #[test]
    fn problems_are_all_kept() {
        let mut problems = Problems::default();
        assert_eq!(problems.ok::<u8>(Err(Error::request("one"))), None);
        assert_eq!(problems.ok(Ok(3)), Some(3));
        problems.push(Error::request("two"));
        let Err(Failure(errors)) = problems.finish(Some(())) else { panic!("errors were noted") };
        assert_eq!(errors.len(), 2);
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        let known = ["lr", "gamma", "grad_accum", "micro_batch", "max_length"];
        assert_eq!(nearest("gama", known), Some("gamma"));
        assert_eq!(nearest("grad-acum", known), Some("grad_accum"));
        assert_eq!(nearest("zzz", known), None);
    }
}
