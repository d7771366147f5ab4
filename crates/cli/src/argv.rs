//! The command line before it is parsed. In: arguments as they were typed; out: the same with the names of options as
//! they are called here. Invariant: only names change, never a value, and nothing behind `--`.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};
use eraser_model::Error;
use eraser_run::plan::ELSEWHERE;
use std::collections::BTreeSet;
use std::ffi::OsString;

/// What an option is called in lm-evaluation-harness, where ours of another name takes the same values.
const SAME: [(&str, &str); 3] = [("num-fewshot", "shots"), ("output-path", "out"), ("batch-size", "batch")];

/// Options of other tools for which there is none here, and what to do instead.
const INSTEAD: [(&str, &str); 3] = [
    ("model-args", "give the model itself, as --model DIR, and how it is held by --base-dtype"),
    ("device-map", "say where to compute by --device"),
    ("batch-size", "leave it out: how much is computed at a time needs no choice here"),
];

/// `arguments`, whose first is the program, with `_` for `-` taken in names of options, and names that
/// lm-evaluation-harness has for an option of the verb.
///
/// # Errors
/// A file behind `--help` where the help set is meant, for which the help would be shown and nothing done.
pub(crate) fn named(arguments: Vec<OsString>, root: &Command) -> Result<Vec<OsString>, Error> {
    let verb = verb(&arguments, root);
    let known = names(verb.unwrap_or(root));
    let mut out = Vec::with_capacity(arguments.len());
    let mut rest = arguments.into_iter().peekable();
    out.extend(rest.next());
    while let Some(argument) = rest.next() {
        if argument == "--" {
            out.push(argument);
            break;
        }
        let Some((name, value)) = argument.to_str().and_then(option) else {
            out.push(argument);
            continue;
        };
        if name == "help" && known.contains("help-set") {
            let next = rest.peek().and_then(|next| next.to_str()).filter(|next| !next.starts_with('-'));
            if let Some(file) = value.or(next) {
                return Err(Error::request(format!("--help: it shows the help and takes no file, not `{file}`"))
                    .hint(format!("the help set is given as --help-set {file}")));
            }
        }
        let dashed = name.replace('_', "-");
        let same = || SAME.iter().find(|(theirs, _)| *theirs == dashed).map(|(_, ours)| (*ours).to_owned());
        let ours = Some(&dashed).filter(|name| known.contains(*name)).cloned();
        let ours = ours.or_else(|| same().filter(|name| known.contains(name)));
        // A name that is not known stays as it was typed: the error is about that.
        out.push(ours.map_or(argument.clone(), |ours| match value {
            Some(value) => format!("--{ours}={value}").into(),
            None => format!("--{ours}").into(),
        }));
    }
    out.extend(rest);
    Ok(out)
}

/// What is wrong with an option that is not known, where another tool has one of that name.
pub(crate) fn unknown(option: &str, arguments: &[OsString], root: &Command) -> Option<Error> {
    let verb = verb(arguments, root)?;
    let dashed = option.trim_start_matches('-').replace('_', "-");
    let ours = ELSEWHERE.iter().find(|(theirs, _)| theirs.replace('_', "-") == dashed);
    let ours = ours.map(|(_, ours)| ours.replace('_', "-")).filter(|ours| names(verb).contains(ours));
    let instead = || INSTEAD.iter().find(|(theirs, _)| *theirs == dashed).map(|(_, hint)| (*hint).to_owned());
    let hint = ours.map(|ours| format!("did you mean `--{ours}`?")).or_else(instead)?;
    Some(Error::request(format!("{option}: `eraser {}` has no such option", verb.get_name())).hint(hint))
}

/// A command whose options take negative numbers as their values: what is wrong with one is told of the option, while
/// clap alone takes it for another option.
pub(crate) fn with_negative_values(command: Command) -> Command {
    let takes = |argument: Arg| {
        if argument.get_action().takes_values() { argument.allow_negative_numbers(true) } else { argument }
    };
    command.mut_args(takes).mut_subcommands(with_negative_values)
}

/// What is wrong with a negative number that an option does not take.
pub(crate) fn negative(error: &clap::Error, arguments: &[OsString], root: &Command) -> Option<Error> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (option, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    if error.kind() != ErrorKind::ValueValidation || value.parse::<f64>().is_ok_and(|x| x >= 0.0) {
        return None;
    }
    value.strip_prefix('-').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))?;
    let name = option.split_whitespace().next().unwrap_or(option);
    let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    // What the standard library says of a number with a sign.
    let reason = if reason.contains("invalid digit") { "it must be a whole number, 0 or more" } else { &reason };
    let verb = verb(arguments, root).map_or("help", Command::get_name);
    Some(Error::request(format!("{name} {value}: {reason}")).hint(format!("see `eraser {verb} --help`")))
}

