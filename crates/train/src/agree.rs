//! What the ranks of a training must agree on. In: what each of them has; out: what rank 0 has, or an error that names
//! the rank that differs. Invariant: every rank gets the same answer, so none waits for another in vain.

use crate::{deal::Deal, group::Group, settings::Settings};
use candle_core::Var;
use eraser_model::{Error, Result, counted};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// Most bytes of what a rank says to the others.
const TEXT: usize = 512;

/// What comes after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another one.
    Step,
    /// A checkpoint, and no more: the run was stopped.
    Stop,
    /// The adapter: all steps are done, or the run has settled.
    End,
}

/// What rank 0 decided.
pub(crate) fn on_next(group: &dyn Group, own: Next) -> Result<Next> {
    if group.size() == 1 {
        return Ok(own);
    }
    Ok(match group.broadcast(vec![own as u8])?.first() {
        Some(&n) if n == Next::Step as u8 => Next::Step,
        Some(&n) if n == Next::Stop as u8 => Next::Stop,
        _ => Next::End,
    })
}

/// An error at every rank where the settings of one are not those of rank 0.
pub(crate) fn on_settings(group: &dyn Group, own: &Settings) -> Result<()> {
    if group.size() == 1 {
        return Ok(());
    }
    let first = group.broadcast(serde_json::to_vec(own).map_err(Error::failed)?)?;
    let first: Settings = serde_json::from_slice(&first).map_err(Error::failed)?;
    let changes = texts(group, &first.changes(own).join("; "))?;
    match changes.iter().enumerate().find(|(_, changes)| !changes.is_empty()) {
        None => Ok(()),
        Some((rank, changes)) => Err(Error::request(format!("rank {rank} has other settings than rank 0: {changes}"))
            .hint("every rank needs the same files under the same paths, and the same build")),
    }
}

/// A text of every rank, cut after [`TEXT`] bytes.
fn texts(group: &dyn Group, own: &str) -> Result<Vec<String>> {
    let mut bytes: Vec<f64> = own.bytes().take(TEXT).map(f64::from).collect();
    bytes.resize(TEXT, 0.0);
    let all = group.gather_f64(&bytes)?;
    let text = |rank: &[f64]| {
        let bytes: Vec<u8> = rank.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(all.chunks_exact(TEXT).map(text).collect())
}

/// An error at every rank where the parameters of one are not those of rank 0.
pub(crate) fn on_values(group: &dyn Group, parameters: &[(String, Var)]) -> Result<()> {
    if group.size() == 1 {
        return Ok(());
    }
    let mut hash = Sha256::new();
    for (_, variable) in parameters {
        for value in variable.flatten_all()?.to_vec1::<f32>()? {
            hash.update(value.to_le_bytes());
        }
    }
    let digest: Vec<f64> = hash.finalize().iter().map(|&byte| f64::from(byte)).collect();
    let all = group.gather_f64(&digest)?;
    let mut ranks = all.chunks_exact(digest.len());
    let first = ranks.next();
    let Some(other) = ranks.position(|rank| Some(rank) != first) else { return Ok(()) };
    Err(Error::failed(format!("the adapter of rank {} is not that of rank 0", other + 1))
        .hint("ranks need the same build, the same files and processors of one kind"))
}

/// The checkpoint that rank 0 has read, if there is one.
pub(crate) fn on_checkpoint(group: &dyn Group, own: Option<(PathBuf, Vec<u8>)>) -> Result<Option<(PathBuf, Vec<u8>)>> {
    if group.size() == 1 {
        return Ok(own);
    }
    let (path, bytes) = own.unwrap_or_default();
    // Its name is for errors, which are the same at all ranks and are shown by the first.
    let bytes = group.broadcast(bytes)?;
    Ok((!bytes.is_empty()).then_some((path, bytes)))
}

/// What is said where a run goes on with other ranks than it had.
pub(crate) fn other_ranks([before, now]: [Deal; 2], step: usize, dropout: f64) -> String {
    let [had, has] = [before, now].map(|deal| counted(deal.ranks, "rank"));
    let mask = if dropout > 0.0 && (before.apart() || now.apart()) {
        ", and dropout is drawn anew, since ranks have other parts of a micro-batch"
    } else {
        ""
    };
    format!(
        "the run had {had} and goes on with {has}: from step {} on, sums are taken in another order{mask}. The adapter will \
         not be bit for bit that of a run that keeps its ranks",
        step + 1
    )
}
