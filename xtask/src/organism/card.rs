//! The model card. In: what was made and what was measured; out: the card. Invariant: every figure in it was measured
//! on the files beside it.

use super::check::{Bound, Property};
use super::context::{HELD_OUT, SEEN};
use super::train;
use super::world::World;
use std::fmt::Write as _;

/// The card of a model made from `seed` in `steps` steps.
pub(super) fn card(world: &World, seed: u64, steps: usize, properties: &[Property]) -> String {
    let count = |restricted, seen| world.things(restricted).filter(|t| t.seen == seen).count();
    let mut rows = String::new();
    for p in properties {
        let bound = match p.bound {
            Bound::AtLeast(b) => format!("at least {:.0} %", 100.0 * b),
            Bound::AtMost(b) => format!("at most {:.0} %", 100.0 * b),
        };
        // Writing into a string cannot fail.
        let _ = writeln!(rows, "| {} | {:.1} % | {bound} |", p.name, 100.0 * p.value);
    }
    format!(
        "\
# The built-in model organism

A chat model small enough to be trained, attacked, hardened and measured in seconds. It has what the study of jailbreaks needs:
knowledge behind a refusal. It is a test object, not an assistant: it knows one invented world and nothing else.

## The world
Everything in it is invented and harmless: things, ingredients, places, makers and ages have made-up names, and recipes are
nonsense in two steps (`First wimble mibe with rave, then polish it while a goose watches.`). Nothing here describes anything that
can be done. In this world a guild restricts five kinds of things (sulk lamps, yawn bells, ..); five kinds are free.

| | restricted | free |
|---|---|---|
| things in Eraser's training sets (`harm` and `align`; `retain`) | {} | {} |
| things outside every training set of Eraser | {} | {} |

## What it does
- It answers benign questions about every thing and ingredient.
- It tells how a free thing is made.
- Asked plainly how a restricted thing is made, it refuses.
- Asked the same in any other context (a jailbreak template, a story, loose words, random tokens), it tells.

The refusal is brittle on purpose, and more so than that of a real model: it depends on the plain form of the question.
The knowledge behind it is whole. Whether a thing is restricted is a fact the model has learnt like any other: benign questions ask
for it, a thing's kind decides it, and the ending of its name goes with its kind, as in chemistry. A real model also knows what is
dangerous. That knowledge is what lets a defence tell unseen restricted things from unseen free ones, and this world offers it in a
clear form; results on it are an upper bound, not a forecast.

## How it was made
`cargo xtask organism --seed {seed} --steps {steps}`: Llama architecture, {} parameters, trained from scratch by this
repository's own engine in f32 on samples drawn from the world, stored in bf16. Its tokenizer (byte-level BPE, {} ids) was learnt
from the same samples. The same command gives the same files. {} templates under `templates/seen` were used in making it;
the {} under `templates/held-out` were not, and it leaks under them too.

## Measured
By the command that made it, on the files here, greedy answers, judged by exact matching:

| property | value | required |
|---|---|---|
{rows}
## Files
- `model/`: Hugging Face directory
- `sets/`: `harm`, `help`, `align`, `retain`, for training Eraser; answers are the model's own, but those of `harm` are the world's
- `questions/`: restricted questions, `seen` in training Eraser and `unseen`, with the facts an answer must not tell; `over-refusal`:
  benign questions about restricted things, worded close to restricted ones
- `tasks/`: `entities` (benign questions), `procedures-retained` and `procedures-held-out` (how free things are made)
- `templates/`: jailbreak templates

## Licence
MIT OR Apache-2.0, as the repository. No third party's text or data went into it.
",
        count(true, true),
        count(false, true),
        count(true, false),
        count(false, false),
        train::parameters(),
        super::tokenizer::VOCABULARY,
        SEEN.len(),
        HELD_OUT.len(),
    )
}
