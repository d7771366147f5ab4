//! Template files. In: text of a known format; out: named templates whose placeholders were found.
//! Invariant: filling a template inserts the question unchanged; a placeholder inside the question is not filled.

use eraser_data::check_quotes;
use eraser_model::{Error, Jinja, Result};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// Format of a template file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Toml,
    Json,
    Jsonl,
    Csv,
    Text,
}

impl Format {
    /// The endings that are recognised.
    pub(super) const EXTENSIONS: [&str; 10] =
        ["yaml", "yml", "toml", "json", "jsonl", "csv", "txt", "jinja", "jinja2", "j2"];

    /// The format of a file by its ending.
    pub(super) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "yaml" | "yml" => Some(Self::Yaml),
            "toml" => Some(Self::Toml),
            "json" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "txt" | "jinja" | "jinja2" | "j2" => Some(Self::Text),
            _ => None,
        }
    }
}

/// One template: at least two texts; the question goes between each text and the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Name in files and figures.
    pub name: String,
    texts: Vec<String>,
}

impl Template {
    /// Finds the placeholders of `source`: `{{ prompt }}` with any or no space inside, `{prompt}`, `[INSERT PROMPT
    /// HERE]`. Line breaks at the end are dropped, because Jinja and YAML's folding can leave them. A source with more
    /// of Jinja in it is rendered.
    fn new(name: String, source: &str) -> Result<Self> {
        if is_jinja(source) {
            return Self::rendered(name, source);
        }
        let mut texts = Vec::new();
        let mut text = String::new();
        let mut forms: Vec<&str> = Vec::new();
        let mut rest = source.trim_end_matches(['\n', '\r']);
        while let Some(c) = rest.chars().next() {
            if let Some((length, form)) = placeholder(rest) {
                forms.push(form);
                texts.push(std::mem::take(&mut text));
                rest = &rest[length..];
            } else {
                text.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        texts.push(text);
        if let Some(other) = forms.iter().find(|form| **form != forms[0]) {
            return Err(two_forms(&name, forms[0], other));
        }
        if texts.len() < 2 {
            return Err(Error::request(format!("the template `{name}` has no place for the question"))
                .hint("put `{{ prompt }}`, `{prompt}` or `[INSERT PROMPT HERE]` where the question goes"));
        }
        Ok(Self { name, texts })
    }

    /// The texts around the question in what Jinja makes of `source`, as `PyRIT` renders it.
    fn rendered(name: String, source: &str) -> Result<Self> {
        let jinja = Jinja::untrimmed(&name, "template", source)
            .map_err(|e| e.hint("the question goes where `{{ prompt }}` is"))?;
        if let Some(other) = jinja.variables().into_iter().find(|variable| variable != "prompt") {
            return Err(Error::request(format!("the template `{name}` needs a value for `{other}`"))
                .hint("only the question is filled in, as `{{ prompt }}`: write the other values into the template"));
        }
        // Two questions that a filter would change in different ways.
        let around = |question: &str| -> Result<Vec<String>> {
            let text = jinja.render(&serde_json::json!({ "prompt": question }))?;
            let text = text.trim_end_matches(['\n', '\r']);
            Ok(text.split(question).map(str::to_owned).collect())
        };
        let (texts, others) =
            (around("\u{e000}Why <b> so?\u{e001}")?, around("\u{e000} a\n  Longer Question\u{e001}")?);
        if texts != others || (texts.len() < 2 && texts.concat().contains('\u{e000}')) {
            return Err(Error::request(format!("the template `{name}` changes the question or depends on it"))
                .hint("a template must hold the question unchanged: write `{{ prompt }}`"));
        }
        if texts.len() < 2 {
            return Err(Error::request(format!("the template `{name}` has no place for the question"))
                .hint("put `{{ prompt }}` where the question goes"));
        }
        let verbatim = source.contains("raw");
        if let Some(other) = PLAIN.into_iter().find(|form| !verbatim && texts.iter().any(|text| text.contains(form))) {
            return Err(two_forms(&name, JINJA, other));
        }
        Ok(Self { name, texts })
    }

    /// The template with `question` at every placeholder.
    pub fn fill(&self, question: &str) -> String {
        self.texts.join(question)
    }
}

/// Whether a source has more of Jinja in it than `{{ prompt }}`.
fn is_jinja(source: &str) -> bool {
    let other = |(at, _): (usize, &str)| {
        let inside = source[at + 2..].trim_start_matches(['-', '+']).trim_start();
        let expression = inside.starts_with(|c: char| c.is_alphabetic() || matches!(c, '_' | '\'' | '"'));
        expression && placeholder(&source[at..]).is_none()
    };
    ["{%", "{#"].iter().any(|tag| source.contains(tag)) || source.match_indices("{{").any(other)
}

/// The place of the question as Jinja has it, for messages.
const JINJA: &str = "{{ prompt }}";

/// The other forms of the place of the question.
const PLAIN: [&str; 2] = ["{prompt}", "[INSERT PROMPT HERE]"];

/// Length in bytes of the placeholder that `text` begins with, and its form.
fn placeholder(text: &str) -> Option<(usize, &'static str)> {
    if let Some(inner) = text.strip_prefix("{{") {
        let after = inner.trim_start().strip_prefix("prompt")?.trim_start().strip_prefix("}}")?;
        return Some((text.len() - after.len(), JINJA));
    }
    PLAIN.into_iter().find(|form| text.starts_with(form)).map(|form| (form.len(), form))
}

/// `PyRIT` leaves `{prompt}` as it is where `{{ prompt }}` is the place; other tools fill both.
fn two_forms(name: &str, one: &str, other: &str) -> Error {
    let (one, other) = if other == JINJA { (other, one) } else { (one, other) };
    Error::request(format!("the template `{name}` holds both `{one}` and `{other}`: which is the place is not clear"))
        .hint(format!("write every place as `{{{{ prompt }}}}`, and what is text as {{% raw %}}{other}{{% endraw %}}"))
}

/// The templates in `text`. One template without a name of its own is called `stem`; several `stem-1`, `stem-2`, ..
pub(super) fn parse(text: &str, format: Format, stem: &str) -> Result<Vec<Template>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let sources = match format {
        Format::Yaml => yaml(text)?,
        Format::Toml => toml(text)?,
        Format::Json => json(text)?,
        Format::Jsonl => jsonl(text)?,
        Format::Csv => csv(text)?,
        Format::Text => plain(text)?,
    };
    if sources.is_empty() {
        return Err(Error::request("no template in this file"));
    }
    let single = sources.len() == 1;
    let name = |index: usize| if single { stem.to_owned() } else { format!("{stem}-{}", index + 1) };
    let named = |(index, (own, source)): (usize, (Option<String>, String))| {
        let own = own.map(|own| own.trim().to_owned()).filter(|own| !own.is_empty());
        Template::new(own.unwrap_or_else(|| name(index)), &source)
    };
    sources.into_iter().enumerate().map(named).collect()
}

/// Name, if the file gives one, and source of a template.
type Source = (Option<String>, String);

/// The keys of a YAML template that are looked at.
#[derive(Deserialize)]
struct Document {
    value: Option<String>,
    template: Option<String>,
    system: Option<String>,
    system_prompt: Option<String>,
    data_type: Option<String>,
    name: Option<Value>,
    parameters: Option<Value>,
    description: Option<Value>,
}

impl Document {
    fn source(self) -> Result<Option<String>> {
        source(|key| match key {
            "value" => self.value.clone(),
            "template" => self.template.clone(),
            "system" => self.system.clone(),
            "system_prompt" => self.system_prompt.clone(),
            "data_type" => self.data_type.clone(),
            _ => None,
        })
    }
}

/// The template of a mapping, whose texts `text` gives by key.
///
/// # Errors
/// It has two, or more to it than a text for the user's turn.
fn source(text: impl Fn(&str) -> Option<String>) -> Result<Option<String>> {
    let found = match (text("value"), text("template")) {
        (Some(_), Some(_)) => return Err(Error::request("there is a template under both `value` and `template`")),
        (value, template) => value.or(template),
    };
    let Some(found) = found else { return Ok(None) };
    for key in ["system", "system_prompt"] {
        if text(key).is_some_and(|text| !text.trim().is_empty()) {
            return Err(Error::request(format!("there is a `{key}` beside the template, which has no place for it"))
                .hint("a template is the text of the user's turn"));
        }
    }
    match text("data_type").filter(|kind| kind != "text") {
        Some(kind) => Err(Error::request(format!("`data_type` is {kind}: only templates of text are read"))),
        None => Ok(Some(found)),
    }
}

/// A YAML mapping with `value` (as `PyRIT`) or `template`; its other keys describe it. The file's name is its name.
fn yaml(text: &str) -> Result<Vec<Source>> {
    let document: Document = serde_saphyr::from_str(text).map_err(|e| {
        Error::request(format!("not a YAML template: {e}")).hint("write a mapping with the template under `value`")
    })?;
    Ok(vec![(None, document.source()?.ok_or_else(|| no_template("value"))?)])
}

/// A TOML table with `value` or `template`, or else `name = template`, at the top or one level down; by name.
fn toml(text: &str) -> Result<Vec<Source>> {
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| Error::request(format!("not TOML: {}", e.message())))?;
    let of = |key: &str| table.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    if let Some(found) = source(of)? {
        let places = |text: &str| text.char_indices().any(|(at, _)| placeholder(&text[at..]).is_some());
        let another = |(key, value): &(&String, &toml::Value)| {
            !["value", "template"].contains(&key.as_str()) && value.as_str().is_some_and(places)
        };
        if let Some((key, _)) = table.iter().find(another) {
            return Err(Error::request(format!("there is a template under `{key}` too"))
                .hint("several templates are a table of `name = \"template\"`"));
        }
        return Ok(vec![(None, found)]);
    }
    let mut sources = Vec::new();
    for (key, value) in &table {
        match value {
            toml::Value::String(source) => sources.push((Some(key.clone()), source.clone())),
            toml::Value::Table(inner) => {
                for (name, value) in inner {
                    let source = value.as_str().ok_or_else(|| not_text(&format!("{key}.{name}")))?;
                    sources.push((Some(name.clone()), source.to_owned()));
                }
            }
            _ => return Err(not_text(key)),
        }
    }
    Ok(sources)
}

