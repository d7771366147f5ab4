//! A method of one's own, without a change to the workspace: unlearning up to a threshold beside ordinary training. With
//! `NLL` the mean negative log-likelihood of answers, it minimises `max(0, gamma - NLL(harm)) + NLL(help)`.
//!
//!     cargo run --release --example method

use eraser_data::read_set;
use eraser_model::{Error, Result};
use eraser_run::Silent;
use eraser_run::builtin::{Assets, NAME};
use eraser_run::plan::{ChatFlags, ModelPlan, flag};
use eraser_run::{Failure, Problems};
use eraser_train::method::{Loss, Term, TermSettings};
use eraser_train::{Control, Method, Observer, SetName, Sets, StepMetrics, TrainOptions, train};

/// The terms of the loss: which set each sees, what is computed from its samples, and its weight.
fn terms(settings: &TermSettings) -> Vec<Term> {
    let term = |set: SetName, loss, weight| Term::new(set.name(), set, loss, weight);
    vec![
        term(SetName::Harm, Loss::Hinge, settings.harm_weight),
        term(SetName::Help, Loss::CrossEntropy, settings.help_weight),
    ]
}

const HINGE_SFT: Method = Method::new("hinge-sft", "this example", 1e-3, terms);

/// Prints every tenth step.
struct Steps;

impl Observer for Steps {
    fn start(&mut self, total: usize, _done: usize) {
        println!("{total} steps");
    }

    fn step(&mut self, metrics: &StepMetrics) -> Control {
        if metrics.step.is_multiple_of(10) {
            println!("step {}: loss {:.3}, {:?}", metrics.step, metrics.loss, metrics.terms);
        }
        Control::Continue
    }
}

fn main() -> std::result::Result<(), Failure> {
    eraser_ops::threads::init(None);
    let mut problems = Problems::default();
    let plan = ModelPlan::parse(NAME, ["cpu", "auto", "f32"], ChatFlags::default(), &flag, &mut problems);
    problems.finish(Some(()))?;
    let model = plan.load(&Assets::InCache, &mut Silent)?;
    let set =
        |name: &str| -> Result<_> { read_set(&Assets::InCache.locate(format!("builtin/sets/{name}.jsonl").as_ref())?) };
    let sets = Sets::from_iter([(SetName::Harm, set("harm")?), (SetName::Help, set("help")?)]);
    let options =
        TrainOptions { method: HINGE_SFT, steps: Some(30), lr: 1e-3, grad_accum: 1, ..TrainOptions::default() };
    let dir = std::env::temp_dir().join("eraser-hinge-sft");
    std::fs::create_dir_all(&dir).map_err(|e| Error::failed(format!("{}: {e}", dir.display())))?;
    let summary = train(&model, &sets, &options, &dir, &dir.join("states.bin"), false, &mut Steps)?;
    println!("{} after {} steps", dir.join("adapter").display(), summary.steps);
    Ok(())
}
