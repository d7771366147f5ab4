//! Resumable work on disk: a file of JSON lines, to which results are appended while they come. In: entries, each with
//! a key of all that it depends on; out: the entries of earlier invocations. Invariant: what was appended is found
//! again, whatever stops the work: a last line that was cut short is removed before anything is appended.
//!
//! Work that is done in rounds (a batch whose results depend, by rounding, on what is computed beside them) asks
//! [`Journal::open_rounds`] which rounds lack an entry, computes those in full and stores each by [`Journal::append`].

use eraser_model::error::PathContext as _;
use eraser_model::{Error, Result, files::write_atomic};
use serde::{Serialize, de::DeserializeOwned};
use std::borrow::Borrow;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::hash::Hash;
use std::io::{ErrorKind, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Most lines, and the longest time, that a power cut may cost.
const SYNC_LINES: usize = 32;
const SYNC_AFTER: Duration = Duration::from_secs(2);

/// What a line of a journal holds. A line that does not deserialise to an entry is left out, with a warning.
pub trait Entry: Serialize + DeserializeOwned {
    /// The type of the key under which an entry is found.
    type Key: Eq + Hash;

    /// The key of this entry: of everything that its value depends on.
    fn key(&self) -> Self::Key;
}

/// The file and what it holds.
pub struct Journal<E: Entry> {
    path: PathBuf,
    file: File,
    /// In the order of the file; an entry that was replaced keeps its place.
    entries: Vec<E>,
    index: HashMap<E::Key, usize>,
    cut_short: bool,
    unsynced: usize,
    synced: Instant,
}

impl<E: Entry> Journal<E> {
    /// Opens the file, or creates it, and reads what it holds. Of two lines with one key the later one counts.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = match std::fs::read(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            bytes => bytes.at(path)?,
        };
        let (whole, entries, index) = parse(path, &bytes);
        let file = OpenOptions::new().create(true).append(true).open(path).writing(path)?;
        let cut_short = whole < bytes.len();
        if cut_short {
            file.set_len(whole as u64).writing(path)?;
        }
        Ok(Self { path: path.to_owned(), file, entries, index, cut_short, unsynced: 0, synced: Instant::now() })
    }

    /// The entries of a file that another process may be writing; it is left as it is.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn look(path: &Path) -> Result<Vec<E>> {
        let bytes = std::fs::read(path).at(path)?;
        Ok(parse(path, &bytes).1)
    }

    /// The entry under `key`.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&E>
    where
        E::Key: Borrow<Q>,
    {
        self.index.get(key).map(|&i| &self.entries[i])
    }

    /// Every entry, in the order of the file.
    pub fn entries(&self) -> &[E] {
        &self.entries
    }

    /// True when the last line was cut short as the file was opened: lines of the same write may be missing.
    pub fn cut_short(&self) -> bool {
        self.cut_short
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Of rounds of `size` keys each, in order, those that lack an entry, as ranges of `keys`. The last one may be
    /// shorter.
    pub fn open_rounds(&self, keys: &[E::Key], size: usize) -> Vec<Range<usize>> {
        let size = size.max(1);
        let rounds = (0..keys.len()).step_by(size).map(|start| start..keys.len().min(start.saturating_add(size)));
        rounds.filter(|round| keys[round.clone()].iter().any(|key| !self.index.contains_key(key))).collect()
    }

    /// Adds one entry, unless there is one under its key. It is on the disk after 32 entries or two seconds.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn push(&mut self, entry: E) -> Result<()> {
        if self.index.contains_key(&entry.key()) {
            return Ok(());
        }
        self.write(&lines([&entry])?)?;
        put(&mut self.entries, &mut self.index, entry);
        self.unsynced += 1;
        if self.unsynced >= SYNC_LINES || self.synced.elapsed() >= SYNC_AFTER { self.sync() } else { Ok(()) }
    }

    /// Adds the entries of a round in one write, and waits until they are on the disk. Entries with the same keys are
    /// replaced.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, round: Vec<E>) -> Result<()> {
        self.write(&lines(&round)?)?;
        self.unsynced += round.len();
        for entry in round {
            put(&mut self.entries, &mut self.index, entry);
        }
        self.sync()
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sync(&mut self) -> Result<()> {
        if self.unsynced > 0 {
            self.file.sync_data().map_err(|e| self.failed(&e))?;
        }
        self.unsynced = 0;
        self.synced = Instant::now();
        Ok(())
    }

    /// Replaces the file by exactly `entries`, in their order: what a finished file looks like, however it came to be.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish<'a>(self, entries: impl IntoIterator<Item = &'a E>) -> Result<()>
    where
        E: 'a,
    {
        // Some systems do not replace a file that is open.
        drop(self.file);
        write_atomic(&self.path, &lines(entries)?)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| self.failed(&e))
    }

    fn failed(&self, e: &std::io::Error) -> Error {
        Error::failed(format!("{}: {e}", self.path.display()))
            .hint("what the file holds is safe: make room or check the disk, and run the same command again to go on")
    }
}

/// The length of the lines that are whole, and their entries.
fn parse<E: Entry>(path: &Path, bytes: &[u8]) -> (usize, Vec<E>, HashMap<E::Key, usize>) {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (mut entries, mut index) = (Vec::new(), HashMap::new());
    for (number, line) in bytes[..whole].split(|byte| *byte == b'\n').enumerate() {
        match serde_json::from_slice::<E>(line) {
            Ok(entry) => put(&mut entries, &mut index, entry),
            Err(_) if line.trim_ascii().is_empty() => {}
            Err(e) => {
                tracing::warn!("{}: line {} cannot be read and is left out: {e}", path.display(), number + 1);
            }
        }
    }
    (whole, entries, index)
}

