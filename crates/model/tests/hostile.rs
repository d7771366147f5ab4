//! Generated hostile tokenizer.json files and chat templates. Each is an error, or what it makes is used within a
//! bounded time and memory; nothing panics or ends the process. The seeds are fixed, so a failure comes again.

#![allow(clippy::unwrap_used, clippy::panic)]

use eraser_model::{Jinja, Tokenizer};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Most time for one input, in a build with little optimisation on a busy machine. An exponential one takes for ever.
const MOST: Duration = Duration::from_secs(5);
/// Most memory that all inputs of a test may add, in MB.
const MEMORY: f64 = 1500.0;

/// `SplitMix64`: the same numbers everywhere.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.below(of.len());
        &of[at]
    }
}

/// What an input took; the time of the whole test is bounded by the sum.
fn bounded(what: &str, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    assert!(start.elapsed() < MOST, "{what}: {:?}", start.elapsed());
}

fn memory() -> f64 {
    eraser_ops::threads::peak_rss_mb().unwrap_or_default()
}

fn small_tokenizer() -> Value {
    let start = json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": " ?\\w+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": {"type": "TemplateProcessing", "single": start, "pair": start,
            "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "<s>": 4, "!": 5}, "merges": [["a", "b"]]},
    })
}

/// What stands in place of a value.
fn hostile_value(numbers: &mut Numbers) -> Value {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let choices = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(1e308),
        json!(""),
        json!("\u{0}"),
        json!("a".repeat(100_000)),
        json!("\u{202e}é🙂"),
        json!([]),
        json!({}),
        deep,
        json!({"type": "Sequence", "normalizers": [], "pretokenizers": [], "decoders": [], "processors": []}),
        json!({"type": "Strip", "content": "", "start": 9, "stop": 9}),
        json!({"type": "Replace", "pattern": {"String": ""}, "content": "aa"}),
        json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "aa"}),
        json!({"type": "Prepend", "prepend": "a".repeat(1000)}),
        json!({"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": true}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        json!({"SpecialToken": {"id": "none", "type_id": 4_294_967_295_u32}}),
    ];
    numbers.one(&choices).clone()
}

/// Replaces, removes or doubles a value somewhere in a document.
fn damage(value: &mut Value, numbers: &mut Numbers) {
    let deeper = numbers.below(5) > 0;
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let at = numbers.below(map.len());
            let key = map.keys().nth(at).unwrap().clone();
            if numbers.below(8) == 0 {
                let taken = map.remove(&key).unwrap();
                map.insert(format!("{key}x"), taken);
            } else {
                damage(&mut map[&key], numbers);
            }
        }
        Value::Array(list) if deeper && !list.is_empty() => {
            let at = numbers.below(list.len());
            if numbers.below(8) == 0 {
                list.push(list[at].clone());
            } else {
                damage(&mut list[at], numbers);
            }
        }
        other => *other = hostile_value(numbers),
    }
}

/// Loads a tokenizer.json and uses it; whether it could be loaded.
fn use_tokenizer(dir: &std::path::Path, text: &str, what: &str) -> bool {
    std::fs::write(dir.join("tokenizer.json"), text).unwrap();
    let mut loaded = false;
    bounded(what, || {
        let Ok(tokenizer) = Tokenizer::from_hf_dir(dir) else { return };
        loaded = true;
        for text in ["", "ab  ba!", &"a".repeat(300), &" ".repeat(300), "é🙂\u{0}\u{feff}<s>"] {
            let Ok(ids) = tokenizer.encode_with_special(text) else { continue };
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "{what}: {text:?}");
            let _ = tokenizer.decode(&ids, true);
        }
        let _ = tokenizer.decode(&[u32::MAX, 0, 4], false);
    });
    loaded
}

#[test]
fn hostile_tokenizers_are_refused_or_bounded() {
    let (dir, before) = (tempfile::tempdir().unwrap(), memory());
    std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"bos_token": "<s>"}"#).unwrap();
    assert!(use_tokenizer(dir.path(), &small_tokenizer().to_string(), "undamaged"));
    let (mut numbers, mut loaded) = (Numbers(7), 0);
    for case in 0..260 {
        let mut made = small_tokenizer();
        for _ in 0..=numbers.below(3) {
            damage(&mut made, &mut numbers);
        }
        loaded += usize::from(use_tokenizer(dir.path(), &made.to_string(), &format!("case {case}: {made:.300}")));
    }
    assert!((1..260).contains(&loaded), "{loaded}: neither all nor none are harmless");
    assert!(memory() - before < MEMORY, "{} MB", memory() - before);
}

