//! `eraser train`: one flag per field of `TrainOptions`.

use super::given::Given;
use super::model::ModelArgs;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args, ValueHint};
use eraser_data::NoiseKind;
use eraser_model::adapter::Module;
use eraser_run::plan::{TrainPlan, TrainRequest, flag, unused, values};
use eraser_run::{Outcome, Problems};
use eraser_train::{
    AlignLoss, CheckpointActivations, Extra, Gamma, GammaScope, HarmAnswers, KlScope, METHODS, Method, Order, Overlong,
    Preset, Schedule, SetName, Templates, TrainOptions,
};
use std::path::PathBuf;

/// Adapted modules; a type of its own, because clap reads a `Vec` as a repeated option.
pub(crate) type Targets = Vec<Module>;
/// Adapted layers.
pub(crate) type Layers = Vec<usize>;

/// Options of `eraser train`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Sets are JSONL files (or JSON lists) of {\"input\",\"output\"} or {\"messages\":[..]}. The defaults are the \
                        published settings. DIR/adapter is a PEFT adapter."
)]
pub(crate) struct TrainArgs {
    // The first one: clap takes the values out as it reads the others.
    #[command(flatten)]
    pub(crate) given: Given,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) sets: SetArgs,
    #[command(flatten)]
    pub(crate) out: OutArgs,
    #[command(flatten)]
    pub(crate) objective: ObjectiveArgs,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    #[command(flatten)]
    pub(crate) optimiser: OptimiserArgs,
    #[command(flatten)]
    pub(crate) samples: SampleArgs,
}

/// The sets.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sets")]
pub(crate) struct SetArgs {
    /// Harmful questions with harmful answers: what is to be forgotten
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) harm: Option<PathBuf>,
    /// Questions about the entities in the harmful answers, with the model's own answers: what is to be kept
    #[arg(long = "help-set", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) help_set: Option<PathBuf>,
    /// The harmful questions with the model's own refusals: how it should refuse
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) align: Option<PathBuf>,
    /// Benign skills next to the harmful ones, with the model's own answers; goes beyond the paper
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) retain_set: Option<PathBuf>,
    /// Rows of the retain set to use, its first ones; 0 = none [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) retain_take: Option<usize>,
    /// Answers of the harm set: those of the file, or unrelated ones from the help set (an ablation)
    #[arg(long, value_name = "ANSWERS", default_value = "file", value_parser = named::<HarmAnswers>(&["file", "random"]))]
    pub(crate) harm_answers: HarmAnswers,
    /// Train although the harm set holds mostly refusals, or the align set mostly answers that do not refuse
    #[arg(long)]
    pub(crate) allow_swapped: bool,
    /// Jailbreak templates, files or directories, that --method rsft wraps the align set in; with commas or repeated
    #[arg(long, alias = "jailbreak", value_name = "PATH", value_delimiter = ',', value_hint = ValueHint::AnyPath)]
    pub(crate) jailbreaks: Vec<PathBuf>,
}

impl SetArgs {
    /// The sets that are given as files.
    fn files(&self) -> Vec<(SetName, PathBuf)> {
        let files = [
            (SetName::Harm, &self.harm),
            (SetName::Help, &self.help_set),
            (SetName::Align, &self.align),
            (SetName::Retain, &self.retain_set),
        ];
        files.into_iter().filter_map(|(set, path)| Some((set, path.clone()?))).collect()
    }
}

/// Where results go.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutArgs {
    /// Run directory: DIR/adapter, DIR/train
    #[arg(long, short = 'o', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    /// Continue from the newest checkpoint in DIR, bit for bit
    #[arg(long, conflicts_with = "force")]
    pub(crate) resume: bool,
    /// With --resume: --steps or --epochs may differ from those of the run so far; from there on the learning rate
    /// follows the schedule of the new length
    #[arg(long, requires = "resume")]
    pub(crate) extend: bool,
    /// Start again: remove the adapter and the training state that DIR holds
    #[arg(long)]
    pub(crate) force: bool,
    /// Write a checkpoint every N steps; 0 = only at the end and on interruption
    #[arg(long, value_name = "N", default_value = "50")]
    pub(crate) checkpoint_every: usize,
    /// Write the first step's adapter gradients as safetensors, under PEFT's names
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) dump_grads: Option<PathBuf>,
}

