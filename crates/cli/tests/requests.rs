//! Wrong requests: what is said, and the exit code. Every message is one line that names the flag, file or key, and all
//! that is wrong is said at once.

mod common;

use common::Dir;
use insta::assert_snapshot;

const SET: &str = "{\"input\":\"a\",\"output\":\"b\"}\n";

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

#[test]
fn all_of_a_train_request_is_checked_at_once() {
    let dir = Dir::new();
    dir.write("set.jsonl", SET);
    dir.write("out/adapter/adapter_config.json", "{}");
    assert_snapshot!(
        dir.refused(
            "train --model no/such/model --device gpu --harm set.jsonl --help-set none.jsonl --align set.jsonl --out out \
             --lr 0 --rank 0 --lora-dropout 1 --templates none.txt"
        ),
        @""
    );
}

#[test]
fn a_hub_name_without_hub_or_network_is_no_panic() {
    let dir = Dir::new();
    dir.write("set.jsonl", SET);
    let arguments = "train --model ./none --harm set.jsonl --help-set set.jsonl --align set.jsonl --out out";
    assert_snapshot!(dir.refused(arguments), @"");
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
lerning_rate = 1e-3
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
    assert_snapshot!(dir.refused("run run.toml --device cuda:99"), @"");
}

#[test]
fn toml_syntax_errors_have_a_line() {
    let dir = Dir::new();
    dir.write("run.toml", "[model]\npath = \n[data\n");
    assert_snapshot!(dir.refused("run run.toml"), @"");
    assert_snapshot!(dir.refused("run none.toml"), @"");
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
    assert_snapshot!(dir.refused("run run.toml --set train.stepz=3 --set train.lr=fast --set nonsense"), @"");
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let dir = Dir::new();
    dir.write("out/thesis.txt", "precious");
    assert_snapshot!(dir.refused("quickstart --out out"), @"");
    assert_snapshot!(dir.refused("report out"), @"");
    assert_eq!(std::fs::read_to_string(dir.path("out/thesis.txt")).unwrap(), "precious");
}

#[test]
fn all_of_an_eval_request_is_checked_at_once() {
    let dir = Dir::new();
    dir.write("q.txt", "Why?\n");
    assert_snapshot!(
        dir.refused("eval --model builtin --adapter none --out out --attacks template --questions none.txt --batch 0"),
        @""
    );
    assert_snapshot!(dir.refused("eval --model builtin --out out --attacks direct,indirect --judges keywords --questions q.txt"), @"");
}

#[test]
fn chat_and_export_check_their_options() {
    let dir = Dir::new();
    assert_snapshot!(dir.refused("chat --model none.gguf --adapter none --top-p 0 --max-new-tokens 0"), @"");
    dir.write("out/x", "");
    assert_snapshot!(dir.refused("export --model none.gguf --adapter none --out out"), @"");
}
