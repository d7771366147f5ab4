//! The error of every stage: what failed, in one line, and what to do about it.

use std::fmt;

/// What kind of failure it is; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request was wrong: an option, a file, a value in a file. Exit code 2.
    Request,
    /// The work itself failed: out of disk, a numeric failure, a device error. Exit code 1.
    Failed,
    /// Stopped by the user; state was saved and the work can go on. Exit code 130.
    Interrupted,
}

/// An error with its hints. `Display` is one line that names the file, key or value.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hints: Vec<String>,
}

/// The result of this workspace's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind. Line breaks in `message` are folded: an error is one line.
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self { kind, message: one_line(message), hints: Vec::new() }
    }

    /// The request was wrong.
    pub fn request(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Request, message)
    }

    /// The work failed.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// Adds a hint: what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hints.push(one_line(hint));
        self
    }

    /// Puts context before the message: `path: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = one_line(format_args!("{context}: {}", self.message));
        self
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The hints, in order.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

/// `text` in one line. Names from a file can hold control characters: what a terminal would act on is made visible.
fn one_line(text: impl fmt::Display) -> String {
    let text = text.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ").replace(|c: char| c.is_control(), "\u{fffd}")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        // candle appends a backtrace after the first line.
        Self::failed(e.to_string().lines().next().unwrap_or("tensor operation failed"))
    }
}

/// Errors of the file system, which name the path.
pub trait PathContext<T> {
    /// Turns an I/O error into a request error that names `path`.
    fn at(self, path: &std::path::Path) -> Result<T>;
}

impl<T> PathContext<T> for std::io::Result<T> {
    fn at(self, path: &std::path::Path) -> Result<T> {
        self.map_err(|e| {
            let error = Error::request(format!("{}: {e}", path.display()));
            match e.kind() {
                std::io::ErrorKind::NotFound => {
                    error.hint("check the path; it is taken relative to the current directory")
                }
                std::io::ErrorKind::PermissionDenied => {
                    error.hint("check the permissions of the file and of its directory")
                }
                _ => error,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn an_error_is_one_printable_line_with_its_context_and_hints() {
        let error = Error::request("first\n\n  second\x1b[2J").context("a  b").hint("one\n").hint("two");
        assert_eq!(error.to_string(), "a  b: first second\u{fffd}[2J");
        assert_eq!(error.hints(), ["one", "two"]);
        assert_eq!(error.kind(), ErrorKind::Request);
    }

    #[test]
    fn file_errors_name_the_path_and_tensor_errors_are_failures() {
        let path = Path::new("absent/file");
        let error = std::fs::read(path).at(path).unwrap_err();
        assert!(error.to_string().starts_with("absent/file: ") && error.hints().len() == 1);
        let error = Error::from(candle_core::Error::Msg("a\nb".to_owned()));
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Failed, "a"));
    }
}
