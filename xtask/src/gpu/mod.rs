//! Commands about GPUs: that the tool builds for one, a folder that runs on a machine with a driver and nothing else, and
//! the checks and measurements that are made there. Invariant: what has not run on a device is not said of it.

pub(crate) mod check;
mod checks;
pub(crate) mod pack;
mod shape;
pub(crate) mod suite;
mod toolkit;