/// The objective.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Objective")]
pub(crate) struct ObjectiveArgs {
    /// What the loss is made of: eraser, gam (ascent with mismatch), rsft (refusals under jailbreak templates), sft
    /// (refusals and benign answers, as `eraser align`), or a baseline of the field; `eraser methods` tells of each
    #[arg(long, value_name = "NAME", default_value = "eraser", value_parser = named::<Method>(METHODS.map(|m| m.name)))]
    pub(crate) method: Method,
    /// Settings that go together: paper (the published ones, the defaults) or strong (what held best of all that was
    /// measured; it needs a retain set). Other flags come before those of a preset
    #[arg(long, value_name = "NAME", value_parser = named::<Preset>(Preset::ALL.map(|(name, _)| name)))]
    pub(crate) preset: Option<Preset>,
    /// Forget until the harmful answers cost this much, in nats per token; auto = what they cost the base model,
    /// measured at the start, plus --gamma-margin
    #[arg(long, value_name = "X|auto", default_value = "1.8")]
    pub(crate) gamma: Gamma,
    /// What --gamma auto adds to the base model's cost, in nats per token
    #[arg(long, value_name = "X", default_value = "2")]
    pub(crate) gamma_margin: f64,
    /// Over what the hinge, max(0, gamma - NLL), is taken; it is closed (0) where the harmful answers cost gamma or
    /// more
    #[arg(long, value_name = "SCOPE", default_value = "micro-batch",
          value_parser = named::<GammaScope>(&["micro-batch", "sample", "token", "batch"]))]
    pub(crate) gamma_scope: GammaScope,
    /// Over which positions the KL terms average
    #[arg(long, value_name = "SCOPE", default_value = "response", value_parser = named::<KlScope>(&["response", "all"]))]
    pub(crate) kl_scope: KlScope,
    /// Weight of the harm term, times the method's published one
    #[arg(long, value_name = "X", default_value = "1")]
    pub(crate) harm_weight: f64,
    /// Weight of the help term
    #[arg(long, value_name = "X", default_value = "1")]
    pub(crate) help_weight: f64,
    /// Terms of other methods beside those of eraser, for studies, as npo.harm=0.5,sft.help: METHOD.TERM and by what its
    /// weight there is multiplied; `eraser methods` lists the terms
    #[arg(long, value_name = "METHOD.TERM[=X]", value_delimiter = ',')]
    pub(crate) extra: Vec<Extra>,
    /// The beta of npo, simnpo, wga, safe-unlearning, dpo and undial [default: the published one of the method]
    #[arg(long, value_name = "X")]
    pub(crate) beta: Option<f64>,
    /// The length of the vector that rmu steers hidden states to [default: 2]
    #[arg(long, value_name = "X")]
    pub(crate) steering: Option<f64>,
    /// Layers behind which rmu and circuit-breakers look at hidden states, and lat moves them, as 7 or 9,19 [default: at
    /// the published depths]
    #[arg(long, value_name = "LIST", value_parser = values::layers)]
    pub(crate) loss_layers: Option<Layers>,
    /// The greatest length of what lat adds to the hidden state of a question's token [default: 6]
    #[arg(long, value_name = "X")]
    pub(crate) attack_epsilon: Option<f64>,
    /// Steps in which lat looks for what it adds [default: 16]
    #[arg(long, value_name = "N")]
    pub(crate) attack_steps: Option<usize>,
    /// The learning rate of those steps, at most 1 [default: 0.05]
    #[arg(long, value_name = "X")]
    pub(crate) attack_lr: Option<f64>,
    /// What the answers of the help set, and those of the retain set, may cost under pdu, in nats per token [default:
    /// what they cost the base model]
    #[arg(long, value_name = "X")]
    pub(crate) retain_eps: Option<f64>,
    /// How far a dual variable of pdu moves in a step, for each nat that its answers cost above --retain-eps
    #[arg(long, value_name = "X", default_value = "1")]
    pub(crate) dual_step: f64,
    /// Steps before the dual variables of pdu move [default: half of the steps]
    #[arg(long, value_name = "N")]
    pub(crate) dual_warmup: Option<usize>,
    /// Weight of the term on how harmful questions are answered: align (eraser, sft, safe-unlearning), random (gam),
    /// refuse (rsft)
    #[arg(long, value_name = "X", default_value = "1")]
    pub(crate) align_weight: f64,
    /// What the align term takes of the refusals: kl (to the base model's answer to the plain question) or
    /// cross-entropy
    #[arg(long, value_name = "LOSS", default_value = "kl",
          value_parser = named::<AlignLoss>(&["kl", "cross-entropy"]))]
    pub(crate) align_loss: AlignLoss,
    /// Weight of the retain term, with --retain-set
    #[arg(long, value_name = "X", default_value = "1")]
    pub(crate) retain_weight: f64,
}

