//! Files of results and the figures that come from them. In: what was measured and written; out: the request of each
//! figure, and whether a file is still the one that was written. Invariant: a figure has the request that measured it,
//! a request is kept for as long as it has a figure, and a file of results has the hash that it was written with.

use super::{Manifest, Record, Stored};
use crate::crew;
use crate::inputs::Inputs;
use eraser_data::files::hash_file;
use eraser_model::Result;
use eraser_model::error::PathContext as _;
use std::collections::BTreeSet;
use std::path::Path;

/// What becomes of a file that was removed.
const AGAIN: &str = "it is made again";

impl Manifest {
    /// The request that a figure of the summary comes from, by the figure's name.
    pub fn request_of(&self, figure: &str) -> Option<&Record> {
        self.stored.requests.get(self.stored.figures.get(figure)?)
    }

    /// Evaluations and benchmarks that figures of the summary come from, in the order in which they were made.
    pub(crate) fn requests(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.stored.requests.values()
    }

    /// Every figure of the summary with the request that it comes from, by the figure's name.
    pub(crate) fn figures(&self) -> impl Iterator<Item = (&str, &Record)> {
        let Stored { figures, requests, .. } = &self.stored;
        figures.iter().filter_map(|(figure, number)| Some((figure.as_str(), requests.get(number)?)))
    }

    /// Records that the figures `made` come from the request that has just made `artefact`, that it wrote these `files`
    /// of results, each with its hash, and that the summary holds the figures `present`. Requests that have no figure
    /// any more are dropped, and so is the hash of a file that is gone and that no figure is of.
    pub(crate) fn attribute(
        &mut self,
        artefact: &str,
        (made, files): (&BTreeSet<String>, &[String]),
        present: &BTreeSet<String>,
    ) -> Result<()> {
        let Stored { artefacts, requests, figures, results, .. } = &mut self.stored;
        let Some(record) = artefacts.get(artefact).cloned() else { return Ok(()) };
        let number = requests.keys().next_back().map_or(1, |last| last + 1);
        requests.insert(number, record);
        figures.extend(made.iter().map(|figure| (figure.clone(), number)));
        figures.retain(|figure, _| present.contains(figure));
        let used: BTreeSet<u64> = figures.values().copied().collect();
        requests.retain(|number, _| used.contains(number));
        for file in files {
            results.insert(file.clone(), hash_file(&self.dir.join(file))?);
        }
        let needed: BTreeSet<String> = present.iter().flat_map(|figure| files_of(figure)).collect();
        let dir = &self.dir;
        let measured = |file: &str| file.starts_with("eval/") || file.starts_with("bench/");
        results.retain(|file, _| !measured(file) || needed.contains(file) || dir.join(file).exists());
        self.write()
    }

    /// Records the hashes of files of results that were just written; of those that are not there, none.
    ///
    /// # Errors
    /// A file that cannot be read; a manifest that cannot be written.
    pub(crate) fn seal<P: AsRef<Path>>(&mut self, files: &[P]) -> Result<()> {
        for file in files {
            let path = self.dir.join(file);
            let name = self.name_of(&path);
            if path.exists() {
                self.stored.results.insert(name, hash_file(&path)?);
            } else {
                self.stored.results.remove(&name);
            }
        }
        self.write()
    }

    /// Removes those of `files` that were changed after the work that made `artefact` had written them, so that they
    /// are made again, and says so in a line each. After work that was interrupted nothing is known: it may have
    /// replaced files of the work before.
    pub(crate) fn discard_changed(&mut self, artefact: &str, files: &[String]) -> Result<Vec<String>> {
        if self.stored.artefacts.get(artefact).is_none_or(|record| record.ended.is_none()) {
            return Ok(Vec::new());
        }
        self.discard(files.iter().map(String::as_str), AGAIN)
    }

