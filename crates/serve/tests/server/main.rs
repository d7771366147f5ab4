//! The server on the built-in model, over real connections.

#![allow(clippy::unwrap_used)]

mod answers;
mod common;
mod hostile;
