//! A line of a conversation. In: what was typed; out: a prompt, or a command. Invariant: what begins with a slash is
//! never taken for a prompt by mistake: it is a command that is known, or an error.

use eraser_model::{Error, Result, nearest};

/// What `/help` says.
pub(crate) const HELP: &str = "/help         these lines
/reset        begin the conversation again
/system TEXT  set the system prompt and begin again; without TEXT there is none
/quit         end, as Ctrl-D does
//TEXT        send /TEXT to the model
";

/// The names, as they are typed.
const NAMES: [&str; 4] = ["/help", "/reset", "/system", "/quit"];

/// A line, understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// Nothing was typed.
    Blank,
    /// What the model is to answer.
    Prompt(&'a str),
    /// The commands are to be told.
    Help,
    /// The conversation begins again.
    Reset,
    /// So it does, with this system prompt, or without one.
    System(Option<&'a str>),
    /// The conversation ends.
    Quit,
}

/// Understands a line.
///
/// # Errors
/// A command that there is not, or one with a text that it does not take.
pub(crate) fn parse(line: &str) -> Result<Line<'_>> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(Line::Blank);
    }
    if !line.starts_with('/') {
        return Ok(Line::Prompt(line));
    }
    if line.starts_with("//") {
        return Ok(Line::Prompt(&line[1..]));
    }
    let (name, text) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let text = Some(text.trim()).filter(|text| !text.is_empty());
    match (name, text) {
        ("/help", None) => Ok(Line::Help),
        ("/reset", None) => Ok(Line::Reset),
        ("/quit", None) => Ok(Line::Quit),
        ("/system", text) => Ok(Line::System(text)),
        ("/help" | "/reset" | "/quit", Some(text)) => {
            Err(Error::request(format!("{name} takes no text, not `{text}`")).hint(format!("to do it: {name} alone")))
        }
        _ => {
            let error = Error::request(format!("there is no command {name}"));
            let near = nearest(name, NAMES).map(|near| format!("did you mean {near}?"));
            let error = near.into_iter().fold(error, Error::hint);
            Err(error
                .hint(format!("the commands are {}", NAMES.join(", ")))
                .hint(format!("to send it to the model, write /{name}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_are_told_from_prompts() {
        for (typed, meant) in [
            ("  ", Line::Blank),
            (" Why? ", Line::Prompt("Why?")),
            ("either/or", Line::Prompt("either/or")),
            ("//etc/hosts is what?", Line::Prompt("/etc/hosts is what?")),
            ("//quit", Line::Prompt("/quit")),
            ("//", Line::Prompt("/")),
            ("/help", Line::Help),
            ("/reset ", Line::Reset),
            ("/system Be  brief.", Line::System(Some("Be  brief."))),
            ("/system\tBe brief.", Line::System(Some("Be brief."))),
            ("/system ", Line::System(None)),
            ("/quit", Line::Quit),
        ] {
            assert_eq!(parse(typed).unwrap(), meant, "{typed:?}");
        }
    }

    /// A mistyped command was sent to the model.
    #[test]
    fn a_command_that_there_is_not_is_an_error() {
        let error = parse("/rest").unwrap_err();
        assert_eq!(error.to_string(), "there is no command /rest");
        let hints = ["did you mean /reset?", "the commands are /help, /reset, /system, /quit"];
        assert_eq!(error.hints()[..2], hints);
        assert_eq!(error.hints()[2], "to send it to the model, write //rest");
        for typed in ["/", "/ quit", "/Quit", "/quit now", "/reset all", "/help me", "/etc/hosts"] {
            assert!(parse(typed).is_err(), "{typed}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics_and_a_slash_is_no_prompt(line in "[ \t]*/[^/].*") {
            prop_assert!(!matches!(parse(&line), Ok(Line::Prompt(_))));
        }
    }
}