/// The adapter.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Adapter")]
pub(crate) struct AdapterArgs {
    /// Rank
    #[arg(long, value_name = "N", default_value = "8")]
    pub(crate) rank: usize,
    /// LoRA alpha: the update is scaled by alpha / rank
    #[arg(long, value_name = "X", default_value = "16")]
    pub(crate) alpha: f64,
    /// Dropout on the adapter's input
    #[arg(long, value_name = "X", default_value = "0.05")]
    pub(crate) lora_dropout: f64,
    /// Adapted modules: q, k, v, o, gate, up, down or their full names, with commas; or all-linear
    #[arg(long, value_name = "LIST", default_value = "q,v", value_parser = values::targets)]
    pub(crate) targets: Targets,
    /// Adapted layers, as 15-29 or 0,2,4 [default: all; for rmu and circuit-breakers those up to the last of --loss-layers]
    #[arg(long, value_name = "LIST", value_parser = values::layers)]
    pub(crate) layers: Option<Layers>,
    /// Scale by alpha / sqrt(rank) (rsLoRA)
    #[arg(long)]
    pub(crate) rslora: bool,
    /// Train the weights of --targets themselves, in the --layers given, without low-rank factors; the run's adapter is
    /// then as large as they are, and `export --merged` makes a model of it
    #[arg(long)]
    pub(crate) full: bool,
    /// Start from this adapter: a PEFT directory, or a GGUF file
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) init_adapter: Option<PathBuf>,
}

/// Optimiser and length.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Optimiser")]
pub(crate) struct OptimiserArgs {
    /// Peak learning rate, at most 1 [default: the method's own: 2e-5, for gam 2e-6, for sft 2e-4]
    #[arg(long, value_name = "X")]
    pub(crate) lr: Option<f64>,
    /// The learning rate over the steps
    #[arg(long, value_name = "NAME", default_value = "cosine", value_parser = named::<Schedule>(&["cosine", "constant"]))]
    pub(crate) schedule: Schedule,
    /// Linear warm-up
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) warmup_steps: usize,
    /// Optimiser steps [default: from --epochs]
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<usize>,
    /// Epochs, each once through the help set; ignored with --steps
    #[arg(long, value_name = "X", default_value = "5")]
    pub(crate) epochs: f64,
    /// Rows of each set per micro-batch
    #[arg(long, value_name = "N", default_value = "4")]
    pub(crate) micro_batch: usize,
    /// Micro-batches per optimiser step
    #[arg(long, value_name = "N", default_value = "16")]
    pub(crate) grad_accum: usize,
    /// Stop once the hinge has been closed and the KL terms flat for N steps [default: never]
    #[arg(long, value_name = "N")]
    pub(crate) early_stop: Option<usize>,
    /// Keep activations for backward, or run blocks again; auto keeps up to 340 MB. Changes no result
    #[arg(long, value_name = "WHEN", default_value = "auto",
          value_parser = named::<CheckpointActivations>(&["auto", "on", "off"]))]
    pub(crate) checkpoint_activations: CheckpointActivations,
    /// Clip the gradient to this norm [default: no clipping]
    #[arg(long, value_name = "X")]
    pub(crate) max_grad_norm: Option<f64>,
    /// AdamW weight decay
    #[arg(long, value_name = "X", default_value = "0")]
    pub(crate) weight_decay: f64,
    /// AdamW beta1
    #[arg(long, value_name = "X", default_value = "0.9")]
    pub(crate) adam_beta1: f64,
    /// AdamW beta2
    #[arg(long, value_name = "X", default_value = "0.999")]
    pub(crate) adam_beta2: f64,
    /// AdamW epsilon
    #[arg(long, value_name = "X", default_value = "1e-8")]
    pub(crate) adam_epsilon: f64,
    /// Seed of every random stream
    #[arg(long, value_name = "N", default_value = "42")]
    pub(crate) seed: u64,
}

