//! `eraser train`, resolved. In: set files, settings, a directory; out: sets that were read. Invariant: everything but the
//! weights was checked, the content of the sets included.

use super::basics::wrong;
use super::check;
use super::jailbreak::Jailbreaks;
use super::model::ModelPlan;
use super::source::Source;
use crate::builtin::Assets;
use crate::failure::{Outcome, Problems};
use eraser_model::Error;
use eraser_train::{Rows, Sets, TrainOptions};
use std::path::{Path, PathBuf};

/// The files of the sets.
#[derive(Clone, Debug, Default)]
pub struct SetFiles {
    /// Harmful questions with harmful answers.
    pub harm: PathBuf,
    /// Questions about the entities, with the model's answers.
    pub help: PathBuf,
    /// The harmful questions with the model's refusals.
    pub align: PathBuf,
    /// Allowed skills, with the model's answers.
    pub retain: Option<PathBuf>,
    /// Jailbreak templates, for methods that learn from some.
    pub jailbreaks: Vec<PathBuf>,
}

/// What is to be trained.
#[derive(Clone, Debug)]
pub struct TrainRequest {
    /// The model.
    pub model: ModelPlan,
    /// The files of the sets.
    pub files: SetFiles,
    /// The settings.
    pub options: TrainOptions,
    /// The run directory.
    pub dir: PathBuf,
    /// Goes on with the training that the directory holds.
    pub resume: bool,
    /// Removes the training that the directory holds.
    pub force: bool,
}

/// A request whose sets were read.
pub struct TrainPlan {
    /// What was asked for.
    pub request: TrainRequest,
    /// The sets.
    pub sets: Sets,
}

impl TrainPlan {
    /// Reads the sets and checks everything but the weights. `at` names the option of a key, for errors; `problems` are
    /// those found so far.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn resolve(request: TrainRequest, at: &dyn Fn(&str) -> String, mut problems: Problems) -> Outcome<Self> {
        let (options, files) = (&request.options, &request.files);
        check::train_options(options, &|field| Some(at(field)), &mut problems);
        let assets = Assets::InCache;
        let mut read = |key: &str, path: &Path| {
            problems.ok(Source::file(path).records(&assets).map_err(|e| e.context(at(key)))).unwrap_or_default()
        };
        let mut sets = Sets {
            harm: read("harm", &files.harm),
            help: read("help_set", &files.help),
            align: read("align", &files.align),
            retain: files.retain.as_deref().map(|path| read("retain_set", path)),
            wrapped: Vec::new(),
        };
        if options.method.reads(Rows::Wrapped) {
            if files.jailbreaks.is_empty() {
                let what = format!("method `{}` learns from jailbreak templates", options.method.name);
                problems.push(wrong(&at("jailbreaks"), what).hint("name template files or directories of them"));
            }
            match Jailbreaks::read(&files.jailbreaks, &[], options.seed, &assets) {
                Ok(jailbreaks) => sets.wrapped = jailbreaks.wrap(&sets.align),
                Err(failure) => problems.extend(failure),
            }
        }
        let dir = &request.dir;
        if dir.exists() && !dir.is_dir() {
            problems.push(Error::request(format!("{}: {} is not a directory", at("out"), dir.display())));
        }
        let holds = |name: &str| dir.join(name).exists();
        let state = match (holds("adapter"), holds("train")) {
            (true, _) => Some("a finished training run"),
            (false, true) => Some("an unfinished training run"),
            _ => None,
        };
        if let Some(what) = state.filter(|_| !request.resume && !request.force) {
            problems.push(
                Error::request(format!("{}: {} holds {what}", at("out"), dir.display()))
                    .hint("go on with it by --resume, begin again by --force, or name another directory"),
            );
        }
        if request.resume && problems.ok(eraser_train::resumable(dir)) == Some(false) {
            problems.push(
                wrong(&at("resume"), format!("{} holds no training run to go on with", dir.display()))
                    .hint("leave --resume out to begin one"),
            );
        }
        problems.finish(Some(Self { request, sets }))
    }
}
