//! `eraser bench`: what it prints, where its figures go, and what it refuses.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::Dir;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Rows in the form of ARC on the hub.
const PARQUET: &[u8] = include_bytes!("../../data/tests/fixtures/rows.parquet");

const ITEMS: &str = "query,choices,gold\nWhich?,\"[\"\"a\"\",\"\"b\"\"]\",1\nWhat?,\"[\"\"c\"\",\"\"d\"\"]\",0\n";

#[test]
fn figures_join_the_summary_of_an_evaluation() {
    let dir = Dir::with_model();
    dir.write("arc.csv", ITEMS);
    dir.write("text.txt", "A lamp. A hat.");
    let bench = "bench -m model --task arc_easy=arc.csv --text text.txt --limit 2 -o out --json";
    let printed: Value = serde_json::from_str(&dir.done(bench)).unwrap();
    assert_eq!(printed["scored"], 3);
    let utility = |dir: &Dir| {
        let summary: Value = serde_json::from_str(&dir.text("out/summary.json")).unwrap();
        let rows = summary["subjects"][0]["utility"].as_array().unwrap().clone();
        (rows.iter().map(|r| format!("{} {}", r["task"], r["metric"])).collect::<Vec<_>>(), summary)
    };
    let expected = ["\"arc_easy\" \"acc\"", "\"arc_easy\" \"acc_norm\"", "\"text\" \"perplexity\""];
    assert_eq!(utility(&dir).0, expected);
    // An evaluation in the same directory keeps them, and the report shows them.
    dir.done("eval -m model --questions ask.csv --max-new-tokens 2 -o out --json");
    let (rows, summary) = utility(&dir);
    assert_eq!(rows, expected);
    assert_eq!(summary["subjects"][0]["attacks"].as_array().unwrap().len(), 1);
    let table = dir.done("bench -m model --task arc_easy=arc.csv -o out");
    assert!(table.lines().count() == 2 && table.starts_with("base  arc_easy  acc "), "{table}");
}

#[test]
fn everything_wrong_is_said_at_once() {
    let dir = Dir::with_model();
    dir.write("arc.csv", ITEMS);
    let said = dir.refused(
        "bench -m model --task arc_esy=arc.csv --task arc.csv --examples piqa=arc.csv --task rte=arc.csv --limit 0 -o out",
    );
    for part in
        ["exit 2", "`arc_easy`?", "of which task", "--examples", "no column label", "--limit: must be at least 1"]
    {
        assert!(said.contains(part), "{part} not in\n{said}");
    }
    let said = dir.refused("bench -m model --task arc_easy=arc.csv --bos on -o out");
    assert!(said.contains("no beginning-of-sequence token"), "{said}");
}

/// A stand-in for the hub that has one file under any name; gives its address and what was asked for. Without `ranges`
/// it is a mirror that knows whole files only.
fn hub(ranges: bool) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = seen.clone();
            std::thread::spawn(move || while give(&stream, &seen, ranges).is_some() {});
        }
    });
    (url, asked)
}

fn give(mut stream: &TcpStream, asked: &Mutex<Vec<String>>, ranges: bool) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|n| *n > 0)?;
    let mut range = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        if line.trim().is_empty() {
            break;
        }
        if !ranges {
            continue;
        }
        if let Some((_, bytes)) = line.to_ascii_lowercase().split_once("range: bytes=") {
            let (from, to) = bytes.trim().split_once('-').unwrap();
            let to = to.parse().unwrap_or(PARQUET.len() - 1).min(PARQUET.len() - 1);
            range = Some((from.parse::<usize>().unwrap(), to));
        }
    }
    let path = first.split(' ').nth(1).unwrap();
    asked.lock().unwrap().push(path.to_owned());
    let (from, to) = range.unwrap_or((0, PARQUET.len() - 1));
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    let part = if ranges { format!("content-range: bytes {from}-{to}/{}\r\n", PARQUET.len()) } else { String::new() };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nx-repo-commit: abc\r\netag: \"e\"\r\n{part}content-length: {}\r\n\r\n",
        to - from + 1,
    )
    .ok()?;
    stream.write_all(&PARQUET[from..=to]).ok()
}

#[test]
fn a_task_without_a_file_comes_from_the_hub_once() {
    comes_from_the_hub_once(true);
}

#[test]
fn a_mirror_that_knows_no_ranges_of_bytes_is_asked_for_whole_files() {
    comes_from_the_hub_once(false);
}

