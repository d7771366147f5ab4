//! The `eraser` binary.
fn main() {}
