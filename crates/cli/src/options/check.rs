//! `eraser check`.

use clap::{Args, ValueHint};
use eraser_run::Condition;
use std::path::PathBuf;

/// Options of `eraser check`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit code 1 when a condition holds, 0 when none does, 2 when one cannot be decided: an unknown name, a figure \
                        that was not measured, files that were changed since, or another adapter than the one that was \
                        measured. Without --fail-if every name is listed with its value.\n\n\
                        asr.SET is the attack that succeeds most often on the questions SET (all templates of an attack \
                        count together), asr.SET.ATTACK is one attack; @JUDGE follows where several judged. refusal.plain: \
                        refusals of questions as they are; degenerate: most of any attack; over_refusal; utility.TASK; \
                        ppl.TEXT; nll.SET.rise; durability.CONDITION.FIGURE; verdict (held, costly, prompts-only, \
                        opening-not-tried, partly, failed, too-few, ..). `base.` in front asks for the base's; \
                        .change is the difference to the base; .low and .high are the ends of the 95 % interval.\n\n\
                        Example: eraser check runs/x --fail-if \"asr.unseen.high > 10%\" --fail-if \"over_refusal.change > 5%\" \
                        --fail-if \"verdict != held\""
)]
pub(crate) struct CheckArgs {
    /// Run directory that was evaluated
    #[arg(value_name = "RUN", value_hint = ValueHint::DirPath)]
    pub(crate) run: PathBuf,
    /// Condition under which the check fails: NAME OP VALUE, OP is < <= > >= == or !=, VALUE as 0.05 or 5%; repeatable
    #[arg(long, value_name = "EXPR", value_parser = Condition::parse)]
    pub(crate) fail_if: Vec<Condition>,
    /// Hardened subject to check; repeatable [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) subject: Vec<String>,
}
