//! Wrong requests: what is said, and the exit code. Every message is one line that names the flag, file or key, and all
//! that is wrong is said at once.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Dir;
use insta::assert_snapshot;

const SET: &str = "{\"input\":\"a\",\"output\":\"b\"}\n";
const REFUSED: &str = "{\"input\":\"a\",\"output\":\"I cannot.\"}\n";

#[test]
fn usage_errors_exit_with_2() {
    let dir = Dir::new();
    for arguments in
        ["", "frobnicate", "train", "run", "chat --model m --compare", "train --noise maybe", "-q -v report x"]
    {
        assert_eq!(dir.eraser(arguments).status.code(), Some(2), "{arguments}");
    }
    assert_eq!(dir.eraser("--version").status.code(), Some(0));
    assert_eq!(dir.eraser("train --help").status.code(), Some(0));
}

/// clap took the number for an option: "unexpected argument '-1'".
#[test]
fn a_negative_number_is_told_of_its_option() {
    let dir = Dir::new();
    for (arguments, told) in [
        (
            "chat -m m --max-think-tokens -1",
            "--max-think-tokens -1: it must be a whole number, 0 or more\nhint: see `eraser chat",
        ),
        ("chat -m m --temperature -1", "--temperature: must be 0 (greedy) or a positive number\n"),
        ("eval --max-new-tokens -3", "--max-new-tokens -3: it must be a whole number, 0 or more\n"),
        ("train --rank=-1", "--rank -1: it must be a whole number, 0 or more\n"),
        ("--threads -2 doctor m", "--threads -2: -2 is not in 1..=1024\n"),
        ("serve -m m --port -1", "--port -1: -1 is not in 0..=65535\n"),
        ("harden --minutes -5", "--minutes -5: `-5` is no number of minutes above 0\n"),
    ] {
        let found = dir.refused(arguments);
        assert!(found.starts_with("exit 2\nerror: ") && found.contains(told), "{arguments}: {found}");
    }
}

#[test]
fn all_of_a_train_request_is_checked_at_once() {
    let dir = Dir::new();
    dir.write("set.jsonl", SET);
    dir.write("refused.jsonl", REFUSED);
    dir.write("out/adapter/adapter_config.json", "{}");
    assert_snapshot!(
        dir.refused(
            "train --model no/such/model --device gpu --harm set.jsonl --help-set none.jsonl --align refused.jsonl --out out \
             --lr 0 --rank 0 --lora-dropout 1 --templates none.txt"
        ),
        @r#"
    exit 2
    error: --device: unknown device `gpu`
    hint: devices are auto, cpu, cuda, cuda:N and metal
    error: --model: no/such/model: No such file or directory (os error 2)
    hint: a model is a Hugging Face directory, a .gguf file, a hub name `org/name`, or `builtin`
    error: --help-set: none.jsonl: No such file or directory (os error 2)
    error: --rank: must be from 1 to 65536
    error: --lr: must be a positive number of at most 1
    error: --lora-dropout: must be at least 0 and below 1
    error: --templates: none.txt: No such file or directory (os error 2)
    hint: check the path; it is taken relative to the current directory
    error: --out: out holds a finished training run
    hint: continue it with --resume, start again with --force, or name another directory
    "#
    );
}

