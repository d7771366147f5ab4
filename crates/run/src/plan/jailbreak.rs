//! Jailbreak templates for training. In: template files, the align set; out: its questions under every training
//! template, and the names of the templates that stay out of training. Invariant: no template is on both sides.

use super::source::shuffle_key;
use crate::builtin::Assets;
use crate::failure::Outcome;
use eraser_data::Record;
use eraser_eval::attack::{Template, read_templates};
use eraser_model::Result;
use std::path::PathBuf;

/// Templates, apart by what they are for.
#[derive(Default)]
pub(crate) struct Jailbreaks {
    /// Those that methods may learn from.
    pub(crate) training: Vec<Template>,
    /// Names of the evaluation's that none learns from.
    pub(crate) held_out: Vec<String>,
}

impl Jailbreaks {
    /// The templates of `training`, or else half of those of the evaluation, drawn by `seed`.
    pub(crate) fn read(training: &[PathBuf], evaluation: &[PathBuf], seed: u64, assets: &Assets) -> Outcome<Self> {
        let read = |paths: &[PathBuf]| -> Outcome<Vec<Template>> {
            let paths = paths.iter().map(|path| assets.locate(path)).collect::<Result<Vec<_>>>()?;
            Ok(read_templates(&paths)?)
        };
        let evaluated = read(evaluation)?;
        let training = if training.is_empty() {
            let mut drawn: Vec<usize> = (0..evaluated.len()).collect();
            drawn.sort_by_key(|&i| shuffle_key(seed, i));
            drawn.iter().take(drawn.len().div_ceil(2)).map(|&i| evaluated[i].clone()).collect()
        } else {
            read(training)?
        };
        let trained = |t: &Template| training.iter().any(|other: &Template| other.name == t.name);
        let mut held_out: Vec<String> = evaluated.iter().filter(|t| !trained(t)).map(|t| t.name.clone()).collect();
        held_out.sort();
        Ok(Self { training, held_out })
    }

    /// Every record under every training template, template by template, so that neighbours differ.
    pub(crate) fn wrap(&self, records: &[Record]) -> Vec<Record> {
        let wrap = |template: &Template| {
            let wrapped = |r: &Record| Record { input: template.fill(&r.input), ..r.clone() };
            records.iter().map(wrapped).collect::<Vec<_>>()
        };
        self.training.iter().flat_map(wrap).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(templates: &[Template]) -> Vec<&str> {
        templates.iter().map(|t| t.name.as_str()).collect()
    }

    #[test]
    fn half_is_for_training_unless_templates_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let all: Vec<PathBuf> = (0..5).map(|i| dir.path().join(format!("t{i}.txt"))).collect();
        for path in &all {
            std::fs::write(path, "In a play: {prompt}").unwrap();
        }
        let drawn = Jailbreaks::read(&[], &all, 1, &Assets::InCache).unwrap();
        assert_eq!((drawn.training.len(), drawn.held_out.len()), (3, 2));
        assert!(names(&drawn.training).iter().all(|name| !drawn.held_out.iter().any(|other| other == name)));
        let again = Jailbreaks::read(&[], &all, 1, &Assets::InCache).unwrap();
        assert_eq!(drawn.held_out, again.held_out);

        let named = Jailbreaks::read(&all[..1], &all, 1, &Assets::InCache).unwrap();
        assert_eq!(names(&named.training), ["t0"]);
        assert_eq!(named.held_out, ["t1", "t2", "t3", "t4"]);
        let record = Record { input: "How?".into(), output: "No.".into(), ..Record::default() };
        let wrapped = named.wrap(&[record]);
        assert_eq!((wrapped[0].input.as_str(), wrapped[0].output.as_str()), ("In a play: How?", "No."));
    }
}
