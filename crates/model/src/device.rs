//! Where to compute. In: a name such as `cuda:1`; out: the device. Invariant: a device whose support was not built in
//! is an error when its name is read, before any work.

use crate::{Error, Result};
use candle_core::Device;
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// The name of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// CUDA, else Metal, else the CPU, of those that are built in and there.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number; None: the one that this process takes, the first where it is alone
    /// ([`eraser_ops::device::own_cuda`]).
    Cuda(Option<usize>),
    /// Apple's Metal.
    Metal,
}

impl DeviceName {
    /// Opens it.
    ///
    /// # Errors
    /// A device that is not there.
    pub fn open(self) -> Result<Device> {
        let device = match self {
            Self::Auto if candle_core::utils::cuda_is_available() => {
                eraser_ops::device::cuda(eraser_ops::device::own_cuda()).or_else(|error| {
                    tracing::warn!("no CUDA device can be used ({error}); the CPU computes");
                    Ok(Device::Cpu)
                })
            }
            Self::Auto if candle_core::utils::metal_is_available() => Device::new_metal(0),
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(number) => eraser_ops::device::cuda(number.unwrap_or_else(eraser_ops::device::own_cuda)),
            Self::Metal => Device::new_metal(0),
        };
        device.map_err(|e| Error::from(e).context(format_args!("device {self}")))
    }
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, missing) = match text {
            "auto" => (Self::Auto, None),
            "cpu" => (Self::Cpu, None),
            "metal" => (Self::Metal, (!cfg!(feature = "metal")).then_some("metal")),
            _ => {
                let number = text.strip_prefix("cuda:").map(|n| n.parse().ok());
                let number = if text == "cuda" { Some(None) } else { number.filter(Option::is_some) };
                let number = number.ok_or_else(|| {
                    Error::request(format!("unknown device `{text}`"))
                        .hint("devices are auto, cpu, cuda, cuda:N and metal")
                })?;
                (Self::Cuda(number), (!cfg!(feature = "cuda")).then_some("cuda"))
            }
        };
        match missing {
            Some(feature) => Err(Error::request(format!("device {text}: this build has no {feature} support"))
                .hint(format!("build with the cargo feature `{feature}`, or use --device cpu"))),
            None => Ok(name),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(number)) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl Serialize for DeviceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_by_name() {
        assert!(matches!("cpu".parse::<DeviceName>().unwrap().open(), Ok(Device::Cpu)));
        assert!("auto".parse::<DeviceName>().unwrap().open().is_ok());
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cudax", "CPU"] {
            assert!(text.parse::<DeviceName>().unwrap_err().hints()[0].contains("auto, cpu"), "{text}");
        }
        for (text, feature, on) in [
            ("cuda", "cuda", cfg!(feature = "cuda")),
            ("cuda:1", "cuda", cfg!(feature = "cuda")),
            ("metal", "metal", cfg!(feature = "metal")),
        ] {
            match text.parse::<DeviceName>() {
                Ok(name) => assert!(on && name.to_string() == text),
                Err(error) => assert!(!on && error.hints()[0].contains(&format!("feature `{feature}`"))),
            }
        }
    }
}
