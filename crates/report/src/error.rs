//! The error of the report: what is wrong with which file, and what to do. This crate depends on no other of the
//! workspace, so the error is its own; the caller maps it. Invariant: `Display` is one line that names the file.

use std::path::{Path, PathBuf};

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file was read, but it does not hold what it must.
    #[error("{}: {message}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line or key.
        message: String,
    },
    /// The directory holds nothing that a run leaves behind.
    #[error("{}: not a run directory", .0.display())]
    NotARun(PathBuf),
    /// Nothing was evaluated in the run directory yet, or the figures were removed.
    #[error("{}: {message}", .path.display())]
    Unmeasured {
        /// The run directory.
        path: PathBuf,
        /// What there is in place of figures.
        message: String,
    },
    /// A report file could not be written.
    #[error("{}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The page could not be put together: a defect of the template, not of the run.
    #[error("report.html: {0}")]
    Render(#[from] minijinja::Error),
}

impl Error {
    /// True when the caller named a wrong directory or a damaged file (exit code 2), false when the work failed (1).
    pub fn is_request(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Content { .. } | Self::NotARun(_) | Self::Unmeasured { .. })
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Read { .. } => Some("check the path and its permissions"),
            Self::Content { .. } => Some("delete the file, and run the command that writes it again"),
            Self::Unmeasured { .. } => {
                Some("measure it: `eraser run RUN.toml` with its run file, or `eraser eval --out DIR`")
            }
            Self::NotARun(_) => {
                Some("give the directory that `eraser run`, `eraser quickstart` or `eraser eval` wrote")
            }
            Self::Write { .. } => Some("check the free space and the permissions of the run directory"),
            Self::Render(_) => None,
        }
    }

    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.to_path_buf(), source }
    }

    /// Line breaks in `message` are folded: an error is one line.
    pub(crate) fn content(path: &Path, message: impl std::fmt::Display) -> Self {
        let message = message.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self::Content { path: path.to_path_buf(), message }
    }
}
