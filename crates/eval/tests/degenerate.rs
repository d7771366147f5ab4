//! How often the detector of degenerate answers is wrong about clean text: people's answers to everyday instructions.

#![allow(clippy::unwrap_used)]

use eraser_eval::degenerate::degenerate;
use serde_json::Value;
use std::path::Path;

#[test]
fn clean_answers_are_rarely_called_degenerate() {
    let Some(data) = std::env::var_os("ERASER_DATA") else {
        eprintln!("skipped: ERASER_DATA does not name the directory of public data");
        return;
    };
    let path = Path::new(&data).join("benign_dolly_hhrlhf_small/dolly_hhrlhf_train_small.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let answers: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["response"].as_str().unwrap().to_owned())
        .filter(|answer| !answer.trim().is_empty())
        .collect();
    let wrong: Vec<&String> = answers.iter().filter(|a| degenerate(a).is_some()).collect();
    for answer in wrong.iter().take(10) {
        println!("{:?}: {}", degenerate(answer), answer.chars().take(160).collect::<String>());
    }
    let rate = wrong.len() as f64 / answers.len() as f64;
    println!("{} of {} clean answers ({:.2} %)", wrong.len(), answers.len(), 100.0 * rate);
    assert!(rate < 0.02, "{rate}");
}
