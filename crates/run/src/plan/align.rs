//! `eraser align`, resolved. In: files of harmful questions and of benign requests; out: a training whose align set
//! holds refusals, whose help set the benign requests, and whose retain set what is kept. Invariant: every harmful
//! question has a refusal, its own or a drawn one; every other row has an answer of its own.

use super::source::Source;
use super::train::{TrainPlan, TrainRequest};
use crate::builtin::Assets;
use crate::failure::{Outcome, Problems};
use eraser_data::{Record, RefusalTexts};
use eraser_model::{Error, Result};
use eraser_train::{SetName, Sets};
use std::path::{Path, PathBuf};

/// What is to be aligned, and on what.
#[derive(Clone, Debug)]
pub struct AlignRequest {
    /// Harmful questions, with refusals or without.
    pub refusals: Vec<PathBuf>,
    /// Texts to draw refusals from, for questions without one; None: those of this program.
    pub texts: Option<PathBuf>,
    /// Benign requests with answers.
    pub benign: Vec<PathBuf>,
    /// Requests with answers on which the model is to stay as it is.
    pub keep: Vec<PathBuf>,
    /// The training; its sets are those above.
    pub train: TrainRequest,
}

impl AlignRequest {
    /// Reads the files and checks everything but the weights, as [`TrainPlan::resolve`] does.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn resolve(self, at: &dyn Fn(&str) -> String, mut problems: Problems) -> Outcome<TrainPlan> {
        let texts = self.texts.as_deref().map_or_else(|| Ok(RefusalTexts::default()), RefusalTexts::read);
        let texts = problems.ok(texts.map_err(|e| e.context(at("refusal_texts")))).unwrap_or_default();
        let seed = self.train.options.seed;
        let mut sets = Sets::default();
        for (set, key, files) in [
            (SetName::Align, "refusals", &self.refusals),
            (SetName::Help, "benign", &self.benign),
            (SetName::Retain, "keep", &self.keep),
        ] {
            let mut records = Vec::new();
            for file in files {
                let found = read(file, (set == SetName::Align).then_some(&texts), seed, records.len());
                records.extend(problems.ok(found.map_err(|e| e.context(at(key)))).unwrap_or_default());
            }
            sets.insert(set, records);
            let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            sets.name_source(set, format!("{} {}", at(key), names.join(", ")));
        }
        TrainPlan::of_sets(self.train, sets, at, problems)
    }
}

/// The records of a file; a question without an answer gets one of `texts`. `before` rows were read before it.
fn read(file: &Path, texts: Option<&RefusalTexts>, seed: u64, before: usize) -> Result<Vec<Record>> {
    let source = Source::flag(file)?;
    let pairs = source.pairs(&Assets::InCache)?;
    let record = |(i, pair): (usize, eraser_data::Pair)| {
        let drawn = || texts.map(|texts| texts.draw(seed, before + i).to_owned());
        let output = pair.output.or_else(drawn).ok_or_else(|| {
            let asked: String = pair.input.chars().take(60).collect();
            Error::request(format!("{}: row {i} ({asked:?}) has no answer", source.path.display()))
                .hint("an answer is a column output, response, answer or completion")
        })?;
        Ok(Record { input: pair.input, output, extra: pair.extra, place: String::new() })
    };
    pairs.into_iter().enumerate().map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_without_a_refusal_gets_one_by_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.csv");
        std::fs::write(&path, "goal,response\none,Sorry.\ntwo,\nthree,\n").unwrap();
        let texts = RefusalTexts::default();
        let records = read(&path, Some(&texts), 7, 10).unwrap();
        let outputs: Vec<&str> = records.iter().map(|r| r.output.as_str()).collect();
        assert_eq!(outputs, ["Sorry.", texts.draw(7, 11), texts.draw(7, 12)]);
        let error = read(&path, None, 7, 0).unwrap_err().to_string();
        assert!(error.ends_with("row 1 (\"two\") has no answer"), "{error}");
    }

    #[test]
    fn rows_of_a_file_are_chosen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.csv");
        std::fs::write(&path, "prompt,response,label\none,a,safe\ntwo,b,unsafe\nthree,c,safe\n").unwrap();
        let chosen = PathBuf::from(format!("{}?where=label:safe&take=1-1", path.display()));
        let records = read(&chosen, None, 0, 0).unwrap();
        assert_eq!((records.len(), records[0].input.as_str()), (1, "three"));
        let error = read(&PathBuf::from(format!("{}?column=prompt", path.display())), None, 0, 0).unwrap_err();
        assert!(error.to_string().contains("`column`"), "{error}");
    }
}
