//! Ranges of training settings. In: settings and where each was given; out: one error for each that is out of range.

use super::basics::{exists, wrong};
use crate::failure::Problems;
use eraser_data::WrongValue;
use eraser_model::{Adapter, Error};
use eraser_train::{METHODS, Templates, TrainOptions};

/// Notes what is wrong; `at` gives the flag or place of a field, or None for a field that is checked elsewhere.
pub(crate) fn train_options(o: &TrainOptions, at: &dyn Fn(&str) -> Option<String>, problems: &mut Problems) {
    for WrongValue { field, what } in o.check() {
        if let Some(at) = at(field) {
            problems.push(wrong(&at, what));
        }
    }
    let mut files: Vec<(&str, &std::path::Path)> = Vec::new();
    if let Templates::File(file) = &o.templates {
        files.push(("templates", file));
    }
    files.extend(o.init_adapter.iter().map(|path| ("init_adapter", path.as_path())));
    for (field, path) in files {
        let found = exists(path).and_then(|()| if field == "templates" { Ok(()) } else { Adapter::check_path(path) });
        if let (Some(at), Err(e)) = (at(field), found) {
            problems.push(e.context(at));
        }
    }
}

/// That `at`, the flag or place of the option `name`, changes nothing under these options.
pub fn unused(options: &TrainOptions, name: &str, at: &str) -> Error {
    let method = &options.method;
    if method.uses(name) {
        return wrong(at, "weights that are trained in full have no low rank")
            .hint("leave it out, or leave out `full`");
    }
    let users: Vec<&str> = METHODS.iter().filter(|m| m.uses(name)).map(|m| m.name).collect();
    wrong(at, format!("method `{}` does not use it", method.name))
        .hint(format!("leave it out, or train with a method that uses it: {}", users.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(change: impl Fn(&mut TrainOptions)) -> Vec<String> {
        let mut options = TrainOptions::default();
        change(&mut options);
        let mut problems = Problems::default();
        train_options(&options, &|field| Some(format!("--{field}")), &mut problems);
        problems.messages()
    }

    #[test]
    fn what_is_not_used_is_the_methods_or_has_no_meaning_for_whole_weights() {
        let full = TrainOptions { full: true, method: METHODS[1], ..TrainOptions::default() };
        let said = |name: &str| unused(&full, name, name).to_string();
        assert_eq!(said("rank"), "rank: weights that are trained in full have no low rank");
        assert!(full.unused().any(|name| name == "lora_dropout"));
        assert!(!TrainOptions::default().unused().any(|name| name == "rank"));
    }

    #[test]
    fn the_published_settings_are_good() {
        assert!(errors(|_| {}).is_empty());
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let errors = errors(|o| {
            o.rank = 0;
            o.lr = f64::NAN;
            o.lora_dropout = 1.0;
            o.steps = Some(0);
        });
        let start = |s: &str| errors.iter().any(|e| e.starts_with(s));
        assert_eq!(errors.len(), 4, "{errors:?}");
        assert!(start("--rank") && start("--lr") && start("--lora_dropout") && start("--steps"), "{errors:?}");
    }
}
