//! Subjects that a server has, reached and tested. In: plans of them, and what is known here of the model; out:
//! subjects, and `served.json` with what their self-tests found. Invariant: no figure is measured on a server whose
//! self-test failed, and what could not be tested is said.

use crate::plan::ServedPlan;
use crate::watch::Watch;
use eraser_data::ask::EndpointOptions;
use eraser_data::files::{hex, write_atomic};
use eraser_eval::served::{Checked, FILE, Needs, SelfTest, Text, connect as reach};
use eraser_eval::{Plan, ServedSubject};
use eraser_model::{Error, Model, Result};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// What is known here of a model that is loaded.
pub(crate) fn text_of(model: &Model) -> Text {
    Text {
        tokenizer: model.tokenizer.clone(),
        template: model.template.clone(),
        positions: model.decoder.max_positions(),
    }
}

/// What all served subjects of a directory have in common, as far as it can be known without weights. Hex SHA-256.
pub(crate) fn common(text: Option<&Text>) -> Result<String> {
    let identity = text.map(Text::identity).transpose()?.unwrap_or_default();
    Ok(hex(&Sha256::digest(format!("served {identity}"))))
}

/// What an evaluation needs of a server.
pub(crate) fn needs(asked: &Plan) -> Needs {
    let prefill = asked.options().attacks.iter().any(|attack| attack == "prefill");
    Needs { scores: false, prefill, questions: asked.questions() }
}

/// Reaches and tests every subject; `model` is what those of a directory have in common.
pub(crate) fn connect(
    plans: &[ServedPlan],
    (text, model): (Option<&Text>, &str),
    needs: &Needs,
    dir: &Path,
    watch: &mut dyn Watch,
) -> Result<Vec<ServedSubject>> {
    if plans.is_empty() {
        return Ok(Vec::new());
    }
    let path = dir.join(FILE);
    // One that cannot be read says nothing, and is written anew.
    let mut known: BTreeMap<String, SelfTest> =
        std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let named: Vec<(String, EndpointOptions)> =
        plans.iter().map(|plan| (plan.name.clone(), plan.endpoint.clone())).collect();
    let subjects = reach(&named, text, model, needs, &known)?;
    for subject in &subjects {
        watch.note(&told(subject));
        let kept = subject.kept(known.get(&subject.name));
        known.insert(subject.name.clone(), kept);
    }
    let text = serde_json::to_string_pretty(&known).map_err(|e| Error::failed(format!("{}: {e}", path.display())))?;
    write_atomic(&path, format!("{text}\n").as_bytes())?;
    Ok(subjects)
}

/// What was found, in a line.
fn told(subject: &ServedSubject) -> String {
    let test = &subject.test;
    let of = |result: Checked| test.checks.iter().filter(move |check| check.result == result);
    let passed: Vec<&str> = of(Checked::Passed).map(|check| check.check.as_str()).collect();
    let server = test.server.as_ref().map(|server| format!(" ({server})")).unwrap_or_default();
    let mut told = format!("{}: {} at {}{server}, tested: {}", subject.name, test.model, test.url, passed.join(", "));
    for check in of(Checked::Unknown) {
        told.push_str("; not known: ");
        told.push_str(&check.detail);
    }
    told
}