#[test]
fn a_hub_name_without_hub_or_network_is_no_panic() {
    let dir = Dir::new();
    dir.write("set.jsonl", SET);
    dir.write("refused.jsonl", REFUSED);
    let arguments = "train --model ./none --harm set.jsonl --help-set set.jsonl --align refused.jsonl --out out";
    assert_snapshot!(dir.refused(arguments), @r#"
    exit 2
    error: --model: ./none: No such file or directory (os error 2)
    hint: a model is a Hugging Face directory, a .gguf file, a hub name `org/name`, or `builtin`
    "#);
}

#[test]
fn all_of_a_run_file_is_checked_at_once() {
    let dir = Dir::new();
    dir.write("set.jsonl", SET);
    dir.write(
        "run.toml",
        r#"
[model]
path = "model"
devise = "cpu"

[data]
harm = { path = "set.jsonl", input = "goal" }
help = "${ERASER_NO_SUCH_VARIABLE}/help.jsonl"
align = { path = "set.jsonl", take = "9-3" }

[train]
steps = "many"
learning_rate = 1e-3
gamma = -1.0
targets = ["q", "w"]

[[variant]]
name = "base"
retain = true
gama = 2

[eval]
atacks = ["direct"]
attacks = ["template"]
questions = [{ set = "seen", path = "set.jsonl", colum = "x" }, 3]

[sever]
port = 80
"#,
    );
    assert_snapshot!(dir.refused("run run.toml --device cuda:99"), @r#"
    exit 2
    error: run.toml:27: unknown key `sever`
    hint: the keys are run, model, prepare, data, train, method, variant, eval, tune
    error: run.toml:4: unknown key `devise` in [model]
    hint: did you mean `device`?
    hint: the keys in [model] are path, device, base_dtype, compute, chat_template, template_vars, think_end, max_think_tokens
    error: --device: device cuda:99: this build has no cuda support
    hint: build with the cargo feature `cuda`, or use --device cpu
    error: run.toml:3: model: No such file or directory (os error 2)
    hint: a model is a Hugging Face directory, a .gguf file, a hub name `org/name`, or `builtin`
    error: run.toml:7: `harm`: `input` and `output` are given together or not at all
    error: run.toml:8: `help`: the environment variable ERASER_NO_SUCH_VARIABLE of `${ERASER_NO_SUCH_VARIABLE}/help.jsonl` is not set
    hint: set it to the directory that holds the files: ERASER_NO_SUCH_VARIABLE=DIR eraser run ..
    error: run.toml:9: `take`: `9-3` is not a range of rows (rows are written as 0-389, 390- or 100)
    error: run.toml:13: unknown key `learning_rate` in [train]
    hint: did you mean `lr`?
    error: run.toml:12: `steps`: string "many", expected a whole number
    error: run.toml:15: `targets`: unknown module `w` (q, k, v, o, gate, up, down, or all-linear)
    error: run.toml:14: `gamma`: must be 0, a positive number or auto
    error: run.toml:20: unknown key `gama` in [[variant]]
    hint: did you mean `gamma`?
    error: run.toml:18: `name`: `base` is the name of the model without an adapter
    error: run.toml:19: `retain`: there is no retain set
    hint: give one as [data] retain_set
    error: run.toml:23: unknown key `atacks` in [eval]
    hint: did you mean `attacks`?
    error: run.toml:25: a table is expected in `questions`, not a number
    error: run.toml:25: unknown key `colum` in [eval.questions]
    hint: did you mean `column`?
    hint: the keys in [eval.questions] are set, path, column, where, shuffle, take
    error: run.toml:22: `templates`: the attack `template` needs template files
    hint: name files or directories of them; builtin/templates/seen has some
    "#);
}

#[test]
fn toml_syntax_errors_have_a_line() {
    let dir = Dir::new();
    dir.write("run.toml", "[model]\npath = \n[data\n");
    assert_snapshot!(dir.refused("run run.toml"), @r#"
    exit 2
    error: run.toml:2: string values must be quoted, expected literal string
    error: run.toml:3: unclosed table, expected `]`
    hint: a run file is TOML: [table], key = value, strings in quotes
    "#);
    assert_snapshot!(dir.refused("run none.toml"), @r#"
    exit 2
    error: none.toml: No such file or directory (os error 2)
    hint: check the path; it is taken relative to the current directory
    "#);
}

#[test]
fn assignments_are_checked_like_the_file() {
    let dir = Dir::new();
    dir.write("set.jsonl", SET);
    dir.write(
        "run.toml",
        "[model]\npath = 'builtin'\n[data]\nharm = 'set.jsonl'\nhelp = 'set.jsonl'\nalign = 'set.jsonl'\n\
         [eval]\nquestions = [{ set = 'seen', path = 'set.jsonl' }]\n",
    );
    assert_snapshot!(dir.refused("run run.toml --set train.stepz=3 --set train.lr=fast --set nonsense"), @r#"
    exit 2
    error: --set nonsense: no `=`
    hint: write it as KEY=VALUE, for example train.steps=20
    error: --set train.stepz=3: unknown key `stepz` in [train]
    hint: did you mean `steps`?
    error: --set train.lr=fast: `lr`: string "fast", expected a number
    "#);
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let dir = Dir::new();
    dir.write("out/thesis.txt", "precious");
    assert_snapshot!(dir.refused("quickstart --out out"), @r#"
    exit 2
    error: out: the directory holds files that do not belong to a run
    hint: name an empty or a new directory with --out
    "#);
    assert_snapshot!(dir.refused("report out"), @r#"
    exit 2
    error: out: not a run directory
    hint: give the directory that `eraser run`, `eraser quickstart` or `eraser eval` wrote
    "#);
    assert_eq!(std::fs::read_to_string(dir.path("out/thesis.txt")).unwrap(), "precious");
}

#[test]
fn all_of_an_eval_request_is_checked_at_once() {
    let dir = Dir::new();
    dir.write("q.txt", "Why?\n");
    assert_snapshot!(
        dir.refused("eval --model builtin --adapter none --out out --attacks template --questions none.txt --batch 0"),
        @r#"
    exit 2
    error: --adapter: none: No such file or directory (os error 2)
    error: --questions: none.txt: No such file or directory (os error 2)
    hint: check the path; it is taken relative to the current directory
    error: --templates: the attack `template` needs template files
    hint: name files or directories of them; builtin/templates/seen has some
    error: --batch: must be at least 1
    "#
    );
    assert_snapshot!(dir.refused("eval --model builtin --out out --attacks direct,indirect --judges keywords --questions q.txt"), @r#"
    exit 2
    error: --judges: there is no judge `keywords`
    hint: did you mean `keyword`?
    hint: known: keyword, leak, rubric, strongreject, pair-own, jailbreakbench-own, harmbench, harmbench-own, llama-guard-3, strongreject-finetuned, wildguard, wildguard-own
    error: --attacks: there is no attack `indirect`
    hint: did you mean `direct`?
    hint: known: autodan, direct, gcg, prefill, prefill-thought, template
    "#);
}

#[test]
fn chat_and_export_check_their_options() {
    let dir = Dir::new();
    assert_snapshot!(dir.refused("chat --model none.gguf --adapter none --top-p 0 --max-new-tokens 0"), @r#"
    exit 2
    error: --model: none.gguf: No such file or directory (os error 2)
    hint: a model is a Hugging Face directory, a .gguf file, a hub name `org/name`, or `builtin`
    error: --max-new-tokens: must be at least 1
    error: --top-p: must be above 0 and at most 1
    error: --adapter: none is no directory and no GGUF file
    hint: a PEFT adapter is a directory with adapter_config.json; a run's is RUN/adapter
    "#);
    dir.write("out/x", "");
    assert_snapshot!(dir.refused("export --model none.gguf --adapter none --out out"), @r#"
    exit 2
    error: --model: none.gguf: No such file or directory (os error 2)
    hint: a model is a Hugging Face directory, a .gguf file, a hub name `org/name`, or `builtin`
    error: --adapter: none is no directory and no GGUF file
    hint: a PEFT adapter is a directory with adapter_config.json; a run's is RUN/adapter
    error: --out: out is not an empty directory
    hint: name another one, or write into it by --force
    "#);
}

/// One fault gave two errors, or was called by the key of a run file where a flag was given.
#[test]
fn one_fault_is_one_error_about_the_flag() {
    let dir = Dir::new();
    dir.write("ask.csv", "goal\nhow 0?\nhow 1?\n");
    dir.write("file", "");
    let eval = "eval --model builtin --questions ask.csv --out out";
    let cases = [
        "eval --model builtin --questions ask.csv?take=5-2 --out out".to_owned(),
        "eval --model builtin --questions seen= --out out".to_owned(),
        "bench --model builtin --tasks arc_esy --out out".to_owned(),
        "eval --model builtin --tasks arc_easy --out out".to_owned(),
        "eval --model builtin --utility builtin/tasks/entitis.jsonl --out out".to_owned(),
        "eval --model builtin --questions ask.csv?column=gaol --out out".to_owned(),
        "train --model builtin --help help.jsonl --out out".to_owned(),
        "train --model builtin --learning_rate 1e-4 --out out".to_owned(),
        "bench --model builtin --tasks rte=none.csv --examples rte=ask.csv --shots 1 --out out".to_owned(),
        format!("{eval} --judges rubric"),
        format!("{eval} --judge-model builtin"),
        format!("{eval} --attacks gcg --gcg-steps 0"),
        format!("{eval} --templates ask.csv"),
        format!("{eval} --adapter a/b="),
        "eval --model builtin --questions ask.csv --out file".to_owned(),
        "bench --model builtin --text ask.csv --out file".to_owned(),
        "quickstart --out file".to_owned(),
        "durability nonesuch".to_owned(),
        "durability file".to_owned(),
    ];
    let told: Vec<String> = cases.iter().map(|case| format!("$ {case}\n{}", dir.refused(case))).collect();
    for told in &told {
        assert_eq!(told.matches("error: ").count(), 1, "{told}");
        assert!(told.contains("hint: "), "{told}");
    }
    insta::assert_snapshot!(told.join("\n"));
}
