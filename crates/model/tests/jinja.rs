//! Jinja against what Jinja2 makes of the same templates under transformers' settings (`tests/fixtures/jinja.py`
//! records it): equal, or refused for a reason that docs/templates.md names.

#![allow(clippy::unwrap_used, clippy::panic)]

use eraser_model::Jinja;
use serde_json::Value;
use std::path::Path;

/// Why a template is refused that Jinja2 renders.
const REASONS: [&str; 18] = [
    "is not supported",
    "not available in a template",
    "names of Python's own",
    "has no text of its own",
    "a string is expected, not",
    "a power is no real number",
    "unable to calculate",
    "format spec",
    "`self` is supported only",
    "lipsum is unknown",
    "expected end of block",
    "reserved variable name loop",
    "too many arguments",
    "an undefined value is passed for a parameter that has a default",
    "unexpected `+`",
    "a number is expected, not str",
    "macro's `arguments`",
    "supported only at the end",
];

#[test]
fn every_construct_renders_as_in_jinja2_or_is_refused_by_name() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jinja.json");
    let recorded: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (mut equal, mut refused, mut wrong) = (0, 0, Vec::new());
    for row in recorded["groups"].as_object().unwrap().values().flat_map(|rows| rows.as_array().unwrap()) {
        let source = row[0].as_str().unwrap();
        let got = Jinja::new("t", "template", source).and_then(|t| t.render(&recorded["context"]));
        match (got, row[1].as_str()) {
            (Ok(text), Some(expected)) if text == expected => equal += 1,
            (Err(_), None) => equal += 1,
            (Err(e), Some(_)) if REASONS.iter().any(|reason| e.to_string().contains(reason)) => refused += 1,
            (got, _) => wrong.push(format!("{source:?}: {got:?} instead of {}", row[1])),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!((equal, refused), (8298, 183));
}

/// Templates that would overflow the stack of the parser, of the code generator, or of what frees their values.
#[test]
fn deep_templates_and_values_do_not_end_the_process() {
    let long = |part: &str, n: usize| part.repeat(n);
    let sources = [
        format!("{{{{ {}1 }}}}", long("-", 60_000)),
        format!("{{{{ {}1 }}}}", long("not ", 60_000)),
        format!("{{{{ 1{} }}}}", long(" + 1", 60_000)),
        format!("{{{{ 1{} }}}}", long(" if 1 else 1", 30_000)),
        format!("{{{{ 1{} }}}}", long("|abs", 60_000)),
        format!("{{{{ x{} }}}}", long(".a", 60_000)),
        format!("{{{{ x{} }}}}", long("[0]", 60_000)),
        format!("{{{{ x{} }}}}", long(" is defined", 60_000)),
        format!("{{{{ 1{} }}}}", long(" < 1", 60_000)),
        format!("{{{{ {}1{} }}}}", long("[", 60_000), long("]", 60_000)),
        format!("{{{{ {}1{} }}}}", long("{1:", 60_000), long("}", 60_000)),
        format!("{}{}", long("{% if 1 %}", 20_000), long("{% endif %}", 20_000)),
        format!("{{% if 1 %}}{}{{% endif %}}", long("{% elif 1 %}", 20_000)),
        format!("{}{}", long("{% for a in b %}", 20_000), long("{% endfor %}", 20_000)),
        format!("{}{}", long("{% macro f() %}", 20_000), long("{% endmacro %}", 20_000)),
        format!("{}{}", long("{% generation %}", 20_000), long("{% endgeneration %}", 20_000)),
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% set ns.a = [ns.a] %}{% endfor %}done".to_owned(),
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}".to_owned(),
        "{% set ns = namespace(a={}) %}{% for i in range(90000) %}{% set ns.a = {'a': ns.a} %}{% endfor %}{{ ns.a|tojson }}".to_owned(),
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% set ns.a = (ns.a,) %}{% endfor %}{{ ns.a == ns.a }}".to_owned(),
        "{% set ns = namespace(a=[], b=[]) %}{% for i in range(60000) %}{% set ns.a = [ns.a] %}{% set ns.b = [ns.b] %}{% endfor %}{{ ns.a == ns.b }}{{ ns.a in [ns.b] }}".to_owned(),
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% set ns.a = ns.a|list + [ns.a] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(a=[1]) %}{% for i in range(90000) %}{% set ns.a = ns.a|batch(1)|list %}{% endfor %}{{ ns.a|length }}".to_owned(),
        "{% set ns = namespace(a=1) %}{% for i in range(90000) %}{% set ns.a = dict(a=ns.a) %}{% endfor %}{{ ns.a < ns.a }}".to_owned(),
        "{% set ns = namespace(a=1) %}{% for i in range(90000) %}{% set ns.a = namespace(a=ns.a) %}{% endfor %}{{ ns.a is mapping }}".to_owned(),
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ [ns.a, ns.a]|sort }}{{ [ns.a]|unique|list }}".to_owned(),
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ {'a': 1}[ns.a] }}".to_owned(),
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% set ns.a = {ns.a|length: ns.a} %}{% endfor %}{{ ns.a }}".to_owned(),
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% set ns.a = (ns.a,) %}{% endfor %}{{ {ns.a: 1} }}".to_owned(),
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".to_owned(),
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
    ];
    for source in &sources {
        let start = std::time::Instant::now();
        if let Ok(template) = Jinja::new("t", "template", source) {
            let _ = template.render(&Value::Null);
        }
        assert!(start.elapsed().as_secs() < 20, "{source:.80}");
    }
}

const PIECES: [&str; 64] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "{%-",
    "-%}",
    "{{-",
    "-}}",
    "{% if ",
    "{% elif ",
    "{% else %}",
    "{% endif %}",
    "{% for a in ",
    "{% endfor %}",
    "{% set x = ",
    "{% set ns.x = ",
    "{% macro f(a, b=1) %}",
    "{% endmacro %}",
    "{% raw %}",
    "{% endraw %}",
    "{% with a = ",
    "{% endwith %}",
    "{% filter upper %}",
    "{% endfilter %}",
    "{% call f() %}",
    "{% endcall %}",
    "{% generation %}",
    "{% endgeneration %}",
    "a",
    "x",
    "ns",
    "f(1)",
    "loop.index",
    "messages",
    "[0]",
    ".b",
    "['c']",
    "[::-1]",
    "(1, 2)",
    "[1, [2]]",
    "{'k': a}",
    "'%s'",
    "'t'",
    "9999999999",
    "1.5e300",
    "|list",
    "|tojson(indent=2)",
    "|map(attribute='a.b')",
    "|selectattr('a', 'eq', 1)",
    "|sort",
    "|join('é')",
    ".items()",
    ".split(None, 1)",
    ".replace('', 'ab')",
    " is defined ",
    " not in ",
    " if x else ",
    " ** ",
    " % ",
    " ~ ",
    "\r\n",
    "namespace(a=[], b={})",
];

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 600, failure_persistence: None, ..Default::default() })]

    /// Six hundred templates put together from pieces of Jinja: each is refused or ends.
    #[test]
    fn any_heap_of_pieces_ends(pieces in proptest::collection::vec(0usize..64, 1..40)) {
        let source: String = pieces.into_iter().map(|i| PIECES[i]).collect::<Vec<_>>().join(" ");
        let start = std::time::Instant::now();
        if let Ok(template) = Jinja::new("t", "template", &source) {
            let _ = template.render(&serde_json::json!({"messages": [{"a": {"b": 1}}], "x": "y"}));
            let _ = template.variables();
        }
        proptest::prop_assert!(start.elapsed().as_secs() < 20, "{source}");
    }
}
