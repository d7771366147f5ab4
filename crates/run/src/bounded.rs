//! A first run that ends in a given time. In: what a user has, and minutes; out: its run file, with as many questions,
//! requests and steps as the time allows on this machine. Invariant: the size is chosen by what was measured with the
//! user's model, and never falls below the least that says anything.

use crate::estimate::{Measured, estimated, measure};
use crate::failure::Outcome;
use crate::plan::{FirstRun, Overrides, RunPlan, Size};
use crate::watch::Watch;
use eraser_model::Error;
use std::path::Path;

/// Halvings by which the size is found: to within a two-hundredth of the usual one.
const HALVINGS: usize = 8;

/// Makes the run file of a run that takes about `minutes`. `file` is where it will be; `at` names the option of a key.
///
/// # Errors
/// As [`FirstRun::to_toml`]; a time in which the smallest run does not end; a model that cannot be loaded.
pub fn bounded(
    first: &FirstRun,
    minutes: f64,
    file: &Path,
    overrides: &Overrides<'_>,
    at: &dyn Fn(&str) -> String,
    watch: &mut dyn Watch,
) -> Outcome<String> {
    // What an earlier run of the directory left does not count: it may be of another size.
    let empty = tempfile::tempdir().map_err(|e| Error::failed(format!("a temporary directory: {e}")))?;
    let dir = empty.path().join("run");
    let overrides = Overrides { out: Some(&dir), ..overrides.clone() };
    let plan = |size: Option<Size>| -> Outcome<RunPlan> {
        let first = FirstRun { size, minutes: Some(minutes), ..first.clone() };
        RunPlan::parse(file, &first.to_toml(at)?, &overrides)
    };
    let usual = plan(None)?;
    let steps = usual.variants.first().and_then(|v| v.train.steps).unwrap_or(1);
    let measured = measure(&usual, watch)?;
    let takes = |size: Size| -> Outcome<f64> { middle(&plan(Some(size))?, &measured) };
    let time = 60.0 * minutes;
    let largest = Size::share(1.0, steps);
    let whole = takes(largest)?;
    let chosen = if whole <= time {
        watch.note(&format!("--minutes {minutes}: nothing is cut, the run takes about {}", shown(whole)));
        largest
    } else {
        let least = takes(Size::share(0.0, steps))?;
        if least > time {
            let more = (least / 60.0).ceil();
            let what = format!("--minutes {minutes}: the smallest run with this model takes {more} minutes here");
            return Err(Error::request(what)
                .hint(format!("give --minutes {more} or more, or leave it out; a smaller model is faster too"))
                .into());
        }
        let [mut low, mut high] = [0.0, 1.0];
        for _ in 0..HALVINGS {
            let share = f64::midpoint(low, high);
            if takes(Size::share(share, steps))? <= time { low = share } else { high = share }
        }
        let size = Size::share(low, steps);
        let Size { trained, measured: asked, kept, steps: chosen, .. } = size;
        watch.note(&format!(
            "--minutes {minutes}: cut to at most {trained} questions to train on, {asked} that measure, {kept} requests \
             to keep and {} steps, which takes about {}; the whole takes about {}",
            chosen.unwrap_or(steps),
            shown(takes(size)?),
            shown(whole)
        ));
        size
    };
    FirstRun { size: Some(chosen), minutes: Some(minutes), ..first.clone() }.to_toml(at)
}

/// The middle of the range of seconds.
fn middle(plan: &RunPlan, measured: &Measured) -> Outcome<f64> {
    let [low, high] = estimated(plan, Some(measured))?.seconds.unwrap_or_default();
    Ok(f64::midpoint(low, high))
}

/// Seconds in words.
fn shown(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} minutes", seconds / 60.0) }
}