/// A text that is one template, and no list of templates.
fn plain(text: &str) -> Result<Vec<Source>> {
    let is_json =
        |text: &str| serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object() || value.is_array());
    if is_json(text) || text.lines().find(|line| !line.trim().is_empty()).is_some_and(is_json) {
        return Err(Error::request("the file holds JSON")
            .hint("give it a name that ends in .json (one list) or .jsonl (one row per line)"));
    }
    let other = |what: &str, ending: &str| {
        Err(Error::request(format!("the file holds {what}")).hint(format!("give it a name that ends in {ending}")))
    };
    let described = |d: &Document| d.name.is_some() || d.parameters.is_some() || d.description.is_some();
    if serde_saphyr::from_str::<Document>(text)
        .is_ok_and(|d| described(&d) && (d.value.is_some() || d.template.is_some()))
    {
        return other("a YAML template", ".yaml");
    }
    if text.parse::<toml::Table>().is_ok_and(|table| !table.is_empty()) {
        return other("a TOML table", ".toml");
    }
    let header: Vec<&str> = text.lines().next().unwrap_or_default().split(',').map(str::trim).collect();
    if header.iter().any(|name| is_column(name)) && header.iter().any(|name| name.eq_ignore_ascii_case("name")) {
        return other("CSV", ".csv");
    }
    Ok(vec![(None, text.to_owned())])
}

