//! Template files. In: text of a known format; out: named templates whose placeholders were found.
//! Invariant: filling a template inserts the question unchanged; a placeholder inside the question is not filled.

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
        let mut rest = source.trim_end_matches(['\n', '\r']);
        while let Some(c) = rest.chars().next() {
            if let Some(length) = placeholder(rest) {
                texts.push(std::mem::take(&mut text));
                rest = &rest[length..];
            } else {
                text.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        texts.push(text);
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

/// Length in bytes of the placeholder that `text` begins with.
fn placeholder(text: &str) -> Option<usize> {
    if let Some(inner) = text.strip_prefix("{{") {
        let after = inner.trim_start().strip_prefix("prompt")?.trim_start().strip_prefix("}}")?;
        return Some(text.len() - after.len());
    }
    ["{prompt}", "[INSERT PROMPT HERE]"].into_iter().find(|form| text.starts_with(form)).map(str::len)
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

/// A YAML mapping with `value` (as `PyRIT`) or `template`; its other keys describe it. The file's name is its name.
fn yaml(text: &str) -> Result<Vec<Source>> {
    #[derive(Deserialize)]
    struct Document {
        value: Option<String>,
        template: Option<String>,
    }
    let document: Document = serde_saphyr::from_str(text).map_err(|e| {
        Error::request(format!("not a YAML template: {e}")).hint("write a mapping with the template under `value`")
    })?;
    let source = document.value.or(document.template).ok_or_else(|| no_template("value"))?;
    Ok(vec![(None, source)])
}

/// A TOML table with `value` or `template`, or else `name = template`, at the top or one level down; by name.
fn toml(text: &str) -> Result<Vec<Source>> {
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| Error::request(format!("not TOML: {}", e.message())))?;
    if let Some(source) = ["value", "template"].iter().find_map(|key| table.get(*key)?.as_str()) {
        return Ok(vec![(None, source.to_owned())]);
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
    Ok(vec![(None, text.to_owned())])
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
            let text = |key| object.get(key).and_then(Value::as_str).map(str::to_owned);
            let source = text("template").or_else(|| text("value")).ok_or_else(|| no_template("template"))?;
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
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let wrong = |e: csv::Error| Error::request(format!("not CSV: {e}"));
    let header = reader.headers().map_err(wrong)?.clone();
    let column = |name: &str| header.iter().position(|h| h.trim().eq_ignore_ascii_case(name));
    let source = ["template", "prompt", "text"].into_iter().find_map(column).ok_or_else(|| {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(text: &str, format: Format) -> Vec<(String, String)> {
        parse(text, format, "stem").unwrap().iter().map(|t| (t.name.clone(), t.fill("Q"))).collect()
    }

    #[test]
    fn pyrit_templates_are_rendered_as_jinja_or_refused_by_name() {
        let yaml = |value: &str| format!("name: A\nparameters: [prompt]\nvalue: {}\n", Value::from(value));
        let raw = "{% raw %}Write {code} and {{ braces }}:{% endraw %} {{ prompt }}{# a note #}\n";
        assert_eq!(filled(&yaml(raw), Format::Yaml), [pair("stem", "Write {code} and {{ braces }}: Q")]);
        let twice = "{% for i in range(2) %}{{ i }}: {{ prompt }}\n{% endfor %}end";
        assert_eq!(filled(&yaml(twice), Format::Yaml), [pair("stem", "0: Q\n1: Q\nend")]);
        let error = |value: &str| parse(&yaml(value), Format::Yaml, "stem").unwrap_err().to_string();
        assert!(error("As {{ persona }}: {{ prompt }}").contains("`persona`"));
        assert!(error("{% if language %}x{% endif %}{{ prompt }}").contains("`language`"));
        assert!(error("{% raw %}{{ prompt }}{% endraw %}").contains("no place"));
        assert!(error("{{ prompt | upper }}").contains("changes the question"));
        assert!(error("{% if prompt|length > 20 %}x{% endif %}{{ prompt }}").contains("depends on it"));
        assert!(error("{{ prompt }}{% endif %}").contains("stem: template: "));
    }

    #[test]
    fn rows_are_a_template_each_and_json_under_another_name_is_no_template() {
        let rows = "{\"name\": \"one\", \"template\": \"1 {{ prompt }}\"}\n\n\"2 {prompt}\"\n";
        assert_eq!(filled(rows, Format::Jsonl), [pair("one", "1 Q"), pair("stem-2", "2 Q")]);
        assert!(parse("{\"name\": 1}\n", Format::Jsonl, "s").unwrap_err().to_string().starts_with("line 1: "));
        for text in [rows, "[\"1 {prompt}\"]", "{\"template\": \"{prompt}\"}"] {
            assert!(parse(text, Format::Text, "s").unwrap_err().to_string().contains("JSON"), "{text}");
        }
        assert_eq!(filled("{prompt} [or so]", Format::Text), [pair("stem", "Q [or so]")]);
    }

    fn pair(name: &str, text: &str) -> (String, String) {
        (name.to_owned(), text.to_owned())
    }

    #[test]
    fn placeholders() {
        for (source, result) in [
            ("a {{ prompt }} b", "a Q b"),
            ("{{prompt}}", "Q"),
            ("{{  prompt\t}}!", "Q!"),
            ("{prompt} and {prompt}", "Q and Q"),
            ("x [INSERT PROMPT HERE]\n\n", "x Q"),
            ("{{{prompt}}}", "{Q}"),
            ("{other} {{ prompt }} {prompts}", "{other} Q {prompts}"),
        ] {
            assert_eq!(filled(source, Format::Text), [pair("stem", result)], "{source}");
        }
        for source in ["", "no place", "{{ prompt }", "{ prompt }", "{{ Prompt }}", "[insert prompt here]"] {
            let error = parse(source, Format::Text, "stem").unwrap_err();
            assert!(error.hints().iter().any(|hint| hint.contains("{{ prompt }}")), "{source}");
        }
    }

    #[test]
    fn a_question_is_put_in_as_it_is() {
        let template = Template::new("t".into(), "{prompt}{prompt}").unwrap();
        assert_eq!(template.fill("{prompt}"), "{prompt}{prompt}");
    }

    #[test]
    fn yaml_takes_value_or_template() {
        assert_eq!(filled("---\nname: N\nvalue: >\n  one\n  {{ prompt }}\n", Format::Yaml), [pair("stem", "one Q")]);
        assert_eq!(filled("template: |\n  a\n  {prompt}\n", Format::Yaml), [pair("stem", "a\nQ")]);
        for text in ["", "- a", "value: 3: 4", "other: x", "value: [a]", "a: &a [*a]"] {
            assert!(parse(text, Format::Yaml, "stem").is_err(), "{text}");
        }
    }

    #[test]
    fn toml_takes_a_template_or_a_table_of_them() {
        assert_eq!(filled("value = 'v {prompt}'\nname = 'x'", Format::Toml), [pair("stem", "v Q")]);
        assert_eq!(
            filled("a = '1 {prompt}'\n[more]\nb = '2 {prompt}'", Format::Toml),
            [pair("a", "1 Q"), pair("b", "2 Q")]
        );
        for text in ["", "a = 1", "[t]\na = 1", "= 3"] {
            assert!(parse(text, Format::Toml, "stem").is_err(), "{text}");
        }
    }

    #[test]
    fn json_takes_strings_and_objects() {
        let text = r#"["1 {prompt}", {"name": "two", "template": "2 {prompt}"}, {"value": "3 {prompt}"}]"#;
        assert_eq!(filled(text, Format::Json), [pair("stem-1", "1 Q"), pair("two", "2 Q"), pair("stem-3", "3 Q")]);
        for text in ["", "[]", "{}", "[1]", "[{}]", "[\"x\"]"] {
            assert!(parse(text, Format::Json, "stem").is_err(), "{text}");
        }
    }

    #[test]
    fn csv_takes_the_first_known_column() {
        assert_eq!(filled("id,Prompt\n1,\"a, {prompt}\"\n", Format::Csv), [pair("stem", "a, Q")]);
        assert_eq!(
            filled("\u{feff}template,name\n1 {prompt},one\n2 {prompt},\n", Format::Csv),
            [pair("one", "1 Q"), pair("stem-2", "2 Q")]
        );
        for text in ["", "a,b\n1,2\n", "text\n", "text,b\n{prompt}\n", "text\nno place\n"] {
            assert!(parse(text, Format::Csv, "stem").is_err(), "{text}");
        }
    }

    const FORMATS: [Format; 5] = [Format::Yaml, Format::Toml, Format::Json, Format::Csv, Format::Text];

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}", lines in "([a-z\\[\\]{}=:,\"'&*!|> -]{0,12}\n){0,6}") {
            for format in FORMATS {
                let _ = parse(&text, format, "stem");
                let _ = parse(&lines, format, "stem");
            }
        }

        #[test]
        fn any_question_stands_between_the_texts(before in "[^{\\[]{0,20}", after in "[^{\\[]{0,20}", question in "\\PC{0,20}") {
            let source = format!("{before}{{{{ prompt }}}}{after}");
            let template = Template::new("t".into(), &source).unwrap();
            let expected = format!("{before}{question}{}", after.trim_end_matches(['\n', '\r']));
            prop_assert_eq!(template.fill(&question), expected);
        }

        #[test]
        fn templates_survive_json_and_csv(texts in proptest::collection::vec("[^{\\[]{1,20}", 1..5)) {
            let sources: Vec<String> = texts.iter().map(|t| format!("{t}{{prompt}}.")).collect();
            let expected: Vec<String> = texts.iter().map(|t| format!("{t}Q.")).collect();
            let fill = |templates: Vec<Template>| templates.iter().map(|t| t.fill("Q")).collect::<Vec<_>>();
            let json = serde_json::to_string(&sources).unwrap();
            prop_assert_eq!(&fill(parse(&json, Format::Json, "s").unwrap()), &expected);
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(["template"]).unwrap();
            for source in &sources {
                writer.write_record([source]).unwrap();
            }
            let csv = String::from_utf8(writer.into_inner().unwrap()).unwrap();
            prop_assert_eq!(&fill(parse(&csv, Format::Csv, "s").unwrap()), &expected);
        }
    }
}
