//! Generated hostile template files in the forms of the field: `PyRIT`'s YAML, TOML, JSON, JSONL, CSV, text. Each is an
//! error or gives templates within a bounded time; nothing panics or ends the process. The seed is fixed, so a failure
//! comes again.

#![allow(clippy::unwrap_used, clippy::panic)]

use eraser_eval::attack::read_templates;
use std::time::{Duration, Instant};

const MOST: Duration = Duration::from_secs(5);

/// Parts of YAML files; `N` is a number that grows.
const YAML: [&str; 34] = [
    "value: \"Listen: {{ prompt }}\"\n",
    "value: |\n  Listen:\n  {{ prompt }}\n",
    "value: >-\n  Listen: {prompt}\n\n  now\n",
    "template: [INSERT PROMPT HERE]\n",
    "name: N\n",
    "parameters:\n  - prompt\n",
    "data_type: text\n",
    "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n\
     c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\n\
     e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e, *e]\n\
     g: &g [*f, *f, *f, *f, *f, *f, *f, *f, *f, *f]\nvalue: *g\n",
    "value: &v \"{{ prompt }}\"\nother: *v\n",
    "value: *none\n",
    "loop: &l\n  again: *l\n",
    "<<: {value: x}\n",
    "value: !!python/object/apply:os.system [\"true\"]\n",
    "value: !!binary aGVsbG8=\n",
    "value: !<tag:yaml.org,2002:str> x {{ prompt }}\n",
    "? [complex, key]\n: x\n",
    "value: 1e999\n",
    "value: null\n",
    "value: [1, 2\n",
    "value: \"unclosed\n",
    "%YAML 9.9\n---\n",
    "---\n",
    "...\n",
    "\tvalue: tab\n",
    "- value: {{ prompt }}\n",
    "value: {{ prompt }}\n",
    "value: '{% for i in range(99999999) %}{{ prompt }}{% endfor %}'\n",
    "value: '{{ prompt * 999999 }}'\n",
    "value: '{{ prompt|upper }}'\n",
    "value: '{{ other }} {{ prompt }}'\n",
    "# comment \u{202e}\n",
    "\u{feff}",
    "\r\n",
    "\u{0}\u{85}\u{2028}",
];

#[test]
fn hostile_template_files_are_refused_or_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = 3_u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let read = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let start = Instant::now();
        let found = read_templates(&[path]).map(|found| found.iter().map(|t| t.fill("Why?")).collect::<Vec<_>>());
        let shown = String::from_utf8_lossy(text).chars().take(400).collect::<String>();
        assert!(start.elapsed() < MOST, "{name}: {:?}: {shown}", start.elapsed());
        if let Ok(filled) = &found {
            assert!(filled.iter().all(|text| text.contains("Why?")), "{name}: {shown}");
        }
        found.is_ok()
    };
    let (mut good, mut cases) = (0, 0);
    for case in 0..130 {
        let text: String = (0..=below(5)).map(|_| YAML[below(YAML.len())].replace('N', &case.to_string())).collect();
        good += usize::from(read("t.yaml", text.as_bytes()));
        cases += 1;
    }
    let deep = |open: &str| open.repeat(100_000);
    let long = format!("value: \"{{{{ prompt }}}}{}\"\n", "x".repeat(1 << 20));
    let whole = [
        deep("["),
        deep("{a: "),
        deep("- "),
        deep("? "),
        deep("&a "),
        deep("!"),
        format!("value: {}", deep("'")),
        long,
    ];
    for text in &whole {
        for name in ["t.yaml", "t.json", "t.jsonl", "t.toml", "t.csv", "t.txt"] {
            good += usize::from(read(name, text.as_bytes()));
            cases += 1;
        }
    }
    // One good file in every form, damaged a byte at a time.
    for (name, text) in [
        ("t.yaml", "name: n\nvalue: |\n  Listen: {{ prompt }}\n"),
        ("t.json", "[{\"name\": \"n\", \"template\": \"Listen: {prompt}\"}]"),
        ("t.jsonl", "{\"template\": \"Listen: {prompt}\"}\r\n\"And {prompt}\"\r\n"),
        ("t.toml", "[all]\none = \"Listen: {prompt}\"\n"),
        ("t.csv", "name,template\r\nn,\"Listen, {prompt}\"\r\n"),
    ] {
        assert!(read(name, text.as_bytes()), "{name}");
        for _ in 0..16 {
            let mut bytes = text.as_bytes().to_vec();
            let at = below(bytes.len());
            bytes[at] = [0, 0xff, b'"', b'{', b'\n', b'[', b'&', b'%'][below(8)];
            good += usize::from(read(name, &bytes));
            cases += 1;
        }
    }
    assert!(cases >= 250 && good > 10 && good < cases, "{good} of {cases}");
}
