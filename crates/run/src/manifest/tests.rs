//! Records, requests and files of results of a run directory.

use super::*;
use std::collections::BTreeSet;

fn inputs(text: &str) -> Inputs {
    let mut inputs = Inputs::default();
    inputs.text("a", text);
    inputs
}

fn train(manifest: &mut Manifest, text: &str, result: Result<()>, outputs: &[PathBuf]) {
    let inputs = inputs(text);
    let options = serde_json::json!({"x": 1});
    let request = Request { artefact: "adapter", verb: "train", options, inputs: &inputs, seed: Some(1) };
    let files = outputs.to_vec();
    let _ = manifest.record(&request, || result, |()| Ok(Outputs { files, fingerprint: Some("f".into()) }));
}

#[test]
fn made_means_these_inputs_and_these_files() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("output");
    let outputs = std::slice::from_ref(&output);
    let state = |text: &str| Manifest::read(dir.path()).state("adapter", &inputs(text), outputs);
    assert_eq!(state("a").unwrap(), State::New);
    let mut manifest = Manifest::read(dir.path());
    train(&mut manifest, "a", Err(Error::failed("no")), &[]);
    assert_eq!((state("a").unwrap(), state("b").unwrap()), (State::Begun, State::New));

    std::fs::write(&output, "x").unwrap();
    train(&mut manifest, "a", Ok(()), outputs);
    let record = Manifest::read(dir.path()).get("adapter").cloned().unwrap();
    assert_eq!((record.verb.as_str(), record.options["x"].as_u64()), ("train", Some(1)));
    assert_eq!((record.files.len(), record.fingerprint.as_deref()), (1, Some("f")));
    assert!(record.ended.is_some() && record.seconds >= 0.0);
    assert_eq!((state("a").unwrap(), state("b").unwrap()), (State::Done, State::New));
    let why = |inputs: &Inputs| manifest.why_again("adapter", inputs).unwrap();
    assert_eq!(why(&inputs("b")), "adapter is made again, because these changed: a");
    let mut others = inputs("a");
    others.text("joined", "x");
    assert_eq!(why(&others), "adapter is made again, because these are new: joined");
    assert_eq!(why(&Inputs::default()), "adapter is made again, because these are asked for no more: a");
    assert_eq!(why(&inputs("a")), "adapter is made again: its files are not there");
    assert_eq!(manifest.why_again("other", &inputs("a")), None);

    std::fs::write(&output, "y").unwrap();
    assert!(state("a").unwrap_err().to_string().contains("changed since"));
    std::fs::remove_file(&output).unwrap();
    assert_eq!(state("a").unwrap(), State::New);
    manifest.forget(|name| name == "adapter").unwrap();
    assert!(Manifest::read(dir.path()).get("adapter").is_none());
}

/// The report could not tell figures of an earlier request from those of the last one.
#[test]
fn a_figure_has_the_request_that_measured_it() {
    let dir = tempfile::tempdir().unwrap();
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let mut manifest = Manifest::read(dir.path());
    train(&mut manifest, "a", Ok(()), &[]);
    let files = ["eval/s/x.jsonl".to_owned()];
    std::fs::create_dir_all(dir.path().join("eval/s")).unwrap();
    std::fs::write(dir.path().join(&files[0]), "an answer").unwrap();
    manifest.attribute("adapter", (&set(&["x", "y"]), &files), &set(&["x", "y"])).unwrap();
    train(&mut manifest, "b", Ok(()), &[]);
    manifest.attribute("adapter", (&set(&["y", "z"]), &[]), &set(&["x", "y", "z"])).unwrap();
    let manifest = Manifest::read(dir.path());
    let of = |figure: &str| manifest.request_of(figure).map(|r| r.inputs["a"].clone());
    let hash = |text: &str| inputs(text).hashes()["a"].clone();
    assert_eq!(["x", "y", "z", "w"].map(of), [Some(hash("a")), Some(hash("b")), Some(hash("b")), None]);
    let mut manifest = manifest.clone();
    // What an earlier request wrote keeps its hash for as long as it is there, or a figure is of it: an evaluation of
    // something else took the warning away that answers had been removed.
    assert_eq!(manifest.stored.results[&files[0]], hash_file(&dir.path().join(&files[0])).unwrap());
    std::fs::remove_file(dir.path().join(&files[0])).unwrap();
    manifest.attribute("adapter", (&set(&["y"]), &[]), &set(&["y", "attack/s/x/seen/leak"])).unwrap();
    assert!(Manifest::read(dir.path()).stored.results.contains_key(&files[0]));
    manifest.attribute("adapter", (&set(&["x"]), &[]), &set(&["x"])).unwrap();
    assert!(Manifest::read(dir.path()).stored.results.is_empty());
    assert_eq!(Manifest::read(dir.path()).stored.requests.len(), 1);
    manifest.rename("adapter", "other").unwrap();
    assert_eq!(Manifest::read(dir.path()).get("adapter").unwrap().options["name"], "other");
}

/// A figure of summary.json that was changed by hand was shown, and merged into the next evaluation's.
#[test]
fn a_file_of_figures_that_was_edited_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = Manifest::read(dir.path());
    let path = dir.path().join("summary.json");
    std::fs::write(&path, "1").unwrap();
    manifest.seal(&["summary.json", "bench.json"]).unwrap();
    let mut manifest = Manifest::read(dir.path());
    assert!(manifest.discard_edited(&["summary.json", "bench.json"]).unwrap().is_empty() && path.exists());
    std::fs::write(&path, "2").unwrap();
    let notes = manifest.discard_edited(&["summary.json"]).unwrap();
    assert!(notes[0].starts_with("summary.json was changed after it had been written: it is made again"), "{notes:?}");
    assert!(!path.exists());
}

#[test]
fn a_damaged_file_only_costs_work() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["{\"schema\":", "{\"schema\":9,\"artefacts\":{}}", "[]"] {
        std::fs::write(dir.path().join(FILE), text).unwrap();
        assert_eq!(Manifest::read(dir.path()).artefacts().count(), 0);
    }
}
