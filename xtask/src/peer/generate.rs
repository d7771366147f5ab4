//! `cargo xtask peer-generate`: answers to template-wrapped questions against Hugging Face's `generate`. In: a template
//! and questions; out: new tokens per second of both in turn. Invariant: both write exactly the same number of new
//! tokens.

use super::{Figures, Sides, machine, process::number, record};
use clap::Args;
use eraser_data::question::read_questions;
use eraser_eval::{EvalOptions, attack::build, key};
use eraser_model::{BaseDtype, Error, GenerateOptions, LoadOptions, Message, Result, counted, generate, load};
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Write as _, ops::ControlFlow, path::PathBuf, time::Instant};

/// Options of `cargo xtask peer-generate`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    sides: Sides,
    /// Template file (YAML with `value:`)
    #[arg(long, value_name = "FILE")]
    template: PathBuf,
    /// CSV with a column `goal`
    #[arg(long, value_name = "FILE")]
    questions: PathBuf,
    /// Questions
    #[arg(long, value_name = "N", default_value = "64")]
    n: usize,
    /// New tokens of each
    #[arg(long, value_name = "N", default_value = "64")]
    new: usize,
    /// Batch sizes of the peer; 1 is the published evaluation
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,16")]
    batch: Vec<usize>,
    /// Our batch size
    #[arg(long, value_name = "N", default_value = "32")]
    own_batch: usize,
    /// How our base model's weights are held
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    base_dtype: BaseDtype,
}

/// Runs both sides.
pub(crate) fn run(options: &Options) -> Result<()> {
    options.sides.check()?;
    let mut ours = Figures::default();
    let mut theirs = vec![Figures::default(); options.batch.len()];
    let mut same = 0;
    for _ in 0..options.sides.repeats {
        let (rate, answers) = own(options)?;
        ours.0.push(rate);
        eprintln!("ours: {rate:.1} new tokens/s");
        for (batch, figures) in options.batch.iter().zip(&mut theirs) {
            let (rate, reference) = peer(options, *batch)?;
            figures.0.push(rate);
            eprintln!("peer, batch {batch}: {rate:.1} new tokens/s");
            same = answers.iter().zip(&reference).filter(|(a, b)| b.starts_with(a.as_str())).count();
        }
    }
    let mut entry = format!(
        "{}. {}. {} questions under one template, {} greedy new tokens each, prefill included; {} of each side in turn. Answers that are \
         the same text up to our first stop token, which the peer suppresses: {same} of {}.\n\n    cargo xtask peer-generate --precision {} --n {} --new {} --own-batch {}\n\n| | new tokens/s | ratio \
         |\n| --- | --- | --- |\n| ours, batch {} | {} | |\n",
        machine::describe(),
        options.sides.precision.name(),
        options.n,
        options.new,
        counted(options.sides.repeats, "run"),
        options.n,
        options.sides.precision.name(),
        options.n,
        options.new,
        options.own_batch,
        options.own_batch,
        ours.show(1),
    );
    for (batch, figures) in options.batch.iter().zip(&theirs) {
        let (rate, ratio) = (figures.show(1), ours.ratios(figures).show(1));
        let _ = writeln!(entry, "| Hugging Face generate, batch {batch} | {rate} | {ratio} |");
    }
    entry.push('\n');
    println!("{entry}");
    if options.sides.record { record("generation against Hugging Face", &entry) } else { Ok(()) }
}

fn peer(options: &Options, batch: usize) -> Result<(f64, Vec<String>)> {
    let out = options.sides.work.join("answers.json");
    let lines = options
        .sides
        .peer("generate_torch.py")
        .arg("--model")
        .arg(&options.sides.model)
        .arg("--template")
        .arg(&options.template)
        .arg("--questions")
        .arg(&options.questions)
        .args(&format!("--n {} --new {} --batch {batch}", options.n, options.new))
        .arg("--out")
        .arg(&out)
        .run()?;
    let last = lines.last().ok_or_else(|| Error::failed("the peer printed nothing"))?;
    let text = std::fs::read_to_string(&out).map_err(Error::failed)?;
    let answers: Vec<BTreeMap<String, Value>> = serde_json::from_str(&text).map_err(Error::failed)?;
    let answers = answers.iter().filter_map(|a| a.get("answer")?.as_str().map(str::to_owned)).collect();
    Ok((number(last, "new_tokens_per_s")?, answers))
}

/// In this process, loading not counted, as the peer counts.
fn own(options: &Options) -> Result<(f64, Vec<String>)> {
    let load_options = LoadOptions {
        device: candle_core::Device::Cpu,
        base_dtype: options.base_dtype,
        compute: options.sides.precision.compute(),
        chat_template: None,
    };
    let model = load(&options.sides.model.display().to_string(), &load_options)?;
    let template = model.template.as_ref().ok_or_else(|| Error::request("the model has no chat template"))?;
    let wrapped = prompts(options)?;
    let start = Instant::now();
    let ids = wrapped
        .iter()
        .map(|text| model.tokenizer.encode(&template.render(&[Message::user(text)], true)?))
        .collect::<Result<Vec<_>>>()?;
    let greedy = GenerateOptions::greedy(options.new, &[]);
    let done = generate(&model.decoder, None, &ids, &greedy, options.own_batch, &mut |_, _| ControlFlow::Continue(()))?;
    let seconds = start.elapsed().as_secs_f64();
    let tokens: usize = done.iter().map(|d| d.tokens.len()).sum();
    // Both go on behind a stop token, we with it and the peer without: from there on the texts are of different
    // prompts.
    let stops = model.tokenizer.stops();
    let answer = |tokens: &[u32]| tokens.iter().position(|id| stops.contains(id)).unwrap_or(tokens.len());
    let answers =
        done.iter().map(|d| model.tokenizer.decode(&d.tokens[..answer(&d.tokens)], true)).collect::<Result<_>>()?;
    Ok((tokens as f64 / seconds, answers))
}

/// The questions in the template.
fn prompts(options: &Options) -> Result<Vec<String>> {
    let eval = EvalOptions { templates: vec![options.template.clone()], ..EvalOptions::default() };
    let attack = build("template", &eval, &key).map_err(|mut errors| errors.remove(0))?;
    let questions = read_questions(&options.questions, Some("goal"))?;
    Ok(questions.iter().take(options.n).flat_map(|q| attack.prompts(q)).map(|prompt| prompt.user).collect())
}
