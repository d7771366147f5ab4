//! A search over settings. In: a run file with a table `[tune]`, keys of `[train]` with their values, minutes; out: a
//! run directory with every setting that was tried, and `tuned.toml`, the run file with the best one. Invariant: what
//! chooses is not what measures: questions of `[tune]` are none of `[eval]`, and the report of the search is not that
//! of the chosen setting.

use crate::builtin::Assets;
use crate::directory::Earlier;
use crate::failure::Outcome;
use crate::halving::{Rung, affordable, draw, rungs};
use crate::manifest::Manifest;
use crate::pipeline;
use crate::plan::study::{Axis, Point, Variants};
use crate::plan::{Overrides, RunPlan};
use crate::study::{Bounds, Question, broken, ranking};
use crate::watch::Watch;
use eraser_data::files::write_atomic;
use eraser_data::prepare::normal;
use eraser_eval::Summary;
use eraser_model::{Error, Result};
use eraser_report::Written;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// What a search has settled on, so that one that goes on does the same.
const FILE: &str = "tune.json";
/// The run file with the best setting.
const TUNED: &str = "tuned.toml";
/// The set of questions that were trained on.
const SEEN: &str = "seen";

/// The keys that are searched over where none is named: how far and how fast is forgotten, by how much of the model,
/// and in which contexts.
pub const AXES: [&str; 11] = [
    "gamma=2.5,4,6",
    "lr=2e-4,5e-4,1e-3",
    r#"targets=[["q", "v"], ["q", "k", "v", "o", "gate", "up", "down"]]"#,
    "rank=8,16,32",
    "gamma_scope=micro-batch,token",
    "noise_kind=tokens,mix",
    "noise_share=0.5,0.75,1",
    "harm_depth=0,32",
    "align_depth=0,16",
    "align_noise=true,false",
    "retain_noise=true,false",
];

/// What is searched.
#[derive(Clone, Debug)]
pub struct TuneRequest<'a> {
    /// The run file.
    pub file: &'a Path,
    /// The file's variant that is changed; None = the first.
    pub variant: Option<&'a str>,
    /// The keys and their values.
    pub axes: &'a [Axis],
    /// About how long the search takes.
    pub minutes: f64,
    /// Settings that it begins with; None = as many as the minutes allow.
    pub points: Option<usize>,
    /// What the chosen setting may cost.
    pub bounds: Bounds,
    /// Seed of the draws.
    pub seed: u64,
    /// What is said outside the run file.
    pub overrides: Overrides<'a>,
}

/// What came of a search.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The run directory.
    pub dir: PathBuf,
    /// Its report.
    pub written: Written,
    /// The run file with the best setting.
    pub run_file: PathBuf,
    /// The best setting in a line.
    pub best: String,
    /// Which bounds it breaks, in words.
    pub broken: Vec<String>,
}

/// tune.json.
#[derive(Debug, Serialize, Deserialize)]
struct Search {
    points: usize,
    steps: usize,
    rungs: Vec<Rung>,
}

/// Searches.
///
/// # Errors
/// Everything that is wrong with the run file; questions that `[tune]` and `[eval]` share; whatever ends a run.
pub fn tune(request: &TuneRequest<'_>, earlier: Earlier, watch: &mut dyn Watch) -> Outcome<Tuned> {
    let measured = plan(request, &[Point::default()], false)?;
    let first = plan(request, &[Point::default()], true)?;
    let dir = first.dir.clone();
    // A wrong key or value is found before the first training.
    let every: Vec<Point> = request.axes.iter().flat_map(values).collect();
    plan(request, &every, true)?;
    apart(&first, &measured)?;
    let steps = first.variants.first().and_then(|v| v.train.steps).ok_or_else(|| {
        Error::request("the search needs the number of steps of a whole training")
            .hint("set steps in [train] of the run file, or --set train.steps=N")
    })?;

    // The first setting, for the fewest steps, says how long the others will take.
    let trial = |number: usize, steps: usize| Point {
        label: Some(format!("t{number:03}-{steps}")),
        values: [draw(request.axes, request.seed, number).values, vec![("steps".to_owned(), steps_value(steps))]]
            .concat(),
    };
    let fewest = rungs(1, steps).first().map_or(steps, |rung| rung.steps);
    let mut tried = vec![trial(0, fewest)];
    let mut written = go(request, &tried, earlier, watch)?;
    let recorded = read(&dir, steps).filter(|search| request.points.is_none_or(|points| points == search.points));
    let search = if let Some(search) = recorded {
        search
    } else {
        let points = request.points.unwrap_or_else(|| begin_with(&dir, fewest, steps, request.minutes));
        let search = Search { points, steps, rungs: rungs(points, steps) };
        let text = serde_json::to_string_pretty(&search).map_err(|e| Error::failed(format!("{FILE}: {e}")))?;
        write_atomic(&dir.join(FILE), text.as_bytes())?;
        search
    };
    watch.note(&format!("tune: {}", describe(&search.rungs)));

    let mut numbers: Vec<usize> = (0..search.points).collect();
    for rung in &search.rungs {
        numbers.truncate(rung.points);
        let of_rung: Vec<Point> = numbers.iter().map(|&number| trial(number, rung.steps)).collect();
        for point in &of_rung {
            if !tried.iter().any(|known| known.label == point.label) {
                tried.push(point.clone());
            }
        }
        written = go(request, &tried, Earlier::GoOn, watch)?;
        let ranks = ranking(&Summary::read(&dir)?, &request.bounds);
        let rank = |number: usize| {
            let name = trial(number, rung.steps).name().unwrap_or_default();
            ranks.iter().position(|ranked| *ranked == name).unwrap_or(usize::MAX)
        };
        numbers.sort_by_key(|&number| rank(number));
    }
    let Some(&best) = numbers.first() else {
        return Err(Error::failed("the search tried no setting").into());
    };
    let point = Point { label: Some("tuned".to_owned()), values: draw(request.axes, request.seed, best).values };
    let chosen = plan(request, std::slice::from_ref(&point), false)?;
    let run_file = dir.join(TUNED);
    write_atomic(&run_file, chosen.to_toml()?.as_bytes())?;
    let last = search.rungs.last().map_or(steps, |rung| rung.steps);
    let name = trial(best, last).name().unwrap_or_default();
    let broken = broken(&Summary::read(&dir)?, &name, &request.bounds);
    Ok(Tuned { dir, written, run_file, best: point.describe(), broken })
}

