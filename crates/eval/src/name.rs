//! Names: whether they may be part of a path, and which known name a wrong one is nearest to.
//! Invariant: a name that passes [`check`] is one path component on every platform.

use eraser_model::{Error, Result, suggest};

/// A value, or everything that is wrong.
pub type Checked<T> = std::result::Result<T, Vec<Error>>;

/// What an option is called where it was given, by its key: `gcg.steps` is `--gcg-steps` on the command line.
pub type At<'a> = &'a dyn Fn(&str) -> String;

/// An option as a program that fills [`crate::EvalOptions`] knows it.
pub fn key(field: &str) -> String {
    format!("`{field}`")
}

/// Longest name that may be part of a path.
const LONGEST: usize = 100;

/// Accepts `name` as part of a file name: letters, digits, `.`, `_`, `+`, `-`; the first is not a dot. `what` it is the
/// name of goes into the error.
pub(crate) fn check(what: &str, name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-');
    if !name.is_empty() && name.len() <= LONGEST && !name.starts_with('.') && name.chars().all(allowed) {
        return Ok(());
    }
    Err(Error::request(format!("{what} `{name}` cannot be part of a file name"))
        .hint(format!("use 1 to {LONGEST} of the characters A-Z a-z 0-9 . _ + -, not beginning with a dot")))
}

/// An error for each name that is there already, or differs from an earlier one only in upper and lower case: some file
/// systems do not tell the cases apart. `what` they are, singular, goes into the errors.
pub(crate) fn duplicates<'a>(what: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<Error> {
    let mut earlier: Vec<&str> = Vec::new();
    let mut errors = Vec::new();
    for name in names {
        match earlier.iter().find(|other| other.eq_ignore_ascii_case(name)) {
            Some(other) if *other == name => {
                errors.push(Error::request(format!("duplicate {what} `{name}`")).hint("leave one out, or rename it"));
            }
            Some(other) => errors.push(
                Error::request(format!("the {what} names `{other}` and `{name}` differ only in upper and lower case"))
                    .hint("rename one: on some disks they would be one file"),
            ),
            None => {}
        }
        earlier.push(name);
    }
    errors
}

/// The error of an unknown name: the known ones, and the nearest if it is near.
pub(crate) fn unknown(what: &str, name: &str, known: &[&str]) -> Error {
    suggest(Error::request(format!("there is no {what} `{name}`")), name, known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_and_names_that_differ_only_in_case_are_errors() {
        let told: Vec<String> = duplicates("task", ["a", "b", "A", "b"]).iter().map(ToString::to_string).collect();
        assert!(told[0].contains("`a` and `A`") && told[1] == "duplicate task `b`" && told.len() == 2, "{told:?}");
    }

    #[test]
    fn names_of_methods_pass() {
        for name in ["base", "eraser+retain", "gamma-1.8_r8"] {
            check("subject", name).unwrap();
        }
    }

    #[test]
    fn names_that_leave_the_directory_do_not() {
        for name in ["", ".", "..", ".hidden", "a/b", "a\\b", "a:b", "a b", "é", "a\0", &"x".repeat(101)] {
            assert!(check("subject", name).is_err(), "{name}");
        }
    }
}