/// How rows become samples.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Samples")]
pub(crate) struct SampleArgs {
    /// Longest sample, in tokens
    #[arg(long, value_name = "N", default_value = "1536")]
    pub(crate) max_length: usize,
    /// Rows longer than --max-length, or than the model's longest sequence: cut them, or refuse to start
    #[arg(long, value_name = "WHAT", default_value = "cut", value_parser = named::<Overlong>(&["cut", "refuse"]))]
    pub(crate) overlong: Overlong,
    /// Random tokens around the harmful questions, in place of the text that a jailbreak puts there
    #[arg(long, value_name = "SWITCH", default_value = "on", action = ArgAction::Set, value_parser = switch())]
    pub(crate) noise: bool,
    /// Most noise tokens before the question
    #[arg(long, value_name = "N", default_value = "50")]
    pub(crate) noise_before: usize,
    /// Most noise tokens after the question
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) noise_after: usize,
    /// What the noise is made of: tokens (random ones, as published), text (benign sentences), chat (benign turns
    /// before the question), form (a request for a poem, a letter, a table ..) or mix; benign texts are those of the
    /// retain set, or else of the help set
    #[arg(long, value_name = "KIND", default_value = "tokens",
          value_parser = named::<NoiseKind>(&["tokens", "text", "chat", "form", "mix"]))]
    pub(crate) noise_kind: NoiseKind,
    /// Share of the questions that get noise; the others stay plain
    #[arg(long, value_name = "X", default_value = "1")]
    pub(crate) noise_share: f64,
    /// Give up to N tokens of a harmful answer, and unlearn what comes after them, in half of the draws; 0 = never
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) harm_depth: usize,
    /// Prompt noise around the questions of the align set too
    #[arg(long, value_name = "SWITCH", default_value = "off", action = ArgAction::Set, value_parser = switch())]
    pub(crate) align_noise: bool,
    /// Prompt noise around the requests of the retain set too, so that it does not become the sign to refuse by
    #[arg(long, value_name = "SWITCH", default_value = "off", action = ArgAction::Set, value_parser = switch())]
    pub(crate) retain_noise: bool,
    /// Give up to N tokens of a harmful answer before a refusal, in half of the draws: what was begun is to be broken
    /// off; 0 = never
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) align_depth: usize,
    /// Train N times more, each time for the same number of steps: before it, ask the model what it still says
    /// (plainly, under noise, with the answer's opening given), and add what is no refusal to the harm set
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) rounds: usize,
    /// Questions of the harm set that are asked in a round
    #[arg(long, value_name = "N", default_value = "64")]
    pub(crate) round_questions: usize,
    /// Most tokens of an answer in a round
    #[arg(long, value_name = "N", default_value = "64")]
    pub(crate) round_tokens: usize,
    /// Prompt templates: model (its own), plain (USER/ASSISTANT), both, or a text file with {} for the question
    #[arg(long, value_name = "NAME|FILE", default_value = "both", value_parser = values::templates)]
    pub(crate) templates: Templates,
    /// In which order batches take rows
    #[arg(long, value_name = "ORDER", default_value = "shuffled", value_parser = named::<Order>(&["shuffled", "file"]))]
    pub(crate) order: Order,
}

