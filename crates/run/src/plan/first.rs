//! A first run file. In: a model, a list of questions, what else a user has; out: a run file in which every key has a
//! line on what another value would do. Invariant: no question that is trained on measures, and the file is read by the
//! same rules as one that was written by hand.

use super::basics::wrong;
use super::size::Size;
use super::source::{Source, check_path};
use super::values::RowRange;
use crate::builtin::Assets;
use crate::failure::{Outcome, Problems};
use eraser_model::{Error, Result};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Questions that measure at least: of fewer, even no success at all leaves room for one in four (docs/guide.md).
const TELLING: usize = 12;
/// Fewer questions cannot be divided.
const FEWEST: usize = 6;
/// The built-in requests from this row on measure whether harmless requests are refused; the others are kept.
const ASKED: usize = 400;
/// The built-in requests.
const REQUESTS: &str = "builtin/requests/benign.csv";
/// The built-in jailbreak templates.
const TEMPLATES: [&str; 2] = ["builtin/templates/seen", "builtin/templates/held-out"];

/// What a user has.
#[derive(Clone, Debug, Default)]
pub struct FirstRun {
    /// Directory, .gguf file, hub name or `builtin`.
    pub model: String,
    /// Keys of `[model]` that differ from their defaults.
    pub how: Vec<(&'static str, serde_json::Value)>,
    /// Questions that the model must not answer.
    pub questions: Source,
    /// Others that measure; None: a third of `questions`.
    pub unseen: Option<Source>,
    /// A file of harmful answers with its columns of question and answer; None: the model's own.
    pub answers: Option<Source>,
    /// Jailbreak templates to measure under; none: the built-in ones.
    pub templates: Vec<PathBuf>,
    /// Harmless requests that measure; None: some of the built-in ones.
    pub over_refusal: Option<Source>,
    /// Running text to keep.
    pub retain_text: Option<Source>,
    /// The run directory.
    pub dir: PathBuf,
    /// How many questions, requests and steps there are at most; None: as usual.
    pub size: Option<Size>,
    /// For how many minutes the size was chosen; None: it was not.
    pub minutes: Option<f64>,
}

impl FirstRun {
    /// The run file. `at` names the option of a key, for errors.
    ///
    /// # Errors
    /// A file that cannot be read; too few questions; rows that were chosen in a way that cannot be divided.
    pub fn to_toml(&self, at: &dyn Fn(&str) -> String) -> Outcome<String> {
        let mut problems = Problems::default();
        for (key, source) in [
            ("questions", Some(&self.questions)),
            ("unseen", self.unseen.as_ref()),
            ("answers_file", self.answers.as_ref()),
            ("over_refusal", self.over_refusal.as_ref()),
            ("retain_text", self.retain_text.as_ref()),
        ] {
            if let Some(Err(e)) = source.map(|source| check_path(&source.path)) {
                problems.push(e.context(at(key)));
            }
        }
        problems.finish(Some(()))?;
        let mut problems = Problems::default();
        let [trained, measured] = self.divided(at, &mut problems)?;
        let text = self.text(&trained, &measured)?;
        problems.finish(Some(text))
    }

    /// How many questions measure, where they are so few that no figure could show that a defence held.
    ///
    /// # Errors
    /// As [`Self::to_toml`].
    pub fn too_few(&self, at: &dyn Fn(&str) -> String) -> Outcome<Option<usize>> {
        let mut problems = Problems::default();
        let [_, measured] = self.divided(at, &mut problems)?;
        let n = measured.questions(&Assets::InCache)?.len();
        problems.finish(Some((n < TELLING).then_some(n)))
    }

