//! Running one side. In: a command; out: the JSON lines it printed. Invariant: a side that fails ends the comparison.

use eraser_model::{Error, Result};
use serde_json::Value;
use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::{Command, Stdio},
};

/// A command in the making.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    program: OsString,
    args: Vec<OsString>,
}

impl Program {
    pub(crate) fn new(program: &Path) -> Self {
        Self { program: program.into(), args: Vec::new() }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Arguments without spaces in them, in one string.
    pub(crate) fn args(mut self, args: &str) -> Self {
        self.args.extend(args.split_whitespace().map(OsString::from));
        self
    }

    /// Runs to the end; the JSON objects among the lines of stdout.
    pub(crate) fn run(&self) -> Result<Vec<Value>> {
        let name = self.program.to_string_lossy().into_owned();
        let output = Command::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .map_err(|e| Error::failed(format!("{name}: {e}")))?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            let last: Vec<&str> = error.lines().rev().take(3).collect();
            return Err(Error::failed(format!("{name} ended with {}", output.status)).hint(last.join(" | ")));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object).collect())
    }
}

/// A number of an object.
pub(crate) fn number(object: &Value, key: &str) -> Result<f64> {
    object[key].as_f64().ok_or_else(|| Error::failed(format!("`{key}` is no number in {object}")))
}
