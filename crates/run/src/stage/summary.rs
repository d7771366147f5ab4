//! `summary.json`. In: figures of evaluations and benchmarks; out: the file that holds them all, and the manifest's
//! note of where each comes from. Invariant: it holds figures of one model and its adapters only, and none of a variant
//! that the run file has no more.

use crate::inputs::Inputs;
use crate::manifest::{Manifest, Record, is_adapter};
use crate::watch::Watch;
use eraser_eval::summary::{SubjectSummary, UtilitySummary};
use eraser_eval::{Admitted, Asked, BenchSummary, ServedSubject, Subject, Summary};
use eraser_model::Result;
use std::collections::BTreeSet;
use std::path::Path;

/// The file, and the name of its record.
pub(crate) const FILE: &str = "summary.json";
/// The files of figures that an evaluation reads again and joins to its own.
pub(crate) const FIGURES: [&str; 2] = [FILE, "bench.json"];
/// Verbs whose variants are those of a run file.
const OF_A_RUN_FILE: [&str; 4] = ["run", "compare", "sweep", "tune"];
/// What the names of files of tasks begin with.
pub(crate) const TASK: &str = "task-";
/// The file of what known answers cost.
pub(crate) const LIKELIHOOD: &str = "likelihood";

/// Removes what work on `artefact` that did not end has left in `directory`, if something else is asked now, and files
/// of figures that were edited. Gives a line for each.
pub(crate) fn clear(
    manifest: &mut Manifest,
    (artefact, directory): (&str, &str),
    inputs: &Inputs,
) -> Result<Vec<String>> {
    let mut notes = manifest.discard_unfinished(artefact, inputs, directory)?;
    notes.extend(manifest.discard_edited(&FIGURES)?);
    Ok(notes)
}

/// Makes room for results of `subjects` in `dir`, or says that it holds those of another model.
pub(crate) fn admit<'a>(
    dir: &'a Path,
    (subjects, served): (&'a [Subject<'a>], &'a [ServedSubject]),
    force: bool,
    watch: &mut dyn Watch,
) -> Result<Admitted<'a>> {
    let (admitted, notes) = Admitted::with(dir, subjects, served, force)?;
    for text in notes {
        watch.note(&text);
    }
    Ok(admitted)
}

/// Removes the figures of variants that the run file has no more, whose adapters are still there. Subjects that `eraser
/// eval` was given stay.
pub(crate) fn keep_variants(
    dir: &Path,
    manifest: &mut Manifest,
    variants: &[&str],
    watch: &mut dyn Watch,
) -> Result<()> {
    for note in manifest.discard_edited(&FIGURES)? {
        watch.note(&note);
    }
    let trained_as = |record: &Record, name: &str| {
        OF_A_RUN_FILE.contains(&record.verb.as_str()) && record.options["name"].as_str() == Some(name)
    };
    let gone = |name: &str| {
        !variants.contains(&name) && manifest.artefacts().any(|(a, record)| is_adapter(a) && trained_as(record, name))
    };
    if dir.join(FILE).exists() {
        let mut summary = Summary::read(dir)?;
        let (gone, kept): (Vec<SubjectSummary>, _) = summary.subjects.into_iter().partition(|s| gone(&s.name));
        summary.subjects = kept;
        if !gone.is_empty() {
            summary.write(dir)?;
            let names: Vec<&str> = gone.iter().map(|s| s.name.as_str()).collect();
            let names = names.join(", ");
            watch.note(&format!("{FILE}: figures of {names} are left out: the run file has no such variant now"));
        }
    }
    // Their rows would come back from there.
    if let Some(mut bench) = BenchSummary::read(dir)? {
        let before = bench.subjects.len();
        bench.subjects.retain(|s| !gone(&s.name));
        bench.differences.retain(|d| !gone(&d.subject));
        if bench.subjects.len() < before {
            bench.write(dir)?;
        }
    }
    manifest.seal(&FIGURES)
}

/// Puts what was measured into the file, beside what that and bench.json hold of the same models.
pub(crate) fn record(dir: &Path, measured: &Summary, watch: &mut dyn Watch) -> Result<Summary> {
    let (summary, notes) = eraser_eval::record(dir, measured)?;
    for text in &notes {
        watch.note(text);
    }
    Ok(summary)
}

/// The figures that an evaluation makes of a subject, as the manifest names them.
pub(crate) fn asked(subject: &str, asked: &BTreeSet<Asked>) -> BTreeSet<String> {
    let name = |Asked { file, set, judge }: &Asked| match file.strip_prefix(TASK) {
        Some(task) => utility(subject, task, UtilitySummary::ACCURACY),
        None if judge.is_empty() => format!("{file}/{subject}/{set}"),
        None => attack(subject, file, set, judge),
    };
    asked.iter().map(name).collect()
}

/// Every figure of a summary, as the manifest names it. The pool of an attack and its parts are one.
pub(crate) fn figures(summary: &Summary) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for s in &summary.subjects {
        let file = |attack: &str| attack.split(':').next().unwrap_or_default().to_owned();
        all.extend(s.attacks.iter().map(|a| attack(&s.name, &file(&a.attack), &a.set, &a.judge)));
        all.extend(s.utility.iter().map(|u| utility(&s.name, &u.task, &u.metric)));
        all.extend(s.likelihood.iter().map(|l| format!("{LIKELIHOOD}/{}/{}", s.name, l.set)));
        all.extend(s.over_refusal.iter().map(|o| format!("over-refusal/{}/{}", s.name, o.set)));
        all.extend(s.contrast.iter().map(|o| format!("contrast/{}/{}", s.name, o.set)));
    }
    all
}

fn attack(subject: &str, file: &str, set: &str, judge: &str) -> String {
    format!("attack/{subject}/{file}/{set}/{judge}")
}

fn utility(subject: &str, task: &str, metric: &str) -> String {
    format!("utility/{subject}/{task}/{metric}")
}