/// Name and value of `--name=value` or `--name`.
fn option(argument: &str) -> Option<(&str, Option<&str>)> {
    let text = argument.strip_prefix("--").filter(|text| !text.is_empty())?;
    Some(text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value))))
}

/// The verb that is named first.
fn verb<'a>(arguments: &[OsString], root: &'a Command) -> Option<&'a Command> {
    arguments.iter().skip(1).find_map(|argument| root.find_subcommand(argument))
}

/// The long names of a command's options, hidden ones too.
fn names(command: &Command) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for argument in command.get_arguments() {
        names.extend(argument.get_long().map(ToOwned::to_owned));
        names.extend(argument.get_all_aliases().into_iter().flatten().map(ToOwned::to_owned));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Cli;
    use clap::CommandFactory as _;
    use proptest::prelude::*;

    fn root() -> Command {
        let mut root = Cli::command();
        root.build();
        root
    }

    fn given(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn taken(text: &str) -> String {
        let named = named(given(text), &root()).unwrap();
        named.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    /// lm-evaluation-harness writes its options with underscores.
    #[test]
    fn names_of_other_tools_are_taken_and_values_left() {
        for (typed, meant) in [
            ("eraser bench --num_fewshot 5 --limit=3", "eraser bench --shots 5 --limit=3"),
            ("eraser bench --output_path=a_b --no_base", "eraser bench --out=a_b --no-base"),
            ("eraser eval --batch_size 4 --max_new_tokens 8", "eraser eval --batch 4 --max-new-tokens 8"),
            ("eraser --threads 2 eval --base_dtype f32", "eraser --threads 2 eval --base-dtype f32"),
            ("eraser run a_b.toml --set train.grad_accum=2", "eraser run a_b.toml --set train.grad_accum=2"),
            ("eraser chat -p a_b -- --max_new_tokens", "eraser chat -p a_b -- --max_new_tokens"),
            // Not known: left for the error.
            ("eraser bench --batch_size 4 --no_such", "eraser bench --batch_size 4 --no_such"),
            ("eraser frobnicate --max_new_tokens", "eraser frobnicate --max_new_tokens"),
            ("eraser", "eraser"),
        ] {
            assert_eq!(taken(typed), meant);
        }
    }

    #[test]
    fn every_long_option_is_taken_with_underscores() {
        for command in root().get_subcommands().filter(|c| c.get_name() != "help") {
            for name in names(command).iter().filter(|name| *name != "help") {
                let typed = format!("eraser {} --{}", command.get_name(), name.replace('-', "_"));
                assert_eq!(taken(&typed), format!("eraser {} --{name}", command.get_name()));
            }
        }
    }

    /// The help was shown, and nothing trained.
    #[test]
    fn a_file_is_not_what_help_takes() {
        let error = |text: &str| named(given(text), &root()).map_err(|e| (e.to_string(), e.hints().to_vec()));
        for typed in ["eraser train --help help.jsonl", "eraser train --help=help.jsonl --harm h.jsonl"] {
            let (told, hints) = error(typed).unwrap_err();
            assert_eq!(told, "--help: it shows the help and takes no file, not `help.jsonl`");
            assert_eq!(hints, ["the help set is given as --help-set help.jsonl"]);
        }
        for typed in ["eraser train --help", "eraser train --help --harm h", "eraser bench --help x", "eraser --help"] {
            assert!(error(typed).is_ok(), "{typed}");
        }
    }

    #[test]
    fn options_of_other_tools_are_told_what_they_are_here() {
        let hint = |text: &str| {
            let words = given(text);
            let option = words.last()?.to_str()?.to_owned();
            unknown(&option, &words, &root()).map(|e| format!("{e}; {}", e.hints().join("; ")))
        };
        assert_eq!(
            hint("eraser train --learning_rate").unwrap(),
            "--learning_rate: `eraser train` has no such option; did you mean `--lr`?"
        );
        assert!(hint("eraser bench --model_args").unwrap().contains("--model DIR"));
        assert!(hint("eraser bench --batch-size").unwrap().contains("leave it out"));
        assert_eq!(hint("eraser bench --learning_rate"), None);
        assert_eq!(hint("eraser bench --nonsense"), None);
    }

    proptest! {
        #[test]
        fn whatever_is_typed_there_are_as_many_words(words in prop::collection::vec("(--)?[a-z_=-]{0,12}", 0..6)) {
            let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
            if let Ok(named) = named(words.clone(), &root()) {
                prop_assert_eq!(named.len(), words.len());
            }
        }
    }
}
