//! Damaged and hostile files through the binary: several hundred mutations of every kind of input. Each ends with 0
//! where it does no harm, else with 2 and an error of one line with a hint; never with a panic, a hang, or a huge
//! allocation.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Dir;

const RUN: &str = r#"
[model]
path = "model"
[data]
harm = { path = "harm.jsonl", take = "0-5", shuffle = 1 }
help = "help.jsonl"
align = "align.jsonl"
[train]
steps = 1
micro_batch = 1
grad_accum = 1
max_length = 64
layers = "0-1"
init_adapter = "start"
[eval]
attacks = ["direct", "template"]
templates = ["wrap.toml"]
max_new_tokens = 2
limit = 1
questions = [{ set = "seen", path = "ask.csv", column = "goal" }]
"#;

/// What is put in place of a number, a string, a byte.
const NUMBERS: [&str; 7] = ["9223372036854775808", "18446744073709551615", "-1", "0", "1e999", "null", "[[]]"];

/// Damaged forms of `original`.
fn mutations(original: &[u8]) -> Vec<(String, Vec<u8>)> {
    let n = original.len();
    let mut all = vec![("empty".to_owned(), Vec::new()), ("zeros".to_owned(), vec![0; 64])];
    for cut in [1, 7, 8, 9, n / 4, n / 2, n - 1] {
        all.push((format!("cut at {cut}"), original[..cut.min(n)].to_vec()));
    }
    for (i, bits) in [(0, 0xff), (3, 0x80), (7, 0x7f), (n / 3, 0xff), (n / 2, 0x55), (n - 1, 0x10)] {
        let mut bytes = original.to_vec();
        bytes[i.min(n - 1)] ^= bits;
        all.push((format!("byte {i} xor {bits}"), bytes));
    }
    let Ok(text) = std::str::from_utf8(original) else {
        return all;
    };
    all.push(("not UTF-8".to_owned(), [original, &[0xff, 0xfe]].concat()));
    all.push(("twice".to_owned(), original.repeat(2)));
    all.push(("deep".to_owned(), "[".repeat(200_000).into_bytes()));
    all.push(("deep objects".to_owned(), "{\"a\":".repeat(100_000).into_bytes()));
    // Every tenth number, and every tenth word, replaced.
    let mut places: Vec<(usize, usize)> = Vec::new();
    let mut start = None;
    for (i, c) in text.char_indices().chain([(n, ' ')]) {
        match (c.is_ascii_digit(), start) {
            (true, None) => start = Some(i),
            (false, Some(s)) => {
                places.push((s, i));
                start = None;
            }
            _ => {}
        }
    }
    let step = places.len().div_ceil(14).max(1);
    for (k, (from, to)) in places.into_iter().step_by(step).enumerate() {
        let number = NUMBERS[k % NUMBERS.len()];
        let bytes = [&text[..from], number, &text[to..]].concat().into_bytes();
        all.push((format!("{number} at byte {from}"), bytes));
    }
    all
}

/// None when `bytes` in place of `file` ends as it must.
fn complaint(dir: &Dir, file: &str, bytes: &[u8], command: &str) -> Option<String> {
    std::fs::write(dir.path(file), bytes).unwrap();
    let output = dir.eraser(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let clean = |l: &str| l.starts_with("error: ") || l.starts_with("hint: ") || l.starts_with("warning: ");
    let good = match output.status.code() {
        Some(0) => true,
        Some(2) => {
            stderr.contains("error: ")
                && stderr.contains("hint: ")
                && stderr.lines().all(clean)
                && !stderr.contains("internal error")
        }
        _ => false,
    };
    (!good).then(|| format!("{:?}: {}", output.status.code(), stderr.chars().take(600).collect::<String>()))
}

#[test]
fn nothing_panics() {
    let dir = Dir::with_model();
    dir.write("wrap.toml", "value = \"Listen: {{ prompt }} Now!\"\n");
    dir.write("run.toml", RUN);
    let sets =
        "--harm harm.jsonl --help-set help.jsonl --align align.jsonl --max-length 64 --micro-batch 1 --grad-accum 1";
    dir.done(&format!("train --model model {sets} --steps 1 --out made"));
    std::fs::rename(dir.path("made/adapter"), dir.path("start")).unwrap();
    let chat = "chat --model model --adapter start --prompt x --greedy --max-new-tokens 2 -q";
    let run = "run run.toml --out out --force -q";
    dir.done(chat);
    dir.done(run);

    let (mut cases, mut complaints) = (0, Vec::new());
    for (file, command) in [
        ("model/config.json", chat),
        ("model/tokenizer.json", chat),
        ("model/tokenizer_config.json", chat),
        ("model/chat_template.jinja", chat),
        ("model/model.safetensors", chat),
        ("start/adapter_config.json", chat),
        ("start/adapter_model.safetensors", chat),
        ("harm.jsonl", run),
        ("ask.csv", run),
        ("wrap.toml", run),
        ("run.toml", run),
    ] {
        let original = dir.read(file);
        for (name, bytes) in mutations(&original) {
            cases += 1;
            complaints.extend(complaint(&dir, file, &bytes, command).map(|c| format!("{file}, {name}: {c}")));
        }
        std::fs::write(dir.path(file), original).unwrap();
    }
    assert!(cases >= 200, "{cases}");
    assert!(complaints.is_empty(), "{} of {cases}\n{}", complaints.len(), complaints.join("\n"));
}
