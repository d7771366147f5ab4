//! `eraser doctor`: whether a model can be hardened here. In: a model, perhaps an adapter; out: a line for each thing
//! that was looked at. Invariant: nothing is written, and what is wrong with one thing does not hide what is wrong with
//! the others.

mod finding;
mod heard;
mod text;

pub use finding::{Diagnosis, Finding, Level};

use crate::builtin::{self, Assets};
use crate::machine;
use crate::plan::ModelPlan;
use crate::watch::Watch;
use eraser_model::gguf::GgufFile;
use eraser_model::score::{ScoreRequest, score};
use eraser_model::{Adapter, Error, GenerateOptions, Model, ModelConfig, Result, generate, hub};
use heard::heard;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What any language model should find likely.
const SENTENCE: &str = "The sun rises in the east and sets in the west, and in between it is day.";
/// A share of the loss of guessing: a model that is not better than this on plain English is not what it should be.
const GUESSING: f64 = 0.75;
/// Tokens that are generated.
const TOKENS: usize = 10;

/// Looks at a model and its adapter.
pub fn doctor(plan: &ModelPlan, adapter: Option<&Path>, watch: &mut dyn Watch) -> Diagnosis {
    let mut found = Diagnosis::default();
    this_machine(&mut found);
    let Some(path) = found.of("files", files(plan)) else { return found };
    let Some(files) = found.of("files", listed(&path)) else { return found };
    found.ok("files", files);
    let (config, said) = heard(|| config(&path));
    let Some(config) = found.of("config", config) else { return found };
    found.ok("config", described(&config));
    found.heard("config", said);
    if !memory(&mut found, plan, &config, &path) {
        return found;
    }
    // The configuration's warnings were told above.
    let (model, said) = heard(|| plan.load(&Assets::InCache, watch));
    let known: Vec<String> = found.findings.iter().map(|f| f.found.clone()).collect();
    let said = said.into_iter().filter(|s| !known.contains(s)).collect();
    let Some(model) = found.of("weights", model) else { return found };
    found.ok("weights", format!("held as {}, on {}", model.decoder.held(), plan.device));
    found.heard("weights", said);
    text::tokenizer(&mut found, &model);
    text::template(&mut found, &model);
    text::thoughts(&mut found, &model);
    let result = forward(&mut found, &model, None);
    found.of("forward pass", result);
    if let Some(dir) = adapter {
        let (loaded, said) = heard(|| Adapter::load(dir, &model.config, model.decoder.device()));
        if let Some(adapter) = found.of("adapter", loaded) {
            let lora = &adapter.config;
            let pairs = adapter.parameters().len() / 2;
            let pairs = eraser_model::counted(pairs, "pair");
            found.ok("adapter", format!("{} fits: rank {}, {pairs} of matrices", dir.display(), lora.r));
            found.heard("adapter", said);
            let result = forward(&mut found, &model, Some(&adapter));
            found.of("adapter", result);
        }
    }
    found
}

fn this_machine(found: &mut Diagnosis) {
    let machine = machine::machine();
    found.ok("machine", format!("{}, using {}", machine.cores_in_words(), machine.threads_in_words()));
    found.ok("kernels", machine.kernels.join(", "));
    match machine.available_mb {
        Some(mb) => found.ok("memory", format!("{} available", machine::memory(mb))),
        None => found.warning("memory", "how much is available is unknown on this system", ""),
    }
}

/// Where the model is.
fn files(plan: &ModelPlan) -> Result<PathBuf> {
    if plan.spec == builtin::NAME {
        return Ok(builtin::model_dir(&Assets::InCache.dir()?));
    }
    let path = Path::new(&plan.spec);
    if !path.exists() && hub::is_name(&plan.spec) {
        return hub::fetch(&plan.spec);
    }
    Ok(path.to_owned())
}

/// The files that make the model, with the size of the weights.
fn listed(path: &Path) -> Result<String> {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len()) as f64 / f64::from(1 << 20);
    if !path.is_dir() {
        return Ok(format!("{}, {}", path.display(), machine::memory(size(path))));
    }
    let mut names: Vec<PathBuf> = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect();
    names.sort();
    let ending = |p: &PathBuf, ending: &str| p.extension().is_some_and(|e| e == ending);
    let weights: Vec<&PathBuf> = names.iter().filter(|p| ending(p, "safetensors")).collect();
    let others = names.iter().filter(|p| ending(p, "json") || ending(p, "jinja"));
    let name = |p: &PathBuf| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let others: Vec<String> = others.map(name).collect();
    if weights.is_empty() {
        return Err(Error::request(format!("{}: no file of weights (.safetensors)", path.display()))
            .hint("name the directory that holds config.json and the weights, or a .gguf file"));
    }
    let total: f64 = weights.iter().map(|p| size(p)).sum();
    let count = eraser_model::counted(weights.len(), "file");
    Ok(format!("{}: {count} of weights, {}; {}", path.display(), machine::memory(total), others.join(", ")))
}

