//! The error of every stage: what failed, in one line, and what to do about it.

use std::fmt;
use std::io;
use std::path::Path;

/// What kind of failure it is; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request was wrong: an option, a file, a value in a file. Exit code 2.
    Request,
    /// The work itself failed: out of disk, a numeric failure, a device error. Exit code 1.
    Failed,
    /// Stopped by the user; state was saved and the work can be continued. Exit code 130.
    Interrupted,
}

/// An error with its hints. `Display` is one line that names the file, key or value; `source` is the error of the
/// system or library below, where there is one.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hints: Vec<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of this workspace's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind. Line breaks in `message` are folded: an error is one line.
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self { kind, message: one_line(message), hints: Vec::new(), source: None }
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

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
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

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        // candle appends a backtrace after the first line.
        let error = Self::failed(e.to_string().lines().next().unwrap_or("tensor operation failed"));
        error.because(e)
    }
}

/// Errors of the file system, which name the path.
pub trait PathContext<T> {
    /// For reading what the user named, or making a directory that the user named: a path that is not there, that may
    /// not be read or that is no file is a wrong request; everything else is failed work.
    ///
    /// # Errors
    /// The I/O error, naming `path`.
    fn at(self, path: &Path) -> Result<T>;

    /// For writing: failed work, whatever the reason.
    ///
    /// # Errors
    /// The I/O error, naming `path`.
    fn writing(self, path: &Path) -> Result<T>;
}

impl<T> PathContext<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|e| {
            let kind = if is_request(e.kind()) { ErrorKind::Request } else { ErrorKind::Failed };
            file_error(kind, path, e)
        })
    }

    fn writing(self, path: &Path) -> Result<T> {
        self.map_err(|e| file_error(ErrorKind::Failed, path, e))
    }
}

/// What is wrong with the path that was named, not with the machine.
fn is_request(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as Io;
    matches!(
        kind,
        Io::NotFound
            | Io::PermissionDenied
            | Io::IsADirectory
            | Io::NotADirectory
            | Io::AlreadyExists
            | Io::InvalidInput
            | Io::InvalidFilename
            | Io::InvalidData
            | Io::ReadOnlyFilesystem
    )
}

fn file_error(kind: ErrorKind, path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound if kind == ErrorKind::Request => {
            Some("check the path; it is taken relative to the current directory")
        }
        io::ErrorKind::NotFound => Some("was the directory removed while eraser worked in it?"),
        io::ErrorKind::PermissionDenied => Some("check the permissions of the file and of its directory"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free some space, then run the same command again: what was finished before is kept")
        }
        _ => None,
    };
    let found = Error::new(kind, format!("{}: {error}", path.display())).because(error);
    match hint {
        Some(hint) => found.hint(hint),
        None => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(std::error::Error::source(&error).is_some());
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        for error in [Err::<(), _>(full()).at(path).unwrap_err(), Err::<(), _>(full()).writing(path).unwrap_err()] {
            assert!(error.kind() == ErrorKind::Failed && error.hints()[0].contains("run the same command again"));
        }
        let gone = Err::<(), _>(io::Error::from(io::ErrorKind::NotFound)).writing(path).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::Failed);
        let error = Error::from(candle_core::Error::Msg("a\nb".to_owned()));
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Failed, "a"));
    }
}
