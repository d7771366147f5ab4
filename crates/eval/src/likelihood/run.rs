//! Measuring one subject. In: the plan; out: `eval/<subject>/likelihood.jsonl`, complete and in order. Invariant:
//! stopped anywhere and started again, it leaves the same bytes as if it had not been stopped, and whatever decides a
//! line is in its key: the subject (chat template included), the tokens of all that was scored together, the cuts.

use super::context::Context;
use super::lines::Line;
use super::measure::{Encoded, Encoder, Likelihood, scored};
use super::plan::{Plan, ROUND, Set};
use crate::marks::{LIKELIHOOD, UNFINISHED};
use crate::subject::{Fingerprint, Subject};
use eraser_data::ask::interrupted;
use eraser_data::{Journal, Progress, Record, Share};
use eraser_model::Result;
use eraser_model::error::PathContext as _;
use eraser_model::files::hex;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::Path;

/// Hex digits of ids and keys.
const SHORT: usize = 16;

/// Measures `subject` and leaves its file below `dir/eval`. Lines that the file holds already are not computed again;
/// those of sets that are not asked for now stay.
///
/// # Errors
/// A question that cannot be encoded; a file that cannot be read or written; `Interrupted` when `progress` says to
/// stop.
pub(crate) fn run(
    subject: &Subject<'_>,
    fingerprint: &Fingerprint,
    (plan, share): (&Plan, Share),
    dir: &Path,
    progress: &mut dyn Progress,
) -> Result<()> {
    let home = dir.join("eval").join(&subject.name);
    fs::create_dir_all(&home).writing(&home)?;
    let path = home.join(format!("{LIKELIHOOD}.jsonl"));
    let unfinished = path.with_extension(UNFINISHED);
    fs::write(&unfinished, "").writing(&unfinished)?;
    let what = format!("{} {LIKELIHOOD}", subject.name);
    let mut rounds: Vec<Round<'_>> = Vec::new();
    for set in &plan.sets {
        for context in &plan.contexts {
            rounds.extend(set.rows.chunks(ROUND).map(|rows| Round { set, context, rows }));
        }
    }
    let dealt = share.deal(&rounds.iter().map(Round::name).collect::<Vec<_>>());
    let total = (0..).zip(&rounds).filter(|(n, _)| dealt.takes(*n)).map(|(_, round)| round.rows.len()).sum();
    let mut work = Work { subject, fingerprint, encoder: Encoder::new(subject.model)?, journal: Journal::open(&path)? };
    let mut lines: Vec<Line> = Vec::with_capacity(total);
    for (n, round) in rounds.iter().enumerate().filter(|(n, _)| dealt.takes(*n)) {
        let done = lines.len();
        let mut alive = |more: usize| progress.tick(&what, done + more, total);
        let computed = || dealt.lacking(n, &what).map_or(Ok(()), Err);
        lines.extend(work.round(round, &plan.cuts, &computed, &mut alive)?);
    }
    progress.tick(&what, total, total);
    let asked = |line: &Line| plan.sets.iter().any(|set| set.name == line.set);
    let others = work.journal.entries().iter().filter(|line| line.subject == fingerprint.short() && !asked(line));
    lines.extend(others.cloned());
    work.journal.finish(&lines)?;
    fs::remove_file(&unfinished).writing(&unfinished)
}

/// Rows that are scored together.
struct Round<'a> {
    set: &'a Set,
    context: &'a Context,
    rows: &'a [Record],
}

impl Round<'_> {
    /// What is in it.
    fn name(&self) -> String {
        let rows: Vec<[&str; 2]> = self.rows.iter().map(|row| [row.input.as_str(), row.output.as_str()]).collect();
        format!("{:?}", (&self.set.name, self.context.name(), rows))
    }
}

struct Work<'a> {
    subject: &'a Subject<'a>,
    fingerprint: &'a Fingerprint,
    encoder: Encoder<'a>,
    journal: Journal<Line>,
}

impl Work<'_> {
    /// The lines of some rows in one context, from the file where it has them all: in other company an answer's figure
    /// can differ by rounding. `computed` is an error where they are not to be computed.
    fn round(
        &mut self,
        &Round { set, context, rows }: &Round<'_>,
        cuts: &[usize],
        computed: &dyn Fn() -> Result<()>,
        alive: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Vec<Line>> {
        let encode = |row: &Record| {
            self.encoder.encode(context, row).map_err(|e| e.context(format!("{}: {}", set.name, id(&row.input))))
        };
        let samples = rows.iter().map(encode).collect::<Result<Vec<_>>>()?;
        let shared = shared(&self.fingerprint.subject, context, &samples, cuts);
        let keys: Vec<String> = (0..rows.len()).map(|i| short(&format!("{shared} {i}"))).collect();
        let stored: Vec<Line> =
            keys.iter().filter_map(|key| self.journal.get(&(set.name.clone(), key.clone())).cloned()).collect();
        if !alive(0) {
            return Err(interrupted());
        }
        let fits = |(line, row): (&Line, &Record)| line.id == id(&row.input) && line.context == context.name();
        if stored.len() == rows.len() && stored.iter().zip(rows).all(fits) {
            return Ok(stored);
        }
        computed()?;
        let Subject { model, adapter, .. } = self.subject;
        let found = scored(model, *adapter, &samples, alive)?.ok_or_else(interrupted)?;
        let line = |((row, found), fingerprint): ((&Record, Likelihood), String)| Line {
            set: set.name.clone(),
            id: id(&row.input),
            question: row.input.clone(),
            context: context.name().to_owned(),
            prompt: short(&context.user(&row.input)),
            answer: hex(&Sha256::digest(row.output.as_bytes())),
            own: found.own,
            cut_off: found.cut_off,
            after: cuts.iter().filter_map(|&cut| found.after(cut)).collect(),
            short: cuts.iter().copied().filter(|&cut| found.after(cut).is_none()).collect(),
            subject: self.fingerprint.short().to_owned(),
            fingerprint,
        };
        let lines: Vec<Line> = rows.iter().zip(found).zip(keys).map(line).collect();
        self.journal.append(lines.clone())?;
        Ok(lines)
    }
}

/// What all lines of a round depend on.
fn shared(subject: &str, context: &Context, samples: &[Encoded], cuts: &[usize]) -> String {
    let mut hash = Sha256::new();
    hash.update(subject);
    for text in [context.name(), &format!("{cuts:?}")] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    for Encoded { sample, cut_off } in samples {
        for number in [sample.ids.len(), sample.prompt_len, usize::from(*cut_off)] {
            hash.update((number as u64).to_le_bytes());
        }
        for id in &sample.ids {
            hash.update(id.to_le_bytes());
        }
    }
    hex(&hash.finalize())
}

/// The id of a question.
fn id(question: &str) -> String {
    short(question)
}

/// The first digits of a text's SHA-256.
fn short(text: &str) -> String {
    let mut hash = hex(&Sha256::digest(text.as_bytes()));
    hash.truncate(SHORT);
    hash
}