/// A value of an enum under its serde name.
pub(super) fn named<T>(names: impl Into<PossibleValuesParser>) -> impl TypedValueParser<Value = T>
where
    T: serde::de::DeserializeOwned + Clone + Send + Sync + 'static,
{
    names.into().try_map(|name| serde_json::from_value::<T>(name.into()))
}

/// on | off.
fn switch() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["on", "off"]).map(|s| s == "on")
}

impl TrainArgs {
    /// The settings as the trainer takes them.
    pub(crate) fn options(&self) -> TrainOptions {
        let flags = self.flags();
        self.objective.preset.and_then(|preset| self.on_top(preset, &flags)).unwrap_or(flags)
    }

    /// The preset's settings, with those of the flags that were given.
    fn on_top(&self, preset: Preset, flags: &TrainOptions) -> Option<TrainOptions> {
        let mut options = flags.clone();
        preset.apply(&mut options);
        let flags = serde_json::to_value(flags).ok()?;
        let mut merged = serde_json::to_value(&options).ok()?;
        for name in self.given.names() {
            if let (Some(flag), Some(value)) = (flags.get(name), merged.get_mut(name)) {
                value.clone_from(flag);
            }
        }
        serde_json::from_value(merged).ok()
    }

    /// The settings without a preset.
    fn flags(&self) -> TrainOptions {
        let Self { sets, objective: obj, samples: sam, .. } = self.clone();
        TrainOptions {
            overlong: sam.overlong,
            gamma: obj.gamma,
            gamma_margin: obj.gamma_margin,
            gamma_scope: obj.gamma_scope,
            kl_scope: obj.kl_scope,
            harm_answers: sets.harm_answers,
            harm_weight: obj.harm_weight,
            help_weight: obj.help_weight,
            extra: obj.extra.clone(),
            beta: obj.beta,
            steering: obj.steering,
            loss_layers: obj.loss_layers,
            attack_epsilon: obj.attack_epsilon,
            attack_steps: obj.attack_steps,
            attack_lr: obj.attack_lr,
            retain_eps: obj.retain_eps,
            dual_step: obj.dual_step,
            dual_warmup: obj.dual_warmup,
            align_weight: obj.align_weight,
            retain_weight: obj.retain_weight,
            retain_take: sets.retain_take,
            max_length: sam.max_length,
            noise: sam.noise,
            noise_before: sam.noise_before,
            noise_after: sam.noise_after,
            noise_kind: sam.noise_kind,
            noise_share: sam.noise_share,
            harm_depth: sam.harm_depth,
            align_loss: obj.align_loss,
            align_noise: sam.align_noise,
            retain_noise: sam.retain_noise,
            align_depth: sam.align_depth,
            rounds: sam.rounds,
            round_questions: sam.round_questions,
            round_tokens: sam.round_tokens,
            allow_swapped: sets.allow_swapped,
            templates: sam.templates,
            order: sam.order,
            ..options(obj.method, &self.out, &self.adapter, &self.optimiser)
        }
    }
}

/// The settings that every verb which trains has.
pub(crate) fn options(method: Method, out: &OutArgs, adapter: &AdapterArgs, optimiser: &OptimiserArgs) -> TrainOptions {
    let (out, ada, opt) = (out.clone(), adapter.clone(), optimiser.clone());
    TrainOptions {
        method,
        rank: ada.rank,
        alpha: ada.alpha,
        lora_dropout: ada.lora_dropout,
        targets: ada.targets,
        layers: ada.layers,
        rslora: ada.rslora,
        full: ada.full,
        init_adapter: ada.init_adapter,
        lr: opt.lr.unwrap_or(method.lr),
        schedule: opt.schedule,
        warmup_steps: opt.warmup_steps,
        weight_decay: opt.weight_decay,
        adam_beta1: opt.adam_beta1,
        adam_beta2: opt.adam_beta2,
        adam_epsilon: opt.adam_epsilon,
        max_grad_norm: opt.max_grad_norm,
        epochs: opt.epochs,
        steps: opt.steps,
        micro_batch: opt.micro_batch,
        grad_accum: opt.grad_accum,
        early_stop: opt.early_stop,
        checkpoint_activations: opt.checkpoint_activations,
        seed: opt.seed,
        checkpoint_every: out.checkpoint_every,
        extend: out.extend,
        dump_grads: out.dump_grads,
        ..TrainOptions::default()
    }
}

