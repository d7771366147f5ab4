//! docs/cli.md, made from the commands themselves. In: clap's description of them; out: the page. Invariant: the page
//! in the repository is the one this makes; `ERASER_UPDATE_DOCS=1 cargo test -p eraser reference` writes it.

use crate::options::Cli;
use clap::CommandFactory as _;
use std::path::Path;

const HEAD: &str = "# Command line reference\n\nMade from the binary's own help: `ERASER_UPDATE_DOCS=1 cargo test -p eraser \
                    reference` writes it again.\nExamples are in the [README](../README.md); the keys of run files are the \
                    flags of `train` and `eval` with `_` for `-`.\n";

fn page() -> String {
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut page = format!("{HEAD}\n```text\n{}```\n", help(&mut root));
    for command in root.get_subcommands_mut().filter(|c| c.get_name() != "help") {
        let (name, text) = (command.get_name().to_owned(), help(command));
        page.extend([format!("\n## eraser {name}\n\n```text\n{text}```\n")]);
    }
    page
}

fn help(command: &mut clap::Command) -> String {
    let text = command.render_help().to_string();
    text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

#[test]
fn docs_are_those_of_the_binary() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let page = page();
    if std::env::var_os("ERASER_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/cli.md is not that of the binary: set ERASER_UPDATE_DOCS=1 and run this test again");
}
