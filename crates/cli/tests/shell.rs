//! `eraser completions` and `man`: what a shell and its user are told.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Dir;
use std::process::Command;

/// The verbs, as the help lists them.
fn verbs(dir: &Dir) -> Vec<String> {
    let help = dir.done("--help");
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<String> = names.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect();
    assert!(names.len() > 15, "{help}");
    names.into_iter().filter(|name| name != "help").collect()
}

#[test]
fn every_shell_completes_every_verb() {
    let dir = Dir::new();
    let verbs = verbs(&dir);
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = dir.done(&format!("completions {shell}"));
        for verb in &verbs {
            assert!(script.contains(verb.as_str()), "{shell}: {verb}");
        }
        assert!(script.contains("dry-run"), "{shell} completes options too");
    }
    assert!(dir.refused("completions csh").starts_with("exit 2"));
}

#[test]
fn every_verb_has_a_page_that_man_reads() {
    let dir = Dir::new();
    let page = dir.done("man");
    assert!(page.contains(".TH eraser 1") && page.contains("quickstart"), "{page}");
    dir.done("man --out pages");
    for name in verbs(&dir).iter().map(|verb| format!("eraser-{verb}")).chain(["eraser".to_owned()]) {
        let path = dir.path(&format!("pages/{name}.1"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(&format!(".TH {name} 1")) && text.contains(".SH SYNOPSIS"), "{name}: {text}");
        // Where man is not installed, only the text is looked at.
        let Ok(read) = Command::new("man").args(["--warnings", "-l"]).arg(&path).output() else { continue };
        let warnings = String::from_utf8_lossy(&read.stderr);
        assert!(read.status.success() && !warnings.contains("warning"), "{name}: {warnings}");
    }
}
