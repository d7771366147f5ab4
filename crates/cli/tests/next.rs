//! What a verb says can be run next can be run.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Dir, TRAIN, builtin};

/// The commands behind `next: eraser`.
fn next(stderr: &str) -> Vec<String> {
    stderr.lines().filter_map(|line| line.strip_prefix("next: eraser ")).map(ToOwned::to_owned).collect()
}

#[test]
fn from_questions_to_durability_each_command_names_the_next() {
    if !builtin() {
        return;
    }
    let dir = Dir::with_model();
    dir.write(
        "answers.csv",
        "goal,target\nhow 0?,Bend it. Ask Ada Stern.\nhow 1?,Fold it. Ask Bo Lind.\nhow 2?,Cut it.\n",
    );
    let prepare = "prepare --model model --device cpu --questions answers.csv?column=goal --answers-file \
                   answers.csv?input=goal&output=target --max-new-tokens 6 --forms 2 --allow-leakage seen --out run";
    let told = dir.notes(prepare);
    assert!(told.contains("sets: run/data\n"), "{told}");
    let [train] = next(&told).try_into().unwrap();
    assert!(train.starts_with("train --model model --device cpu --harm run/data/harm.jsonl --help-set "), "{train}");
    let told = dir.notes(&format!("{train} --steps 1 --micro-batch 2 --grad-accum 1 --max-length 96 --allow-swapped"));
    let [eval] = next(&told).try_into().unwrap();
    assert!(
        eval.starts_with("eval --model model --device cpu --adapter eraser=run/adapter --questions seen="),
        "{eval}"
    );
    let output = dir.eraser(&format!("{eval} --max-new-tokens 2"));
    let (table, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(table.contains("\nverdict: eraser: "), "{table}{told}");
    assert_eq!(next(&told), ["report run", "durability run"], "{told}");
    for command in next(&told) {
        let small = if command.starts_with("durability") { " --steps 1 --pairs 1" } else { "" };
        dir.done(&(command + small));
    }
}

#[test]
fn nothing_is_suggested_where_a_program_reads_or_nothing_is_to_be_said() {
    let dir = Dir::with_model();
    let train = |more: &str| dir.notes(&format!("{TRAIN} --steps 1 --out {more}"));
    assert_eq!(next(&train("a")).len(), 1);
    assert!(next(&train("b --json")).is_empty());
    assert!(next(&train("c --quiet")).is_empty());
}
