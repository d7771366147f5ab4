//! A served subject. In: name, server and options; out: the subject, tested, with its fingerprint. Invariant: a
//! fingerprint changes when the name, the server's version, or what the model says to fixed questions changes, and does
//! not by the rounding of a score.

use super::checks::{self, SelfTest, Tested, wrong};
use super::names;
use super::text::Text;
use crate::subject::Fingerprint;
use eraser_data::ask::{EndpointOptions, Scoring, Served};
use eraser_model::files::hex;
use eraser_model::{Error, Result};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// What is going to be measured, by which it is known what a server must be able to do.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Log-probabilities of prompts.
    pub scores: bool,
    /// Answers that go on from an opening.
    pub prefill: bool,
    /// Questions that may tell two models apart.
    pub questions: Vec<String>,
}

/// One model under test that a server has.
pub struct ServedSubject {
    /// `base` or another name; part of a path.
    pub name: String,
    /// The self-test.
    pub test: SelfTest,
    /// What identifies it.
    pub fingerprint: Fingerprint,
    pub(crate) served: Served,
    pub(crate) text: Option<Text>,
    pub(crate) scoring: Option<Scoring>,
    /// Most tokens of prompt and answer, as far as they are known.
    pub(crate) positions: Option<usize>,
}

/// Reaches and tests every subject. `model` is the part of the fingerprint that all subjects of a directory share;
/// `earlier` are the self-tests of an earlier evaluation in it.
///
/// # Errors
/// A server that cannot be reached or has no such model; a check that fails.
pub fn connect(
    named: &[(String, EndpointOptions)],
    text: Option<&Text>,
    model: &str,
    needs: &Needs,
    earlier: &BTreeMap<String, SelfTest>,
) -> Result<Vec<ServedSubject>> {
    let mut tested: Vec<(Served, Tested)> = Vec::new();
    for (name, options) in named {
        let context = |e: Error| e.context(format!("subject {name}"));
        let served = Served::new(options).map_err(context)?;
        if let Some(at) = tested.iter().position(|(other, _)| same(other, &served)) {
            let other = named.get(at).map(|(name, _)| name.as_str()).unwrap_or_default();
            return Err(wrong(&served, format!("`{other}` and `{name}` are one model"))
                .hint("an adapter has a name of its own on the server, behind # in URL#MODEL"));
        }
        let found = checks::test(&served, text, [needs.scores, needs.prefill]).map_err(context)?;
        tested.push((served, found));
    }
    names::compare(&mut tested, &needs.questions)?;
    let text_identity = text.map(Text::identity).transpose()?;
    let subject = |((name, _), (served, tested)): (&(String, EndpointOptions), (Served, Tested))| {
        let Tested { test, scoring, positions, .. } = tested;
        let identity = fingerprint(&test, earlier.get(name), text_identity.as_deref());
        let fingerprint = Fingerprint { subject: identity, model: model.to_owned(), adapter: None };
        let (name, text) = (name.clone(), text.cloned());
        let positions = positions.or(text.as_ref().map(|text| text.positions));
        ServedSubject { name, test, fingerprint, served, text, scoring, positions }
    };
    Ok(named.iter().zip(tested).map(subject).collect())
}

/// The scores that count: those of an earlier test, where every token differs from them by rounding only.
fn settled<'a>(test: &'a SelfTest, earlier: Option<&'a SelfTest>) -> &'a [f32] {
    let near = |earlier: &&SelfTest| checks::apart(&test.scores, &earlier.scores) <= checks::NOISE;
    earlier.filter(near).map_or(&test.scores, |earlier| &earlier.scores)
}

fn same(a: &Served, b: &Served) -> bool {
    a.url() == b.url() && a.model() == b.model()
}

/// Hex SHA-256 of what identifies a served model.
fn fingerprint(test: &SelfTest, earlier: Option<&SelfTest>, text: Option<&str>) -> String {
    let mut hash = Sha256::new();
    let scores: Vec<String> = settled(test, earlier).iter().map(|score| format!("{score:e}")).collect();
    let scores = scores.join(" ");
    let parts = [Some(test.model.as_str()), test.server.as_deref(), test.origin.as_deref(), Some(&*scores), text];
    for part in parts.into_iter().chain(test.answers.iter().map(|answer| Some(answer.as_str()))) {
        // What is not known and what is empty are different.
        hash.update(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
        hash.update(part.unwrap_or_default());
    }
    hex(&hash.finalize())
}

impl ServedSubject {
    /// The test as it is kept: with the scores that the fingerprint has.
    pub fn kept(&self, earlier: Option<&SelfTest>) -> SelfTest {
        SelfTest { scores: settled(&self.test, earlier).to_vec(), ..self.test.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_keeps_a_fingerprint_and_all_else_changes_it() {
        let test = SelfTest {
            model: "m".into(),
            server: Some("vllm 0.11".into()),
            answers: vec!["a".into(), "b".into()],
            scores: vec![-2.5, -1.0],
            ..SelfTest::default()
        };
        let of = |test: &SelfTest, earlier: Option<&SelfTest>| fingerprint(test, earlier, Some("t"));
        let first = of(&test, None);
        let rounded = SelfTest { scores: vec![-2.499, -1.001], ..test.clone() };
        assert_ne!(of(&rounded, None), first);
        assert_eq!(of(&rounded, Some(&test)), first);
        // The same model behind another address is the same model.
        assert_eq!(of(&SelfTest { url: "http://elsewhere".into(), ..test.clone() }, Some(&test)), first);
        let others = [
            // A mean would be the same.
            SelfTest { scores: vec![-2.4, -1.1], ..test.clone() },
            SelfTest { scores: Vec::new(), ..test.clone() },
            SelfTest { answers: vec!["ab".into(), String::new()], ..test.clone() },
            SelfTest { model: "n".into(), ..test.clone() },
            SelfTest { server: None, ..test.clone() },
        ];
        for other in others {
            assert_ne!(of(&other, Some(&test)), first, "{other:?}");
        }
        assert_ne!(fingerprint(&test, None, None), first, "another tokenizer makes other prompts");
    }
}
