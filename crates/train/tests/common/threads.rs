//! Ranks that are threads of one process: what they compute is what processes would, without an MPI.

#![allow(missing_docs, clippy::unwrap_used, unreachable_pub, reason = "shared by test crates")]

use candle_core::{Device, Tensor};
use eraser_model::Result;
use eraser_train::{Group, Transport};
use std::sync::{Arc, Barrier, Mutex};

/// How gradients go from rank to rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// As lists of numbers, as they do through the memory of hosts.
    Hosts,
    /// As tensors, as they do between devices.
    Tensors,
}

/// One of several threads.
pub struct Thread {
    rank: usize,
    through: Through,
    barrier: Arc<Barrier>,
    /// What each has brought.
    table: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Does `work` at each of `n` ranks at once; what each gives, in their order.
pub fn ranks_through<T: Send>(n: usize, through: Through, work: impl Fn(&dyn Group) -> T + Sync) -> Vec<T> {
    let (barrier, table) = (Arc::new(Barrier::new(n)), Arc::new(Mutex::new(vec![Vec::new(); n])));
    std::thread::scope(|scope| {
        let start = |rank| {
            let group = Thread { rank, through, barrier: Arc::clone(&barrier), table: Arc::clone(&table) };
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

    fn transport(&self, device: &Device) -> Result<Option<Box<dyn Transport + '_>>> {
        assert!(device.is_cpu());
        Ok((self.through == Through::Tensors).then(|| Box::new(Carrier(self)) as Box<dyn Transport>))
    }
}

/// Carries tensors of the CPU from thread to thread.
struct Carrier<'a>(&'a Thread);

impl Transport for Carrier<'_> {
    fn exchange(&self, values: &Tensor) -> Result<Tensor> {
        let found = self.0.exchange(&values.to_vec1()?)?;
        Ok(Tensor::new(found, values.device())?)
    }

    fn gather(&self, values: &Tensor) -> Result<Tensor> {
        let found = self.0.gather(&values.to_vec1()?)?;
        Ok(Tensor::new(found, values.device())?)
    }
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}
