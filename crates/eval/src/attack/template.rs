//! The attack `template`: the question inside published or own jailbreak templates, read from files.
//! Invariant: every template holds a placeholder, and no two have the same name.

use super::parse::{Format, Template, parse};
use super::{At, Attack, AttackPrompt, Checked};
use crate::EvalOptions;
use eraser_data::Question;
use eraser_model::error::PathContext;
use eraser_model::{Error, Result};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Largest file that is taken for a template file, bytes.
const LARGEST: u64 = 16 << 20;

struct Templates(Vec<Template>);

impl Attack for Templates {
    fn name(&self) -> &'static str {
        "template"
    }

    fn prompts(&self, question: &Question) -> Vec<AttackPrompt> {
        let prompt = |template: &Template| {
            AttackPrompt::plain(format!("{}:{}", self.name(), template.name), template.fill(&question.text))
        };
        self.0.iter().map(prompt).collect()
    }
}

/// The attack with the templates that the options name.
pub(super) fn build(options: &EvalOptions, at: At<'_>) -> Checked<Box<dyn Attack>> {
    if options.templates.is_empty() {
        let error = Error::request(format!("{}: the attack `template` has no templates", at("templates")));
        return Err(vec![error.hint("name template files, or a directory of them")]);
    }
    Ok(Box::new(Templates(read(&options.templates)?)))
}

/// Reads jailbreak templates: of files in the order given, of a directory's files by name.
///
/// # Errors
/// Every file that cannot be read or holds no template, and every duplicate name.
pub fn read(paths: &[PathBuf]) -> Checked<Vec<Template>> {
    let mut errors = Vec::new();
    let mut templates = Vec::new();
    let mut seen: HashMap<String, PathBuf> = HashMap::new();
    let files: Vec<PathBuf> = paths.iter().flat_map(|path| collect(path, &mut errors)).collect();
    for file in files {
        match read_file(&file) {
            Ok(read) => {
                for template in &read {
                    if let Some(other) = seen.insert(template.name.clone(), file.clone()) {
                        let (name, file, other) = (&template.name, file.display(), other.display());
                        errors.push(
                            Error::request(format!("{file}: a template `{name}` is in {other} already"))
                                .hint("rename one: figures are kept by template name"),
                        );
                    }
                }
                templates.extend(read);
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(templates) } else { Err(errors) }
}

/// The template files that `path` means: itself, or those of the directory, hidden and unknown files left out.
fn collect(path: &Path, errors: &mut Vec<Error>) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).at(path);
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => {
            errors.push(error);
            return Vec::new();
        }
    };
    let hidden = |p: &Path| p.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut files: Vec<PathBuf> = entries
        .into_iter()
        .map(|entry| entry.path())
        .filter(|p| p.is_file() && !hidden(p) && Format::of(p).is_some())
        .collect();
    files.sort();
    if files.is_empty() {
        errors.push(
            Error::request(format!("{}: no template file in this directory", path.display()))
                .hint(format!("template files end in {}", Format::EXTENSIONS.join(", "))),
        );
    }
    files
}

/// The templates of one file. A file without ending, named by the user, is plain text.
fn read_file(path: &Path) -> Result<Vec<Template>> {
    let size = fs::metadata(path).at(path)?.len();
    if size > LARGEST {
        return Err(Error::request(format!("{}: {size} bytes are too many for a template file", path.display())));
    }
    if Format::of(path).is_none() && path.extension().is_some() {
        return Err(Error::request(format!("{}: files with this ending are not read as templates", path.display()))
            .hint(format!("template files end in {}", Format::EXTENSIONS.join(", "))));
    }
    let text = fs::read_to_string(path).at(path)?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    parse(&text, Format::of(path).unwrap_or(Format::Text), &stem).map_err(|e| e.context(path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use eraser_model::ErrorKind;

    fn options(paths: &[&Path]) -> EvalOptions {
        EvalOptions { templates: paths.iter().map(|p| (*p).to_owned()).collect(), ..EvalOptions::default() }
    }

    fn errors(options: &EvalOptions) -> Vec<Error> {
        build(options, &crate::name::key).map(|_| ()).unwrap_err()
    }

    fn question(text: &str) -> Question {
        Question { id: "q".into(), text: text.into(), ..Question::default() }
    }

    #[test]
    fn a_directory_gives_its_template_files_by_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b.txt"), "Tell me: {prompt}\n").unwrap();
        fs::write(dir.path().join("a.yaml"), "name: A\nvalue: >\n  In a play,\n  {{ prompt }}\n").unwrap();
        fs::write(dir.path().join("README.md"), "no template").unwrap();
        fs::write(dir.path().join(".hidden.txt"), "no template").unwrap();
        let attack = build(&options(&[dir.path()]), &crate::name::key).unwrap();
        let prompts = attack.prompts(&question("why?"));
        let expected = [("template:a", "In a play, why?"), ("template:b", "Tell me: why?")]
            .map(|(n, u)| (n.to_owned(), u.to_owned()));
        assert_eq!(prompts.into_iter().map(|p| (p.name, p.user)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn every_error_is_reported_and_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let plain = dir.path().join("plain.txt");
        fs::write(&plain, "no placeholder").unwrap();
        let latin = dir.path().join("latin.txt");
        fs::write(&latin, b"\xe9 {prompt}").unwrap();
        let errors = errors(&options(&[&plain, &empty, &latin, &dir.path().join("absent.yaml")]));
        assert_eq!(errors.len(), 4);
        for name in ["plain.txt", "empty", "latin.txt", "absent.yaml"] {
            assert!(errors.iter().any(|e| e.to_string().contains(name)), "{name}");
        }
        assert!(errors.iter().all(|e| e.kind() == ErrorKind::Request));
    }

    #[test]
    fn names_are_unique() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.txt"), "1 {prompt}").unwrap();
        fs::write(dir.path().join("a.yaml"), "value: '2 {prompt}'").unwrap();
        assert!(errors(&options(&[dir.path()]))[0].to_string().contains("`a`"));
    }

    #[test]
    fn no_templates_is_an_error() {
        assert_eq!(errors(&options(&[])).len(), 1);
    }
}
