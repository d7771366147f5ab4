//! `eraser methods`: what each loss is made of. In: the methods; out: their terms, sources and published settings.
//! Invariant: everything that is told is what the trainer executes.

use crate::output;
use eraser_run::Outcome;
use eraser_train::{LogitLoss, Loss, METHODS, Method, Ramp, StateLoss, Term, TermSettings};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Prints them.
pub(crate) fn print(json: bool) -> Outcome {
    if json {
        let all: Vec<Value> = METHODS.iter().map(described).collect();
        return Ok(output::json(&json!({ "methods": all }))?);
    }
    let text: Vec<String> = METHODS.iter().map(told).collect();
    Ok(output::text(&(text.join("\n") + "\n"))?)
}

fn terms(method: &Method) -> Vec<Term> {
    (method.terms)(&TermSettings::default())
}

fn told(method: &Method) -> String {
    let beta = method.beta.map(|beta| format!(", beta {beta}")).unwrap_or_default();
    let mut text = format!("{}  ({}; lr {:e}{beta})\n", method.name, method.source, method.lr);
    for term in terms(method) {
        let answers = if term.unrelated { ", with answers to other questions" } else { "" };
        let noise = if term.noise { ", under prompt noise" } else { "" };
        let line = format!(
            "  {:<6} {:<8} {:<8} {}{answers}{noise}",
            format!("{}{} x", term.weight, ramp(term.ramp)),
            term.name,
            term.set.name(),
            formula(term.loss)
        );
        text.push_str(&line);
        text.push('\n');
    }
    if !method.note.is_empty() {
        let _ = writeln!(text, "  note: {}", method.note);
    }
    text
}

fn described(method: &Method) -> Value {
    let term = |term: Term| {
        json!({
            "name": term.name, "set": term.set.name(), "weight": term.weight, "loss": formula(term.loss),
            "noise": term.noise, "unrelated": term.unrelated, "ramp": ramp(term.ramp).trim(),
        })
    };
    let terms: Vec<Value> = terms(method).into_iter().map(term).collect();
    json!({ "name": method.name, "source": method.source, "lr": method.lr, "beta": method.beta, "note": method.note, "terms": terms })
}

/// What a weight is multiplied by over the steps.
fn ramp(ramp: Ramp) -> &'static str {
    match ramp {
        Ramp::None => "",
        Ramp::Falling => " (1 - s)",
        Ramp::Rising => " s",
    }
}

/// A loss in the letters of the documentation of its method.
fn formula(loss: Loss) -> String {
    match loss {
        Loss::Hinge => "max(0, gamma - NLL)".to_owned(),
        Loss::Ascent => "-NLL".to_owned(),
        Loss::WeightedAscent(a, b) => {
            let rest = if b > 0.0 { format!(" (1 - p)^{b}") } else { String::new() };
            format!("-mean(p^{a}{rest} NLL)")
        }
        Loss::Npo(form) => {
            let of = if form.per_token { "mean NLL" } else { "sum NLL" };
            let base = if form.reference { " - that of the base" } else { "" };
            format!("-{:.3} mean log sigma({} ({of}{base}))", form.scale, form.beta)
        }
        Loss::Preference(form) => {
            let (scale, beta) = (form.scale, form.beta);
            format!(
                "-{scale:.3} mean log sigma({beta} ((sum NLL - that of the base) - the same of the preferred answer))"
            )
        }
        Loss::Logits(LogitLoss::Distilled(beta)) => {
            format!("cross-entropy to the base's distribution, the answer's token less likely by {beta}")
        }
        Loss::Logits(LogitLoss::WithoutToken) => {
            "cross-entropy to the model's own distribution without the answer's token".to_owned()
        }
        Loss::Logits(LogitLoss::Flat) => "mean (largest logit - mean logit)^2".to_owned(),
        Loss::States(StateLoss::Steer(length)) => format!("mean (h - {length} u)^2, u a random direction"),
        Loss::States(StateLoss::Drift) => "mean (h - that of the base)^2".to_owned(),
        Loss::States(StateLoss::Reroute) => "mean max(0, cos(h, that of the base))".to_owned(),
        Loss::States(StateLoss::Distance) => "mean |h - that of the base|".to_owned(),
        Loss::Latent(attack) => format!(
            "(mean NLL of the preferred answer + mean -log(1 - p)) / 2, under states of length {} added to the question's, \
             which {} steps of AdamW at {} found by the reverse",
            attack.epsilon, attack.steps, attack.lr
        ),
        Loss::CrossEntropy => "NLL".to_owned(),
        Loss::Kl(_) => "KL(base || adapted)".to_owned(),
    }
}
