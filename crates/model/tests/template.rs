//! Chat templates against what transformers renders (`tests/fixtures/template.py` records it), and templates that must
//! be stopped.

#![allow(clippy::unwrap_used, clippy::panic)]

use eraser_model::gguf::GgufFile;
use eraser_model::{ChatTemplate, Message, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn recorded() -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join("template.json")).unwrap()).unwrap()
}

fn chats(recorded: &Value) -> Vec<Vec<Message>> {
    serde_json::from_value(recorded["chats"].clone()).unwrap()
}

fn compare(template: &ChatTemplate, chats: &[Vec<Message>], renders: &Value, name: &str) {
    for (i, chat) in chats.iter().enumerate() {
        for (j, prompt) in [false, true].into_iter().enumerate() {
            let expected = &renders[i][j];
            match (template.render(chat, prompt), expected["text"].as_str()) {
                (Ok(text), Some(expected)) => assert_eq!(text, expected, "{name}, chat {i}"),
                (Err(error), None) => {
                    let message = expected["error"].as_str().unwrap();
                    assert!(error.to_string().contains(message), "{name}, chat {i}: {error} / {message}");
                }
                (got, _) => panic!("{name}, chat {i}: {got:?} instead of {expected}"),
            }
        }
    }
}

#[test]
fn renders_equal_those_of_transformers() {
    let recorded = recorded();
    let chats = chats(&recorded);
    let token = |key: &str| recorded["tokens"][key].as_str();
    for (name, case) in recorded["templates"].as_object().unwrap() {
        let source = case["source"].as_str().unwrap();
        let template = ChatTemplate::new(name, source, token("bos_token"), token("eos_token")).unwrap();
        assert_eq!(template.source(), source);
        compare(&template, &chats, &case["renders"], name);
    }
}

fn render(source: &str) -> eraser_model::Result<String> {
    ChatTemplate::new("t", source, Some("<s>"), None)?.render(&[Message::user("hi")], true)
}

#[test]
fn an_exception_of_the_template_is_an_error_with_its_words() {
    let error = render("{{ raise_exception('only tools\nhere') }}").unwrap_err();
    assert_eq!(error.to_string(), "t: chat template: only tools here (line 1 of the template)");
}

#[test]
fn a_syntax_error_names_its_line() {
    let error = ChatTemplate::new("x.jinja", "a\n{% if %}", None, None).unwrap_err();
    assert!(
        error.to_string().starts_with("x.jinja: chat template: ") && error.to_string().contains("line 2"),
        "{error}"
    );
}

#[test]
fn templates_without_end_are_stopped() {
    for source in [
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}",
        "{{ 'x' * 100000000000 }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(500) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{% include 'chat_template' %}",
        "{% import 'chat_template' as t %}",
        "{{ range(100000000000) | list }}",
        "{{ '%1000000000d' % 3 }}",
        "{{ 'a'.replace('', 'b' * 100000) * 1000000 }}",
        "{{ 'x' | indent(1000000000000) }}{{ 'x'.center(100000000000) }}",
        "{{ 2 ** 100000 }}",
    ] {
        let start = std::time::Instant::now();
        assert!(render(source).is_err(), "{source}");
        assert!(start.elapsed().as_secs() < 10, "{source}");
    }
    let deep = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(render(&format!("{{{{ {deep} }}}}")).is_err());
}

#[test]
fn the_date_is_that_of_the_local_clock() {
    let text = render("{{ strftime_now('%Y-%m-%d %d %b %Y') }}").unwrap();
    assert!(text.starts_with("20") && text.len() == "2026-01-01 01 Jan 2026".len(), "{text}");
    assert!(render("{{ strftime_now('%') }}").is_err());
}

