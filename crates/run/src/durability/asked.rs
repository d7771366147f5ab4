//! What durability asks. In: the options and the run's plan; out: the variants that are meant, the evaluation that each
//! condition gets, and both as the manifest records them. Invariant: nothing that is wrong is left to find out later.

use super::DurabilityOptions;
use crate::builtin::Assets;
use crate::failure::{Outcome, Problems};
use crate::plan::{RunPlan, Variant, wrong};
use crate::stage::training_sets;
use eraser_eval::EvalOptions;
use eraser_model::{Error, Result, suggest};
use eraser_train::MAX_LR;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// `the judge leak`, `the judges keyword and leak`.
pub(super) fn list_judges(options: &EvalOptions) -> String {
    let noun = if options.judges.len() == 1 { "judge" } else { "judges" };
    format!("the {noun} {}", options.judges.join(" and "))
}

/// The variants that are meant.
pub(super) fn check<'a>(dir: &Path, args: &DurabilityOptions, plan: &'a RunPlan) -> Outcome<Vec<&'a Variant>> {
    let mut problems = Problems::default();
    for (flag, value) in [
        ("steps", args.steps),
        ("pairs", args.pairs),
        ("max-new-tokens", args.max_new_tokens.unwrap_or(1)),
        ("limit", args.limit.unwrap_or(1)),
    ] {
        if value == 0 {
            problems.push(wrong(&format!("--{flag}"), "must be at least 1"));
        }
    }
    if args.lr.is_some_and(|lr| !(lr > 0.0 && lr <= MAX_LR)) {
        problems.push(wrong("--lr", format!("must be a positive number of at most {MAX_LR}")));
    }
    for name in &args.variants {
        if !plan.variants.iter().any(|v| v.name == *name) {
            let known: Vec<&str> = plan.variants.iter().map(|v| v.name.as_str()).collect();
            let error = Error::request(format!("--variant: the run has no variant `{name}`"));
            problems.push(suggest(error, name, &known));
        }
    }
    let chosen: Vec<&Variant> =
        plan.variants.iter().filter(|v| args.variants.is_empty() || args.variants.contains(&v.name)).collect();
    for variant in &chosen {
        let adapter = adapter_dir(dir, variant);
        if !adapter.is_dir() {
            let error = Error::request(format!("{}: variant `{}` was not trained", adapter.display(), variant.name));
            problems.push(error.hint("finish the run first"));
        }
    }
    problems.finish(Some(chosen))
}

pub(super) fn adapter_dir(dir: &Path, variant: &Variant) -> PathBuf {
    dir.join(&variant.dir).join("adapter")
}

/// The run's measures, with the attack that gives the opening of the answer.
pub(super) fn options(dir: &Path, args: &DurabilityOptions, plan: &RunPlan, assets: &Assets) -> Result<EvalOptions> {
    let mut options = plan.eval.options(dir, assets)?;
    options.attacks.retain(|attack| ["direct", "template"].contains(&attack.as_str()));
    if !options.attacks.iter().any(|attack| attack == "template") {
        // They were for an attack that is not repeated.
        options.templates.clear();
    }
    options.attacks.push("prefill".to_owned());
    options.over_refusal = None;
    options.likelihood = false;
    options.likelihood_set.clear();
    options.contrast = None;
    options.limit = args.limit.or(options.limit);
    options.max_new_tokens = args.max_new_tokens.unwrap_or(options.max_new_tokens);
    Ok(options)
}

/// The plan's measures with what is different here, and what is done to the models, as the manifest records them.
pub(super) fn recorded(
    args: &DurabilityOptions,
    plan: &RunPlan,
    variants: &[&Variant],
    (options, assets): (&EvalOptions, &Assets),
    (fingerprint, notes): (&str, &[String]),
) -> Outcome<Value> {
    let mut eval = plan.eval.recorded(assets)?;
    if let Some(eval) = eval.as_object_mut() {
        for key in ["over_refusal", "contrast", "likelihood", "likelihood_set"] {
            eval.remove(key);
        }
    }
    eval["attacks"] = json!(options.attacks);
    if options.templates.is_empty() {
        eval["templates"] = json!([]);
    }
    eval["limit"] = json!(options.limit);
    eval["max_new_tokens"] = json!(options.max_new_tokens);
    let home = |variant: &&Variant| (variant.name.clone(), json!(variant.dir.join("adapter")));
    let adapters: serde_json::Map<String, Value> = variants.iter().map(home).collect();
    let directories: Vec<(String, PathBuf)> =
        variants.iter().map(|v| (v.name.clone(), adapter_dir(&plan.dir, v))).collect();
    let mut leakage = training_sets::check(options, &directories)?;
    leakage.extend(training_sets::other_model(fingerprint, &directories));
    leakage.extend_from_slice(notes);
    Ok(json!({
        "model": plan.model.to_json()?,
        "eval": eval,
        "durability": args,
        "adapters": adapters,
        "leakage": leakage,
    }))
}
