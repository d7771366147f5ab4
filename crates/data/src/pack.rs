//! stub
use crate::Sample;
use eraser_ops::Segments;

/// Samples of a micro-batch, one after the other, without padding.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids of all samples.
    pub ids: Vec<u32>,
    /// Sample boundaries.
    pub segments: Segments,
    /// Rows that predict a response token, in order.
    pub scored_rows: Vec<u32>,
    /// The token each scored row predicts.
    pub targets: Vec<u32>,
    /// Boundaries of the samples among the scored rows.
    pub scored_segments: Segments,
}

impl Batch {
    /// Packs `samples`.
    pub fn new(_samples: &[&Sample]) -> Self {
        todo!()
    }
}