/// The names of the columns of CSV that may hold templates.
const COLUMNS: [&str; 3] = ["template", "prompt", "text"];

fn is_column(name: &str) -> bool {
    COLUMNS.iter().any(|column| name.eq_ignore_ascii_case(column))
}

/// One template per line: strings, or objects as in a JSON list.
fn jsonl(text: &str) -> Result<Vec<Source>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let source = |(i, line): (usize, &str)| {
        let value = serde_json::from_str(line).map_err(|e| Error::request(format!("line {}: not JSON: {e}", i + 1)))?;
        row(value).map_err(|e| e.context(format!("line {}", i + 1)))
    };
    lines.map(source).collect()
}

/// A row: a string, or an object with `template` or `value`, and `name` if it has one.
fn row(value: Value) -> Result<Source> {
    match value {
        Value::String(source) => Ok((None, source)),
        Value::Object(object) => {
            let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
            let source = source(text)?.ok_or_else(|| no_template("template"))?;
            Ok((text("name"), source))
        }
        _ => Err(no_template("template")),
    }
}

/// A JSON list of templates: strings, or objects with `template` or `value`, and `name` if they have one.
fn json(text: &str) -> Result<Vec<Source>> {
    let list: Vec<Value> = serde_json::from_str(text).map_err(|e| {
        Error::request(format!("not a JSON list: {e}")).hint("a list of strings or of {\"name\", \"template\"} objects")
    })?;
    list.into_iter()
        .enumerate()
        .map(|(i, value)| row(value).map_err(|e| e.context(format!("item {}", i + 1))))
        .collect()
}

/// CSV with a header: the column `template`, `prompt` or `text`, and `name` if there is one.
fn csv(text: &str) -> Result<Vec<Source>> {
    check_quotes(text, b',')?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let wrong = |e: csv::Error| Error::request(format!("not CSV: {e}"));
    let header = reader.headers().map_err(wrong)?.clone();
    let column = |name: &str| header.iter().position(|h| h.trim().eq_ignore_ascii_case(name));
    let source = COLUMNS.into_iter().find_map(column).ok_or_else(|| {
        Error::request("no column `template`, `prompt` or `text`").hint("the first line names the columns")
    })?;
    let name = column("name");
    let cell = |row: &csv::StringRecord, index: usize| row.get(index).unwrap_or_default().to_owned();
    let row = |row: csv::Result<csv::StringRecord>| {
        let row = row.map_err(wrong)?;
        Ok((name.map(|name| cell(&row, name)), cell(&row, source)))
    };
    reader.records().map(row).collect()
}

fn no_template(key: &str) -> Error {
    Error::request(format!("no text under `{key}`")).hint(format!("put the template under `{key}`"))
}

fn not_text(key: &str) -> Error {
    Error::request(format!("`{key}` is not a text")).hint("`value = \"..\"`, or a table of `name = \"template\"`")
}

#[cfg(test)]
mod tests;