/// The run file's plan at `points`; with the questions of `[tune]`, or with those of `[eval]`.
fn plan(request: &TuneRequest<'_>, points: &[Point], tune: bool) -> Outcome<RunPlan> {
    let variants = Variants::Points { of: request.variant, points };
    let suffix = if tune { "-tune" } else { "-tuned" };
    let out = if tune { request.overrides.out } else { None };
    RunPlan::read(request.file, &Overrides { out, variants, tune, suffix, ..request.overrides.clone() })
}

/// Trains and measures every setting of `points` that was not yet.
fn go(request: &TuneRequest<'_>, points: &[Point], earlier: Earlier, watch: &mut dyn Watch) -> Outcome<Written> {
    let question = Question::Tune { axes: request.axes, points, bounds: &request.bounds };
    pipeline::run(&plan(request, points, true)?, earlier, Some(question), watch)
}

/// An error where `[tune]` and `[eval]` ask the same questions.
fn apart(search: &RunPlan, measured: &RunPlan) -> Result<()> {
    let texts = |plan: &RunPlan, which: &dyn Fn(&str) -> bool| -> Result<HashSet<String>> {
        let mut texts = HashSet::new();
        for file in plan.eval.questions.iter().filter(|file| which(&file.name)) {
            texts.extend(file.source.questions(&Assets::InCache)?.iter().map(|question| normal(&question.text)));
        }
        Ok(texts)
    };
    if !search.eval.questions.iter().any(|file| file.name != SEEN) {
        return Err(Error::request(format!("[tune] has no set of questions but `{SEEN}`"))
            .hint("settings are chosen by questions that were not trained on: name a set of them otherwise"));
    }
    let (chosen, kept) = (texts(search, &|_| true)?, texts(measured, &|name| name != SEEN)?);
    let shared = chosen.intersection(&kept).count();
    if shared > 0 {
        let all = chosen.len();
        return Err(Error::request(format!("[tune] and [eval] share {shared} of {all} questions"))
            .hint("questions that choose a setting say nothing about it afterwards: give [tune] others, by `take`"));
    }
    Ok(())
}

/// A point for each value of a key.
fn values(axis: &Axis) -> impl Iterator<Item = Point> {
    let key = axis.key.clone();
    let numbered = axis.values.iter().cloned().enumerate();
    numbered.map(move |(i, value)| Point { label: Some(format!("{key}-{i}")), values: vec![(key.clone(), value)] })
}

/// With how many settings a search begins that is to take `minutes`, by what the first one took.
fn begin_with(dir: &Path, done: usize, steps: usize, minutes: f64) -> usize {
    let manifest = Manifest::read(dir);
    let training = manifest.seconds(&format!("variants/t000-{done}/adapter")).unwrap_or_default();
    // The base was measured too.
    let evaluation = manifest.seconds("summary.json").unwrap_or_default() / 2.0;
    affordable(steps, 60.0 * minutes, training / done as f64, evaluation)
}

fn read(dir: &Path, steps: usize) -> Option<Search> {
    let text = std::fs::read(dir.join(FILE)).ok()?;
    serde_json::from_slice(&text).ok().filter(|search: &Search| search.steps == steps)
}

fn steps_value(steps: usize) -> toml::Value {
    i64::try_from(steps).unwrap_or(i64::MAX).into()
}

fn describe(rungs: &[Rung]) -> String {
    let rungs: Vec<String> = rungs.iter().map(|r| format!("{} of {} steps", r.points, r.steps)).collect();
    format!("settings to train: {}", rungs.join(", then "))
}
