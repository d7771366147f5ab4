//! Which model, where and how: checked, then loaded. Invariant: what can be seen without reading weights (device names,
//! types, missing paths) is an error before any work is done.

use super::section::Section;
use super::{exists, values};
use crate::builtin;
use crate::errors::Problems;
use crate::options::export::ExportArgs;
use crate::options::model::ModelArgs;
use candle_core::{DType, Device};
use eraser_model::{BaseDtype, Error, LoadOptions, Model, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ModelPlan {
    /// Directory, .gguf file, hub name or `builtin`.
    #[serde(rename = "path")]
    pub(crate) spec: String,
    /// auto, cpu, cuda:N, metal.
    pub(crate) device: String,
    /// auto, f32, f16, bf16, as-stored.
    pub(crate) base_dtype: String,
    /// In place of the model's own template.
    pub(crate) chat_template: Option<PathBuf>,
}

impl ModelPlan {
    /// From flags.
    pub(crate) fn from_args(args: &ModelArgs, problems: &mut Problems) -> Self {
        let plan = Self {
            spec: args.model.clone(),
            device: args.device.clone(),
            base_dtype: args.base_dtype.clone(),
            chat_template: args.chat_template.clone(),
        };
        plan.check(|key| format!("--{}", key.replace('_', "-")), problems);
        plan
    }

    /// Of an export: in full precision on the CPU, whatever it is trained and run on.
    pub(crate) fn for_export(args: &ExportArgs, problems: &mut Problems) -> Self {
        let plan = Self {
            spec: args.model.clone(),
            device: "cpu".to_owned(),
            base_dtype: "f32".to_owned(),
            chat_template: args.chat_template.clone(),
        };
        plan.check(|key| format!("--{}", key.replace('_', "-")), problems);
        plan
    }

    /// From the table `[model]` of a run file; `device` overrides.
    pub(crate) fn from_section(section: &Section<'_>, device: Option<&str>, problems: &mut Problems) -> Self {
        section.know(&["path", "device", "base_dtype", "chat_template"], problems);
        if section.get("path").is_none() {
            problems.push(section.missing("path").hint("for example path = \"builtin\", or a model directory"));
        }
        let plan = Self {
            // What is wrong was noted; the rest is checked all the same.
            spec: Self::spec(section, "path", problems).unwrap_or_else(|| builtin::NAME.to_owned()),
            device: device
                .map(ToOwned::to_owned)
                .or_else(|| section.value("device", problems))
                .unwrap_or_else(|| "auto".to_owned()),
            base_dtype: section.value("base_dtype", problems).unwrap_or_else(|| "auto".to_owned()),
            chat_template: section.path("chat_template", problems),
        };
        let at = |key: &str| if key == "device" && device.is_some() { "--device".into() } else { section.place(key) };
        plan.check(|key| if key == "model" { at("path") } else { at(key) }, problems);
        plan
    }

    /// The model named by a key of a run file: a path relative to that file, a hub name or `builtin`.
    pub(crate) fn spec(section: &Section<'_>, key: &str, problems: &mut Problems) -> Option<String> {
        let spec: String = section.value(key, problems)?;
        if spec == builtin::NAME || is_hub_name(section, &spec) {
            return Some(spec);
        }
        problems.ok(section.resolve(key, &spec)).map(|path| path.display().to_string())
    }

    /// Another model, loaded where and as this one is.
    pub(crate) fn beside(&self, spec: &str) -> Self {
        Self { spec: spec.to_owned(), chat_template: None, ..self.clone() }
    }

    /// An error unless the model is one by its name, or is there.
    pub(crate) fn check_spec(spec: &str) -> Result<()> {
        if spec == builtin::NAME || hub_shaped(spec) {
            return Ok(());
        }
        let hint = "a model is a Hugging Face directory, a .gguf file, a hub name `org/name`, or `builtin`";
        exists(Path::new(spec)).map_err(|e| Error::request(e).hint(hint))
    }

    fn check(&self, at: impl Fn(&str) -> String, problems: &mut Problems) {
        if let Err(e) = parse_device(&self.device) {
            problems.push(e.context(at("device")));
        }
        if let Err(e) = self.base_dtype.parse::<BaseDtype>() {
            problems.push(e.context(at("base_dtype")));
        }
        if let Some(Err(e)) = self.chat_template.as_deref().map(exists) {
            problems.push(e.context(at("chat_template")));
        }
        if let Err(e) = Self::check_spec(&self.spec) {
            problems.push(e.context(at("model")));
        }
    }

    /// The device, opened.
    pub(crate) fn open_device(&self) -> Result<Device> {
        match parse_device(&self.device)? {
            DeviceName::Auto if candle_core::utils::cuda_is_available() => Ok(Device::new_cuda(0)?),
            DeviceName::Auto if candle_core::utils::metal_is_available() => Ok(Device::new_metal(0)?),
            DeviceName::Auto | DeviceName::Cpu => Ok(Device::Cpu),
            DeviceName::Cuda(n) => Ok(Device::new_cuda(n)?),
            DeviceName::Metal => Ok(Device::new_metal(0)?),
        }
    }

    /// Loads it. `home` is where the built-in model's files are, or are put.
    pub(crate) fn load(&self, home: &Home) -> Result<Model> {
        let options = LoadOptions {
            device: self.open_device()?,
            base_dtype: self.base_dtype.parse()?,
            chat_template: self.chat_template.clone(),
        };
        let _spinner = crate::progress::Spinner::start(&format!("loading {}", self.spec));
        if self.spec != builtin::NAME {
            return eraser_model::load(&self.spec, &options);
        }
        let dir = builtin::model_dir(&home.builtin()?);
        let mut model = eraser_model::load(&dir.display().to_string(), &options)?;
        // Not the path it was unpacked to: an adapter says the same wherever it was made.
        builtin::NAME.clone_into(&mut model.name);
        Ok(model)
    }
}

/// Where the built-in model's files are put.
#[derive(Clone, Debug)]
pub(crate) enum Home {
    /// In the run directory, for a run that can be looked through.
    Run(PathBuf),
    /// In the user's cache.
    Cache,
}

impl Home {
    /// The directory, with the files in it.
    pub(crate) fn builtin(&self) -> Result<PathBuf> {
        match self {
            Self::Run(dir) => builtin::unpack(&dir.join(builtin::NAME)),
            Self::Cache => builtin::unpack_to_cache(),
        }
    }

    /// `path`, or the unpacked file it stands for.
    pub(crate) fn locate(&self, path: &Path) -> Result<PathBuf> {
        builtin::relative(path).map_or_else(|| Ok(path.to_owned()), |rest| Ok(self.builtin()?.join(rest)))
    }
}

/// A device name, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeviceName {
    Auto,
    Cpu,
    Cuda(usize),
    Metal,
}

