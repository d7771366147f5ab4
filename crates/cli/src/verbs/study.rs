//! `eraser compare` and `eraser sweep`: a run whose variants the study makes, and study.json beside its summary. Invariant:
//! training, evaluation, resuming are those of `eraser run`; a study only reads what they leave.

use super::run::{earlier, overrides, pipeline};
use crate::builtin;
use crate::errors::Outcome;
use crate::options::run::GoArgs;
use crate::options::study::{CompareArgs, SweepArgs};
use crate::plan::study::{Axis, Point, Variants, text};
use crate::plan::{Overrides, RunPlan};
use crate::study::compare::Methods;
use crate::study::sweep::{HELP, NLL};
use crate::study::{self, Row};
use eraser_data::files::write_atomic;
use eraser_eval::{Choice, Figure, Figures, Summary};
use eraser_model::{Error, Result};
use eraser_train::{StepMetrics, metrics};
use std::path::Path;

/// The file of a study in its run directory.
pub(super) const FILE: &str = "study.json";

/// The study of a run.
pub(super) enum Study<'a> {
    Compare,
    Sweep { axes: &'a [Axis], points: &'a [Point] },
}

/// `eraser compare`.
pub(crate) fn compare(args: &CompareArgs, json: bool) -> Outcome {
    let plan = plan(&args.file, &args.go, "-compare", Variants::Methods(&args.methods))?;
    go(&plan, &args.go, &Study::Compare, json)
}

/// `eraser sweep`.
pub(crate) fn sweep(args: &SweepArgs, json: bool) -> Outcome {
    let points = Point::all(&args.axes, args.each);
    let variants = Variants::Points { of: args.variant.as_deref(), points: &points };
    let plan = plan(&args.file, &args.go, "-sweep", variants)?;
    // It would train the same adapter for every value.
    let idle = args.axes.iter().find(|axis| ["retain_take", "retain_weight"].contains(&axis.key.as_str()));
    if let Some(axis) = idle.filter(|_| plan.variants.iter().all(|v| !v.retain)) {
        let error = Error::request(format!("{}: the variant uses no retain set", axis.key));
        return Err(error.hint("name one that does by --variant, or give a set as [data] retain").into());
    }
    go(&plan, &args.go, &Study::Sweep { axes: &args.axes, points: &points }, json)
}

fn plan(file: &Path, go: &GoArgs, suffix: &str, variants: Variants<'_>) -> Outcome<RunPlan> {
    let overrides = Overrides { variants, suffix, ..overrides(&go.how, go.out.as_deref()) };
    if file == Path::new(builtin::NAME) {
        return RunPlan::parse(Path::new("configs/organism.toml"), builtin::RUN_FILE, &overrides);
    }
    RunPlan::read(file, &overrides)
}

fn go(plan: &RunPlan, args: &GoArgs, study: &Study<'_>, json: bool) -> Outcome {
    pipeline(plan, earlier(args), Some(study), json).map_err(|f| f.on_interrupt("run the same command again to go on"))
}

impl Study<'_> {
    /// Reads off the finished run what the study is about.
    pub(super) fn write(&self, dir: &Path, plan: &RunPlan, held_out: Vec<String>) -> Result<()> {
        let summary = Summary::read(dir)?;
        let judges = summary.subjects.iter().flat_map(|s| &s.attacks).map(|a| a.judge.as_str());
        let judge = judges.clone().next().unwrap_or_default();
        let sets = plan.eval.questions.iter().map(|q| q.name.clone());
        let choice = Choice { held_out, unseen: sets.clone().find(|set| set == "unseen") };
        let row = |name: &str, values: Vec<Option<String>>| {
            let subject = summary.subjects.iter().find(|s| s.name == name);
            let figures = subject.map_or_else(Figures::default, |s| Figures::of(s, judge, &choice));
            Row { subject: name.to_owned(), values, figures }
        };
        let mut found = match self {
            Self::Compare => {
                let rows: Vec<Row> = summary.subjects.iter().map(|subject| row(&subject.name, Vec::new())).collect();
                let of = |method: &str| {
                    let variant = plan.variants.iter().find(|v| v.train.method.name == method)?;
                    rows.iter().find(|r| r.subject == variant.name)
                };
                let base = rows.iter().find(|r| r.subject == "base");
                let methods = Methods { base, eraser: of("eraser"), gam: of("gam"), rsft: of("rsft") };
                let findings = study::compare::findings(&methods);
                study::Study { kind: "compare", rows, findings, ..study::Study::default() }
            }
            Self::Sweep { axes, points } => {
                let mut keys: Vec<String> = Vec::new();
                for axis in *axes {
                    if !keys.contains(&axis.key) {
                        keys.push(axis.key.clone());
                    }
                }
                let base = row("base", keys.iter().map(|_| None).collect());
                let mut rows = Vec::new();
                for (variant, point) in plan.variants.iter().zip(*points) {
                    let value = |key: &String| point.values.iter().rev().find(|(k, _)| k == key).map(|(_, v)| text(v));
                    let mut row = row(&variant.name, keys.iter().map(value).collect());
                    let steps = metrics::read(&dir.join(&variant.home).join("train/metrics.jsonl"))?;
                    let end = |of: &dyn Fn(&StepMetrics) -> Option<f64>| final_mean(&steps, of);
                    let first = [
                        Figure::number(NLL, end(&|m| m.nll_harm)),
                        Figure::number(HELP, end(&|m| m.terms.get("l_help").copied())),
                    ];
                    row.figures = row.figures.after(first);
                    rows.push(row);
                }
                let findings = study::sweep::findings(&base, &rows, &keys);
                let plots = study::sweep::plots(&rows, &keys);
                rows.insert(0, base);
                study::Study { kind: "sweep", keys, rows, findings, plots, ..study::Study::default() }
            }
        };
        found.held_out = choice.held_out;
        let text = serde_json::to_string_pretty(&found).map_err(|e| Error::failed(format!("{FILE}: {e}")))?;
        write_atomic(&dir.join(FILE), format!("{text}\n").as_bytes())
    }
}

/// The mean over the last tenth of the steps: one step's value hangs on its batch.
fn final_mean(steps: &[StepMetrics], of: &dyn Fn(&StepMetrics) -> Option<f64>) -> Option<f64> {
    let last = &steps[steps.len() - steps.len().div_ceil(10)..];
    let values: Vec<f64> = last.iter().filter_map(of).collect();
    eraser_eval::stats::mean(&values)
}
