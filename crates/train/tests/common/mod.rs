//! The built-in model and its files.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    reason = "shared by test crates that use parts of it"
)]

use candle_core::Device;
use eraser_model::{BaseDtype, Compute, LoadOptions, Model, load};
use std::path::{Path, PathBuf};

pub fn organism() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/organism")
}

pub fn model() -> Model {
    held(BaseDtype::Auto)
}

/// With its weights held in this type.
pub fn held(base_dtype: BaseDtype) -> Model {
    let options = LoadOptions { device: Device::Cpu, base_dtype, compute: Compute::F32, chat_template: None };
    load(organism().join("model").to_str().unwrap(), &options).unwrap()
}
