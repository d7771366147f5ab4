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
use eraser_model::score::{ScoreRequest, score};
use eraser_model::weights::HfDirectory;
use eraser_model::{Adapter, Error, GenerateOptions, Model, ModelConfig, ModelFiles, Result, generate, hub};
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
    let Some(files) = found.of("files", ModelFiles::open(&path)) else { return found };
    let listed = found.of("files", listed(&path));
    let whole = listed.is_some();
    if let Some(files) = listed {
        found.ok("files", files);
    }
    let config = found.part("config", || files.config());
    if let Some(config) = &config {
        found.ok("config", described(config));
    }
    let rows = config.as_ref().map_or(usize::MAX, |config| config.vocab_size);
    let tokenizer = found.part("tokenizer", || files.tokenizer().map(|tokenizer| tokenizer.within(rows)));
    let template = tokenizer.map(|tokenizer| found.part("chat template", || plan.template_of(&files, &tokenizer)));
    let readable = template.flatten().is_some();
    drop(files);
    let Some(config) = config.filter(|_| whole) else { return found };
    if !memory(&mut found, plan, &config, &path) {
        return found;
    }
    if !readable {
        // What is wrong with it was told; the weights are looked at all the same.
        if let Some(decoder) = found.part("weights", || plan.load_network(&Assets::InCache)) {
            found.ok("weights", format!("held as {}, on {}", decoder.held(), plan.device));
        }
        return found;
    }
    let Some(model) = found.part("weights", || plan.load(&Assets::InCache, watch)) else { return found };
    found.ok("weights", format!("held as {}, on {}", model.decoder.held(), plan.device));
    text::tokenizer(&mut found, &model);
    text::template(&mut found, &model);
    text::thoughts(&mut found, &model);
    let result = forward(&mut found, &model, None);
    found.of("forward pass", result);
    if let Some(dir) = adapter
        && let Some(adapter) = found.part("adapter", || Adapter::load(dir, &model.config, model.decoder.device()))
    {
        let pairs = eraser_model::counted(adapter.tensors().len() / 2, "pair");
        found.ok("adapter", format!("{} fits: {}, {pairs} of matrices", dir.display(), adapter.ranks_in_words()));
        let result = forward(&mut found, &model, Some(&adapter));
        found.of("adapter", result);
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
    let weights = HfDirectory::files(path)?;
    let mut names: Vec<PathBuf> = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect();
    names.sort();
    let ending = |p: &&PathBuf| p.extension().is_some_and(|e| e == "json" || e == "jinja");
    let name = |p: &PathBuf| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let others: Vec<String> = names.iter().filter(ending).map(name).collect();
    let total: f64 = weights.iter().map(|p| size(p)).sum();
    let count = eraser_model::counted(weights.len(), "file");
    Ok(format!("{}: {count} of weights, {}; {}", path.display(), machine::memory(total), others.join(", ")))
}

fn described(config: &ModelConfig) -> String {
    let of_all = config
        .beyond_original()
        .map_or_else(String::new, |all| format!(" of {all} (LongRoPE is supported up to its original length)"));
    format!(
        "family {:?}, {} parameters, {}, {} wide, {} tokens in the vocabulary, at most {} positions{of_all}",
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
        found.error(what, &not_finite(model, adapter)?);
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
        // What is wrong with it was told.
        Some(template) => template.render(&[eraser_model::Message::user(text::GREETING)], true).ok(),
        None => None,
    };
    let prompt = prompt.unwrap_or_else(|| text::GREETING.to_owned());
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

/// Why a sentence has no finite likelihood.
fn not_finite(model: &Model, adapter: Option<&Adapter>) -> Result<Error> {
    if let Some((name, _)) = model.decoder.first_beyond(f32::MAX)? {
        return Ok(Error::request(format!("tensor `{name}` holds values that are not finite")).hint(
            "the file is damaged, or the training that made it has diverged: take the model from its source again",
        ));
    }
    let error = Error::request("a plain sentence has no finite likelihood, though every weight is finite");
    Ok(match adapter {
        Some(adapter) => {
            let scale = adapter.largest_scale();
            error.hint(format!(
                "the adapter's scale, {scale}, is far too large: see `lora_alpha` in adapter_config.json"
            ))
        }
        None if model.decoder.held().is_f32() => {
            error.hint("the weights are too large to be multiplied: the files are damaged, or not those of one model")
        }
        None => {
            error.hint("they may be too large for the type that they are held in: try --base-dtype f32 --compute f32")
        }
    })
}
