//! Where the lines of a conversation come from. In: a terminal, or stdin; out: one line after the other. Invariant: the
//! editor is for a person only, who types and reads in the same terminal; what was typed is kept in memory, never in a
//! file.

use crate::output;
use crate::progress::note;
use eraser_model::{Error, Result};
use rustyline::Editor;
use rustyline::config::Config;
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use std::io::{BufRead as _, IsTerminal as _};

/// What stands before a line that is typed.
const PROMPT: &str = "> ";

/// The lines.
pub(crate) enum Lines {
    /// Typed, with editing and history.
    Typed {
        /// The editor.
        editor: Box<Editor<(), MemHistory>>,
        /// Whether the line before this one was given up by Ctrl-C.
        given_up: bool,
    },
    /// Read from stdin.
    Read {
        /// Lines so far.
        number: usize,
        /// Whether each is asked for.
        asked: bool,
    },
}

impl Lines {
    /// The editor where stdin and stdout are terminals, unless the answers are JSON.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub(crate) fn open(json: bool) -> Result<Self> {
        let typed = std::io::stdin().is_terminal() && !json;
        if !typed || !std::io::stdout().is_terminal() {
            return Ok(Self::Read { number: 0, asked: typed });
        }
        let config = Config::builder().auto_add_history(true).build();
        let editor = Editor::with_history(config, MemHistory::new()).map_err(|e| unusable(&e))?;
        note("/help names the commands; Ctrl-D ends");
        Ok(Self::Typed { editor: Box::new(editor), given_up: false })
    }

    /// Whether a person types, who can type again what was wrong.
    pub(crate) fn by_hand(&self) -> bool {
        matches!(self, Self::Typed { .. } | Self::Read { asked: true, .. })
    }

    /// Where the line is that was read last, for errors.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Typed { .. } => "stdin".to_owned(),
            Self::Read { number, .. } => format!("stdin:{number}"),
        }
    }

    /// The next line; None at the end.
    ///
    /// # Errors
    /// Stdin cannot be read.
    pub(crate) fn next(&mut self) -> Result<Option<String>> {
        match self {
            Self::Typed { editor, given_up } => typed(editor, given_up),
            Self::Read { number, asked } => {
                if *asked {
                    output::text(PROMPT)?;
                }
                *number += 1;
                let mut lines = std::io::stdin().lock().lines();
                let line = lines.next().transpose().map_err(|e| Error::request(format!("cannot read stdin: {e}")))?;
                if *asked && line.is_none() {
                    output::line("")?;
                }
                Ok(line)
            }
        }
    }
}

/// A line from the editor. Ctrl-C gives the line up; a second time, it ends the conversation.
fn typed(editor: &mut Editor<(), MemHistory>, given_up: &mut bool) -> Result<Option<String>> {
    loop {
        match editor.readline(PROMPT) {
            Ok(line) => {
                *given_up = false;
                return Ok(Some(line));
            }
            Err(ReadlineError::Eof) => return Ok(None),
            Err(ReadlineError::Interrupted) if *given_up => return Ok(None),
            Err(ReadlineError::Interrupted) => {
                *given_up = true;
                note("Ctrl-C again, Ctrl-D or /quit ends");
            }
            // The window has another size.
            Err(ReadlineError::Signal(_)) => {}
            Err(e) => return Err(unusable(&e)),
        }
    }
}

fn unusable(error: &ReadlineError) -> Error {
    Error::failed(format!("cannot read from the terminal: {error}")).hint("give the prompt by --prompt, or pipe it in")
}
