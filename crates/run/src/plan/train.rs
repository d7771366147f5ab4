//! `eraser train`, resolved. In: set files, settings, a directory; out: sets that were read. Invariant: everything but
//! the weights was checked, the content of the sets included.

use super::basics::{check_out, wrong};
use super::check;
use super::jailbreak::Jailbreaks;
use super::model::ModelPlan;
use super::sets::{SETS, set_key};
use super::source::Source;
use crate::builtin::Assets;
use crate::directory::busy;
use crate::failure::{Outcome, Problems};
use eraser_model::Error;
use eraser_train::{SetName, Sets, TrainOptions};
use std::path::{Path, PathBuf};

/// What is to be trained.
#[derive(Clone, Debug)]
pub struct TrainRequest {
    /// The verb that asks for it, which the record of the adapter names.
    pub verb: &'static str,
    /// The model.
    pub model: ModelPlan,
    /// The file of each set.
    pub sets: Vec<(SetName, PathBuf)>,
    /// Jailbreak templates, for methods that learn from some.
    pub jailbreaks: Vec<PathBuf>,
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
        let method = request.options.method;
        for known in SETS.iter().filter(|known| known.required && method.needs(known.set)) {
            if !request.sets.iter().any(|(set, _)| *set == known.set) {
                let what = format!("is missing: method `{}` learns from the {} set", method.name, known.set.name());
                problems.push(wrong(&at(known.key), what).hint("name the file that holds it"));
            }
        }
        let mut sets = Sets::default();
        for (set, path) in &request.sets {
            let flag = at(set_key(*set));
            let records =
                problems.ok(Source::file(path).training_set(*set, &Assets::InCache).map_err(|e| e.context(&flag)));
            sets.insert(*set, records.unwrap_or_default());
            sets.name_source(*set, format!("{flag} {}", path.display()));
        }
        Self::of_sets(request, sets, at, problems)
    }

    /// As [`Self::resolve`], with sets that were read.
    pub(super) fn of_sets(
        request: TrainRequest,
        mut sets: Sets,
        at: &dyn Fn(&str) -> String,
        mut problems: Problems,
    ) -> Outcome<Self> {
        let options = &request.options;
        check::train_options(options, &|field| Some(at(field)), &mut problems);
        if options.method.reads(SetName::Wrapped) {
            if request.jailbreaks.is_empty() {
                let what = format!("method `{}` learns from jailbreak templates", options.method.name);
                problems.push(wrong(&at("jailbreaks"), what).hint("name template files or directories of them"));
            }
            match Jailbreaks::read(&request.jailbreaks, &[], options.seed, &Assets::InCache) {
                Ok(jailbreaks) => sets.insert(SetName::Wrapped, jailbreaks.wrap(sets.rows(SetName::Align))),
                Err(failure) => problems.extend(failure),
            }
        }
        for error in sets.swapped(options) {
            problems.push(error);
        }
        let dir = &request.dir;
        check_out(dir, &at("out"), &mut problems);
        let holds = |name: &str| dir.join(name).exists();
        let state = match (holds("adapter"), holds("train")) {
            (true, _) => Some("a finished training run"),
            (false, true) => Some("an unfinished training run"),
            _ => None,
        };
        if busy(dir) {
            // What it holds changes, and each of the other hints would be refused.
            problems.push(
                Error::request(format!("{}: {}: another eraser process is working in it", at("out"), dir.display()))
                    .hint("wait for it, or name another directory"),
            );
            return problems.finish(None);
        }
        if let Some(what) = state.filter(|_| !request.resume && !request.force) {
            problems.push(
                Error::request(format!("{}: {} holds {what}", at("out"), dir.display()))
                    .hint("continue it with --resume, start again with --force, or name another directory"),
            );
        }
        // Removed by --force before it would be read.
        let real = |path: &Path| path.canonicalize().ok();
        let begins_from = request.options.init_adapter.as_deref().and_then(real);
        let removed = [dir.join("adapter"), dir.join("train")]
            .iter()
            .filter_map(|path| real(path))
            .any(|removed| begins_from.as_ref().is_some_and(|adapter| adapter.starts_with(removed)));
        if request.force && removed {
            let what = format!("{} holds the adapter that training begins from", dir.display());
            problems.push(wrong(&at("force"), what).hint("copy the adapter elsewhere, or name another directory"));
        }
        if request.resume && problems.ok(crate::stage::rounds::resumable(dir)) == Some(false) {
            problems.push(
                wrong(&at("resume"), format!("{} holds no training run to go on with", dir.display()))
                    .hint("leave --resume out to begin one"),
            );
        }
        problems.finish(Some(Self { request, sets }))
    }
}