/// Adds an entry, or replaces the one under its key.
fn put<E: Entry>(entries: &mut Vec<E>, index: &mut HashMap<E::Key, usize>, entry: E) {
    let place = *index.entry(entry.key()).or_insert(entries.len());
    match entries.get_mut(place) {
        Some(earlier) => *earlier = entry,
        None => entries.push(entry),
    }
}

/// One line for each entry.
fn lines<'a, E: Serialize + 'a>(entries: impl IntoIterator<Item = &'a E>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut bytes, entry).map_err(|e| Error::failed(format!("cannot write a result: {e}")))?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Line {
        id: u32,
        text: String,
    }

    impl Entry for Line {
        type Key = u32;
        fn key(&self) -> u32 {
            self.id
        }
    }

    fn line(id: u32, text: &str) -> Line {
        Line { id, text: text.into() }
    }

    fn journal() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        (dir, path)
    }

    #[test]
    fn a_pushed_entry_stays_and_an_appended_round_replaces() {
        let (_dir, path) = journal();
        let mut journal = Journal::open(&path).unwrap();
        journal.push(line(1, "one")).unwrap();
        journal.push(line(1, "again")).unwrap();
        journal.sync().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        journal.append(vec![line(1, "new"), line(2, "two")]).unwrap();
        for journal in [journal, Journal::open(&path).unwrap()] {
            assert_eq!((journal.len(), journal.is_empty()), (2, false));
            assert_eq!(journal.get(&1).unwrap().text, "new");
            assert_eq!(journal.get(&2).unwrap().text, "two");
            assert_eq!(journal.get(&3), None);
            assert_eq!(journal.entries(), [line(1, "new"), line(2, "two")]);
        }
    }

    #[test]
    fn lines_that_are_no_entries_are_left_out() {
        let (_dir, path) = journal();
        std::fs::write(&path, b"{}\n\xff\n\n{\"id\":1,\"text\":\"t\"}\n").unwrap();
        let journal: Journal<Line> = Journal::open(&path).unwrap();
        assert_eq!((journal.len(), journal.get(&1).unwrap().text.as_str()), (1, "t"));
    }

    #[test]
    fn a_round_that_lacks_an_entry_is_open_and_a_finished_file_is_in_order() {
        let (_dir, path) = journal();
        let mut journal = Journal::open(&path).unwrap();
        let keys = [5, 4, 3, 2, 1];
        assert_eq!(journal.open_rounds(&keys, 2), [0..2, 2..4, 4..5]);
        journal.append(vec![line(2, "b"), line(3, "c")]).unwrap();
        journal.append(vec![line(5, "e"), line(9, "dropped")]).unwrap();
        assert_eq!(journal.open_rounds(&keys, 2), [0..2, 4..5]);
        assert_eq!(journal.open_rounds(&[], 2), Vec::<Range<usize>>::new());
        let entries = [line(2, "b"), line(5, "e")];
        journal.finish(&entries).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"id\":2,\"text\":\"b\"}\n{\"id\":5,\"text\":\"e\"}\n");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let (dir, _) = journal();
        let error = Journal::<Line>::open(dir.path()).err().unwrap();
        assert!(error.to_string().starts_with(&dir.path().display().to_string()), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_failed_work_that_can_go_on() {
        let path = PathBuf::from("/dev/full");
        let file = File::options().write(true).open(&path).unwrap();
        let (entries, index, synced) = (Vec::new(), HashMap::new(), Instant::now());
        let mut journal = Journal { path, file, entries, index, cut_short: false, unsynced: 0, synced };
        let error = journal.push(line(1, "one")).unwrap_err();
        assert_eq!(error.kind(), eraser_model::ErrorKind::Failed);
        assert!(error.to_string().starts_with("/dev/full: ") && error.hints()[0].contains("go on"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn cut_anywhere_it_goes_on(texts in prop::collection::vec("\\PC{0,6}", 1..5), cut in any::<prop::sample::Index>()) {
            let (_dir, path) = journal();
            let fill = || {
                let mut journal = Journal::open(&path).unwrap();
                for (i, text) in texts.iter().enumerate() {
                    journal.push(line(i as u32, text)).unwrap();
                }
            };
            fill();
            let whole = std::fs::read(&path).unwrap();
            let left = &whole[..cut.index(whole.len())];
            std::fs::write(&path, left).unwrap();
            let torn = left.last().is_some_and(|byte| *byte != b'\n');
            prop_assert_eq!(Journal::<Line>::open(&path).unwrap().cut_short(), torn);
            std::fs::write(&path, left).unwrap();
            fill();
            prop_assert_eq!(std::fs::read(&path).unwrap(), whole);
        }

        #[test]
        fn any_bytes_open(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let (_dir, path) = journal();
            std::fs::write(&path, &bytes).unwrap();
            let mut journal = Journal::open(&path).unwrap();
            journal.push(line(7, "new")).unwrap();
            let again: Journal<Line> = Journal::open(&path).unwrap();
            prop_assert_eq!(again.get(&7), Some(&line(7, "new")));
        }
    }
}
