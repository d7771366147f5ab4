use super::*;
use crate::answers::Answer;
use crate::bench::BenchSubject;
use crate::judge::Verdict;
use crate::summary::UtilitySummary;
use std::collections::BTreeMap;

fn fingerprint(model: &str, adapter: Option<&str>) -> Fingerprint {
    let subject = format!("{model}-{}-0123456789abcdef", adapter.unwrap_or("none"));
    Fingerprint { subject, model: model.into(), adapter: adapter.map(str::to_owned) }
}

fn row(attack: &str, judge: &str, n: usize) -> AttackSummary {
    AttackSummary { attack: attack.into(), set: "unseen".into(), judge: judge.into(), n, ..AttackSummary::default() }
}

fn subject(name: &str, fingerprint: Option<Fingerprint>, attacks: Vec<AttackSummary>) -> SubjectSummary {
    SubjectSummary { name: name.into(), fingerprint, attacks, ..SubjectSummary::default() }
}

fn summary(subjects: Vec<SubjectSummary>) -> Summary {
    Summary { schema: Summary::SCHEMA, subjects, ..Summary::default() }
}

/// The answers `yes` of a subject, each leaking or not.
fn write_answers(dir: &Path, name: &str, fingerprint: &Fingerprint, attack: &str, leaks: &[bool]) {
    let answer = |(i, leak): (usize, &bool)| Answer {
        id: i.to_string(),
        set: "unseen".into(),
        attack: attack.into(),
        question: format!("question {i}"),
        response: "yes".into(),
        tokens: 1,
        stopped: true,
        judgements: BTreeMap::from([("leak".into(), Verdict { success: Some(*leak), ..Verdict::default() })]),
        subject: fingerprint.short().into(),
        sampling: "greedy, at most 1 token".into(),
        fingerprint: i.to_string(),
        ..Answer::default()
    };
    let dir = dir.join("eval").join(name);
    fs::create_dir_all(&dir).unwrap();
    let all: Vec<Answer> = leaks.iter().enumerate().map(answer).collect();
    eraser_data::files::write_jsonl(&dir.join(format!("{attack}.jsonl")), &all).unwrap();
}

fn rows(summary: &Summary, name: &str) -> Vec<(String, String, usize)> {
    let subject = summary.subjects.iter().find(|s| s.name == name).unwrap();
    subject.attacks.iter().map(|a| (a.attack.clone(), a.judge.clone(), a.n)).collect()
}

/// A later `eval` of one attack dropped the figures of earlier attacks.
#[test]
fn a_later_attack_leaves_earlier_figures() {
    let base = || Some(fingerprint("m", None));
    let old = summary(vec![subject(
        "base",
        base(),
        vec![row("direct", "leak", 9), row("template", "leak", 9), row("template:a", "keyword", 9)],
    )]);
    let new = summary(vec![subject("base", base(), vec![row("template", "leak", 4), row("template:b", "leak", 4)])]);
    let mut notes = Vec::new();
    let merged = Summary::merge(old, new.clone(), &mut notes).unwrap();
    let expected = [("direct", "leak", 9), ("template", "leak", 4), ("template:b", "leak", 4)];
    assert_eq!(rows(&merged, "base"), expected.map(|(a, j, n)| (a.to_owned(), j.to_owned(), n)));
    assert_eq!(Summary::merge(merged.clone(), new, &mut notes).unwrap(), merged);
    assert!(notes.is_empty());
}

/// Train, eval, train again, eval of another attack: the first adapter's figures stood beside the second's.
#[test]
fn a_subject_that_was_trained_again_replaces_the_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let (base, first, second) = (fingerprint("m", None), fingerprint("m", Some("a")), fingerprint("m", Some("b")));
    write_answers(dir.path(), "eraser", &first, "direct", &[true]);
    write_answers(dir.path(), "base", &base, "direct", &[true]);
    let old = summary(vec![
        subject("base", Some(base.clone()), vec![row("direct", "leak", 9)]),
        subject("eraser", Some(first.clone()), vec![row("direct", "leak", 9)]),
    ]);
    old.write(dir.path()).unwrap();
    assert!(admit(dir.path(), &[("base", &base), ("eraser", &first)], true, false).unwrap().is_empty());
    let notes = admit(dir.path(), &[("base", &base), ("eraser", &second)], true, false).unwrap();
    assert!(
        notes.len() == 1 && notes[0].starts_with("eraser: the earlier results are of another model or adapter"),
        "{notes:?}"
    );
    // Whatever ends the evaluation now, no figure stands without its answers.
    assert_eq!(Summary::read(dir.path()).unwrap().subjects.len(), 1);
    assert!(!dir.path().join("eval/eraser").exists() && dir.path().join("eval/base/direct.jsonl").exists());
    let new = summary(vec![subject("eraser", Some(second), vec![row("template", "leak", 4)])]);
    let (merged, notes) = record(dir.path(), &new).unwrap();
    assert_eq!(rows(&merged, "eraser"), [("template".to_owned(), "leak".to_owned(), 4)]);
    assert_eq!(rows(&merged, "base").len(), 1);
    assert!(notes.is_empty(), "{notes:?}");
}

