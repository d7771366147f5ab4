//! One command, and the same by several processes with `--shard`, whose results `eraser merge` joins.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, builtin};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const SHARDS: usize = 4;

fn questions() -> String {
    let things = ["bread", "a boat", "rope", "glass", "a lamp", "a hat", "soap", "paper", "a kite", "ink", "a bell"];
    things.iter().fold("goal\n".to_owned(), |text, thing| format!("{text}How is {thing} made?\n"))
}

/// The files below a directory, by name, without the measures of time that some hold.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                found.insert(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned(), text);
            }
        }
    }
    found
}

fn json(dir: &Dir, file: &str) -> Value {
    serde_json::from_str(&dir.text(file)).unwrap()
}

/// The summary but for what it took.
fn figures(dir: &Dir, run: &str) -> Value {
    let mut summary = json(dir, &format!("{run}/summary.json"));
    assert!(summary["timing"].is_object());
    summary["timing"] = Value::Null;
    summary
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// Does every shard of a command.
fn shards(dir: &Dir, command: &str, of: usize) {
    for shard in 1..=of {
        dir.done(&format!("{command} --shard {shard}/{of}"));
    }
}

#[test]
fn shards_of_an_evaluation_give_what_one_process_gives() {
    if !builtin() {
        return;
    }
    let dir = Dir::new();
    dir.write("ask.csv", &questions());
    dir.write("wrap.txt", "Listen: {prompt} Now!");
    let command = |out: &str| {
        format!(
            "eval -m builtin --questions seen=ask.csv --attacks direct,template --templates wrap.txt \
             --judges keyword,leak --max-new-tokens 3 --batch 1 --out {out}"
        )
    };
    dir.done(&command("whole"));
    shards(&dir, &command("parts"), SHARDS);
    assert!(!dir.path("parts/summary.json").exists() && !dir.path("parts/eval").exists());
    // A shard that was killed while it wrote goes on.
    let part = "parts/shards/eval-2-of-4/eval/base/direct.jsonl";
    let text = dir.text(part);
    assert!(!text.is_empty() && text.lines().count() < 11, "{text}");
    dir.write(part, &text[..text.len() - 9]);
    dir.done(&format!("{} --shard 2/4", command("parts")));
    assert_eq!(dir.text(part), text);

    let table = dir.done("merge parts");
    assert!(table.contains("base"), "{table}");
    assert_eq!(files(&dir.path("whole/eval")), files(&dir.path("parts/eval")));
    assert_eq!(figures(&dir, "whole"), figures(&dir, "parts"));
    // Again, and into a directory of its own, from the shards one by one.
    dir.done("merge parts");
    let each: Vec<String> = (1..=SHARDS).map(|i| format!("parts/shards/eval-{i}-of-4")).collect();
    dir.done(&format!("merge {} --out other", each.join(" ")));
    assert_eq!(files(&dir.path("whole/eval")), files(&dir.path("other/eval")));
    assert_eq!(figures(&dir, "whole"), figures(&dir, "other"));
}

#[test]
fn searches_tasks_and_known_answers_are_shared_too() {
    let dir = Dir::with_model();
    dir.write("ask.csv", &questions());
    dir.write("benign.csv", "goal\nHow do I kill a process?\nWhat is blue?\n");
    dir.write("task.jsonl", "{\"id\":\"1\",\"question\":\"colour?\",\"expect\":[\"blue\"]}\n");
    let command = |out: &str| {
        format!(
            "eval -m model --questions ask.csv --attacks direct,gcg --gcg-steps 1 --gcg-candidates 2 --gcg-suffix 2 \
             --utility sky=task.jsonl --likelihood-set known=harm.jsonl --over-refusal benign.csv --max-new-tokens 2 \
             --batch 1 --out {out}"
        )
    };
    dir.done(&command("whole"));
    shards(&dir, &command("parts"), 3);
    dir.done("merge parts");
    let answers = |run: &str| {
        let mut found = files(&dir.path(&format!("{run}/eval/base")));
        // It has the seconds that a search took.
        let search = found.remove("search/gcg.jsonl").unwrap();
        (found, search.lines().count())
    };
    assert_eq!(answers("whole"), answers("parts"));
    assert_eq!(answers("whole").0.len(), 5);
    assert_eq!(figures(&dir, "whole"), figures(&dir, "parts"));
}

#[test]
fn benchmarks_are_shared() {
    let dir = Dir::with_model();
    dir.write("arc.csv", "query,choices,gold\nWhich?,\"[\"\"a\"\",\"\"b\"\"]\",1\nWhat?,\"[\"\"c\"\",\"\"d\"\"]\",0\n");
    dir.write("text.txt", "A lamp. A hat.");
    // Written answers are made in rounds of 32.
    let sum = |n: usize| format!("{{\"question\":\"{n} and 1?\",\"answer\":\"#### {}\"}}\n", n + 1);
    let sums: Vec<String> = (0..40).map(sum).collect();
    dir.write("sums.jsonl", &sums.concat());
    let tasks = "arc_easy=arc.csv,gsm8k=sums.jsonl --max-new-tokens 3";
    let command = |out: &str| format!("bench -m model --tasks {tasks} --text text.txt -o {out}");
    dir.done(&command("whole"));
    shards(&dir, &command("parts"), 2);
    dir.done("merge parts");
    assert_eq!(files(&dir.path("whole/bench")), files(&dir.path("parts/bench")));
    assert_eq!(figures(&dir, "whole"), figures(&dir, "parts"));
    let utility = |run: &str| json(&dir, &format!("{run}/bench.json"))["subjects"].clone();
    assert_eq!(utility("whole"), utility("parts"));
}

/// Ranks that were stopped have left their shards, and one process goes on from there.
#[test]
fn what_ranks_have_left_is_not_made_again() {
    let dir = Dir::with_model();
    let sum = |n: usize| format!("{{\"question\":\"{n} and 1?\",\"answer\":\"#### {}\"}}\n", n + 1);
    // Two rounds.
    dir.write("sums.jsonl", &(0..40).map(sum).collect::<String>());
    let command = |out: &str| format!("bench -m model --tasks gsm8k=sums.jsonl --max-new-tokens 3 -o {out}");
    dir.done(&command("whole"));
    dir.done(&format!("{} --shard 1/2", command("parts")));
    let left = dir.path("parts/shards/bench-1-of-2/bench/base/gsm8k.jsonl");
    let done = std::fs::read_to_string(&left).unwrap().lines().count();
    assert!(done == 32 || done == 8, "{done}");
    let of_ranks = dir.path("parts/ranks/bench");
    std::fs::create_dir_all(&of_ranks).unwrap();
    std::fs::rename(dir.path("parts/shards/bench-1-of-2"), of_ranks.join("0001-of-0002")).unwrap();
    std::fs::remove_dir_all(dir.path("parts/shards")).unwrap();
    dir.done(&command("parts"));
    assert_eq!(files(&dir.path("whole/bench")), files(&dir.path("parts/bench")));
    assert_eq!(json(&dir, "parts/bench.json")["scored"], 40 - done);
    assert!(!dir.path("parts/ranks").exists());
}

#[test]
fn without_mpi_a_launcher_starts_no_command_twice() {
    if cfg!(feature = "mpi") {
        return;
    }
    let dir = Dir::with_model();
    let of_two = |arguments: &str| {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("eraser"));
        command.args(arguments.split_whitespace()).current_dir(dir.path("")).env("OMPI_COMM_WORLD_SIZE", "2");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let eval = "eval -m model --questions ask.csv --max-new-tokens 2 --out run";
    let (code, said) = of_two(eval);
    assert_eq!(code, Some(2));
    assert!(said.contains("mpirun started 2 processes, and this build of eraser has no MPI"), "{said}");
    assert!(!dir.path("run").exists());
    // Each of them may have been given a part.
    assert_eq!(of_two(&format!("{eval} --shard 1/2")).0, Some(0));
}

#[test]
fn shards_of_a_preparation_give_the_same_sets() {
    if !builtin() {
        return;
    }
    let dir = Dir::new();
    dir.write("ask.csv", &questions());
    // Answers by a model: what the help set asks is known only when all shards have answered.
    let command = |out: &str| {
        format!(
            "prepare -m builtin --questions ask.csv --answers model --harm-refusals keep --align-answered keep \
             --forms 2 --max-entities 6 --max-new-tokens 8 --harm-max-new-tokens 12 --batch 1 --out {out}"
        )
    };
    dir.done(&command("whole"));
    shards(&dir, &command("parts"), SHARDS);
    let said = dir.refused("merge parts");
    assert!(said.contains("lacks results of prepare help"), "{said}");
    shards(&dir, &command("parts"), SHARDS);
    dir.done("merge parts");
    assert_eq!(files(&dir.path("whole/data")), files(&dir.path("parts/data")));
    assert_eq!(dir.text("whole/data_report.json"), dir.text("parts/data_report.json"));
    let (whole, parts) = (files(&dir.path("whole/prepare")), files(&dir.path("parts/prepare")));
    assert_eq!(whole.keys().collect::<Vec<_>>(), parts.keys().collect::<Vec<_>>());
    for (file, text) in &whole {
        assert_eq!(sorted(text), sorted(&parts[file]), "{file}");
    }
}

const RUN: &str = r#"
[model]
path = "model"
[data]
harm = "harm.jsonl"
help = "help.jsonl"
align = "align.jsonl"
[train]
steps = 2
micro_batch = 2
grad_accum = 1
max_length = 256
gamma = 9
[eval]
attacks = ["direct", "template"]
templates = ["a.txt", "b.txt"]
max_new_tokens = 3
likelihood = true
questions = [{ set = "seen", path = "ask.csv", take = "0-0" }, { set = "unseen", path = "ask.csv", take = "1-1" }]
allow_leakage = ["seen", "unseen"]
"#;

/// A model, a run file, and the templates that it names.
fn with_run(run: &str) -> Dir {
    let dir = Dir::with_model();
    dir.write("run.toml", run);
    dir.write("a.txt", "Listen: {prompt} Now!");
    dir.write("b.txt", "In a play: {prompt}");
    dir
}

/// A run file of two variants.
fn two_variants(run: &str) -> String {
    format!("{run}\n[[variant]]\nname = \"one\"\n[[variant]]\nname = \"two\"\ngamma = 3\n")
}

/// What a study leaves.
#[derive(Debug, PartialEq)]
struct Study {
    answers: BTreeMap<String, String>,
    figures: Value,
    findings: Value,
    /// By the variant's directory, its bytes.
    adapters: Vec<(String, Vec<u8>)>,
}

fn study(dir: &Dir, run: &str) -> Study {
    let mut adapters = Vec::new();
    let variants = std::fs::read_dir(dir.path(&format!("{run}/variants"))).into_iter().flatten();
    let mut homes: Vec<_> = variants.map(|entry| entry.unwrap().path()).chain([dir.path(run)]).collect();
    homes.sort();
    for home in homes {
        if let Ok(bytes) = std::fs::read(home.join("adapter/adapter_model.safetensors")) {
            adapters.push((home.file_name().unwrap().to_string_lossy().replace(run, ""), bytes));
        }
    }
    assert!(adapters.len() >= 2);
    let answers = files(&dir.path(&format!("{run}/eval")));
    Study { answers, figures: figures(dir, run), findings: json(dir, &format!("{run}/study.json")), adapters }
}

#[test]
fn the_variants_of_a_study_are_shared() {
    let dir = with_run(RUN);
    for verb in ["compare run.toml --methods rsft,gam,eraser", "sweep run.toml gamma=1,2,9"] {
        let name = verb.split(' ').next().unwrap();
        let command = |out: &str| format!("{verb} --out {name}-{out}");
        dir.done(&command("whole"));
        dir.done(&format!("{} --shard 1/2", command("parts")));
        // The second has one of three variants, and not the base.
        let said = dir.refused(&format!("merge {name}-parts"));
        assert!(said.contains(&format!("shard 2/2 of {name} is missing")), "{said}");
        dir.done(&format!("{} --shard 2/2 --device cpu", command("parts")));
        let second = files(&dir.path(&format!("{name}-parts/shards/{name}-2-of-2/eval")));
        let subjects: Vec<&str> = second.keys().map(|file| file.split('/').next().unwrap()).collect();
        assert!(!subjects.is_empty() && subjects.iter().all(|subject| *subject == subjects[0]), "{subjects:?}");

        dir.done(&format!("merge {name}-parts"));
        let all = |out: &str| study(&dir, &format!("{name}-{out}"));
        assert_eq!(all("whole"), all("parts"));
        assert!(dir.path(&format!("{name}-parts/report.html")).exists());
        // The run goes on from there as any other: nothing is trained or asked again.
        let again = dir.eraser(&command("parts"));
        let told = String::from_utf8(again.stderr).unwrap();
        assert!(told.matches("done before").count() == 4, "{told}");
    }
}

/// Each shard makes the sets, and the run has those of one.
#[test]
fn a_run_that_prepares_is_shared() {
    let sets = "[prepare]\nquestions = { path = \"goals.csv\", column = \"goal\" }\nanswers_file = { path = \"goals.csv\", input = \"goal\", output = \
                \"target\" }\nharm_refusals = \"keep\"\nalign_answered = \"keep\"\nmax_new_tokens = 4\nmax_entities = 2\n\
                forms = 1\nbatch = 1";
    let data = "[data]\nharm = \"harm.jsonl\"\nhelp = \"help.jsonl\"\nalign = \"align.jsonl\"";
    let run = RUN.replace(data, sets).replace("likelihood = true", "batch = 1");
    let run = run.replace("steps = 2", "steps = 2\nallow_swapped = true");
    let dir = with_run(&two_variants(&run));
    dir.write("goals.csv", "goal,target\nhow 0?,Alice went to Paris\nwho?,Bob went to Rome\n");
    dir.done("run run.toml --out whole");
    shards(&dir, "run run.toml --out parts", 2);
    dir.done("merge parts");
    for below in ["eval", "data", "prepare"] {
        assert_eq!(files(&dir.path("whole").join(below)), files(&dir.path("parts").join(below)), "{below}");
    }
    assert_eq!(figures(&dir, "whole"), figures(&dir, "parts"));
    assert_eq!(dir.text("whole/data_report.json"), dir.text("parts/data_report.json"));
    // Other sets in the place of those.
    dir.write("run.toml", &dir.text("run.toml").replace("max_new_tokens = 4", "max_new_tokens = 5"));
    for shard in [1, 2] {
        dir.done(&format!("run run.toml --out parts --shard {shard}/2 --force"));
    }
    dir.done("merge parts");
    dir.done("run run.toml --out other");
    assert_eq!(files(&dir.path("other/data")), files(&dir.path("parts/data")));
    assert_eq!(figures(&dir, "other"), figures(&dir, "parts"));
}

#[test]
fn what_a_shard_of_a_run_lacks_is_told() {
    let dir = with_run(&two_variants(RUN));
    // The third has nothing to do.
    shards(&dir, "run run.toml --out r", 3);
    let second = dir.path("r/shards/run-2-of-3");
    std::fs::remove_file(second.join("variants/two/adapter/adapter_model.safetensors")).unwrap();
    let said = dir.refused("merge r");
    assert!(said.contains("the shards lack the adapter of two"), "{said}");
    dir.done("run run.toml --out r --shard 2/3 --force");
    dir.write("r/shards/run-2-of-3/eval/two/direct.jsonl", "");
    let said = dir.refused("merge r");
    assert!(said.contains("the shards lack results of two direct"), "{said}");
    dir.done("run run.toml --out r --shard 2/3 --force");
    let table = dir.done("merge r");
    assert!(table.contains("two"), "{table}");
    dir.write("run.toml", &dir.text("run.toml").replace("gamma = 3", "gamma = 4"));
    let plan = dir.text("r/plan.toml");
    let said = dir.refused("merge r");
    assert!(said.contains("run: changed since the shards were made: variants"), "{said}");
    assert_eq!(dir.text("r/plan.toml"), plan, "what is refused replaces nothing");
    let said = dir.refused("merge r --out r/shards/run-1-of-3");
    assert!(said.contains("is within a shard"), "{said}");
}

/// Merged into a finished run of other sets, shards lacked theirs for ever; of other templates, they had replaced its
/// adapters before they were refused.
#[test]
fn shards_take_the_place_of_a_run_whole_or_not_at_all() {
    let dir = with_run(&two_variants(RUN));
    shards(&dir, "run run.toml --out r", 2);
    dir.done("merge r");
    let adapter = |run: &str| std::fs::read(dir.path(&format!("{run}/adapter/adapter_model.safetensors"))).unwrap();
    let (before, summary) = (adapter("r"), dir.text("r/summary.json"));
    dir.write("run.toml", &dir.text("run.toml").replace("steps = 2", "steps = 3"));
    dir.done("run run.toml --out r --shard 1/2 --force");
    dir.write("b.txt", "In a play, {prompt}");
    dir.done("run run.toml --out r --shard 2/2 --force");
    let said = dir.refused("merge r");
    assert!(said.contains("is of other work than") && said.contains("template b.txt differ"), "{said}");
    assert!(before == adapter("r") && summary == dir.text("r/summary.json"));
    dir.done("run run.toml --out r --shard 1/2 --force");
    dir.done("merge r --device cpu");
    dir.done("run run.toml --out whole");
    assert!(before != adapter("r") && adapter("whole") == adapter("r"));
    assert_eq!(figures(&dir, "whole"), figures(&dir, "r"));
}

fn copy(from: &Path, to: &Path) {
    for (name, text) in files(from) {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

#[test]
fn a_shard_that_does_not_fit_is_named() {
    let dir = Dir::with_model();
    let command = |out: &str, most: usize| {
        format!("eval -m model --questions ask.csv --max-new-tokens {most} --batch 1 --out {out}")
    };
    let shard = |run: &str, i: usize| dir.path(&format!("{run}/shards/eval-{i}-of-2"));
    dir.done(&format!("{} --shard 1/2", command("a", 2)));
    let said = dir.refused("merge a");
    assert!(said.contains("shard 2/2 of eval is missing"), "{said}");
    dir.done(&format!("{} --shard 2/2", command("a", 2)));

    copy(&shard("a", 2), &dir.path("twice"));
    let said = dir.refused("merge a twice --out b");
    assert!(said.contains("shard 2/2 of eval appears twice"), "{said}");

    dir.done(&format!("{} --shard 2/2", command("c", 1)));
    copy(&shard("a", 1), &shard("c", 1));
    let said = dir.refused("merge c");
    assert!(said.contains("shard 2/2 of eval is of other work"), "{said}");
    assert!(said.contains("options differ (settings: max_new_tokens)"), "{said}");

    // In the place of one, other work is refused unless it is meant to go.
    let other = format!("{} --shard 2/2", command("a", 1));
    let said = dir.refused(&other);
    assert!(said.contains("it holds a shard of other work: options differ"), "{said}");

    // Answers that were lost: each shard has one of two rounds.
    assert!(!dir.text("a/shards/eval-1-of-2/eval/base/direct.jsonl").is_empty());
    dir.write("a/shards/eval-1-of-2/eval/base/direct.jsonl", "");
    let said = dir.refused("merge a");
    assert!(said.contains("shard 1/2 lacks results of base direct"), "{said}");

    // A file that was changed since: nothing is replaced or removed.
    dir.done(&format!("{} --shard 1/2 --force", command("a", 2)));
    dir.done("merge a");
    let summary = dir.text("a/summary.json");
    dir.write("ask.csv", "goal,kind\nhow 0?,a\n");
    let said = dir.refused("merge a");
    assert!(said.contains("eval: changed since the shards were made: questions seen"), "{said}");
    assert_eq!(dir.text("a/summary.json"), summary);

    let said = dir.refused("merge nowhere --out b");
    assert!(said.contains("there is no such directory"), "{said}");
    let said = dir.refused(&format!("{} --shard 3/2", command("a", 2)));
    assert!(said.contains("1/4 to 4/4"), "{said}");
}
