//! Which model, where and how: checked, then loaded. Invariant: what can be seen without reading weights (device names,
//! types, missing paths) is an error before any work is done.

use super::basics::{exists, wrong};
use super::section::Section;
use super::table::{self, absolute, path_value};
use super::values;
use super::variables;
use crate::builtin::{self, Assets};
use crate::failure::Problems;
use crate::watch::Watch;
use eraser_eval::served::Text;
use eraser_model::{
    BaseDtype, ChatTemplate, Compute, Decoder, DeviceName, Error, LoadOptions, Model, ModelFiles, Result, Tokenizer,
    hub,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The keys of `[model]`.
pub(super) const MODEL_KEYS: [&str; 8] =
    ["path", "device", "base_dtype", "compute", "chat_template", "template_vars", "think_end", "max_think_tokens"];

/// A model and how it is to be held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelPlan {
    /// Directory, .gguf file, hub name or `builtin`.
    #[serde(rename = "path")]
    pub spec: String,
    /// Where to compute.
    #[serde(deserialize_with = "of_text")]
    pub device: DeviceName,
    /// How the weights are held.
    #[serde(deserialize_with = "of_text")]
    pub base_dtype: BaseDtype,
    /// In what precision they are multiplied on the CPU.
    #[serde(deserialize_with = "of_text")]
    pub compute: Compute,
    /// In place of the model's own template.
    pub chat_template: Option<PathBuf>,
    /// Variables of the template, such as `enable_thinking`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub template_vars: Map<String, Value>,
    /// What the model's thoughts end with, or `none`; None: found from template and vocabulary.
    pub think_end: Option<String>,
    /// Most tokens of a thought; None: the usual number.
    pub max_think_tokens: Option<usize>,
}

/// How conversations are rendered and answers are read, as flags give it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChatFlags<'a> {
    /// In place of the model's own template.
    pub template: Option<&'a Path>,
    /// Variables of the template, each `NAME=VALUE`.
    pub variables: &'a [String],
    /// What the model's thoughts end with, or `none`.
    pub think_end: Option<&'a str>,
    /// Most tokens of a thought.
    pub max_think_tokens: Option<usize>,
}

impl ModelPlan {
    /// From texts, as flags give them. `at` names the option of a key, for errors.
    pub fn parse(
        spec: &str,
        [device, base_dtype, compute]: [&str; 3],
        chat: ChatFlags<'_>,
        at: &dyn Fn(&str) -> String,
        problems: &mut Problems,
    ) -> Self {
        let plan = Self {
            spec: spec.to_owned(),
            device: parsed(device, &at("device"), problems),
            base_dtype: parsed(base_dtype, &at("base_dtype"), problems),
            compute: parsed(compute, &at("compute"), problems),
            chat_template: chat.template.map(Path::to_owned),
            template_vars: variables::of_flags(chat.variables, problems),
            think_end: chat.think_end.map(ToOwned::to_owned),
            max_think_tokens: chat.max_think_tokens,
        };
        plan.check(at, problems);
        plan
    }

