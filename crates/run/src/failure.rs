//! Errors of a request, all at once. In: errors as they are found; out: a value, or every error. Invariant: a value
//! comes out only if no error was noted.

use eraser_model::{Error, ErrorKind, Result};

/// One or more errors that ended the work.
#[derive(Debug)]
pub struct Failure(Vec<Error>);

/// The result of work that may fail for several reasons at once.
pub type Outcome<T = ()> = std::result::Result<T, Failure>;

/// Whatever ends work has a kind.
pub(crate) trait Kind {
    /// Whether the request was wrong, the work failed or was interrupted.
    fn kind(&self) -> ErrorKind;
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

impl Kind for Failure {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

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
    /// The errors, in the order in which they were found.
    pub fn errors(&self) -> &[Error] {
        &self.0
    }

    /// The most serious kind among the errors: failed work before an interruption before a wrong request.
    pub fn kind(&self) -> ErrorKind {
        let has = |kind| self.0.iter().any(|e| e.kind() == kind);
        if has(ErrorKind::Failed) {
            ErrorKind::Failed
        } else if has(ErrorKind::Interrupted) {
            ErrorKind::Interrupted
        } else {
            ErrorKind::Request
        }
    }

    /// Puts `place` before every error.
    #[must_use]
    pub fn context(self, place: &str) -> Self {
        Self(self.0.into_iter().map(|e| e.context(place)).collect())
    }

    /// Gives every interruption this hint alone: how to go on differs from verb to verb, which a stage does not know.
    #[must_use]
    pub fn on_interrupt(self, hint: &str) -> Self {
        let with_hint = |e: Error| match e.kind() {
            ErrorKind::Interrupted => Error::new(ErrorKind::Interrupted, e).hint(hint),
            _ => e,
        };
        Self(self.0.into_iter().map(with_hint).collect())
    }
}

/// Errors found so far, so that all can be reported at once.
#[derive(Debug, Default)]
pub struct Problems(Vec<Error>);

impl Problems {
    /// Notes one.
    pub fn push(&mut self, error: Error) {
        self.0.push(error);
    }

    /// Notes all of a failure.
    pub fn extend(&mut self, failure: Failure) {
        self.0.extend(failure.0);
    }

    /// The value, or None with the error noted.
    pub fn ok<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|e| self.push(e)).ok()
    }

    /// The value if nothing was noted. `value` is None only when something was.
    ///
    /// # Errors
    /// Every error that was noted.
    pub fn finish<T>(self, value: Option<T>) -> Outcome<T> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_error_decides() {
        let kind = |errors: Vec<Error>| Failure(errors).kind();
        assert_eq!(kind(vec![Error::request("a")]), ErrorKind::Request);
        assert_eq!(kind(vec![Error::request("a"), Error::failed("b")]), ErrorKind::Failed);
        assert_eq!(kind(vec![Error::new(ErrorKind::Interrupted, "a")]), ErrorKind::Interrupted);
    }

    #[test]
    fn problems_are_all_kept() {
        let mut problems = Problems::default();
        assert_eq!(problems.ok::<u8>(Err(Error::request("one"))), None);
        assert_eq!(problems.ok(Ok(3)), Some(3));
        problems.push(Error::request("two"));
        let Err(failure) = problems.finish(Some(())) else { panic!("errors were noted") };
        assert_eq!(failure.errors().len(), 2);
    }
}
