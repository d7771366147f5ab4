//! What to do next. In: what a verb has done; out: the command that goes on from there, on stderr. Invariant: it can be
//! pasted into a shell as it stands: a path is quoted where the shell would take it apart.

use crate::progress::note;
use eraser_model::{BaseDtype, Compute, DeviceName};
use eraser_run::plan::{ModelPlan, template_variable};
use std::borrow::Cow;
use std::path::Path;

/// A command of this program.
pub(crate) struct Command(String);

impl Command {
    /// `eraser VERB`.
    pub(crate) fn new(verb: &str) -> Self {
        Self(format!("eraser {verb}"))
    }

    /// The model and how it is held, as it was given.
    pub(crate) fn model(self, model: &ModelPlan) -> Self {
        let mut command = self.option("model", &model.spec);
        if model.device != DeviceName::default() {
            command = command.option("device", &model.device.to_string());
        }
        if model.base_dtype != BaseDtype::default() {
            command = command.option("base-dtype", &model.base_dtype.to_string());
        }
        if model.compute != Compute::default() {
            command = command.option("compute", &model.compute.to_string());
        }
        if let Some(template) = &model.chat_template {
            command = command.path("chat-template", template);
        }
        for (name, value) in &model.template_vars {
            command = command.option("template-var", &template_variable(name, value));
        }
        if let Some(end) = &model.think_end {
            command = command.option("think-end", end);
        }
        match model.max_think_tokens {
            Some(most) => command.option("max-think-tokens", &most.to_string()),
            None => command,
        }
    }

    /// An option with a value.
    pub(crate) fn option(self, name: &str, value: &str) -> Self {
        Self(format!("{} --{name} {}", self.0, quoted(value)))
    }

    /// An option with a path.
    pub(crate) fn path(self, name: &str, path: &Path) -> Self {
        self.option(name, &path.to_string_lossy())
    }

    /// An argument without an option.
    pub(crate) fn argument(self, path: &Path) -> Self {
        Self(format!("{} {}", self.0, quoted(&path.to_string_lossy())))
    }
}

/// Says what can be run next; nothing where the results are read by a program.
pub(crate) fn suggest(json: bool, commands: impl IntoIterator<Item = Command>) {
    if !json {
        commands.into_iter().for_each(|command| note(&format!("next: {}", command.0)));
    }
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "-_+=./:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_pasted() {
        let words =
            ["runs/a-b_1.gguf", "my model", "it's", "", "a.csv?where=label:x&take=0-9", "$HOME", "unseen=q.csv"];
        let pasted = words.map(quoted);
        assert_eq!(
            pasted,
            [
                "runs/a-b_1.gguf",
                "'my model'",
                r"'it'\''s'",
                "''",
                "'a.csv?where=label:x&take=0-9'",
                "'$HOME'",
                "unseen=q.csv"
            ]
        );
    }

    #[test]
    fn what_was_given_is_given_again() {
        let model = ModelPlan {
            spec: "my model".into(),
            device: DeviceName::Cpu,
            base_dtype: BaseDtype::default(),
            compute: Compute::Bf16,
            chat_template: Some("t.jinja".into()),
            template_vars: [("enable_thinking".to_owned(), false.into())].into_iter().collect(),
            think_end: Some("</t>".into()),
            max_think_tokens: Some(9),
        };
        let command = Command::new("eval").model(&model).path("out", Path::new("run"));
        assert_eq!(
            command.0,
            "eraser eval --model 'my model' --device cpu --compute bf16 --chat-template t.jinja \
             --template-var enable_thinking=false --think-end '</t>' --max-think-tokens 9 --out run"
        );
    }
}
