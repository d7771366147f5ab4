//! `cargo xtask organism`: makes the built-in model organism. In: a seed; out: a directory with the model, its sets,
//! questions, tasks and templates, and a model card. Invariant: the same seed gives the same bytes.

mod card;
mod check;
mod context;
mod corpus;
mod lexicon;
mod names;
mod sets;
mod speech;
mod tokenizer;
mod train;
mod world;

use candle_core::Device;
use clap::Args;
use corpus::Corpus;
use eraser_data::files::write_atomic;
use eraser_model::error::PathContext;
use eraser_model::{BaseDtype, Compute, Error, LoadOptions, Result, load};
use sets::{Form, Set};
use std::path::{Path, PathBuf};
use world::World;

/// Longest sequence the model is made for, in tokens.
const CONTEXT: usize = 256;
/// The model's directory below the organism's.
const MODEL: &str = "model";

/// Options of `cargo xtask organism`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where to write it
    #[arg(long, default_value = "assets/organism")]
    out: PathBuf,
    /// Seed of the world and of the training
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Training steps
    #[arg(long, default_value_t = 1300)]
    steps: usize,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let world = World::new(options.seed);
    let corpus = Corpus::new(&world, options.seed);
    let mut sets = sets::sets(&world);
    let dir = options.out.join(MODEL);
    write_tokenizer(&dir, &corpus)?;
    train::train(&dir, &corpus, options.steps, options.seed)?;
    let spec = dir.to_str().ok_or_else(|| Error::request(format!("{}: not UTF-8", dir.display())))?;
    let model = load(
        spec,
        &LoadOptions { device: Device::Cpu, base_dtype: BaseDtype::Auto, compute: Compute::F32, chat_template: None },
    )?;
    for set in sets.iter_mut().filter(|s| s.form == Form::Own) {
        let questions: Vec<_> = set.rows.iter().map(|e| e.question.as_str()).collect();
        let answers = check::answers(&model, &questions)?;
        for (exchange, answer) in set.rows.iter_mut().zip(answers) {
            exchange.answer = answer;
        }
    }
    write_sets(&options.out, &sets)?;
    let properties = check::properties(&options.out, &model)?;
    let card = card::card(&world, options.seed, options.steps, &properties);
    put(&options.out.join("MODEL_CARD.md"), card.as_bytes())
}

fn write_tokenizer(dir: &Path, corpus: &Corpus) -> Result<()> {
    let tokenizer = tokenizer::train(corpus)?;
    let json = tokenizer.to_string(true).map_err(|e| Error::failed(format!("tokenizer: {e}")))?;
    put(&dir.join("tokenizer.json"), json.as_bytes())?;
    put(&dir.join("tokenizer_config.json"), format!("{:#}\n", tokenizer::config()).as_bytes())?;
    put(&dir.join("chat_template.jinja"), tokenizer::CHAT_TEMPLATE.as_bytes())
}

fn write_sets(dir: &Path, sets: &[Set]) -> Result<()> {
    for set in sets {
        sets::write(dir, set)?;
    }
    sets::write_templates(dir)
}

/// Writes a file and the directories it is in.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).at(dir)?;
    write_atomic(path, bytes)
}
