//! `eraser run`, `quickstart`, `compare` and `sweep`: whole runs. In: options; out: the table, and where the report is.

use crate::errors::again;
use crate::options::run::{GoArgs, PartArgs, QuickstartArgs, RunArgs};
use crate::options::study::{CompareArgs, SweepArgs};
use crate::options::tune::TuneArgs;
use crate::output;
use crate::progress::Terminal;
use crate::verbs::plan::show;
use crate::verbs::sharded;
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result};
use eraser_run::plan::RunPlan;
use eraser_run::plan::study::{Axis, Point};
use eraser_run::shards::{Joined, Part};
use eraser_run::study::{Question, compare_plan, sweep_plan};
use eraser_run::tune::{AXES, TuneRequest};
use eraser_run::{Earlier, Outcome, builtin, run_name, table};
use serde_json::Value;
use std::path::Path;

/// How much of a run is done, where, and what of an earlier one stays.
pub(super) struct Way<'a> {
    part: Part,
    out: Option<&'a Path>,
    earlier: Earlier,
}

impl<'a> Way<'a> {
    /// As the options of a run ask for it.
    fn asked(go: &'a GoArgs, part: PartArgs) -> Result<Self> {
        let out = go.out.as_deref();
        Ok(Self { part: Part::asked(part.shard)?, out, earlier: earlier(go) })
    }

    /// The run of shards that are joined in `out`.
    pub(super) fn joined(joined: Joined, out: &'a Path) -> Self {
        Self { part: Part::Joined(joined), out: Some(out), earlier: Earlier::GoOn }
    }

    /// Does the run, and prints what came of it.
    fn go(self, mut plan: RunPlan, verb: &str, study: Option<Question<'_>>, json: bool) -> Outcome {
        let Part::Shard(shard) = &self.part else {
            return done(&plan, &self.part, self.earlier, study, json)
                .map_err(|f| f.on_interrupt(again(self.earlier == Earlier::Removed)));
        };
        plan.dir = self.part.directory(&plan.dir, verb);
        let mut watch = Terminal::default();
        let result = eraser_run::run_shard(&plan, shard, self.earlier, study, &mut watch);
        watch.finish(result).map_err(|f| f.on_interrupt(again(self.earlier == Earlier::Removed)))?;
        sharded(shard.shard, &plan.dir, json)
    }
}

/// `eraser run`.
pub(crate) fn run(args: &RunArgs, json: bool) -> Outcome {
    if args.dry_run {
        let plan = RunPlan::read(&args.file, &args.go.how.overrides(args.go.out.as_deref()))?;
        return show(&plan, !args.no_timing, json);
    }
    run_by(args, Way::asked(&args.go, args.part)?, json)
}

/// The same, in another way than the options ask for.
pub(super) fn run_by(args: &RunArgs, way: Way<'_>, json: bool) -> Outcome {
    let plan = RunPlan::read(&args.file, &args.go.how.overrides(way.out))?;
    way.go(plan, "run", None, json)
}

/// `eraser quickstart`: the run file is embedded.
pub(crate) fn quickstart(args: &QuickstartArgs, json: bool) -> Outcome {
    let plan = RunPlan::read(Path::new(builtin::NAME), &args.how.overrides(Some(&args.out)))?;
    not_of_another(&args.out, &plan.name)?;
    let earlier = if args.keep { Earlier::GoOn } else { Earlier::Removed };
    whole(&plan, earlier, None, json).map_err(|f| f.on_interrupt("add --keep to go on from here"))
}

/// An error where `dir` holds a run of another name: its sets and adapters would be lost without a word.
fn not_of_another(dir: &Path, name: &str) -> Result<()> {
    match run_name(dir) {
        Some(other) if other != name => {
            let what = format!("{}: it holds the run `{other}`, which this command did not make", dir.display());
            Err(Error::request(what).hint("name another directory with --out, or remove this one"))
        }
        _ => Ok(()),
    }
}