    /// From the table `[model]` of a run file; `device` overrides.
    pub(crate) fn from_section(section: &Section<'_>, device: Option<&str>, problems: &mut Problems) -> Self {
        section.know(&MODEL_KEYS, problems);
        if section.get("path").is_none() {
            problems.push(section.missing("path").hint("for example path = \"builtin\", or a model directory"));
        }
        let text = |key: &str, problems: &mut Problems| section.value::<String>(key, problems);
        let base_dtype = text("base_dtype", problems).unwrap_or_else(|| BaseDtype::default().to_string());
        let compute = text("compute", problems).unwrap_or_else(|| Compute::default().to_string());
        let (device, device_place) = if let Some(device) = device {
            (device.to_owned(), "--device".to_owned())
        } else {
            let device = text("device", problems).unwrap_or_else(|| DeviceName::default().to_string());
            (device, section.place("device"))
        };
        let plan = Self {
            // What is wrong was noted; the rest is checked all the same.
            spec: Self::spec(section, "path", problems).unwrap_or_else(|| builtin::NAME.to_owned()),
            device: parsed(&device, &device_place, problems),
            base_dtype: parsed(&base_dtype, &section.place("base_dtype"), problems),
            compute: parsed(&compute, &section.place("compute"), problems),
            chat_template: Self::template(section, problems),
            template_vars: variables::of_section(section, problems),
            think_end: text("think_end", problems),
            max_think_tokens: section.value("max_think_tokens", problems),
        };
        plan.check(&|key| section.place(if key == "model" { "path" } else { key }), problems);
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

    /// A file, relative to the run file, or the name of a form.
    fn template(section: &Section<'_>, problems: &mut Problems) -> Option<PathBuf> {
        let text: String = section.value("chat_template", problems)?;
        let path = problems.ok(section.resolve("chat_template", &text))?;
        Some(if !path.exists() && is_form_name(Path::new(&text)) { text.into() } else { path })
    }

    /// Another model, loaded where and as this one is.
    pub(crate) fn beside(&self, spec: &str) -> Self {
        Self { spec: spec.to_owned(), chat_template: None, template_vars: Map::new(), think_end: None, ..self.clone() }
    }

    /// An error unless the model is one by its name, or is there.
    pub(crate) fn check_spec(spec: &str) -> Result<()> {
        if spec == builtin::NAME || hub_shaped(spec) {
            return Ok(());
        }
        let hint = "a model is a Hugging Face directory, a .gguf file, a hub name `org/name`, or `builtin`";
        exists(Path::new(spec)).map_err(|e| Error::request(e).hint(hint))
    }

    fn check(&self, at: &dyn Fn(&str) -> String, problems: &mut Problems) {
        let template = self.chat_template.as_deref().filter(|spec| !is_form_name(spec));
        if let Some(Err(e)) = template.map(exists) {
            problems.push(e.context(at("chat_template")));
        }
        if let Err(e) = Self::check_spec(&self.spec) {
            problems.push(e.context(at("model")));
        }
        if self.think_end.as_deref().is_some_and(|end| end.trim().is_empty()) {
            let error = wrong(&at("think_end"), "it is empty");
            problems.push(error.hint("write the text that ends a thought, as </think>, or none"));
        }
        if self.max_think_tokens == Some(0) {
            let error = wrong(&at("max_think_tokens"), "must be at least 1");
            problems.push(error.hint("a model stops thinking by its template: --template-var enable_thinking=false"));
        }
    }

    /// As the table `[model]` of a run file.
    pub(super) fn to_toml(&self) -> Result<toml::Table> {
        let mut table = table::table(self)?;
        if Path::new(&self.spec).exists() {
            table.insert("path".into(), path_value(Path::new(&self.spec))?);
        }
        let template = self.chat_template.as_deref().filter(|spec| !is_form_name(spec));
        absolute(&mut table, "chat_template", template)?;
        Ok(table)
    }

    /// As the manifest records it.
    pub(crate) fn to_json(&self) -> Result<serde_json::Value> {
        table::json(&self.to_toml()?)
    }

    /// As the manifest records one of which only tokenizer and chat template were read: how its weights would be held
    /// is no part of what was measured.
    pub(crate) fn text_to_json(&self) -> Result<serde_json::Value> {
        let mut table = self.to_toml()?;
        for key in ["device", "base_dtype", "compute"] {
            table.remove(key);
        }
        table::json(&table)
    }

    /// Loads it. `assets` is where the built-in model's files are, or are put.
    ///
    /// # Errors
    /// A device that is not there; files that are missing, damaged or of a model that is not supported.
    pub fn load(&self, assets: &Assets, watch: &mut dyn Watch) -> Result<Model> {
        watch.loading(Some(&self.spec));
        let model = self.read(assets);
        watch.loading(None);
        model
    }

    /// Reads all of it but the weights. `assets` as in [`Self::load`].
    ///
    /// # Errors
    /// Files that are missing, damaged or of a model that is not supported.
    pub fn text(&self, assets: &Assets) -> Result<Text> {
        let text = Self::text_of(&self.spec, self.chat_template.as_deref(), assets)?;
        Ok(Text { template: self.chatting(text.template, &text.tokenizer), ..text })
    }

    /// The same of a model of which nothing else is said.
    pub(crate) fn text_of(spec: &str, chat_template: Option<&Path>, assets: &Assets) -> Result<Text> {
        let spec = match spec {
            builtin::NAME => builtin::model_dir(&assets.dir()?).display().to_string(),
            spec => spec.to_owned(),
        };
        let (config, tokenizer, template) = eraser_model::load_text(&spec, chat_template)?;
        Ok(Text { tokenizer, template, positions: config.max_positions() })
    }

    /// Loads it without its tokenizer and chat template, to see what is wrong with the weights alone.
    pub(crate) fn load_network(&self, assets: &Assets) -> Result<Decoder> {
        let spec = match self.spec.as_str() {
            builtin::NAME => builtin::model_dir(&assets.dir()?).display().to_string(),
            spec => spec.to_owned(),
        };
        eraser_model::load_network(&spec, &self.options()?).map(|(_, decoder)| decoder)
    }

    /// The chat template among `files`, with what is said here of it.
    pub(crate) fn template_of(&self, files: &ModelFiles, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
        let template = files.template(self.chat_template.as_deref(), tokenizer)?;
        Ok(self.chatting(template, tokenizer))
    }

    fn options(&self) -> Result<LoadOptions> {
        Ok(LoadOptions {
            device: self.device.open()?,
            base_dtype: self.base_dtype,
            compute: self.compute,
            chat_template: self.chat_template.clone(),
        })
    }

    fn read(&self, assets: &Assets) -> Result<Model> {
        let options = self.options()?;
        if self.spec != builtin::NAME {
            return eraser_model::load(&self.spec, &options).map(|model| self.in_its_template(model));
        }
        let dir = builtin::model_dir(&assets.dir()?);
        let mut model = eraser_model::load(&dir.display().to_string(), &options)?;
        // Not the path it was unpacked to: an adapter says the same wherever it was made.
        builtin::NAME.clone_into(&mut model.name);
        Ok(self.in_its_template(model))
    }

    /// The model with what is said here of its template and its thoughts.
    fn in_its_template(&self, mut model: Model) -> Model {
        model.template = self.chatting(model.template.take(), &model.tokenizer);
        model
    }

    /// The template with what is said here of it and of the model's thoughts.
    fn chatting(&self, template: Option<ChatTemplate>, tokenizer: &Tokenizer) -> Option<ChatTemplate> {
        template.map(|mut template| {
            if !self.template_vars.is_empty() {
                template = template.with_variables(self.template_vars.clone());
            }
            if let Some(end) = &self.think_end {
                template = template.with_think_end(end, tokenizer);
            }
            match self.max_think_tokens {
                Some(_) if template.thinking().is_none() => {
                    let hint = "name what its thoughts end with: --think-end TEXT, or leave the number out";
                    tracing::warn!(
                        "{}: no mark of thoughts is known, so max_think_tokens changes nothing; {hint}",
                        self.spec
                    );
                    template
                }
                Some(most) => template.with_most_thought(most),
                None => template,
            }
        })
    }
}

/// What is written as it is typed.
fn of_text<'de, D: Deserializer<'de>, T: FromStr<Err = Error>>(deserializer: D) -> std::result::Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// The value of a text; its default where the text is wrong, which is noted.
fn parsed<T: FromStr<Err = Error> + Default>(text: &str, at: &str, problems: &mut Problems) -> T {
    problems.ok(text.parse().map_err(|e: Error| e.context(at))).unwrap_or_default()
}

/// Whether `spec` can only be the name of a chat template: one word, and no such file.
fn is_form_name(spec: &Path) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !spec.exists() && spec.to_str().is_some_and(|text| text.chars().all(word))
}

/// `org/name`, and no such path.
fn hub_shaped(spec: &str) -> bool {
    hub::is_name(spec) && !Path::new(spec).exists()
}

/// As [`hub_shaped`], of a path of a run file, which is relative to that file.
fn is_hub_name(section: &Section<'_>, spec: &str) -> bool {
    values::expand(spec).is_ok_and(|e| e == spec)
        && hub_shaped(spec)
        && section.resolve("path", spec).is_ok_and(|path| !path.exists())
}