#[test]
fn generation_tags_render_nothing_and_keep_their_whitespace_control() {
    assert_eq!(render("a {%- generation -%} b {%- endgeneration -%} c").unwrap(), "abc");
    assert_eq!(render("{% generation %}\n  x\n{% endgeneration %}\ny").unwrap(), "  x\ny");
    assert_eq!(render("{{ 'generation' }}").unwrap(), "generation");
}

#[test]
fn sources_of_a_template_in_order() {
    let tokenizer =
        || Tokenizer::from_gguf(&GgufFile::open(&fixtures().join("tokenizer/smollm.gguf")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let load = || ChatTemplate::from_hf_dir(dir.path(), &tokenizer()).unwrap().map(|t| t.source().to_owned());
    assert_eq!(load(), None);
    let named = json!({"chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}]});
    std::fs::write(dir.path().join("tokenizer_config.json"), named.to_string()).unwrap();
    assert_eq!(load().as_deref(), Some("D"));
    std::fs::write(dir.path().join("chat_template.json"), json!({"chat_template": "J"}).to_string()).unwrap();
    assert_eq!(load().as_deref(), Some("J"));
    std::fs::write(dir.path().join("chat_template.jinja"), "{{ bos_token }}{{ eos_token }}").unwrap();
    assert_eq!(load().as_deref(), Some("{{ bos_token }}{{ eos_token }}"));
    let template = ChatTemplate::from_file(&dir.path().join("chat_template.jinja"), &tokenizer()).unwrap();
    assert_eq!(template.render(&[], false).unwrap(), "<|im_start|><|im_end|>");
    assert!(ChatTemplate::from_file(&dir.path().join("none"), &tokenizer()).is_err());
    let file = GgufFile::open(&fixtures().join("tokenizer/smollm.gguf")).unwrap();
    assert!(ChatTemplate::from_gguf(&file, &tokenizer()).unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_templates_never_panic(
        case in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        remove in 0usize..12,
        insert in prop_oneof![
            Just("{%"), Just("%}"), Just("{{"), Just("}}"), Just("-"), Just("{% generation %}"), Just("{#"), Just("["), Just("'"),
            Just("é🙂"), Just(" * 99999999"), Just("|tojson"), Just("|list"), Just(".x"), Just("[::-1]"), Just("{% for i in range(9999) %}"),
        ],
    ) {
        let recorded = recorded();
        let templates: Vec<&str> =
            recorded["templates"].as_object().unwrap().values().filter_map(|t| t["source"].as_str()).collect();
        let chars: Vec<char> = templates[case.index(templates.len())].chars().collect();
        let at = at.index(chars.len());
        let source: String = chars[..at].iter().collect::<String>() + insert + &chars[(at + remove).min(chars.len())..].iter().collect::<String>();
        if let Ok(template) = ChatTemplate::new("t", &source, Some("<s>"), Some("</s>")) {
            for chat in chats(&recorded) {
                let _ = template.render(&chat, true);
            }
        }
    }

    #[test]
    fn any_text_is_no_panic(source in any::<String>()) {
        let _ = render(&source);
    }
}

/// SmolLM2's real template: runs where `ERASER_MODELS` names a directory with smollm2-hf and smollm2.gguf.
#[test]
fn smollm2_renders_as_in_transformers() {
    let Some(models) = std::env::var_os("ERASER_MODELS").map(PathBuf::from) else {
        eprintln!("skipped: ERASER_MODELS is not set");
        return;
    };
    let recorded = recorded();
    let (dir, path) = (models.join("smollm2-hf"), models.join("smollm2.gguf"));
    let hf = ChatTemplate::from_hf_dir(&dir, &Tokenizer::from_hf_dir(&dir).unwrap()).unwrap().unwrap();
    let file = GgufFile::open(&path).unwrap();
    let gguf = ChatTemplate::from_gguf(&file, &Tokenizer::from_gguf(&file).unwrap()).unwrap().unwrap();
    for template in [hf, gguf] {
        compare(&template, &chats(&recorded), &recorded["smollm2"], "smollm2");
    }
}
