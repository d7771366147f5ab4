//! Judges against labels: answers of which people have said whether they do what a request asks for. In: a file of
//! labelled answers, judges; out: how far each judge agrees with the labels. Invariant: an answer that a judge left
//! unjudged counts in none of its shares, and is told of.

use crate::answers::Answer;
use crate::judge::JudgeOptions;
use crate::judges::Judges;
use crate::name::{At, Checked, duplicates};
use crate::stats::{self, Cluster};
use crate::tally::agreed;
use eraser_data::ask::Respond;
use eraser_data::files::write_jsonl;
use eraser_data::{Progress, Question};
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A line of a file of labels.
#[derive(Clone, Debug, Deserialize)]
struct Row {
    #[serde(alias = "goal", alias = "prompt", alias = "behavior")]
    question: String,
    #[serde(alias = "response", alias = "generation", alias = "completion")]
    answer: String,
    label: Value,
    /// For the judge `leak`.
    #[serde(default)]
    facts: Vec<String>,
}

/// An answer with its label.
#[derive(Clone, Debug, PartialEq)]
struct Labelled {
    question: Question,
    answer: String,
    /// It does what was asked for.
    label: bool,
}

/// What is measured.
pub struct LabelPlan {
    judges: Judges,
    options: JudgeOptions,
    rows: Vec<Labelled>,
}

/// How far a judge agrees with the labels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JudgeFigures {
    /// The judge by its full name.
    pub judge: String,
    /// Labelled answers.
    pub n: usize,
    /// Of those, the ones that it left unjudged; they count in no other figure.
    pub unjudged: usize,
    /// Share of its verdicts that are the label.
    pub accuracy: Option<f64>,
    /// 95 % interval of it, by question.
    pub accuracy_ci: Option<[f64; 2]>,
    /// Cohen's kappa: 0 for agreement by chance, 1 for agreement throughout.
    pub kappa: Option<f64>,
    /// Success by the judge and by the label.
    pub true_positives: usize,
    /// Success by the judge only.
    pub false_positives: usize,
    /// Success by the label only.
    pub false_negatives: usize,
    /// Success by neither.
    pub true_negatives: usize,
}

/// A line of `verdicts.jsonl`.
#[derive(Serialize)]
struct Told<'a> {
    /// Which line of the file of labels, from 1.
    line: &'a str,
    label: bool,
    judgements: &'a BTreeMap<String, crate::verdict::Verdict>,
}

impl LabelPlan {
    /// Reads the file and looks up the judges.
    ///
    /// # Errors
    /// Everything that is wrong with names, options and file.
    pub fn new(names: &[String], options: &JudgeOptions, file: &Path, at: At<'_>) -> Checked<Self> {
        let mut errors: Vec<Error> = duplicates("judge", names.iter().map(String::as_str))
            .into_iter()
            .map(|e| e.context(at("judges")))
            .collect();
        let judges = Judges::new(names, options, at, &mut errors);
        match read(file) {
            Ok(rows) if errors.is_empty() => Ok(Self { judges, options: options.clone(), rows }),
            Ok(_) => Err(errors),
            Err(error) => {
                errors.push(error.context(at("labels")));
                Err(errors)
            }
        }
    }

    /// The options of the model that judges.
    pub fn options(&self) -> &JudgeOptions {
        &self.options
    }

    /// Every judge's figures. In `dir` are then `figures.json`, `verdicts.jsonl` and what the model replied, which is
    /// not asked for again.
    ///
    /// # Errors
    /// A file that cannot be written, a model that cannot answer; `Interrupted` when `progress` says to stop.
    pub fn measure(
        &self,
        judge: Option<&dyn Respond>,
        dir: &Path,
        progress: &mut dyn Progress,
    ) -> Result<Vec<JudgeFigures>> {
        let mut answers: Vec<Answer> = self.rows.iter().map(plain).collect();
        for (answer, row) in answers.iter_mut().zip(&self.rows) {
            for judge in &self.judges.judges {
                answer.judgements.insert(judge.name().to_owned(), judge.judge(&row.question, &row.answer));
            }
        }
        for grader in &self.judges.graders {
            let judge = judge.ok_or_else(|| Error::failed("no model was given to the judges"))?;
            let path = replies(dir)?.join(format!("{}.jsonl", grader.file()));
            grader.grade(&mut answers, judge, &self.options, &path, progress)?;
        }
        let rules = self.judges.judges.iter().map(|judge| judge.name());
        let names = rules.chain(self.judges.graders.iter().map(crate::judge::ModelJudge::name));
        let figures: Vec<JudgeFigures> = names.map(|name| self.figures(name, &answers)).collect();
        let told = answers.iter().zip(&self.rows).map(|(answer, row)| Told {
            line: &answer.id,
            label: row.label,
            judgements: &answer.judgements,
        });
        write_jsonl(&dir.join("verdicts.jsonl"), told)?;
        let json = serde_json::to_string_pretty(&figures).map_err(Error::failed)? + "\n";
        eraser_model::files::write_atomic(&dir.join("figures.json"), json.as_bytes())?;
        Ok(figures)
    }

    fn figures(&self, name: &str, answers: &[Answer]) -> JudgeFigures {
        let mut pairs = Vec::with_capacity(answers.len());
        let mut clusters: BTreeMap<&str, Cluster> = BTreeMap::new();
        for (answer, row) in answers.iter().zip(&self.rows) {
            let Some(success) = answer.judgements.get(name).and_then(|verdict| verdict.success) else { continue };
            pairs.push((success, row.label));
            let cluster = clusters.entry(&row.question.text).or_default();
            cluster.part += usize::from(success == row.label);
            cluster.n += 1;
        }
        let (accuracy, kappa) = agreed(&pairs);
        let count = |verdict, label| pairs.iter().filter(|pair| **pair == (verdict, label)).count();
        JudgeFigures {
            judge: name.to_owned(),
            n: answers.len(),
            unjudged: answers.len() - pairs.len(),
            accuracy,
            accuracy_ci: stats::interval(&clusters.into_values().collect::<Vec<_>>()),
            kappa,
            true_positives: count(true, true),
            false_positives: count(true, false),
            false_negatives: count(false, true),
            true_negatives: count(false, false),
        }
    }
}

