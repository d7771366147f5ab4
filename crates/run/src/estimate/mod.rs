//! `eraser plan`: what a run would do, and how long it would take here. In: a plan; out: its steps, with the range of
//! seconds that a short measurement on this machine and model gives, and what is made already. Invariant: the run
//! directory is only read.

mod cost;
mod rates;
mod site;

pub use cost::{Step, Todo};

use crate::builtin::Assets;
use crate::failure::Outcome;
use crate::inputs::Inputs;
use crate::machine::{Machine, machine};
use crate::manifest::{Manifest, State};
use crate::plan::{RunPlan, Variant};
use crate::stage::prepare::Material;
use crate::stage::{evaluate, prepare, summary, train};
use crate::watch::Watch;
use cost::Made;
use eraser_model::{Model, Result};
use serde::Serialize;
use site::Site;
use std::path::PathBuf;
use std::time::Instant;

/// What a run would do.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// The run directory.
    pub dir: PathBuf,
    /// The model.
    pub model: String,
    /// In the order in which they are done.
    pub steps: Vec<Step>,
    /// Seconds of all together, from, to; None: nothing was measured.
    pub seconds: Option<[f64; 2]>,
    /// Steps of which the seconds are not known, which come on top.
    pub unknown: usize,
    /// Memory in MiB that the measurement took, which is what the run takes at least; None: not measured.
    pub memory_mb: Option<f64>,
    /// Seconds that the measurement took.
    pub measured_in: Option<f64>,
    /// The machine.
    pub machine: Machine,
}

/// What was measured of a machine and a model: enough for the estimate of any run that differs only in how many
/// questions, answers and steps it has.
pub(crate) struct Measured {
    model: Model,
    rates: rates::Rates,
}

/// Says what `plan` would do; with `timing`, loads the model and measures how fast it is.
///
/// # Errors
/// Everything that is wrong with the files that the plan names; a model that cannot be loaded.
pub fn estimate(plan: &RunPlan, timing: bool, watch: &mut dyn Watch) -> Outcome<Estimate> {
    if timing {
        let measured = measure(plan, watch)?;
        return estimated(plan, Some(&measured));
    }
    estimated(plan, None)
}

/// Loads the model of `plan`, and measures.
///
/// # Errors
/// As [`estimate`].
pub(crate) fn measure(plan: &RunPlan, watch: &mut dyn Watch) -> Outcome<Measured> {
    let start = Instant::now();
    let model = plan.model.load(&Assets::InCache, watch)?;
    let load = start.elapsed().as_secs_f64();
    watch.note("timing this machine for some seconds");
    let site = Site::read(plan, Some(&model))?;
    let rates = rates::measure(plan, &site, &model, load)?;
    Ok(Measured { model, rates })
}

/// Says what `plan` would do, by what was measured.
///
/// # Errors
/// As [`estimate`].
pub(crate) fn estimated(plan: &RunPlan, measured: Option<&Measured>) -> Outcome<Estimate> {
    let model = measured.map(|m| &m.model);
    let rates = measured.map(|m| &m.rates);
    let site = Site::read(plan, model)?;
    let made = made(plan, &site, model)?;
    let steps = cost::steps(plan, &site, &made, rates);
    let known: Vec<[f64; 2]> = steps.iter().filter_map(|s| s.seconds).collect();
    let unknown = if rates.is_some() { steps.len() - known.len() } else { 0 };
    let sum = |end: usize| known.iter().map(|s| s[end]).sum::<f64>();
    Ok(Estimate {
        dir: plan.dir.clone(),
        model: plan.model.spec.clone(),
        seconds: rates.map(|_| [sum(0), sum(1)]),
        unknown,
        memory_mb: rates.and_then(|r| r.peak_mb),
        measured_in: rates.map(|r| r.took),
        machine: machine(),
        steps,
    })
}

/// What the run directory holds of the plan. Without a model it is not known whether the inputs are the same.
fn made(plan: &RunPlan, site: &Site, model: Option<&Model>) -> Outcome<Made> {
    let manifest = Manifest::read(&plan.dir);
    let told = |artefact: &str| match manifest.get(artefact) {
        Some(record) if record.ended.is_some() => Todo::DoneBefore,
        Some(_) => Todo::Begun,
        None => Todo::New,
    };
    let artefact = |v: &Variant| v.dir.join("adapter").to_string_lossy().replace('\\', "/");
    let Some(model) = model else {
        return Ok(Made {
            prepare: Some(told(prepare::ARTEFACT)),
            train: plan.variants.iter().map(|v| told(&artefact(v))).collect(),
            eval: Some(told(summary::FILE)),
        });
    };
    // A file that was changed is an error when the run comes to it, and has to be made again.
    let state = |artefact: &str, inputs: &Inputs, outputs: &[PathBuf]| match manifest.state(artefact, inputs, outputs) {
        Ok(State::Done) => Todo::Done,
        Ok(State::Begun) => Todo::Begun,
        Ok(State::New) | Err(_) => Todo::New,
    };
    let assets = Assets::InCache;
    let mut made = Made::default();
    if let Some(preparation) = &plan.prepare {
        let material = Material::read(preparation, plan.eval.files(), &plan.eval.answers, &assets)?;
        let mut inputs = Inputs::of_model(model, plan.model.base_dtype)?;
        material.add_to(&mut inputs)?;
        made.prepare = Some(state(prepare::ARTEFACT, &inputs, &prepare::outputs(&plan.dir, preparation)));
    }
    let ready = site.real && made.prepare.is_none_or(|p| p == Todo::Done);
    for variant in &plan.variants {
        let known = ready.then(|| -> Result<Todo> {
            let sets = site.sets(variant)?;
            let inputs = train::inputs(site.path(), model, &plan.model, &variant.train, &sets)?;
            let weights = plan.dir.join(&variant.dir).join("adapter/adapter_model.safetensors");
            Ok(state(&artefact(variant), &inputs, &[weights]))
        });
        made.train.push(known.transpose()?.unwrap_or(Todo::New));
    }
    let adapter = |v: &Variant| (v.name.clone(), plan.dir.join(&v.dir).join("adapter"));
    let adapters: Vec<(String, PathBuf)> = plan.variants.iter().map(adapter).collect();
    let trained = made.train.iter().all(|t| *t == Todo::Done) && adapters.iter().all(|(_, dir)| dir.is_dir());
    made.eval = Some(if ready && trained {
        let inputs =
            evaluate::inputs(Inputs::of_model(model, plan.model.base_dtype)?, site.asked.options(), &adapters)?;
        state(summary::FILE, &inputs, &[plan.dir.join(summary::FILE)])
    } else {
        Todo::New
    });
    Ok(made)
}
