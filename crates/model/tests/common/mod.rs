//! Where the tests that are recorded for the CPU run: there, or on the device that `ERASER_TEST_DEVICE` names.

#![allow(missing_docs, clippy::unwrap_used, unreachable_pub, reason = "shared by test crates")]

use candle_core::Device;
use eraser_model::DeviceName;
use std::{path::PathBuf, sync::OnceLock};

/// The device of this run, opened once.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || {
        let name = std::env::var("ERASER_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
        name.parse::<DeviceName>().unwrap().open().unwrap()
    };
    DEVICE.get_or_init(open)
}

/// A folder of recorded results. Where the crate lies is asked of the environment first, since a test program may run on
/// another machine than the one it was built on.
pub fn fixtures(kind: &str) -> PathBuf {
    let home = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(home).join("tests/fixtures").join(kind)
}
