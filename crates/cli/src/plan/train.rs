//! `eraser train`, resolved.

use super::model::Home;
use super::{Jailbreaks, ModelPlan, Source, check, wrong};
use crate::errors::{Outcome, Problems};
use crate::options::train::TrainArgs;
use eraser_model::Error;
use eraser_train::{Rows, Sets, TrainOptions};
use std::path::PathBuf;

/// What to train and where to write it.
pub(crate) struct TrainPlan {
    pub(crate) model: ModelPlan,
    pub(crate) home: Home,
    pub(crate) sets: Sets,
    pub(crate) options: TrainOptions,
    pub(crate) dir: PathBuf,
    pub(crate) resume: bool,
    pub(crate) force: bool,
}

impl TrainPlan {
    /// Checks everything but the weights, the sets' content included.
    pub(crate) fn resolve(args: &TrainArgs) -> Outcome<Self> {
        let mut problems = Problems::default();
        let model = ModelPlan::from_args(&args.model, &mut problems);
        let options = args.options();
        check::train_options(&options, &|field| Some(format!("--{}", field.replace('_', "-"))), &mut problems);
        let home = Home::Cache;
        let mut read = |flag: &str, path: &std::path::Path| {
            problems.ok(Source::file(path).records(&home).map_err(|e| e.context(flag))).unwrap_or_default()
        };
        let mut sets = Sets {
            harm: read("--harm", &args.sets.harm),
            help: read("--help-set", &args.sets.help_set),
            align: read("--align", &args.sets.align),
            retain: args.sets.retain_set.as_deref().map(|path| read("--retain-set", path)),
            wrapped: Vec::new(),
        };
        if options.method.reads(Rows::Wrapped) {
            let paths = &args.sets.jailbreak;
            if paths.is_empty() {
                let what = format!("method `{}` learns from jailbreak templates", options.method.name);
                problems.push(wrong("--jailbreak", what).hint("name template files or directories of them"));
            }
            match Jailbreaks::read(paths, &[], options.seed, &home) {
                Ok(jailbreaks) => sets.wrapped = jailbreaks.wrap(&sets.align),
                Err(failure) => problems.extend(failure),
            }
        }
        let dir = args.out.out.clone();
        if dir.exists() && !dir.is_dir() {
            problems.push(Error::request(format!("--out: {} is not a directory", dir.display())));
        }
        let holds = |name: &str| dir.join(name).exists();
        if !args.out.resume && !args.out.force && (holds("adapter") || holds("train")) {
            let what = if holds("adapter") { "a finished training run" } else { "an unfinished training run" };
            problems.push(
                Error::request(format!("--out: {} holds {what}", dir.display()))
                    .hint("go on with it by --resume, begin again by --force, or name another directory"),
            );
        }
        let (resume, force) = (args.out.resume, args.out.force);
        problems.finish(Some(Self { model, home, sets, options, dir, resume, force }))
    }
}