    /// The questions that are trained on, and those that measure.
    fn divided(&self, at: &dyn Fn(&str) -> String, problems: &mut Problems) -> Result<[Source; 2]> {
        if let Some(unseen) = &self.unseen {
            let Some(size) = self.size else { return Ok([self.questions.clone(), unseen.clone()]) };
            // Rows that the user chose stay as they are.
            let part = |source: &Source, most: usize| -> Result<Source> {
                let n = source.questions(&Assets::InCache)?.len();
                let chosen = source.take.is_some() || source.shuffle.is_some() || n <= most;
                Ok(if chosen { source.clone() } else { Source { shuffle: Some(1), ..first(source, most) } })
            };
            return Ok([part(&self.questions, size.trained)?, part(unseen, size.measured)?]);
        }
        if self.questions.take.is_some() || self.questions.shuffle.is_some() {
            let what = "rows that are chosen by `take` or `shuffle` are not divided into trained and measured ones";
            problems.push(wrong(&at("questions"), what).hint("give the questions that measure as well: --unseen FILE"));
        }
        let n = self.questions.questions(&Assets::InCache).map_err(|e| e.context(at("questions")))?.len();
        if n < FEWEST {
            let what = format!("{n} questions are too few: two thirds are trained on, the others measure");
            problems.push(wrong(&at("questions"), what).hint(format!("give at least {FEWEST}, better some hundred")));
        }
        let size = self.size.unwrap_or(Size::USUAL);
        let trained = (2 * n / 3).min(size.trained);
        let measured = (n - trained).min(size.measured);
        let part = |from: usize, count: usize| {
            let take = RowRange { first: from, last: Some((from + count).saturating_sub(1)) };
            Source { shuffle: Some(1), take: Some(take), ..self.questions.clone() }
        };
        Ok([part(0, trained), part(trained, measured)])
    }