fn config(path: &Path) -> Result<ModelConfig> {
    if path.is_dir() { ModelConfig::from_hf_dir(path) } else { ModelConfig::from_gguf(&GgufFile::open(path)?) }
}

fn described(config: &ModelConfig) -> String {
    format!(
        "family {:?}, {} parameters, {}, {} wide, {} tokens in the vocabulary, at most {} positions",
        config.family,
        machine::number(machine::parameters(config) as f64),
        eraser_model::counted(config.num_layers, "layer"),
        config.hidden_size,
        config.vocab_size,
        config.max_positions()
    )
}

/// Whether the weights fit.
fn memory(found: &mut Diagnosis, plan: &ModelPlan, config: &ModelConfig, path: &Path) -> bool {
    let needed = machine::weights_mb(plan, config, path);
    let told = format!("the weights need about {}", machine::memory(needed));
    match machine::machine().available_mb {
        Some(mb) if needed > mb => {
            let what = format!("{told}, and {} are available: the model is not loaded", machine::memory(mb));
            let error = Error::request(what)
                .hint("hold them in fewer bytes: --compute bf16, or --base-dtype as-stored with a quantised GGUF file");
            found.error("memory", &error);
            false
        }
        Some(mb) if 2.0 * needed > mb => {
            found.warning("memory", format!("{told}, more than half of what is available"), "training needs some more");
            true
        }
        _ => {
            found.ok("memory", told);
            true
        }
    }
}

/// The likelihood of a plain sentence, and a few tokens.
fn forward(found: &mut Diagnosis, model: &Model, adapter: Option<&Adapter>) -> Result<()> {
    let what = if adapter.is_some() { "adapter" } else { "forward pass" };
    let ids = model.tokenizer.encode_with_special(SENTENCE)?;
    if ids.len() < 2 {
        found.warning(what, format!("a plain sentence has {} tokens", ids.len()), "the tokenizer is of another model");
        return Ok(());
    }
    let scored = ids.len() - 1;
    let request = ScoreRequest { ids, scored };
    let scores = score(&model.decoder, adapter, &[request], &mut |_| ControlFlow::Continue(()))?;
    let scores = scores.unwrap_or_default().pop().unwrap_or_default();
    let nll = -scores.iter().map(|s| f64::from(*s)).sum::<f64>() / scored as f64;
    if !nll.is_finite() {
        let error = Error::request("a plain sentence has no finite likelihood: the network computes nothing");
        found.error(
            what,
            &error.hint("the weights are damaged, or their type has too narrow a range: try --compute f32"),
        );
        return Ok(());
    }
    let guessing = (model.config.vocab_size as f64).ln();
    let told = format!("a plain English sentence costs {nll:.2} nats per token");
    if nll > GUESSING * guessing {
        let told = format!("{told}; guessing costs {guessing:.2}");
        found.warning(what, told, "a good model costs 2 to 4: is it of another language, very small, or damaged?");
    } else {
        found.ok(what, told);
    }
    let prompt = match &model.template {
        Some(template) => template.render(&[eraser_model::Message::user(text::GREETING)], true)?,
        None => text::GREETING.to_owned(),
    };
    let prompt = model.tokenizer.encode(&prompt)?;
    let options = GenerateOptions::greedy(TOKENS, model.tokenizer.stops());
    let said = generate(&model.decoder, adapter, &[prompt], &options, 1, &mut |_, _| ControlFlow::Continue(()))?;
    let said = said.into_iter().next().unwrap_or_default();
    let shown = model.tokenizer.decode(&said.tokens, true)?;
    if said.tokens.is_empty() {
        found.warning(what, format!("it answers nothing to {:?}", text::GREETING), "is this its chat template?");
    } else {
        found.ok(what, format!("it answers {:?} by {shown:?}", text::GREETING));
    }
    Ok(())
}