fn parse_device(text: &str) -> Result<DeviceName> {
    let name = match text {
        "auto" => DeviceName::Auto,
        "cpu" => DeviceName::Cpu,
        "metal" => DeviceName::Metal,
        _ => {
            match text.strip_prefix("cuda").map(|n| n.strip_prefix(':').unwrap_or(if n.is_empty() { "0" } else { "?" }))
            {
                Some(n) if n.parse::<u8>().is_ok() => DeviceName::Cuda(n.parse().unwrap_or_default()),
                _ => {
                    return Err(Error::request(format!("unknown device `{text}`"))
                        .hint("devices are auto, cpu, cuda:N and metal"));
                }
            }
        }
    };
    let feature = match name {
        DeviceName::Cuda(_) if !cfg!(feature = "cuda") => "cuda",
        DeviceName::Metal if !cfg!(feature = "metal") => "metal",
        _ => return Ok(name),
    };
    Err(Error::request(format!("this binary was built without support for {feature}"))
        .hint(format!("build it with `cargo build --release --features {feature}`, or use --device cpu")))
}

/// f32, f16, bf16.
pub(crate) fn parse_dtype(text: &str) -> Result<DType> {
    match text {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err(Error::request(format!("unknown type `{text}`")).hint("types are f32, f16 and bf16")),
    }
}

/// `org/name`, and no such path.
fn hub_shaped(spec: &str) -> bool {
    let part = |s: &str| {
        !s.is_empty() && !s.starts_with('.') && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    !Path::new(spec).exists()
        && !spec.to_ascii_lowercase().ends_with(".gguf")
        && spec.split_once('/').is_some_and(|(org, name)| part(org) && part(name))
}

/// As [`hub_shaped`], of a path of a run file, which is relative to that file.
fn is_hub_name(section: &Section<'_>, spec: &str) -> bool {
    values::expand(spec).is_ok_and(|e| e == spec)
        && hub_shaped(spec)
        && section.resolve("path", spec).is_ok_and(|path| !path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        assert_eq!(parse_device("auto").ok(), Some(DeviceName::Auto));
        assert_eq!(parse_device("cpu").ok(), Some(DeviceName::Cpu));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cudax", "CPU"] {
            assert!(parse_device(wrong).is_err(), "{wrong}");
        }
        if !cfg!(feature = "cuda") {
            assert!(parse_device("cuda:1").unwrap_err().to_string().contains("without"));
        }
    }

    #[test]
    fn hub_names() {
        assert!(hub_shaped("org/some-Model_1.5"));
        for not in ["org", "./a/b", "/a/b", "a/b/c", "../x", "a/b.gguf", "a b/c", ""] {
            assert!(!hub_shaped(not), "{not}");
        }
    }
}
