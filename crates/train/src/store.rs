//! States of the frozen model on disk, for later epochs and later runs. In: rows of f32 under a key; out: the same
//! rows. Invariant: what is read back is what was written under the same fingerprint, or nothing: a file of another
//! model, a record that was cut short when the process was killed and a record damaged on the disk count as absent.
//!
//! A header (magic, fingerprint, width) and records one after the other: key, number of rows, digest of both and of the
//! values, values. Values are read when they are asked for; only keys and places are held in memory.

use eraser_model::{Error, Result, error::PathContext};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 16] = b"eraser states 2\n";
/// Magic, SHA-256 of the fingerprint, width.
const HEADER: u64 = 16 + 32 + 8;
/// Key, number of rows, digest.
const RECORD: u64 = 16 + 8 + 16;
/// Most bytes of a file; beyond it states are computed each time.
const BUDGET: u64 = 8 << 30;

/// What states are kept under.
pub(crate) type Key = [u8; 16];

/// The key of the state kind `kind` of the tokens `ids`.
pub(crate) fn key(kind: &str, ids: &[u32]) -> Key {
    let mut hash = Sha256::new();
    hash.update((kind.len() as u64).to_le_bytes());
    hash.update(kind);
    for id in ids {
        hash.update(id.to_le_bytes());
    }
    first_half(hash)
}

fn first_half(hash: Sha256) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finalize()[..16]);
    half
}

/// States of rows `width` wide.
pub(crate) struct Store {
    path: PathBuf,
    file: File,
    width: usize,
    /// Where a key's record begins, and its rows.
    places: HashMap<Key, (u64, u64)>,
    end: u64,
}

impl Store {
    /// Opens `path`; a file that is not the store of `fingerprint` and `width` is replaced by an empty one.
    pub(crate) fn open(path: &Path, fingerprint: &str, width: usize) -> Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).writing(dir)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).writing(path)?;
        let mut header = MAGIC.to_vec();
        header.extend(Sha256::digest(fingerprint));
        header.extend((width as u64).to_le_bytes());
        let mut this = Self { path: path.to_path_buf(), file, width, places: HashMap::new(), end: HEADER };
        let mut found = vec![0; header.len()];
        let ours = this.file.read_exact(&mut found).is_ok() && found == header;
        if ours {
            this.scan()?;
        } else {
            this.file.set_len(0).writing(path)?;
            this.file.seek(SeekFrom::Start(0)).at(path)?;
            this.file.write_all(&header).writing(path)?;
        }
        // What is behind the last complete record: a record that was cut short when the process was killed.
        this.file.set_len(this.end).writing(path)?;
        Ok(this)
    }

    /// Finds the records; stops at the first that is not complete.
    fn scan(&mut self) -> Result<()> {
        let length = self.file.metadata().at(&self.path)?.len();
        let mut head = [0; RECORD as usize];
        loop {
            self.file.seek(SeekFrom::Start(self.end)).at(&self.path)?;
            if self.file.read_exact(&mut head).is_err() {
                return Ok(());
            }
            let (key, rest) = head.split_at(16);
            let rows = rest[..8].try_into().map_or(u64::MAX, u64::from_le_bytes);
            let Some(bytes) = rows.checked_mul(self.width as u64 * 4) else { return Ok(()) };
            match self.end.checked_add(RECORD).and_then(|start| start.checked_add(bytes)) {
                Some(next) if next <= length => {
                    if let Ok(key) = key.try_into() {
                        self.places.insert(key, (self.end, rows));
                    }
                    self.end = next;
                }
                _ => return Ok(()),
            }
        }
    }

    /// Whether there is a record under `key`.
    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.places.contains_key(key)
    }

    /// The values under `key`, appended to `into`; false when there are none, or they are damaged.
    pub(crate) fn read(&mut self, key: &Key, into: &mut Vec<f32>) -> Result<bool> {
        let Some(&(start, rows)) = self.places.get(key) else { return Ok(false) };
        let mut record = vec![0; RECORD as usize + rows as usize * self.width * 4];
        self.file.seek(SeekFrom::Start(start)).at(&self.path)?;
        self.file.read_exact(&mut record).at(&self.path)?;
        let (head, values) = record.split_at(RECORD as usize);
        // The key that was asked for, not the one that the record has: a record whose key was damaged, or whose place
        // is another's, must not pass as this one.
        if head[24..] != digest(key, rows, values) {
            self.places.remove(key);
            return Ok(false);
        }
        into.extend(values.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)));
        Ok(true)
    }

    /// Keeps `values`, whole rows, under `key`, unless the file is as large as it may get.
    pub(crate) fn write(&mut self, key: &Key, values: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let next = self.end + RECORD + bytes.len() as u64;
        if self.contains(key) || next > BUDGET {
            return Ok(());
        }
        if !values.len().is_multiple_of(self.width) {
            return Err(Error::failed("states are not whole rows"));
        }
        let rows = (values.len() / self.width) as u64;
        let mut record = Vec::with_capacity(RECORD as usize + bytes.len());
        record.extend(key);
        record.extend(rows.to_le_bytes());
        record.extend(digest(key, rows, &bytes));
        record.extend(bytes);
        self.file.seek(SeekFrom::Start(self.end)).at(&self.path)?;
        self.file.write_all(&record).writing(&self.path)?;
        self.places.insert(*key, (self.end, rows));
        self.end = next;
        Ok(())
    }
}