/// A search that gave up used to leave the rest of the text in one piece, without a word: other ids than the model's
/// own.
#[test]
fn regular_expressions_that_take_exponential_time_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let read = |place: &str, pattern: &str| {
        let mut made = small_tokenizer();
        let target = match place {
            "normalizer" => &mut made["normalizer"]["normalizers"][1],
            _ => &mut made["pre_tokenizer"]["pretokenizers"][0],
        };
        target["pattern"] = json!({"Regex": pattern});
        std::fs::write(dir.path().join("tokenizer.json"), made.to_string()).unwrap();
        let mut found = None;
        bounded(pattern, || found = Some(Tokenizer::from_hf_dir(dir.path()).map(|_| ()).map_err(|e| e.to_string())));
        found.unwrap()
    };
    for pattern in [
        "(?=b?)(a+)+(?!a|$)$",
        "(?:a|a)+(?<=b)",
        "(?:\\s+)+(?!\\s|$)x",
        "((?:\\w+)\\s?)+(?<!.)",
        "((?!b)a+)+\\1b",
        "(?:(?=a)a+)+(?=b)",
        "(\\w+)*\\1#",
        "(.*)(.*)(.*)(.*)(.*)(.*)(.*)\\1\\2\\3(?=zq)",
    ] {
        for place in ["pre_tokenizer", "normalizer"] {
            let error = read(place, pattern).unwrap_err();
            assert!(error.contains("regular expression") && error.contains(place), "{pattern}: {error}");
        }
    }
    for pattern in
        ["(", "[z-a]", "a{5,2}", "(?P<n>a)(?P<n>b)", "((a{1000}){1000}){1000}", "(?=x)((a{999}){999}){999}", "\\"]
    {
        let _ = read("pre_tokenizer", pattern);
    }
    // Those of published tokenizers: GPT-2, Llama 3, Qwen2, GPT-4o, DeepSeek's numbers.
    for pattern in [
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "\\p{N}{1,3}(?=(?:\\p{N}{3})*(?:\\P{N}|$))",
    ] {
        assert_eq!(read("pre_tokenizer", pattern), Ok(()), "{pattern}");
    }
}

/// Pieces that templates are put together from: tags, values, ways to make much of little.
const PIECES: [&str; 44] = [
    "{% for m in messages %}",
    "{% endfor %}",
    "{% for i in range(99999999) %}",
    "{% if x %}",
    "{% endif %}",
    "{% set x = x ~ x %}",
    "{% set x = [x, x] %}",
    "{% set x = 'a' * 99999999 %}",
    "{% set x = [0] * 99999999 %}",
    "{{ x }}",
    "{{ messages }}",
    "{{ messages[0].content * 999999 }}",
    "{{ x|tojson(indent=99999999) }}",
    "{{ x|indent(99999999) }}",
    "{{ 'a'.center(999999999) }}",
    "{{ 'a'.zfill(999999999) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ '{:.999999999f}'.format(1.5) }}",
    "{{ '{:{}}'.format(1, 999999999) }}",
    "{{ 1.5|round(999999999) }}",
    "{{ '%.999999999f' % 1.5 }}",
    "{{ 2 ** 99999 }}",
    "{{ 1 / 0 }}",
    "{{ 9223372036854775807 + 1 }}",
    "{{ 'a'.replace('', 'b' * 9999) }}",
    "{{ ('a' * 9999).split('') }}",
    "{{ range(0, 99999999)|list|length }}",
    "{{ messages|map('upper')|join }}",
    "{{ x.y.z }}",
    "{{ raise_exception('no') }}",
    "{{ strftime_now('%' ~ 'Y' * 999) }}",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}",
    "{{ f(1) }}",
    "{% raw %}",
    "{% endraw %}",
    "{#",
    "#}",
    "{{",
    "}}",
    "{%- ",
    " -%}",
    "\u{202e}é🙂\u{0}\r\n",
    "{{ '\\U0001F642\\x00' }}",
];

#[test]
fn hostile_templates_are_refused_or_bounded() {
    let (mut numbers, before) = (Numbers(11), memory());
    let variables =
        json!({"messages": [{"role": "user", "content": "Hi é"}, {"role": "assistant", "content": null}], "x": "ab"});
    let mut rendered = 0;
    for case in 0..240 {
        let mut source = String::new();
        match PIECES.get(case) {
            Some(alone) => source.push_str(alone),
            None => (0..=numbers.below(9)).for_each(|_| source.push_str(numbers.one::<&str>(&PIECES))),
        }
        bounded(&format!("case {case}: {source}"), || {
            let made = Jinja::new("t", "template", &source).and_then(|template| template.render(&variables));
            rendered += usize::from(made.is_ok_and(|text| text.len() < 200 << 20));
        });
    }
    assert!((1..240).contains(&rendered), "{rendered}");
    assert!(memory() - before < MEMORY, "{} MB", memory() - before);
}