fn comes_from_the_hub_once(ranges: bool) {
    let dir = Dir::with_model();
    let (url, asked) = hub(ranges);
    let run = |arguments: &str, offline: &str| {
        let mut command = assert_cmd::cargo::cargo_bin_cmd!("eraser");
        command.current_dir(dir.path("")).args(arguments.split_whitespace());
        command.env("HF_HOME", dir.path("hf")).env("HF_ENDPOINT", &url).env("HF_HUB_OFFLINE", offline);
        command.env_remove("HF_HUB_CACHE").env_remove("HF_TOKEN").output().unwrap()
    };
    let json = |output: std::process::Output| -> Value {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let hubs = json(run("bench -m model --task arc_easy --shots 1 --limit 3 -o hub --json", "0"));
    let paths = asked.lock().unwrap().clone();
    let file = |split: &str| {
        format!("/datasets/allenai/ai2_arc/resolve/refs%2Fconvert%2Fparquet/ARC-Easy/{split}/0000.parquet")
    };
    assert!(paths.contains(&file("test")) && paths.contains(&file("train")), "{paths:?}");
    // The same rows from a file give the same figures.
    std::fs::write(dir.path("arc.parquet"), PARQUET).unwrap();
    let local =
        "bench -m model --task arc_easy=arc.parquet --examples arc_easy=arc.parquet --shots 1 --limit 3 -o local";
    let local = json(run(&format!("{local} --json"), "0"));
    assert_eq!(hubs["subjects"][0]["utility"], local["subjects"][0]["utility"]);
    // Once it is there, no connection is needed.
    json(run("bench -m model --task arc_easy --shots 1 --limit 4 -o hub --json", "1"));
    assert_eq!(asked.lock().unwrap().len(), paths.len());
    let error = run("bench -m model --task piqa -o hub", "1");
    let said = String::from_utf8_lossy(&error.stderr).into_owned();
    assert!(error.status.code() == Some(2) && said.contains("HF_HUB_OFFLINE is set"), "{said}");
}

/// A suite is the files of a directory: those that are there where none is needed, all that are needed else.
#[test]
fn a_suite_takes_its_files_from_a_directory() {
    let dir = Dir::with_model();
    let row = "{\"question\":\"Which?\",\"choices\":[\"a\",\"b\",\"c\",\"d\"],\"answer\":1}\n";
    dir.write("wmdp/wmdp-bio.jsonl", &row.repeat(3));
    dir.write("wmdp/cyber.json", &format!("[{}]", row.trim()));
    let printed: Value = serde_json::from_str(&dir.done("bench -m model --suite wmdp=wmdp -o out --json")).unwrap();
    let rows = printed["subjects"][0]["utility"].as_array().unwrap();
    let told: Vec<String> = rows.iter().map(|r| format!("{} {} {}", r["task"], r["metric"], r["n"])).collect();
    assert_eq!(told, ["\"wmdp_bio\" \"acc\" 3", "\"wmdp_cyber\" \"acc\" 1", "\"wmdp\" \"acc\" 4"]);
    // Its tasks join the report as any other.
    dir.done("report out");
    let report = dir.text("out/report.md");
    assert!(report.contains("| wmdp\\_cyber | acc | 1 |"), "{report}");
    dir.write("empty/other.jsonl", row);
    let error = dir.refused("bench -m model --suite wmdp=empty -o out2");
    assert!(error.contains("empty: none of the files of wmdp") && error.contains("wmdp_chem"), "{error}");
    let error = dir.refused("bench -m model --suite tofu=empty --forget-set forget05 -o out2");
    assert!(error.contains("no file forget05_perturbed") && error.contains("no file retain_perturbed"), "{error}");
    let error = dir.refused("bench -m model --suite tofy=empty --retain-log nowhere -o out2");
    assert!(error.contains("`tofu`?") && error.contains("--retain-log: nowhere: no such directory"), "{error}");
    let error = dir.refused("bench -m model --suite wmdp=wmdp --forget-set forget05 -o out2");
    assert!(error.contains("--forget-set: no suite is measured that has one"), "{error}");
}

/// Two models on TOFU: the scores of the first are the log that the second is compared with.
#[test]
fn a_retain_log_gives_forget_quality() {
    let dir = Dir::with_model();
    let row = |n: usize| {
        format!(
            "{{\"question\":\"Who is {n}?\",\"answer\":\"It is Ida {n}.\",\"paraphrased_answer\":\"Ida {n}.\",\
             \"perturbed_answer\":[\"It is Bo {n}.\",\"Nobody.\"]}}\n"
        )
    };
    let rows: String = (0..4).map(row).collect();
    for name in ["forget10_perturbed", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed"] {
        dir.write(&format!("tofu/{name}.json"), &rows);
    }
    let suite = "bench -m model --suite tofu=tofu --max-new-tokens 4 --limit 3";
    dir.done(&format!("{suite} -o retain"));
    let table = dir.done(&format!("{suite} --retain-log retain -o out"));
    let figure = |name: &str| {
        let line = table.lines().find(|line| line.contains(name)).unwrap();
        line.split_whitespace().nth(3).unwrap().to_owned()
    };
    assert_eq!(figure("forget_quality"), "1.0000", "the same model");
    assert!(table.contains("model_utility") && !table.contains("privleak"), "{table}");
    let error = dir.refused("bench -m model --suite tofu=tofu --limit 2 --retain-log retain -o out");
    assert!(error.contains("3 items, and the task has 2") && error.contains("--limit"), "{error}");
    // What writes text cannot be asked of a server.
    let served = "bench --subject base=http://127.0.0.1:9/v1#m -m model --suite tofu=tofu -o served";
    let error = dir.refused(served);
    assert!(error.contains("a server cannot be asked tofu_forget"), "{error}");
}
