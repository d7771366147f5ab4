//! Whether two names on one server are two models. In: subjects as tested; out: a check of each. Invariant: two names
//! that answer and score alike are an error: an adapter that a server has dropped silently would be measured as one
//! that changes nothing.

use super::checks::{Check, MOST, Tested, apart, wrong};
use eraser_data::Sampling;
use eraser_data::ask::{Served, Turn};
use eraser_model::Result;

/// How many times the noise of a server two models must differ by.
const BEYOND_NOISE: f64 = 4.0;
/// Nats by which they must differ at least.
const LEAST: f64 = 1e-4;
/// Questions of the evaluation that are asked where nothing else tells two names apart.
const MORE: usize = 8;

/// Compares every two subjects of one server; `questions` are those of the evaluation. Adds a check to each that was
/// compared.
pub(super) fn compare(subjects: &mut [(Served, Tested)], questions: &[String]) -> Result<()> {
    for second in 1..subjects.len() {
        for first in 0..second {
            let (before, after) = subjects.split_at_mut(second);
            let ((a, tested_a), (b, tested_b)) = (&before[first], &mut after[0]);
            if a.url() != b.url() {
                continue;
            }
            let how = differ((a, tested_a), (b, tested_b), questions)?;
            let Some(how) = how else {
                return Err(wrong(
                    b,
                    format!("it answers and scores exactly as `{}` does: they are one model", a.model()),
                )
                .hint(
                    "the server has dropped the adapter: start vLLM with --enable-lora --lora-modules NAME=DIR, and \
                           --max-lora-rank of at least the adapter's rank; under data parallel some versions lose it",
                )
                .hint("llama.cpp has one model under every name: start a server for each, on ports of their own"));
            };
            tested_b.test.checks.insert(0, Check::passed("names", format!("differs from `{}`: {how}", a.model())));
        }
    }
    Ok(())
}

/// How two models differ; None if they do not.
fn differ(
    (a, tested_a): (&Served, &Tested),
    (b, tested_b): (&Served, &Tested),
    questions: &[String],
) -> Result<Option<String>> {
    let noise = tested_a.noise.max(tested_b.noise);
    let worst = apart(&tested_a.test.scores, &tested_b.test.scores);
    if worst.is_finite() && worst > LEAST.max(BEYOND_NOISE * noise) {
        return Ok(Some(format!("tokens of a fixed text by up to {worst:.3} nats")));
    }
    if tested_a.test.answers != tested_b.test.answers {
        return Ok(Some("answers to fixed questions".to_owned()));
    }
    for question in questions.iter().take(MORE) {
        let turn = Turn::Chat { user: question.clone(), opening: String::new() };
        let answer = |served: &Served| served.say(&turn, MOST, &Sampling::greedy(MOST), false);
        if answer(a)?.text != answer(b)?.text {
            return Ok(Some("answers to questions of the evaluation".to_owned()));
        }
    }
    Ok(None)
}