/// `eraser compare`.
pub(crate) fn compare(args: &CompareArgs, json: bool) -> Outcome {
    compare_by(args, Way::asked(&args.go, args.part)?, json)
}

/// The same, in another way than the options ask for.
pub(super) fn compare_by(args: &CompareArgs, way: Way<'_>, json: bool) -> Outcome {
    let plan = compare_plan(&args.file, &args.methods, &args.go.how.overrides(way.out))?;
    way.go(plan, "compare", Some(Question::Compare), json)
}

/// `eraser sweep`.
pub(crate) fn sweep(args: &SweepArgs, json: bool) -> Outcome {
    sweep_by(args, Way::asked(&args.go, args.part)?, json)
}

/// The same, in another way than the options ask for.
pub(super) fn sweep_by(args: &SweepArgs, way: Way<'_>, json: bool) -> Outcome {
    let points = Point::all(&args.axes, args.each);
    let overrides = args.go.how.overrides(way.out);
    let plan = sweep_plan(&args.file, &args.axes, &points, args.variant.as_deref(), &overrides)?;
    let question = Question::Sweep { axes: &args.axes, points: &points };
    way.go(plan, "sweep", Some(question), json)
}

/// `eraser tune`.
pub(crate) fn tune(args: &TuneArgs, json: bool) -> Outcome {
    let own: Vec<Axis> = if args.axes.is_empty() {
        AXES.iter().map(|axis| Axis::parse(axis).map_err(Error::failed)).collect::<Result<_>>()?
    } else {
        args.axes.clone()
    };
    let request = TuneRequest {
        file: &args.file,
        variant: args.variant.as_deref(),
        axes: &own,
        minutes: args.minutes,
        points: args.points.map(usize::from),
        bounds: args.bounds(),
        seed: args.seed,
        overrides: args.go.how.overrides(args.go.out.as_deref()),
    };
    let mut watch = Terminal::default();
    let result = eraser_run::tune::tune(&request, earlier(&args.go), &mut watch);
    let found = watch.finish(result).map_err(|f| f.on_interrupt("run the same command again to go on"))?;
    if json {
        return Ok(output::json(&read_json(&found.dir.join("study.json"))?)?);
    }
    output::text(&table(&found.dir)?)?;
    output::line(&format!("\nbest: {}", found.best))?;
    if !found.broken.is_empty() {
        output::line(&format!("no setting keeps every bound; this one: {}", found.broken.join("; ")))?;
    }
    output::line(&format!("run file: {}", found.run_file.display()))?;
    Ok(output::line(&format!("report: {}", found.written.html.display()))?)
}

/// What `--resume` and `--force` mean.
pub(super) fn earlier(go: &GoArgs) -> Earlier {
    match (go.resume, go.force) {
        (_, true) => Earlier::Removed,
        (true, _) => Earlier::Expected,
        _ => Earlier::GoOn,
    }
}

/// Does a whole run, and prints what came of it.
pub(super) fn whole(plan: &RunPlan, earlier: Earlier, study: Option<Question<'_>>, json: bool) -> Outcome {
    done(plan, &Part::Whole, earlier, study, json)
}

/// The same, of shards too.
fn done(plan: &RunPlan, part: &Part, earlier: Earlier, study: Option<Question<'_>>, json: bool) -> Outcome {
    let mut watch = Terminal::default();
    let result = eraser_run::run_joined(plan, part, earlier, study, &mut watch);
    let written = watch.finish(result)?;
    if json {
        let mut value = read_json(&plan.dir.join("summary.json"))?;
        if study.is_some() {
            value["study"] = read_json(&plan.dir.join("study.json"))?;
        }
        output::json(&value)?;
    } else {
        output::text(&table(&plan.dir)?)?;
        output::line(&format!("\nreport: {}", written.html.display()))?;
    }
    Ok(())
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).at(path)?;
    serde_json::from_slice(&text).map_err(|e| Error::failed(format!("{}: {e}", path.display())))
}