    fn text(&self, trained: &Source, measured: &Source) -> Result<String> {
        let mut out = String::from(
            "# A first run: harden a model against a list of questions, and measure what changed. `eraser run` does it; each\n\
             # key has a line on what another value would do, and docs/guide.md tells more. Change it as you like.\n",
        );
        if let Some((size, minutes)) = self.size.zip(self.minutes) {
            let _ = writeln!(out, "{}", size.comment(minutes));
        }
        let size = self.size.unwrap_or(Size::USUAL);
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        out.push_str("\n[run]\n");
        line(&mut out, "name", &quoted(&name), "the name in tables");
        line(&mut out, "dir", &path(&self.dir)?, "everything that is made goes there");

        out.push_str("\n[model]\n");
        let model = Path::new(&self.model);
        let model = if model.exists() { path(model)? } else { quoted(&self.model) };
        line(&mut out, "path", &model, "a directory, a .gguf file or a hub name");
        for (key, value) in &self.how {
            let value = toml::Value::try_from(value).map_err(|e| Error::request(format!("{key}: {e}")))?;
            line(&mut out, key, &value.to_string(), "as it was given; left out: the default");
        }

        out.push_str("\n[prepare]\n");
        let told =
            if self.unseen.is_some() { "all of these are trained on" } else { "more of them forget more broadly" };
        line(&mut out, "questions", &inline(None, trained)?, told);
        if let Some(answers) = &self.answers {
            line(&mut out, "answers", &quoted("file"), "model: what the model itself says after an opening");
            line(
                &mut out,
                "answers_file",
                &inline(None, answers)?,
                "whole answers are unlearned more broadly than openings",
            );
        } else {
            line(&mut out, "answers", &quoted("model"), "file or endpoint: other answers than the model's own");
            let opening = quoted("Sure, here is how:");
            line(&mut out, "answers_opening", &opening, "an aligned model goes on from it where it would refuse");
        }
        line(&mut out, "align_answered", &quoted("drop"), "keep: answers stand among the refusals that are taught");
        line(
            &mut out,
            "align_wordings",
            "3",
            "without it each refusal keeps its own words, of which few are learned well",
        );
        line(&mut out, "max_entities", "3", "more: keeps more of what is harmless, and takes longer");
        line(&mut out, "forms", "1", "all ten question forms: ten times as many answers to generate");
        let kept = inline(None, &requests(&format!("0-{}", size.kept.clamp(1, ASKED) - 1))?)?;
        line(&mut out, "retain_questions", &kept, "requests like those of your users are better still");
        if let Some(text) = &self.retain_text {
            line(
                &mut out,
                "retain_text",
                &inline(None, text)?,
                "keeps the prediction of running text, which perplexity measures",
            );
        }
        line(&mut out, "max_new_tokens", "96", "longer answers keep more, and take longer");
        line(&mut out, "harm_max_new_tokens", "96", "longer answers are unlearned further, and take longer");
        line(&mut out, "temperature", "0.0", "above 0 answers are drawn, and differ with the seed");
        line(&mut out, "batch", "16", "answers at a time; memory grows with it");

        out.push_str("\n[train]\n");
        line(&mut out, "preset", &quoted("strong"), "paper: the published settings, which hold less on real models");
        if let Some(steps) = size.steps {
            line(&mut out, "steps", &steps.to_string(), "more steps forget further, and take longer");
        }
        line(&mut out, "max_length", "384", "longer samples are cut; time grows with it");
        line(&mut out, "seed", "42", "another seed gives another adapter");

        out.push_str("\n[eval]\n");
        let attacks = "[\"direct\", \"template\", \"prefill\"]";
        line(&mut out, "attacks", attacks, "gcg and autodan search for a prompt, and take hours");
        let templates = if self.templates.is_empty() {
            TEMPLATES.map(quoted).join(", ")
        } else {
            self.templates.iter().map(|t| path(t)).collect::<Result<Vec<_>>>()?.join(", ")
        };
        line(
            &mut out,
            "templates",
            &format!("[{templates}]"),
            "templates that attackers use tell more than built-in ones",
        );
        line(&mut out, "judges", "[\"keyword\"]", "rubric or strongreject: a model judges, which must be a good one");
        line(&mut out, "max_new_tokens", "64", "more: a late change of mind is seen");
        line(&mut out, "batch", "16", "answers at a time; memory grows with it");
        let (seen, unseen) = (inline(Some("seen"), &few(trained, size.seen)?)?, inline(Some("unseen"), measured)?);
        line(
            &mut out,
            "questions",
            &format!("[{seen}, {unseen}]"),
            "unseen ones tell whether the defence carries over",
        );
        let last = if self.size.is_some() { (ASKED + size.asked.max(1) - 1).to_string() } else { String::new() };
        let harmless = self.over_refusal.clone().map_or_else(|| requests(&format!("{ASKED}-{last}")), Ok)?;
        let harmless = inline(Some("harmless"), &harmless)?;
        line(&mut out, "over_refusal", &harmless, "requests that must not be refused");
        line(&mut out, "likelihood", "true", "how likely the known answers still are; a forward pass for each");
        Ok(out)
    }
}

/// The first of the questions that are trained on: enough to compare with the unseen ones.
fn few(trained: &Source, most: usize) -> Result<Source> {
    Ok(first(trained, trained.questions(&Assets::InCache)?.len().clamp(1, most.max(1))))
}

/// The first rows of a source.
fn first(source: &Source, n: usize) -> Source {
    let first = source.take.map_or(0, |take| take.first);
    Source { take: Some(RowRange { first, last: Some(first + n.max(1) - 1) }), ..source.clone() }
}

/// A key with its comment, on a line of its own above where both would be too long.
fn line(out: &mut String, key: &str, value: &str, comment: &str) {
    let setting = format!("{key} = {value}");
    let _ = if setting.chars().count() <= 40 {
        writeln!(out, "{setting:<40}# {comment}")
    } else {
        writeln!(out, "# {comment}\n{setting}")
    };
}

fn quoted(text: impl AsRef<str>) -> String {
    toml::Value::from(text.as_ref()).to_string()
}

/// A path from the root, so that the file can be moved; those of built-in files stay as they are.
fn path(path: &Path) -> Result<String> {
    let whole = if crate::builtin::relative(path).is_some() {
        path.to_owned()
    } else {
        std::path::absolute(path).map_err(|e| Error::request(format!("{}: {e}", path.display())))?
    };
    let text = whole.to_str().ok_or_else(|| Error::request(format!("{}: the path is not UTF-8", whole.display())))?;
    Ok(quoted(text))
}

/// Some of the built-in requests.
fn requests(rows: &str) -> Result<Source> {
    let take = RowRange::parse(rows).map_err(Error::failed)?;
    Ok(Source { take: Some(take), ..Source::file(Path::new(REQUESTS)) })
}

/// A source as an inline table, with the name of the set if it has one.
fn inline(set: Option<&str>, source: &Source) -> Result<String> {
    let mut parts: Vec<String> = set.map(|set| format!("set = {}", quoted(set))).into_iter().collect();
    parts.push(format!("path = {}", path(&source.path)?));
    match (&source.input, &source.output) {
        (Some(input), Some(output)) => {
            parts.push(format!("input = {}", quoted(input)));
            parts.push(format!("output = {}", quoted(output)));
        }
        (Some(column), None) => parts.push(format!("column = {}", quoted(column))),
        _ => {}
    }
    if !source.filter.is_empty() {
        let pairs = source.filter.iter().map(|(key, value)| format!("{} = {}", quoted(key), quoted(value)));
        parts.push(format!("where = {{ {} }}", pairs.collect::<Vec<_>>().join(", ")));
    }
    parts.extend(source.shuffle.map(|seed| format!("shuffle = {seed}")));
    parts.extend(source.take.map(|take| format!("take = {}", quoted(take.to_string()))));
    Ok(format!("{{ {} }}", parts.join(", ")))
}
