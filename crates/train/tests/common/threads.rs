//! Ranks that are threads of one process: what they compute is what processes would, without an MPI.

#![allow(missing_docs, clippy::unwrap_used, unreachable_pub, reason = "shared by test crates")]

use eraser_model::Result;
use eraser_train::Group;
use std::sync::{Arc, Barrier, Mutex};

/// One of several threads.
pub struct Thread {
    rank: usize,
    barrier: Arc<Barrier>,
    /// What each has brought.
    table: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Does `work` at each of `n` ranks at once; what each gives, in their order.
pub fn ranks<T: Send>(n: usize, work: impl Fn(&dyn Group) -> T + Sync) -> Vec<T> {
    let (barrier, table) = (Arc::new(Barrier::new(n)), Arc::new(Mutex::new(vec![Vec::new(); n])));
    std::thread::scope(|scope| {
        let start = |rank| {
            let group = Thread { rank, barrier: Arc::clone(&barrier), table: Arc::clone(&table) };
            let work = &work;
            scope.spawn(move || work(&group))
        };
        let threads: Vec<_> = (0..n).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

impl Thread {
    /// What all have brought.
    fn meet(&self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        self.table.lock().unwrap()[self.rank] = bytes;
        self.barrier.wait();
        let all = self.table.lock().unwrap().clone();
        self.barrier.wait();
        all
    }
}

impl Group for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.table.lock().unwrap().len()
    }

    fn exchange(&self, values: &[f32]) -> Result<Vec<f32>> {
        let piece = values.len() / self.size();
        assert_eq!(piece * self.size(), values.len());
        let all = self.meet(values.iter().flat_map(|x| x.to_le_bytes()).collect());
        Ok(all.iter().flat_map(|bytes| f32s(&bytes[4 * piece * self.rank..4 * piece * (self.rank + 1)])).collect())
    }

    fn gather(&self, values: &[f32]) -> Result<Vec<f32>> {
        let all = self.meet(values.iter().flat_map(|x| x.to_le_bytes()).collect());
        Ok(all.iter().flat_map(|bytes| f32s(bytes)).collect())
    }

    fn gather_f64(&self, values: &[f64]) -> Result<Vec<f64>> {
        let all = self.meet(values.iter().flat_map(|x| x.to_le_bytes()).collect());
        let chunks = all.iter().flat_map(|bytes| bytes.as_chunks().0);
        Ok(chunks.map(|x| f64::from_le_bytes(*x)).collect())
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        Ok(self.meet(bytes).swap_remove(0))
    }
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}
