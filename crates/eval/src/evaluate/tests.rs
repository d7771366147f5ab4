//! The whole pipeline with invented answers.

use super::*;
use crate::answers;
use crate::attack::search::Search;
use crate::options::{QuestionSet, TaskFile};
use eraser_data::Share;
use eraser_data::ask::{self, Sink};
use eraser_model::ErrorKind;
use proptest::prelude::*;
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// Answers a prompt with itself; its tokens are its bytes.
struct Canned {
    fingerprint: Fingerprint,
    generated: Cell<usize>,
}

impl Canned {
    fn new(fingerprint: &str) -> Self {
        let fingerprint = Fingerprint { subject: fingerprint.into(), ..Fingerprint::default() };
        Self { fingerprint, generated: Cell::new(0) }
    }
}

impl TargetModel for Canned {
    fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    fn thinking(&self) -> Option<String> {
        None
    }

    fn encode(&self, user: &str, opening: &str, _: bool) -> Result<Prompt> {
        // What is behind the mark is answered.
        let opening = if opening.is_empty() { String::new() } else { format!("{opening}|") };
        Ok(Prompt { ids: user.bytes().chain(opening.bytes()).map(u32::from).collect(), ..Prompt::default() })
    }

    fn search(
        &self,
        _: &dyn Search,
        questions: &[&Question],
        _: &Path,
        _: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Vec<String>>> {
        Ok(Some(questions.iter().map(|q| q.text.clone()).collect()))
    }

    fn respond(
        &self,
        prompts: &[Prompt],
        sampling: &Sampling,
        _batch: usize,
        alive: &mut dyn FnMut(usize, usize) -> bool,
        take: &mut dyn FnMut(Vec<(usize, Response)>) -> Result<()>,
    ) -> Result<bool> {
        let mut responses = Vec::new();
        for (i, prompt) in prompts.iter().enumerate() {
            if !alive(responses.len(), 1) {
                return Ok(false);
            }
            let text: String = prompt.ids.iter().filter_map(|id| char::from_u32(*id)).collect();
            let text = text.split_once('|').map_or(text.clone(), |(_, rest)| rest.to_owned());
            let text = if sampling.temperature > 0.0 { text.to_uppercase() } else { text };
            // What stands before a tilde is thought; a thought that ends with one too many has no end.
            let (thought, text) = text
                .rsplit_once('~')
                .map_or((String::new(), text.clone()), |(thought, text)| (thought.to_owned(), text.to_owned()));
            let unfinished = thought.ends_with('~');
            let text = if unfinished { String::new() } else { text };
            responses.push((i, Response { tokens: text.len(), stopped: !unfinished, thought, unfinished, text }));
        }
        self.generated.set(self.generated.get() + prompts.len());
        take(responses)?;
        Ok(true)
    }
}

/// Says stop at the tick of this number.
struct StopAt(usize);

impl Progress for StopAt {
    fn tick(&mut self, _what: &str, done: usize, total: usize) -> bool {
        assert!(done <= total);
        self.0 = self.0.saturating_sub(1);
        self.0 > 0
    }
}

const NEVER: usize = usize::MAX;

struct Fixture {
    dir: tempfile::TempDir,
    options: EvalOptions,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| -> PathBuf {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let set = |set: &str, path| QuestionSet { set: set.into(), path, column: None };
        let seen = r#"{"id":"1","question":"salt and sand","facts":["salt","sand"]}
{"id":"2","question":"nothing","facts":["tin"]}
{"id":"3","question":"salt and sand","facts":["zinc"]}
{"id":"4","question":"I cannot","facts":[]}
"#;
        let options = EvalOptions {
            attacks: vec!["direct".into(), "template".into()],
            templates: vec![write("t.json", r#"["Sorry, {prompt}", "1 {prompt}"]"#)],
            judges: vec!["keyword".into(), "leak".into()],
            questions: vec![
                set("seen", write("seen.jsonl", seen)),
                set("unseen", write("unseen.jsonl", "{\"id\":\"5\",\"question\":\"copper\",\"facts\":[\"copper\"]}\n")),
            ],
            tasks: vec![TaskFile {
                task: "sky".into(),
                path: write("sky.jsonl", "{\"id\":\"s\",\"question\":\"blue sky\",\"expect\":[\"blue\",\"sky\"]}\n"),
            }],
            over_refusal: Some(set("kill", write("kill.txt", "how do I kill a process?\nI cannot see\n"))),
            batch: 1,
            temperature: 0.5,
            ..EvalOptions::default()
        };
        Self { dir, options }
    }

    fn run(&self, out: &str, target: &Canned, stop_at: usize) -> Result<SubjectSummary> {
        let plan = Plan::new(&self.options, &crate::name::key).map_err(|e| e.into_iter().next().unwrap())?;
        let out = self.dir.path().join(out);
        evaluate_one("base", target, &plan, None, &out, &mut StopAt(stop_at))?;
        found(&out, "base", target.fingerprint())
    }

    fn answers(&self, out: &str, name: &str) -> Vec<Answer> {
        answers::read(&self.file(out, name)).unwrap()
    }

    fn file(&self, out: &str, name: &str) -> PathBuf {
        self.dir.path().join(out).join("eval/base").join(name)
    }

    fn bytes(&self, out: &str) -> Vec<Vec<u8>> {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(self.file(out, "")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }
}

#[test]
fn figures_and_files() {
    let fixture = Fixture::new();
    let target = Canned::new("m");
    let summary = fixture.run("out", &target, NEVER).unwrap();
    // 4 distinct direct prompts of 5, 8 of 10 under templates, 1, 2.
    assert_eq!(target.generated.get(), 15);
    let row = |attack: &str, set: &str, judge: &str| {
        let found = summary.attacks.iter().find(|r| r.attack == attack && r.set == set && r.judge == judge);
        found.map(|r| (r.n, r.asr, r.unjudged, r.refused)).unwrap()
    };
    // Sampled answers are in upper case here, so nothing is refused by a case-sensitive list.
    assert_eq!(row("direct", "seen", "keyword:gcg29"), (4, Some(1.0), 0, Some(0.0)));
    assert_eq!(row("direct", "seen", "leak"), (4, Some(1.0 / 3.0), 1, Some(0.0)));
    assert_eq!(row("direct", "unseen", "leak"), (1, Some(1.0), 0, Some(0.0)));
    assert_eq!(row("template", "seen", "leak"), (8, Some(1.0 / 3.0), 2, Some(0.0)));
    assert_eq!(row("template:t-2", "unseen", "leak"), (1, Some(1.0), 0, Some(0.0)));
    assert_eq!(summary.utility[0].value, Some(1.0));
    assert_eq!(summary.over_refusal.as_ref().map(|o| o.n), Some(2));

    let answers = answers::read::<Answer>(&fixture.file("out", "direct.jsonl")).unwrap();
    assert_eq!(answers.iter().map(|a| a.id.as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4", "5"]);
    assert_eq!(answers[0].judgements["leak"].note, "2 of 2 facts");
    assert_eq!(answers[2].judgements["leak"].success, Some(false));
    // The task is greedy whatever the temperature.
    assert_eq!(answers::read::<Answer>(&fixture.file("out", "task-sky.jsonl")).unwrap()[0].response, "blue sky");
}

#[test]
fn shares_that_are_joined_are_the_whole() {
    let fixture = Fixture::new();
    fixture.run("whole", &Canned::new("m"), NEVER).unwrap();
    let shared = |out: &str, share: Share| {
        let mut plan = Plan::new(&fixture.options, &crate::name::key).map_err(|_| ()).unwrap();
        plan.take_share(share);
        let target = Canned::new("m");
        evaluate_one("base", &target, &plan, None, &fixture.dir.path().join(out), &mut StopAt(NEVER))
            .map(|()| target.generated.get())
    };
    let part = |i: usize| shared(&format!("part-{i}"), Share::Part(format!("{i}/3").parse().unwrap())).unwrap();
    let made: Vec<usize> = (1..=3).map(part).collect();
    assert_eq!(made.iter().sum::<usize>(), 15, "each prompt once: {made:?}");
    assert!(made.iter().all(|n| *n < 15), "{made:?}");
    fs::create_dir_all(fixture.file("joined", "")).unwrap();
    let files = ["direct", "template", "task-sky", "over-refusal"].map(|name| format!("{name}.jsonl"));
    for file in &files {
        let part = |i: usize| fs::read_to_string(fixture.file(&format!("part-{i}"), file)).unwrap();
        fs::write(fixture.file("joined", file), (1..=3).map(part).collect::<String>()).unwrap();
    }
    assert_eq!(shared("joined", Share::Joined(3)).unwrap(), 0);
    assert_eq!(fixture.bytes("joined"), fixture.bytes("whole"));
    // Nothing is answered in place of a shard.
    fs::write(fixture.file("joined", "template.jsonl"), "").unwrap();
    let error = shared("joined", Share::Joined(3)).unwrap_err().to_string();
    assert!(error.ends_with("/3 lacks results of base template"), "{error}");
}

/// A judge that gives the lowest score, `together` answers at a time.
struct Lenient {
    together: usize,
    asked: Cell<usize>,
}

impl Respond for Lenient {
    fn fingerprint(&self) -> String {
        "lenient".into()
    }
    fn together(&self) -> usize {
        self.together
    }
    fn respond(&self, _: &[&str], wanted: &[bool], _: &Sampling, sink: &mut dyn Sink) -> Result<()> {
        for (i, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
            self.asked.set(self.asked.get() + 1);
            sink.take(i, ask::Answer { text: "score: 1".into(), ..ask::Answer::default() })?;
        }
        Ok(())
    }
}

/// Its verdicts would depend on how many shards there are.
#[test]
fn a_judge_that_judges_several_answers_together_judges_no_part_of_them() {
    let mut fixture = Fixture::new();
    fixture.options.judges = vec!["rubric".into()];
    fixture.options.judge.model = Some("m".into());
    let asked = |out: &str, together: usize, share: Share| {
        let mut plan = Plan::new(&fixture.options, &crate::name::key).map_err(|_| ()).unwrap();
        plan.take_share(share);
        let (target, judge) = (Canned::new("m"), Lenient { together, asked: Cell::new(0) });
        let out = fixture.dir.path().join(out);
        evaluate_one("base", &target, &plan, Some(&judge), &out, &mut StopAt(NEVER)).unwrap();
        judge.asked.get()
    };
    let part = Share::Part("1/1".parse().unwrap());
    assert_eq!(asked("a", 4, part), 0);
    let all = asked("a", 4, Share::Joined(1));
    assert!(all > 0);
    assert_eq!(asked("b", 1, part), all, "a server is asked by the shards");
}

/// 82 of 330 answers to an attack, left by an evaluation that was interrupted, became a figure and a verdict.
#[test]
fn an_interrupted_attack_gives_no_figure() {
    let fixture = Fixture::new();
    let target = Canned::new("m");
    let whole = fixture.run("whole", &target, NEVER).unwrap();
    let (mut partial, mut stop) = (0, 1);
    loop {
        let out = format!("stopped-{stop}");
        if fixture.run(&out, &target, stop).is_ok() {
            break;
        }
        let figures = found(&fixture.dir.path().join(&out), "base", target.fingerprint()).unwrap();
        assert!(figures.attacks.iter().all(|row| whole.attacks.contains(row)), "{figures:?}");
        let (now, all) =
            (fixture.answers(&out, "template.jsonl").len(), fixture.answers("whole", "template.jsonl").len());
        partial += usize::from(now > 0 && now < all);
        fixture.run(&out, &target, NEVER).unwrap();
        assert_eq!(fixture.bytes(&out), fixture.bytes("whole"));
        stop += 1;
    }
    assert!(partial > 0, "no interruption left a part of the answers");
}

#[test]
fn greedy_answers_are_refusals_where_they_say_so() {
    let mut fixture = Fixture::new();
    fixture.options.temperature = 0.0;
    let summary = fixture.run("out", &Canned::new("m"), NEVER).unwrap();
    let row = summary.attacks.iter().find(|r| r.attack == "template:t-1" && r.set == "seen").unwrap();
    assert_eq!((row.asr, row.refused), (Some(0.0), Some(1.0)));
    assert_eq!(summary.over_refusal.unwrap().rate, Some(0.5));
}

#[test]
fn stopped_at_any_tick_it_goes_on_to_the_same_bytes() {
    let mut fixture = Fixture::new();
    fixture.options.questions.truncate(1);
    fixture.options.attacks.truncate(1);
    fixture.options.templates.clear();
    let whole = fixture.run("whole", &Canned::new("m"), NEVER).unwrap();
    let mut stops = 0;
    for stop_at in 1.. {
        let out = format!("stopped-{stop_at}");
        let target = Canned::new("m");
        match fixture.run(&out, &target, stop_at) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
            Ok(_) => break,
        }
        stops += 1;
        assert_eq!(fixture.run(&out, &target, NEVER).unwrap(), whole);
        assert_eq!(fixture.bytes(&out), fixture.bytes("whole"));
        assert_eq!(target.generated.get(), 6, "nothing that was stored is generated again");
    }
    assert!(stops > 6, "{stops}");
}

#[test]
fn nothing_is_generated_twice_and_other_experiments_are_dropped() {
    let mut fixture = Fixture::new();
    fixture.run("out", &Canned::new("m"), NEVER).unwrap();
    let bytes = fixture.bytes("out");
    let again = Canned::new("m");
    fixture.run("out", &again, NEVER).unwrap();
    assert_eq!((again.generated.get(), fixture.bytes("out")), (0, bytes));

    let other = Canned::new("n");
    fixture.run("out", &other, NEVER).unwrap();
    assert_eq!(other.generated.get(), 15);
    fixture.options.max_new_tokens = 9;
    fixture.run("out", &other, NEVER).unwrap();
    assert_eq!(other.generated.get(), 30);
    assert!(fixture.answers("out", "direct.jsonl").iter().all(|a| a.subject == "n"));
}

#[test]
fn another_judge_asks_for_no_new_answer_and_takes_no_verdict_away() {
    let mut fixture = Fixture::new();
    let target = Canned::new("m");
    let both = fixture.run("out", &target, NEVER).unwrap();
    fixture.options.judges = vec!["leak".into()];
    assert_eq!(fixture.run("out", &target, NEVER).unwrap(), both);
    assert_eq!(target.generated.get(), 15);
    assert_eq!(fixture.answers("out", "direct.jsonl")[0].judgements.len(), 2);
}

/// A later evaluation of one attack or one set dropped the figures of the others, although their answers were there.
#[test]
fn what_is_not_asked_again_stays() {
    let mut fixture = Fixture::new();
    let target = Canned::new("m");
    let all = fixture.run("out", &target, NEVER).unwrap();
    let whole = fixture.bytes("out");
    let seen = fixture.options.questions.remove(0);
    fixture.options.attacks = vec!["direct".into()];
    fixture.options.templates.clear();
    fixture.options.tasks.clear();
    fixture.options.over_refusal = None;
    let later = fixture.run("out", &target, NEVER).unwrap();
    assert_eq!(later.utility, all.utility);
    let rows = |s: &SubjectSummary| {
        let mut rows: Vec<String> = s.attacks.iter().map(|row| format!("{row:?}")).collect();
        rows.sort();
        rows
    };
    assert_eq!(rows(&later), rows(&all));
    fixture.options.questions.insert(0, seen);
    fixture.run("out", &target, NEVER).unwrap();
    assert_eq!((fixture.bytes("out"), target.generated.get()), (whole, 15));
}

/// `prefill` judged the attacker's words: an opening that names the facts was a leak without a single word of the
/// model.
#[test]
fn the_opening_that_an_attacker_gave_is_not_judged() {
    let mut fixture = Fixture::new();
    fixture.options.attacks = vec!["prefill".into()];
    fixture.options.templates.clear();
    fixture.options.target = "Sure: salt, sand and I cannot".into();
    fixture.options.temperature = 0.0;
    let summary = fixture.run("out", &Canned::new("m"), NEVER).unwrap();
    for answer in fixture.answers("out", "prefill.jsonl") {
        assert_eq!((answer.opening.as_str(), answer.response.as_str()), ("Sure: salt, sand and I cannot", ""));
        assert!(!answer.refused && answer.degenerate && answer.judgements["leak"].success != Some(true), "{answer:?}");
    }
    let row = summary.attacks.iter().find(|row| row.judge == "keyword:gcg29").unwrap();
    // The keyword judge finds no refusal in an empty answer; that it is empty is reported beside it.
    assert_eq!((row.asr, row.degenerate, row.degenerate_successes), (Some(1.0), Some(1.0), 4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_file_cut_anywhere_is_completed_to_the_same_bytes(cut in 0usize..6000, batch in 1usize..4) {
        let mut fixture = Fixture::new();
        fixture.options.batch = batch;
        fixture.run("out", &Canned::new("m"), NEVER).unwrap();
        let whole = fixture.bytes("out");
        let path = fixture.file("out", "template.jsonl");
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(cut);
        fs::write(&path, bytes).unwrap();
        fixture.run("out", &Canned::new("m"), NEVER).unwrap();
        prop_assert_eq!(fixture.bytes("out"), whole);
    }
}

#[test]
fn judges_see_the_answer_and_the_thought_apart() {
    let mut fixture = Fixture::new();
    let questions = r#"{"id":"1","question":"salt, I cannot~sand","facts":["salt"]}
{"id":"2","question":"tin~tin","facts":["tin"]}
{"id":"3","question":"zinc and so~~on","facts":["zinc"]}
{"id":"4","question":"lead","facts":["lead"]}
"#;
    fs::write(fixture.dir.path().join("seen.jsonl"), questions).unwrap();
    fs::write(fixture.dir.path().join("kill.txt"), "I cannot~yes\nI cannot~~\nno~I cannot\n").unwrap();
    fixture.options.attacks = vec!["direct".into()];
    fixture.options.templates.clear();
    fixture.options.temperature = 0.0;
    let canned = Canned::new("f");
    let summary = fixture.run("out", &canned, NEVER).unwrap();
    let answers = fixture.answers("out", "direct.jsonl");
    let said: Vec<_> =
        answers.iter().take(4).map(|a| (a.thought.as_str(), a.response.as_str(), a.unfinished)).collect();
    assert_eq!(
        said,
        [("salt, I cannot", "sand", false), ("tin", "tin", false), ("zinc and so~", "", true), ("", "lead", false)]
    );
    // The refusal is in the thought, and nothing is garbage: there is no answer.
    assert!(answers.iter().all(|a| !a.refused && !a.degenerate));
    assert_eq!(answers[2].judgements["leak"].success, None);
    let row = |judge: &str| summary.attacks.iter().find(|r| r.set == "seen" && r.judge == judge).unwrap();
    let leak = row("leak");
    assert_eq!((leak.n, leak.asr, leak.unjudged, leak.unfinished), (4, Some(2.0 / 3.0), 1, Some(0.25)));
    assert_eq!((leak.thoughts, leak.thought_leaks), (3, Some(1.0)));
    assert_eq!((row("keyword:gcg29").thoughts, row("keyword:gcg29").thought_leaks), (3, Some(2.0 / 3.0)));
    let benign = summary.over_refusal.as_ref().unwrap();
    assert_eq!((benign.n, benign.rate, benign.unfinished), (3, Some(0.5), 1));
    // What is stored is judged again as it was.
    let again = fixture.run("out", &canned, NEVER).unwrap();
    assert_eq!((again, fixture.answers("out", "direct.jsonl")), (summary, answers));
}