impl TrainArgs {
    /// What is to be trained, its sets read.
    pub(crate) fn plan(&self) -> Outcome<TrainPlan> {
        let mut problems = Problems::default();
        let options = self.options();
        if let Some(Err(e)) = self.objective.preset.map(|preset| preset.check(options.method)) {
            problems.push(e.context("--preset"));
        }
        for name in self.given.names().filter(|name| !options.uses(name)) {
            problems.push(unused(&options, name, &flag(name)));
        }
        let request = TrainRequest {
            verb: "train",
            model: self.model.plan(&mut problems),
            sets: self.sets.files(),
            jailbreaks: self.sets.jailbreaks.clone(),
            options: options.without_unused(),
            dir: self.out.out.clone(),
            resume: self.out.resume,
            force: self.out.force,
        };
        TrainPlan::resolve(request, &flag, problems)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Verb};
    use super::*;
    use clap::Parser as _;

    fn options(flags: &str) -> TrainOptions {
        let required = "eraser train --model m --harm h --help-set p --align a --out o ";
        let cli = Cli::try_parse_from(format!("{required}{flags}").split_whitespace()).unwrap();
        let Verb::Train(args) = cli.verb else { panic!("train was asked for") };
        args.options()
    }

    #[test]
    fn defaults_are_those_of_the_trainer() {
        assert_eq!(options(""), TrainOptions::default());
    }

    #[test]
    fn a_preset_is_below_the_flags_that_are_given() {
        let mut strong = TrainOptions::default();
        Preset::Strong.apply(&mut strong);
        assert_eq!(options("--preset strong"), strong);
        // 8 is the default, and is given.
        let found = options("--preset strong --rank 8 --gamma 1.8 --noise-share 1 --align-noise off --seed 3");
        assert_eq!((found.rank, found.noise_share, found.align_noise, found.seed), (8, 1.0, false, 3));
        assert_eq!((found.gamma, found.lr), (Gamma::Nats(1.8), strong.lr));
        let paper = TrainOptions { preset: Some(Preset::Paper), ..TrainOptions::default() };
        assert_eq!(options("--preset paper"), paper);
    }

    #[test]
    fn every_field_has_a_flag() {
        let set = options(
            "--rank 4 --alpha 8 --lora-dropout 0 --targets all-linear --layers 1-2 --rslora --full --lr 1e-3 \
             --schedule constant --warmup-steps 3 --weight-decay 0.1 --adam-beta1 0.8 --adam-beta2 0.9 --adam-epsilon 1e-6 --max-grad-norm 1 \
             --epochs 1 --steps 9 --micro-batch 2 --grad-accum 3 --max-length 99 --gamma 3.5 --gamma-scope sample \
             --kl-scope all --harm-weight 2 --help-weight 3 --align-weight 4 --retain-weight 5 --retain-take 6 --noise off \
             --noise-before 1 --noise-after 2 --templates model --order file --early-stop 7 --checkpoint-activations on \
             --checkpoint-every 8 --seed 1 --init-adapter i --dump-grads g --method gam --harm-answers random \
             --resume --extend --overlong refuse --gamma-margin 1 --allow-swapped --noise-kind mix --noise-share 0.5 \
             --harm-depth 3 --align-loss cross-entropy --align-noise on --align-depth 4 --retain-noise on \
             --rounds 2 --round-questions 3 --round-tokens 4 --beta 2 \
             --extra npo.harm=2 --attack-epsilon 2 --attack-steps 3 --attack-lr 0.1 \
             --steering 5 --loss-layers 1 --retain-eps 1 --dual-step 2 --dual-warmup 3",
        );
        let (set, default) =
            (serde_json::to_value(set).unwrap(), serde_json::to_value(TrainOptions::default()).unwrap());
        assert_eq!(set["beta"], 2.0);
        for (key, value) in default.as_object().unwrap() {
            assert_ne!(&set[key], value, "{key} has no flag, or the flag sets something else");
        }
    }
}