    /// Removes the files below `directory` that work which did not end has written or begun, if what is asked now is
    /// something else: their figures would be shown as those of a request that did not ask for them.
    pub(crate) fn discard_unfinished(
        &mut self,
        artefact: &str,
        inputs: &Inputs,
        directory: &str,
    ) -> Result<Vec<String>> {
        let stopped = self.get(artefact).is_some_and(|r| r.ended.is_none() && r.inputs != *inputs.hashes());
        let root = self.dir.join(directory);
        let of_ranks = self.dir.join(crew::DIR).join(directory);
        if stopped && of_ranks.is_dir() {
            std::fs::remove_dir_all(&of_ranks).writing(&of_ranks)?;
            // Stays where ranks have left other work.
            let _ = std::fs::remove_dir(self.dir.join(crew::DIR));
        }
        if !stopped || !root.is_dir() {
            return Ok(Vec::new());
        }
        let mut gone = Vec::new();
        for subject in std::fs::read_dir(&root).at(&root)? {
            let subject = subject.at(&root)?.path();
            for file in std::fs::read_dir(&subject).into_iter().flatten() {
                let path = file.at(&subject)?.path();
                let name = self.name_of(&path);
                let known = self.stored.results.get(&name);
                if path.is_file() && known.is_none_or(|hash| hash_file(&path).ok().as_ref() != Some(hash)) {
                    std::fs::remove_file(&path).writing(&path)?;
                    gone.push(name);
                }
            }
        }
        gone.sort();
        let told = || format!("left by work that did not end, and removed: {}", gone.join(", "));
        Ok(if gone.is_empty() { gone } else { vec![told()] })
    }

    /// A line for each of `files` that the work that made `artefact` had written, and that is gone.
    pub(crate) fn missing(&self, artefact: &str, files: &[String]) -> Vec<String> {
        let ended = self.stored.artefacts.get(artefact).is_some_and(|record| record.ended.is_some());
        let gone = files.iter().filter(|file| self.stored.results.contains_key(*file) && !self.dir.join(file).exists());
        gone.filter(|_| ended).map(|file| format!("{file} was removed after it had been written: {AGAIN}")).collect()
    }

    /// Removes those of `files` of figures that were changed after they had been written, and says so in a line each.
    /// Each is sealed whenever it is written, so this holds after interrupted work too.
    pub(crate) fn discard_edited(&mut self, files: &[&str]) -> Result<Vec<String>> {
        let lost = "it is made again from the answers to what is asked now";
        self.discard(files.iter().copied(), lost)
    }

    /// Removes those files of a finished artefact that were changed after they had been written, so that they are made
    /// again, and says so in a line each.
    pub(crate) fn discard_outputs(&self, artefact: &str) -> Result<Vec<String>> {
        let record = self.get(artefact).filter(|record| record.ended.is_some());
        let files = record.iter().flat_map(|record| &record.files).map(|(file, hash)| (file.as_str(), hash));
        Ok(self.remove_changed(files, AGAIN)?.1)
    }

    fn discard<'a>(&mut self, files: impl Iterator<Item = &'a str>, what: &str) -> Result<Vec<String>> {
        let results = &self.stored.results;
        let recorded = files.filter_map(|file| Some((file, results.get(file)?)));
        let (removed, notes) = self.remove_changed(recorded, what)?;
        for file in &removed {
            self.stored.results.remove(file);
        }
        Ok(notes)
    }

    /// Removes those files that have another hash than this one. Gives their names, and a line on each.
    fn remove_changed<'a>(
        &self,
        files: impl Iterator<Item = (&'a str, &'a String)>,
        what: &str,
    ) -> Result<(Vec<String>, Vec<String>)> {
        let (mut removed, mut notes) = (Vec::new(), Vec::new());
        for (file, hash) in files {
            let path = self.dir.join(file);
            if path.exists() && hash_file(&path)? != *hash {
                std::fs::remove_file(&path).writing(&path)?;
                removed.push(file.to_owned());
                notes.push(format!("{file} was changed after it had been written: {what}"));
            }
        }
        Ok((removed, notes))
    }
}

/// The files of results that a figure of the summary may be computed from, by its name.
fn files_of(figure: &str) -> Vec<String> {
    let mut parts = figure.split('/');
    let (Some(kind), Some(subject), Some(third)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    match kind {
        "attack" => vec![format!("eval/{subject}/{third}.jsonl")],
        "utility" => vec![format!("eval/{subject}/task-{third}.jsonl"), format!("bench/{subject}/{third}.jsonl")],
        other => vec![format!("eval/{subject}/{other}.jsonl")],
    }
}