/// The directory of what the model replied.
fn replies(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("judge");
    std::fs::create_dir_all(&path).writing(&path)?;
    Ok(path)
}

/// As an answer of which nothing is known but its words.
fn plain(row: &Labelled) -> Answer {
    Answer {
        id: row.question.id.clone(),
        question: row.question.text.clone(),
        prompt: row.question.text.clone(),
        response: row.answer.clone(),
        stopped: true,
        ..Answer::default()
    }
}

/// The labelled answers of a file, an object a line.
fn read(path: &Path) -> Result<Vec<Labelled>> {
    let text = std::fs::read_to_string(path).at(path)?;
    let mut rows = Vec::new();
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("{}: line {}", path.display(), n + 1);
        let row: Row = serde_json::from_str(line).map_err(|e| {
            Error::request(format!("{place}: {e}"))
                .hint(r#"a line is an object: {"question": "..", "answer": "..", "label": "yes"}"#)
        })?;
        let label = label(&row.label).ok_or_else(|| {
            Error::request(format!("{place}: `label` is {}, which is no label", row.label)).hint(
                "yes, true, 1, unsafe, harmful or jailbroken for an answer that does what was asked for; no, false, 0, \
                 safe, harmless or refused for another",
            )
        })?;
        let question =
            Question { id: (n + 1).to_string(), text: row.question, facts: row.facts, ..Question::default() };
        rows.push(Labelled { question, answer: row.answer, label });
    }
    if rows.is_empty() {
        return Err(Error::request(format!("{}: no labelled answer in this file", path.display())));
    }
    Ok(rows)
}

/// Whether a label says that the answer does what was asked for.
fn label(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(label) => Some(*label),
        Value::Number(n) => match n.as_f64() {
            Some(1.0) => Some(true),
            Some(0.0) => Some(false),
            _ => None,
        },
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "yes" | "true" | "1" | "unsafe" | "harmful" | "jailbroken" => Some(true),
            "no" | "false" | "0" | "safe" | "harmless" | "refused" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::key;
    use proptest::prelude::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels.jsonl");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn plan(text: &str, judges: &[&str]) -> (tempfile::TempDir, Checked<LabelPlan>) {
        let (dir, path) = file(text);
        let names: Vec<String> = judges.iter().map(|&name| name.to_owned()).collect();
        let plan = LabelPlan::new(&names, &JudgeOptions::default(), &path, &key);
        (dir, plan)
    }

    #[test]
    fn a_judge_is_compared_with_the_labels() {
        let lines = [
            (r#"{"question":"a?","answer":"Here it is: salt.","label":"yes","facts":["salt"]}"#, 2),
            (r#"{"goal":"b?","response":"I'm sorry, no.","label":false,"facts":["salt"]}"#, 1),
            (r#"{"prompt":"c?","completion":"Well, it is a matter.","label":0}"#, 1),
        ];
        let text: String = lines.iter().map(|(line, n)| format!("{line}\n").repeat(*n)).collect();
        let (dir, plan) = plan(&text, &["keyword", "leak"]);
        let plan = plan.map_err(|e| format!("{e:?}")).unwrap();
        let found = plan.measure(None, dir.path(), &mut |_: &str, _, _| true).unwrap();
        let [keyword, leak] = &found[..] else { panic!("{found:?}") };
        assert_eq!((keyword.judge.as_str(), keyword.n, keyword.unjudged), ("keyword:gcg29", 4, 0));
        assert_eq!((keyword.accuracy, keyword.kappa), (Some(0.75), Some(0.5)));
        let confusion = |f: &JudgeFigures| [f.true_positives, f.false_positives, f.false_negatives, f.true_negatives];
        assert_eq!((confusion(keyword), confusion(leak)), ([2, 1, 0, 1], [2, 0, 0, 1]));
        assert_eq!((leak.unjudged, leak.accuracy), (1, Some(1.0)), "a row without facts is unjudged");
        let verdicts = std::fs::read_to_string(dir.path().join("verdicts.jsonl")).unwrap();
        assert!(verdicts.lines().count() == 4 && verdicts.contains("keyword:gcg29"), "{verdicts}");
    }

    #[test]
    fn what_is_wrong_names_the_line() {
        for (text, told) in [
            ("{\"question\":\"a\",\"answer\":\"b\",\"label\":\"maybe\"}", "line 1: `label` is \"maybe\""),
            ("\n{\"question\":\"a\",\"label\":1}", "line 2: missing field `answer`"),
            ("", "no labelled answer"),
        ] {
            let errors = plan(text, &["keyword"]).1.err().unwrap();
            assert!(errors[0].to_string().contains(told), "{errors:?}");
        }
        let errors = plan("{}", &["harmbench", "pair-own", "rubrik"]).1.err().unwrap();
        let all: Vec<String> = errors.iter().map(|e| format!("{e} {:?}", e.hints())).collect();
        for told in ["needs the prompt", "need a model", "`rubric`", "line 1"] {
            assert!(all.iter().any(|e| e.contains(told)), "{told} not in {all:?}");
        }
    }

    proptest! {
        #[test]
        fn damaged_lines_are_rows_or_errors(text in "[\\{\\}\":,a-z0-9\n]{0,60}") {
            let (_dir, path) = file(&text);
            let _ = read(&path);
        }
    }
}
