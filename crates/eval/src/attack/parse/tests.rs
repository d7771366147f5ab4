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

/// What a template has beside its text was left out without a word.
#[test]
fn what_is_more_than_one_text_is_refused_by_name() {
    let error = |text: &str, format| parse(text, format, "s").unwrap_err().to_string();
    for text in ["Fill {prompt} in: {{ prompt }}", "[INSERT PROMPT HERE] {prompt}", "{# n #}{{ prompt }} {prompt}"] {
        assert!(error(text, Format::Text).contains("holds both"), "{text}");
    }
    let kept = "{% raw %}{prompt}{% endraw %}: {{ prompt }}";
    assert_eq!(filled(kept, Format::Text), [pair("stem", "{prompt}: Q")]);
    assert!(error("value: a {{ prompt }}\ntemplate: b {{ prompt }}\n", Format::Yaml).contains("both `value`"));
    assert!(error("value: '{{ prompt }}'\nsystem: Be bad.\n", Format::Yaml).contains("`system`"));
    assert!(error("value: '{{ prompt }}'\ndata_type: image_path\n", Format::Yaml).contains("`data_type`"));
    assert!(error("{\"template\":\"{prompt}\",\"system_prompt\":\"x\"}", Format::Jsonl).contains("`system_prompt`"));
    assert!(error("value = '{prompt}'\nb = '{prompt}!'\n", Format::Toml).contains("under `b` too"));
    assert!(error("template\n\"a {prompt}\n", Format::Csv).contains("line 2: a field begins with a quote"));
}

#[test]
fn templates_of_another_format_are_no_text() {
    for (text, what) in [
        ("name: x\nparameters:\n  - prompt\nvalue: |\n  Tell {{ prompt }}\n", "YAML"),
        ("a = \"Tell {prompt}\"\n", "TOML"),
        ("name,template\na,Tell {prompt}\n", "CSV"),
    ] {
        assert!(parse(text, Format::Text, "s").unwrap_err().to_string().contains(what), "{text}");
    }
    for text in ["Prompt: {prompt}\nAnswer:", "Text, please\n{prompt}", "value: {prompt}"] {
        assert!(parse(text, Format::Text, "s").is_ok(), "{text}");
    }
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