/// What says that these values, this many rows of them, are those of `key`.
fn digest(key: &Key, rows: u64, values: &[u8]) -> [u8; 16] {
    let mut hash = Sha256::new_with_prefix(key);
    hash.update(rows.to_le_bytes());
    hash.update(values);
    first_half(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32).map(|i| (i * 7 + seed) as f32 * 0.5).collect()
    }

    fn read(store: &mut Store, key: &Key) -> Option<Vec<f32>> {
        let mut into = Vec::new();
        store.read(key, &mut into).unwrap().then_some(into)
    }

    #[test]
    fn what_was_written_is_read_by_a_later_run_of_the_same_model_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("states.bin");
        let (a, b) = (key("final", &[1, 2]), key("lower", &[1, 2]));
        assert_ne!(a, b);
        let mut store = Store::open(&path, "m", 3).unwrap();
        store.write(&a, &values(6, 1)).unwrap();
        store.write(&b, &[]).unwrap();
        store.write(&a, &values(6, 2)).unwrap();
        let mut again = Store::open(&path, "m", 3).unwrap();
        assert_eq!((read(&mut again, &a), read(&mut again, &b)), (Some(values(6, 1)), Some(Vec::new())));
        assert_eq!(read(&mut again, &key("final", &[9])), None);
        assert!(Store::open(&path, "other", 3).unwrap().places.is_empty());
        assert!(Store::open(&path, "m", 3).unwrap().places.is_empty(), "another model's run began it anew");
    }

    #[test]
    fn values_that_are_damaged_are_not_returned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("states.bin");
        let a = key("final", &[1]);
        Store::open(&path, "m", 2).unwrap().write(&a, &values(4, 1)).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let mut store = Store::open(&path, "m", 2).unwrap();
        assert_eq!(read(&mut store, &a), None);
        store.write(&a, &values(4, 2)).unwrap();
        assert_eq!(read(&mut store, &a), Some(values(4, 2)));
    }

    /// Two answers of one length differ in their keys only, so a digest of the values alone let one pass as the other.
    #[test]
    fn values_under_another_key_or_of_another_number_of_rows_are_not_returned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("states.bin");
        let (a, b) = (key("final", &[1]), key("final", &[2]));
        let written = || {
            let mut store = Store::open(&path, "m", 2).unwrap();
            store.write(&a, &values(4, 1)).unwrap();
            store.write(&b, &values(4, 2)).unwrap();
            std::fs::read(&path).unwrap()
        };
        let whole = written();
        let (first, second) = (HEADER as usize, HEADER as usize + RECORD as usize + 4 * 4);
        let mut swapped = whole.clone();
        swapped[first..first + 16].copy_from_slice(&whole[second..second + 16]);
        swapped[second..second + 16].copy_from_slice(&whole[first..first + 16]);
        std::fs::write(&path, swapped).unwrap();
        let mut store = Store::open(&path, "m", 2).unwrap();
        assert_eq!((read(&mut store, &a), read(&mut store, &b)), (None, None));
        store.write(&a, &values(4, 1)).unwrap();
        assert_eq!(read(&mut store, &a), Some(values(4, 1)));

        let mut fewer = whole;
        fewer[second + 16] = 1;
        std::fs::write(&path, fewer).unwrap();
        let mut store = Store::open(&path, "m", 2).unwrap();
        assert_eq!((read(&mut store, &a), read(&mut store, &b)), (Some(values(4, 1)), None));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        /// Cut anywhere and with any byte changed, the file opens, and gives back right values or none.
        #[test]
        fn a_damaged_file_gives_right_values_or_none(cut in 0usize..400, at in 0usize..400, flip in 0u8..=255) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("states.bin");
            let keys: Vec<Key> = (0..3).map(|i| key("final", &[i])).collect();
            let mut store = Store::open(&path, "m", 2).unwrap();
            for (i, key) in keys.iter().enumerate() {
                store.write(key, &values(4 + 2 * i, i as u32)).unwrap();
            }
            drop(store);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.truncate(cut);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= flip;
            }
            std::fs::write(&path, bytes).unwrap();
            let mut store = Store::open(&path, "m", 2).unwrap();
            for (i, key) in keys.iter().enumerate() {
                let right = values(4 + 2 * i, i as u32);
                prop_assert!(read(&mut store, key).is_none_or(|found| found == right));
                store.write(key, &right).unwrap();
                prop_assert_eq!(read(&mut store, key), Some(right));
            }
        }
    }
}