/// `bench` of one model and `eval` of another into one directory: both appeared as `base`.
#[test]
fn two_models_never_share_a_directory() {
    let (one, other) = (fingerprint("m", None), fingerprint("n", None));
    let bench = BenchSummary {
        schema: BenchSummary::SCHEMA,
        subjects: vec![BenchSubject { name: "base".into(), fingerprint: Some(one.clone()), ..BenchSubject::default() }],
        ..BenchSummary::default()
    };
    let evaluated = summary(vec![subject("base", Some(one.clone()), Vec::new())]);
    let adapters = summary(vec![subject("eraser", Some(fingerprint("m", Some("a"))), Vec::new())]);
    let put: [&dyn Fn(&Path); 4] = [
        &|dir| bench.write(dir).unwrap(),
        &|dir| evaluated.write(dir).unwrap(),
        &|dir| adapters.write(dir).unwrap(),
        &|dir| write_answers(dir, "base", &one, "direct", &[true]),
    ];
    for put in put {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path());
        admit(dir.path(), &[("base", &one)], true, false).unwrap();
        let error = admit(dir.path(), &[("base", &other)], true, false).unwrap_err();
        assert!(error.hints().iter().any(|hint| hint.contains("--force")), "{error}");
        assert_eq!(admit(dir.path(), &[("base", &other)], true, true).unwrap().len(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    let new = summary(vec![subject("base", Some(other), Vec::new())]);
    for old in [evaluated, adapters] {
        assert!(Summary::merge(old, new.clone(), &mut Vec::new()).is_err());
    }
}

#[test]
fn figures_of_an_unknown_model_never_stand_beside_known_ones() {
    let old = summary(vec![subject("base", None, vec![row("direct", "leak", 9)]), subject("gam", None, Vec::new())]);
    let mut notes = Vec::new();
    assert_eq!(Summary::merge(old.clone(), old.clone(), &mut notes).unwrap(), old);
    let new = summary(vec![subject("base", Some(fingerprint("m", None)), vec![row("template", "leak", 4)])]);
    let merged = Summary::merge(old, new.clone(), &mut notes).unwrap();
    assert_eq!(merged, new);
    assert!(notes.len() == 1 && notes[0].contains("base, gam"), "{notes:?}");
}

#[test]
fn benchmarks_join_the_figures_of_the_same_model_and_the_changes_are_of_the_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (base, hardened) = (fingerprint("m", None), fingerprint("m", Some("a")));
    write_answers(dir.path(), "base", &base, "direct", &[true; 12]);
    write_answers(dir.path(), "eraser", &hardened, "direct", &[false; 12]);
    let benched = |name: &str, fingerprint: Fingerprint| BenchSubject {
        name: name.into(),
        fingerprint: Some(fingerprint),
        utility: vec![UtilitySummary { task: "arc_easy".into(), metric: "acc".into(), ..UtilitySummary::default() }],
        ..BenchSubject::default()
    };
    let bench = BenchSummary {
        schema: BenchSummary::SCHEMA,
        subjects: vec![benched("base", base.clone()), benched("eraser", fingerprint("m", Some("earlier")))],
        ..BenchSummary::default()
    };
    bench.write(dir.path()).unwrap();
    let new = summary(vec![
        subject("base", Some(base), vec![row("direct", "leak", 12)]),
        subject("eraser", Some(hardened), vec![row("direct", "leak", 12)]),
    ]);
    let (merged, _) = record(dir.path(), &new).unwrap();
    assert_eq!(merged.subjects.iter().map(|s| s.utility.len()).collect::<Vec<_>>(), [1, 0]);
    let change = merged.subjects[1].attacks[0].asr_change.unwrap();
    assert!(change.difference < -0.999 && change.ci[1] < 0.0 && change.questions == 12, "{change:?}");
    assert_eq!(merged.subjects[0].attacks[0].asr_change, None);
    assert_eq!(Summary::read(dir.path()).unwrap(), merged);
}

/// `X` was evaluated, then `x`: on a disk that does not tell cases apart the answers of both were in one file.
#[test]
fn subjects_whose_names_differ_only_in_case_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (base, adapter) = (fingerprint("m", None), fingerprint("m", Some("a")));
    std::fs::create_dir_all(dir.path().join("eval/Eraser")).unwrap();
    let error = admit(dir.path(), &[("base", &base), ("eraser", &adapter)], true, false).unwrap_err().to_string();
    assert!(error.contains("`Eraser`") && error.contains("`eraser`"), "{error}");
    assert!(admit(dir.path(), &[("base", &base), ("Eraser", &adapter)], true, false).is_ok());
}

/// A server that came up with another version, or another model under the name, is no mistake of the user.
#[test]
fn a_served_base_that_has_changed_is_measured_again() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (fingerprint("m", None), Fingerprint { subject: "f".repeat(64), ..fingerprint("m", None) });
    write_answers(dir.path(), "base", &old, "direct", &[true]);
    let notes = admit(dir.path(), &[("base", &new)], false, false).unwrap();
    assert!(notes.len() == 1 && !dir.path().join("eval/base").exists(), "{notes:?}");
}
