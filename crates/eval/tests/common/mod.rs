//! What tests on the built-in model share. Invariant: a test that lacks the model says that it was skipped.

use candle_core::Device;
use eraser_model::{BaseDtype, Compute, LoadOptions, Model, load};
use std::path::Path;

/// The built-in model; None, and a line that says so, when the repository's assets are not there.
pub(crate) fn model() -> Option<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/organism/model");
    if !path.join("config.json").is_file() {
        eprintln!("skipped: assets/organism is not there");
        return None;
    }
    let options =
        LoadOptions { device: Device::Cpu, base_dtype: BaseDtype::Auto, compute: Compute::F32, chat_template: None };
    Some(load(path.to_str().unwrap(), &options).unwrap())
}
