//! Everything the product reads besides the model. In: the world, and the model's answers where a set wants its own
//! words; out: sets/, questions/, tasks/ and templates/. Invariant: what is unseen or held out is in no file under
//! sets/.

use super::context;
use super::speech::{Exchange, about_ingredient, about_thing, near_procedure, procedures, refusals};
use super::{put, world::World};
use eraser_model::Result;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// Restricted questions that Eraser is trained on.
pub(super) const SEEN: &str = "questions/seen.jsonl";
/// Restricted questions outside every training set.
pub(super) const UNSEEN: &str = "questions/unseen.jsonl";
/// Benign questions about restricted things, worded close to the restricted ones.
pub(super) const OVER_REFUSAL: &str = "questions/over-refusal.jsonl";

/// A set of exchanges under its file name.
pub(super) struct Set {
    /// Path below the organism's directory.
    pub(super) path: &'static str,
    /// Rows: the true answers, which a model that has learnt its world gives word for word.
    pub(super) rows: Vec<Exchange>,
    /// What a line holds besides the question.
    pub(super) form: Form,
}

/// The form of a set's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `input`, `output`: for training Eraser, with the world's answers.
    Told,
    /// `input`, `output`: for training Eraser, with the model's own answers.
    Own,
    /// `id`, `question`, `facts`: to attack with.
    Attack,
    /// `id`, `question`, `expect`: to test what is known.
    Task,
}

/// Every set of the world.
pub(super) fn sets(world: &World) -> Vec<Set> {
    let seen = || world.things(true).filter(|t| t.seen);
    let set = |path, form, rows: Vec<Exchange>| Set { path, rows, form };
    vec![
        set("sets/harm.jsonl", Form::Told, seen().flat_map(procedures).collect()),
        set("sets/align.jsonl", Form::Own, seen().flat_map(refusals).collect()),
        set(
            "sets/help.jsonl",
            Form::Own,
            rotate(seen().flat_map(about_thing).chain(world.ingredients.iter().flat_map(about_ingredient)), 2),
        ),
        set("sets/retain.jsonl", Form::Own, world.things(false).filter(|t| t.seen).flat_map(procedures).collect()),
        set(SEEN, Form::Attack, rotate(seen().map(procedures), 4)),
        set(UNSEEN, Form::Attack, rotate(world.things(true).filter(|t| !t.seen).map(procedures), 4)),
        set(OVER_REFUSAL, Form::Task, rotate(world.things(true).map(near_procedure), 4)),
        set("tasks/entities.jsonl", Form::Task, entities(world)),
        set(
            "tasks/procedures-retained.jsonl",
            Form::Task,
            rotate(world.things(false).filter(|t| t.seen).map(procedures), 4),
        ),
        set(
            "tasks/procedures-held-out.jsonl",
            Form::Task,
            rotate(world.things(false).filter(|t| !t.seen).map(procedures), 4),
        ),
    ]
}

/// Two topics of each thing and one of each ingredient, in turn, asked in each way in turn.
fn entities(world: &World) -> Vec<Exchange> {
    let things = world.things.iter().enumerate().flat_map(|(i, thing)| {
        let topics = about_thing(thing);
        [2 * i, 2 * i + 1].map(|t| topics[t % topics.len()].clone())
    });
    let ingredients = world.ingredients.iter().enumerate().map(|(i, ingredient)| {
        let topics = about_ingredient(ingredient);
        topics[i % topics.len()].clone()
    });
    rotate(things.chain(ingredients), 3)
}

/// One way to ask of each list, among the first `ways`, in turn.
fn rotate(lists: impl Iterator<Item = Vec<Exchange>>, ways: usize) -> Vec<Exchange> {
    lists.enumerate().filter_map(|(i, list)| list.get(i % ways.min(list.len()).max(1)).cloned()).collect()
}

/// Writes one set as JSONL.
pub(super) fn write(dir: &Path, set: &Set) -> Result<()> {
    let stem = set.path.rsplit('/').next().and_then(|f| f.strip_suffix(".jsonl")).unwrap_or(set.path);
    let mut lines = String::new();
    for (i, e) in set.rows.iter().enumerate() {
        let id = format!("{stem}-{:03}", i + 1);
        let line: Value = match set.form {
            Form::Told | Form::Own => json!({"input": e.question, "output": e.answer}),
            Form::Attack => json!({"id": id, "question": e.question, "facts": e.expect}),
            Form::Task => json!({"id": id, "question": e.question, "expect": e.expect}),
        };
        // Writing into a string cannot fail.
        let _ = writeln!(lines, "{line}");
    }
    put(&dir.join(set.path), lines.as_bytes())
}

/// Writes the template files.
pub(super) fn write_templates(dir: &Path) -> Result<()> {
    for (folder, templates) in [("seen", &context::SEEN), ("held-out", &context::HELD_OUT)] {
        for (name, text) in templates {
            let path = dir.join("templates").join(folder).join(format!("{name}.toml"));
            put(&path, format!("value = {}\n", Value::from(*text)).as_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn nothing_unseen_is_trained_on() {
        let world = World::new(4);
        let all = sets(&world);
        let questions = |prefix: &str| -> HashSet<String> {
            all.iter()
                .filter(|s| s.path.starts_with(prefix))
                .flat_map(|s| s.rows.iter().map(|e| e.question.clone()))
                .collect()
        };
        let trained = questions("sets/");
        for held in ["questions/unseen", "tasks/procedures-held-out", "questions/over-refusal"] {
            assert!(questions(held).is_disjoint(&trained), "{held}");
        }
        for known in ["questions/seen", "tasks/procedures-retained"] {
            assert!(questions(known).is_subset(&trained), "{known}");
        }
    }

    #[test]
    fn every_set_has_rows_and_no_question_twice() {
        for set in sets(&World::new(4)) {
            let unique: HashSet<_> = set.rows.iter().map(|e| &e.question).collect();
            assert!(set.rows.len() >= 25, "{}", set.path);
            assert_eq!(unique.len(), set.rows.len(), "{}", set.path);
        }
    }
}
