//! What was measured: model, files, settings and version of every request that figures come from. In: the summary and
//! manifest.json; out: a block of facts for the page and Markdown, and the summary with figures of different prompts
//! under different names. Invariant: figures that answer different prompts are never in one row.

use crate::format::{counted, list};
use crate::manifest::{self, Manifest, Record, short};
use crate::nll::TEMPLATES;
use crate::summary::Summary;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The block.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Measured {
    /// What holds of the whole.
    pub(crate) lead: Vec<String>,
    pub(crate) requests: Vec<Request>,
}

/// One evaluation or benchmark.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Request {
    pub(crate) title: String,
    pub(crate) facts: Vec<(&'static str, String)>,
}

/// A figure as the manifest names it, taken apart.
struct Figure {
    name: String,
    subject: String,
    /// In words.
    what: String,
}

/// The block of a summary.
pub(crate) fn measured(summary: &Summary, manifest: Option<&Manifest>) -> Measured {
    let Some(manifest) = manifest else {
        let lead = vec!["There is no manifest.json, so what made these figures is not recorded.".to_owned()];
        return Measured { lead, ..Measured::default() };
    };
    let figures = figures(summary);
    let mut made: BTreeMap<u64, Vec<&Figure>> = BTreeMap::new();
    let mut unknown = Vec::new();
    for figure in &figures {
        match manifest.figures.get(&figure.name).filter(|number| manifest.requests.contains_key(number)) {
            Some(number) => made.entry(*number).or_default().push(figure),
            None => unknown.push(figure),
        }
    }
    let mut block = Measured::default();
    let several = made.len() > 1 || !unknown.is_empty();
    if made.len() > 1 {
        block.lead.push(format!(
            "The figures come from {} requests: what a later one did not ask again is of an earlier one.",
            made.len()
        ));
    }
    if !unknown.is_empty() {
        block.lead.push(format!("By which request these were measured is not recorded: {}.", told(&unknown)));
    }
    let last = made.keys().next_back().copied();
    for (i, (number, of)) in made.iter().enumerate() {
        let Some(record) = manifest.requests.get(number) else { continue };
        let which = match (several, Some(*number) == last) {
            (false, _) => String::new(),
            (true, true) => format!("{} of {}, the last: ", i + 1, made.len()),
            (true, false) => format!("{} of {}, an earlier one: ", i + 1, made.len()),
        };
        let measured: BTreeSet<&str> = of.iter().map(|f| f.subject.as_str()).collect();
        let subject = |s: &&crate::summary::Subject| measured.contains(s.name.as_str());
        let adapter = |s: &crate::summary::Subject| {
            let adapter = s.adapter.as_deref().map_or_else(String::new, |a| format!(" (adapter {})", short(a)));
            format!("{}{adapter}", s.name)
        };
        let subjects = list(&summary.subjects.iter().filter(subject).map(adapter).collect::<Vec<_>>());
        let mut facts = facts(record, &subjects);
        if several {
            facts.insert(0, ("figures", told(of)));
        }
        block.requests.push(Request { title: format!("{which}{}, begun {}", record.verb, record.started), facts });
    }
    block
}

/// Every figure of a summary.
fn figures(summary: &Summary) -> Vec<Figure> {
    let mut all: BTreeMap<String, Figure> = BTreeMap::new();
    let mut add = |name: String, subject: &str, what: String| {
        all.entry(name.clone()).or_insert_with(|| Figure { name, subject: subject.to_owned(), what });
    };
    for s in &summary.subjects {
        for a in &s.attacks {
            let name = manifest::attack(&s.name, &a.attack, &a.set, &a.judge);
            let stem = a.attack.split(':').next().unwrap_or_default();
            add(name, &s.name, format!("{stem} on {} ({})", a.set, a.judge));
        }
        for u in &s.utility {
            add(manifest::utility(&s.name, &u.task, &u.metric), &s.name, format!("{} ({})", u.task, u.metric));
        }
        for row in &s.likelihood {
            add(manifest::likelihood(&s.name, &row.set), &s.name, format!("likelihood of {}", row.set));
        }
        for (kind, refusals) in [("over-refusal", &s.over_refusal), ("contrast", &s.contrast)] {
            if let Some(o) = refusals {
                add(manifest::refusals(kind, &s.name, &o.set), &s.name, format!("{kind} on {}", o.set));
            }
        }
    }
    all.into_values().collect()
}

/// Figures in words, those of the same subjects together.
fn told(figures: &[&Figure]) -> String {
    let mut subjects: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for figure in figures {
        subjects.entry(&figure.what).or_default().push(&figure.subject);
    }
    let mut groups: BTreeMap<Vec<&str>, Vec<String>> = BTreeMap::new();
    for (what, subjects) in subjects {
        groups.entry(subjects).or_default().push(what.to_owned());
    }
    let group = |(subjects, what): (&Vec<&str>, &Vec<String>)| format!("{}: {}", subjects.join(", "), what.join(", "));
    groups.iter().map(group).collect::<Vec<_>>().join("; ")
}

/// What a request was, by its options and the hashes of what it read; `subjects` are those that it measured.
pub(crate) fn facts(record: &Record, subjects: &str) -> Vec<(&'static str, String)> {
    let (options, inputs) = (&record.options, &record.inputs);
    let of = |input: &str| inputs.get(input).map_or_else(String::new, |hash| format!(" ({})", short(hash)));
    let mut facts = Vec::new();
    let mut fact = |name: &'static str, value: String| {
        if !value.is_empty() {
            facts.push((name, value));
        }
    };
    let commit = record.commit.as_deref().map_or_else(String::new, |c| format!(", commit {}", short(c)));
    fact("version", format!("{}{commit}", record.version));
    let model = &options["model"];
    let held = ["base_dtype", "compute"].map(|key| model[key].as_str().map(|value| format!(", {key} {value}")));
    let held: String = held.into_iter().flatten().collect();
    fact("model", format!("{}{}{held}", model["path"].as_str().map_or("", name), of("model")));
    for (title, text) in template(model) {
        fact(title, text);
    }
    fact("subjects", subjects.to_owned());
    let eval = &options["eval"];
    let asked = |entry: &Value, key: &str, input: &str| {
        let own = entry[key].as_str().unwrap_or_default();
        format!("{own} = {}{}", rows(entry), of(&format!("{input} {own}")))
    };
    let entries = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let all = |list: &Value, key: &str, input: &str| {
        entries(list).iter().map(|entry| asked(entry, key, input)).collect::<Vec<_>>().join(", ")
    };
    let attacked = !entries(&eval["questions"]).is_empty();
    fact("attacks", if attacked { words(&eval["attacks"]) } else { String::new() });
    fact("questions", all(&eval["questions"], "set", "questions"));
    let of_attack =
        |(input, hash): (&String, &String)| Some(format!("{} ({})", input.strip_prefix("template ")?, short(hash)));
    let known = |(input, hash): (&String, &String)| {
        let set = input.strip_prefix("likelihood ")?;
        // The run's own sets are none of its options.
        let file = entries(&eval["likelihood_set"]).iter().find(|entry| entry["set"] == set).map(rows);
        let file = file.map_or_else(String::new, |file| format!(" = {file}"));
        Some(format!("{set}{file} ({})", short(hash)))
    };
    fact("known answers", inputs.iter().filter_map(known).collect::<Vec<_>>().join(", "));
    fact("templates", inputs.iter().filter_map(of_attack).collect::<Vec<_>>().join(", "));
    fact("tasks", all(&eval["tasks"], "task", "task"));
    for (title, key) in [("benign questions", "over_refusal"), ("questions that must be refused", "contrast")] {
        if eval[key].is_object() {
            fact(title, asked(&eval[key], "set", "questions"));
        }
    }
    let opening = ["prefill", "prefill-thought", "gcg", "autodan"]
        .iter()
        .any(|attack| entries(&eval["attacks"]).iter().any(|a| a == attack));
    let target = eval["target"].as_str().filter(|_| attacked && opening);
    fact(
        "opening that attacks give or aim at",
        target.map_or_else(String::new, |t| format!("{t}, where a question has none")),
    );
    fact("judges", if attacked { words(&eval["judges"]) } else { String::new() });
    let judge = &eval["judge"];
    let judge = [&judge["model"], &judge["endpoint_model"]].into_iter().find_map(|m| m.as_str());
    fact("model that judges", judge.map_or_else(String::new, |judge| name(judge).to_owned()));
    let bench = &options["bench"];
    let item = |entry: &Value| {
        let own = entry["task"].as_str().or(entry["name"].as_str()).unwrap_or_default();
        let input = if entry["task"].is_string() { format!("items of {own}") } else { format!("text {own}") };
        format!("{own} = {}{}", rows(entry), of(&input))
    };
    let items = |key: &str| entries(&bench[key]).iter().map(item).collect::<Vec<_>>().join(", ");
    fact("benchmarks", items("tasks"));
    fact("texts", items("texts"));
    fact("examples before each question", bench["shots"].as_u64().map_or_else(String::new, |n| n.to_string()));
    let limit = [eval, bench].into_iter().find_map(|o| o["limit"].as_u64());
    fact("only the first", limit.map_or_else(String::new, |n| format!("{n} of each file")));
    if let Some(most) = eval["max_new_tokens"].as_u64() {
        let temperature = eval["temperature"].as_f64().filter(|t| *t > 0.0);
        let how = temperature.map_or_else(|| "greedy".to_owned(), |t| format!("temperature {t}"));
        fact("answers", format!("{how}, at most {most} tokens"));
    }
    let durability = &options["durability"];
    if let (Some(steps), Some(pairs)) = (durability["steps"].as_u64(), durability["pairs"].as_u64()) {
        let lr = durability["lr"].as_f64().map_or_else(|| "of the variant".to_owned(), |lr| lr.to_string());
        fact(
            "fine-tuning",
            format!(
                "{}, learning rate {lr}; relearning on at most {}",
                counted(steps, "step"),
                counted(pairs, "harm pair")
            ),
        );
    }
    fact("trained on and asked", notes(record).join("; "));
    fact("seed", record.seed.map_or_else(String::new, |seed| seed.to_string()));
    facts
}

/// How conversations were rendered, and thoughts told from answers, where a user said so.
fn template(model: &Value) -> Vec<(&'static str, String)> {
    let variable = |(name, value): (&String, &Value)| format!("{name} = {value}");
    let variables = model["template_vars"].as_object().into_iter().flatten().map(variable);
    let end = model["think_end"].as_str().map(|end| match end {
        "none" => "none: what the model writes is its answer".to_owned(),
        end => format!("with {end:?}"),
    });
    let most = model["max_think_tokens"].as_u64().map(|most| format!("at most {}", counted(most, "token")));
    vec![
        ("chat template", model["chat_template"].as_str().map_or_else(String::new, |path| name(path).to_owned())),
        ("template variables", variables.collect::<Vec<_>>().join(", ")),
        ("thoughts end", end.unwrap_or_default()),
        ("thoughts", most.unwrap_or_default()),
    ]
}

/// What a request found of what was trained on.
pub(crate) fn notes(record: &Record) -> Vec<&str> {
    record.options["leakage"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// A list of texts.
fn words(list: &Value) -> String {
    let all: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    all.join(", ")
}

/// The last part of a path: the directories of the machine that made the run say nothing to a reader. Names of the hub
/// have two parts.
pub(crate) fn name(path: &str) -> &str {
    let whole = !path.starts_with(['/', '.', '~']) && path.matches('/').count() <= 1;
    if whole { path } else { path.trim_end_matches('/').rsplit(['/', '\\']).next().unwrap_or(path) }
}

/// A file and which of its rows are meant.
fn rows(entry: &Value) -> String {
    let file = entry["path"].as_str().unwrap_or_default();
    let mut text = file.rsplit(['/', '\\']).next().unwrap_or(file).to_owned();
    for key in ["where", "shuffle", "take"] {
        let value = match &entry[key] {
            Value::Null => continue,
            Value::String(value) => value.clone(),
            Value::Object(pairs) => pairs
                .iter()
                .map(|(k, v)| format!("{k}:{}", v.as_str().unwrap_or_default()))
                .collect::<Vec<_>>()
                .join(" "),
            value => value.to_string(),
        };
        let _ = write!(text, ", {key} {value}");
    }
    text + &column(entry)
}

/// The columns that questions were read from, where they have not the name that was asked for.
fn column(entry: &Value) -> String {
    let names = entry["read"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let read: Vec<&str> = names.map(str::trim).collect();
    match (read.as_slice(), entry["column"].as_str()) {
        ([], _) => String::new(),
        ([one], Some(asked)) if *one == asked => String::new(),
        _ => format!(", from the column {}", read.join(" or ")),
    }
}

/// Renames what has one name in several subjects' figures and is not the same: an attack, or known answers, under other
/// templates, a set or a task of other questions or answers.
pub(crate) fn separate(summary: &mut Summary, manifest: &Manifest) {
    let origin = |figure: &str| manifest.request_of(figure);
    let mut attacks: BTreeMap<(String, String), BTreeSet<Inputs>> = BTreeMap::new();
    let mut sets: BTreeMap<String, BTreeSet<Inputs>> = BTreeMap::new();
    let mut tasks: BTreeMap<String, BTreeSet<Inputs>> = BTreeMap::new();
    let mut contexts: BTreeMap<String, BTreeSet<Inputs>> = BTreeMap::new();
    let mut known: BTreeMap<String, BTreeSet<Inputs>> = BTreeMap::new();
    for s in &summary.subjects {
        for a in &s.attacks {
            let Some(record) = origin(&manifest::attack(&s.name, &a.attack, &a.set, &a.judge)) else { continue };
            let stem = stem(&a.attack).to_owned();
            attacks.entry((stem, a.set.clone())).or_default().insert(templates(record, &a.attack));
            sets.entry(a.set.clone()).or_default().insert(questions(record, &a.set));
        }
        for u in &s.utility {
            let Some(record) = origin(&manifest::utility(&s.name, &u.task, &u.metric)) else { continue };
            tasks.entry(u.task.clone()).or_default().insert(questions(record, &u.task));
        }
        for row in &s.likelihood {
            let Some(record) = origin(&manifest::likelihood(&s.name, &row.set)) else { continue };
            contexts.entry(row.set.clone()).or_default().insert(templates(record, TEMPLATES));
            known.entry(row.set.clone()).or_default().insert(answers(record, &row.set));
        }
        for (kind, refusals) in [("over-refusal", &s.over_refusal), ("contrast", &s.contrast)] {
            let Some(o) = refusals else { continue };
            let Some(record) = origin(&manifest::refusals(kind, &s.name, &o.set)) else { continue };
            sets.entry(o.set.clone()).or_default().insert(questions(record, &o.set));
        }
    }
    for s in &mut summary.subjects {
        for a in &mut s.attacks {
            let Some(record) = origin(&manifest::attack(&s.name, &a.attack, &a.set, &a.judge)) else { continue };
            let key = (stem(&a.attack).to_owned(), a.set.clone());
            if attacks.get(&key).is_some_and(|found| found.len() > 1) {
                let part = a.attack.split_once(':').map_or_else(String::new, |(_, part)| format!(":{part}"));
                a.attack = format!("{} ({}){part}", key.0, label(&templates(record, &a.attack)));
            }
            if sets.get(&a.set).is_some_and(|found| found.len() > 1) {
                a.set = format!("{} ({})", a.set, label(&questions(record, &a.set)));
            }
        }
        for u in &mut s.utility {
            let Some(record) = origin(&manifest::utility(&s.name, &u.task, &u.metric)) else { continue };
            if tasks.get(&u.task).is_some_and(|found| found.len() > 1) {
                u.task = format!("{} ({})", u.task, label(&questions(record, &u.task)));
            }
        }
        for row in &mut s.likelihood {
            let Some(record) = origin(&manifest::likelihood(&s.name, &row.set)) else { continue };
            let differ = |found: &BTreeMap<String, BTreeSet<Inputs>>| found.get(&row.set).is_some_and(|f| f.len() > 1);
            let (under_others, others) = (differ(&contexts), differ(&known));
            if let Some(part) = row.context.strip_prefix(TEMPLATES).filter(|_| under_others) {
                row.context = format!("{TEMPLATES} ({}){part}", label(&templates(record, TEMPLATES)));
            }
            if others {
                row.set = format!("{} ({})", row.set, label(&answers(record, &row.set)));
            }
        }
        for (kind, refusals) in [("over-refusal", &mut s.over_refusal), ("contrast", &mut s.contrast)] {
            let Some(o) = refusals else { continue };
            let Some(record) = origin(&manifest::refusals(kind, &s.name, &o.set)) else { continue };
            if sets.get(&o.set).is_some_and(|found| found.len() > 1) {
                o.set = format!("{} ({})", o.set, label(&questions(record, &o.set)));
            }
        }
    }
}

/// Files with their hashes.
type Inputs = Vec<(String, String)>;

fn stem(attack: &str) -> &str {
    attack.split(':').next().unwrap_or_default()
}

/// The templates that an attack was under.
fn templates(record: &Record, attack: &str) -> Inputs {
    if !["template", "autodan"].contains(&stem(attack)) {
        return Vec::new();
    }
    let file = |(input, hash): (&String, &String)| Some((input.strip_prefix("template ")?.to_owned(), hash.clone()));
    record.inputs.iter().filter_map(file).collect()
}

/// The file of a set of known answers.
fn answers(record: &Record, set: &str) -> Inputs {
    let hash = record.inputs.get(&format!("likelihood {set}"));
    hash.into_iter().map(|hash| (String::new(), hash.clone())).collect()
}

/// The questions of a set or a task.
fn questions(record: &Record, set: &str) -> Inputs {
    let names = ["questions", "task", "items of", "text"].map(|kind| format!("{kind} {set}"));
    let found = names.iter().find_map(|name| record.inputs.get_key_value(name));
    found.into_iter().map(|(_, hash)| (String::new(), hash.clone())).collect()
}

/// What tells such files apart: the first digits of their hashes, which no table cuts off, and their names. No `:`,
/// which begins the part of an attack.
fn label(files: &Inputs) -> String {
    let one = |(name, hash): &(String, String)| {
        let hash: String = hash.chars().take(6).collect();
        if name.is_empty() { hash } else { format!("{hash} {}", name.replace(':', "_")) }
    };
    match files.as_slice() {
        [] => "none".to_owned(),
        [first] => one(first),
        // The first one alone would not tell them from others that begin with it.
        all => format!("{} files, {}", all.len(), manifest::of_all(all.iter().map(|(_, hash)| hash.as_str()), 6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nll::Nll;
    use crate::summary::{Attack, Subject};
    use serde_json::json;

    fn manifest() -> Manifest {
        let request = |template: &str, hash: &str, at: &str| {
            format!(
                r#"{{"verb":"eval","version":"0.1.0","commit":"abcdef0123456789","started":"{at}","seed":7,
                "inputs":{{"model":"{}","questions seen":"aaaa","template {template}":"{hash}"}},
                "options":{{"model":{{"path":"/home/x/model","base_dtype":"f32"}},"eval":{{"attacks":["template"],
                "questions":[{{"set":"seen","path":"/home/x/ask.csv","take":"0-2"}}],"judges":["leak"],
                "max_new_tokens":64,"temperature":0.0}}}}}}"#,
                "f".repeat(64)
            )
        };
        let text = format!(
            r#"{{"schema":1,"artefacts":{{}},"requests":{{"1":{},"2":{}}},
            "figures":{{"attack/base/template/seen/leak":1,"attack/eraser/template/seen/leak":2}}}}"#,
            request("one.txt", "111111111", "2026-01-01T00:00:00Z"),
            request("two.txt", "222222222", "2026-01-02T00:00:00Z"),
        );
        serde_json::from_str(&text).unwrap()
    }

    fn summary() -> Summary {
        let attack = |attack: &str| Attack {
            attack: attack.into(),
            set: "seen".into(),
            judge: "leak".into(),
            ..Attack::default()
        };
        let subject = |name: &str| Subject {
            name: name.into(),
            attacks: vec![attack("template"), attack("template:t")],
            ..Subject::default()
        };
        Summary { subjects: vec![subject("base"), subject("eraser")], ..Summary::default() }
    }

    #[test]
    fn each_request_says_what_its_figures_were_measured_on() {
        let block = measured(&summary(), Some(&manifest()));
        assert!(block.lead[0].contains("come from 2 requests"), "{:?}", block.lead);
        let [first, last] = &block.requests[..] else { panic!("two requests") };
        assert!(first.title.starts_with("1 of 2, an earlier one: eval, begun 2026-01-01"), "{}", first.title);
        assert!(last.title.starts_with("2 of 2, the last: "), "{}", last.title);
        let fact = |name: &str| first.facts.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str()).unwrap();
        assert_eq!(fact("figures"), "base: template on seen (leak)");
        assert_eq!(fact("version"), "0.1.0, commit abcdef012345");
        assert_eq!(fact("model"), "model (ffffffffffff), base_dtype f32");
        assert_eq!(fact("questions"), "seen = ask.csv, take 0-2 (aaaa)");
        assert_eq!((fact("templates"), fact("seed")), ("one.txt (111111111)", "7"));
        assert_eq!(fact("answers"), "greedy, at most 64 tokens");
        let unknown = measured(&summary(), Some(&Manifest::default()));
        assert!(unknown.lead[0].contains("not recorded: base, eraser: template on seen (leak)"), "{:?}", unknown.lead);
        assert!(measured(&summary(), None).lead[0].contains("no manifest.json"));
    }

    #[test]
    fn the_column_that_was_read_is_told_where_it_has_not_the_name_that_was_asked_for() {
        let entry = |column: Value, read: Value| json!({"path": "/x/ask.csv", "column": column, "read": read});
        let told = |column: Value, read: Value| rows(&entry(column, read));
        assert_eq!(told(json!("goal"), json!(["Goal"])), "ask.csv, from the column Goal");
        assert_eq!(told(Value::Null, json!(["question", "prompt"])), "ask.csv, from the column question or prompt");
        assert_eq!(told(json!("goal"), json!(["goal"])), "ask.csv");
        assert_eq!(told(Value::Null, Value::Null), "ask.csv", "a record of an older version");
    }

    /// The cost of known answers under one file of templates, or of other answers, stood in a row with another's.
    #[test]
    fn known_answers_have_their_request_and_rows_of_their_own() {
        let row = |context: &str| Nll { set: "known".into(), context: context.into(), ..Nll::default() };
        let rows = ["plain", "template", "template:t"].map(row).to_vec();
        let subject = |name: &str| Subject { name: name.into(), likelihood: rows.clone(), ..Subject::default() };
        let mut found = Summary { subjects: vec![subject("base"), subject("eraser")], ..Summary::default() };
        let mut manifest = manifest();
        manifest.figures = BTreeMap::from([("likelihood/base/known".into(), 1), ("likelihood/eraser/known".into(), 2)]);
        for record in manifest.requests.values_mut() {
            record.inputs.insert("likelihood known".into(), "b".repeat(64));
        }
        let block = measured(&found, Some(&manifest));
        let facts = &block.requests[0].facts;
        assert_eq!(facts[0], ("figures", "base: likelihood of known".to_owned()));
        assert!(facts.contains(&("known answers", "known (bbbbbbbbbbbb)".to_owned())), "{facts:?}");
        separate(&mut found, &manifest);
        let [plain, pool, part] = &found.subjects[1].likelihood[..] else { panic!("three rows") };
        assert_eq!([&plain.context, &pool.context], ["plain", "template (222222 two.txt)"]);
        assert_eq!((part.context.as_str(), &part.set), ("template (222222 two.txt):t", &"known".to_owned()));
        assert!(part.is_part() && pool.is_pool() && !plain.is_pool());
        // Under the same name, other answers.
        let last = manifest.requests.get_mut(&2).unwrap();
        last.inputs.insert("likelihood known".into(), "c".repeat(64));
        let mut found = Summary { subjects: vec![subject("base"), subject("eraser")], ..Summary::default() };
        separate(&mut found, &manifest);
        let sets = found.subjects.iter().map(|s| s.likelihood[0].set.as_str());
        assert_eq!(sets.collect::<Vec<_>>(), ["known (bbbbbb)", "known (cccccc)"]);
    }

    /// Answers under one file of templates stood in a row with answers under another.
    #[test]
    fn figures_under_other_templates_are_in_rows_of_their_own() {
        let mut found = summary();
        separate(&mut found, &manifest());
        let names: Vec<&str> = found.subjects.iter().flat_map(|s| &s.attacks).map(|a| a.attack.as_str()).collect();
        assert_eq!(
            names,
            [
                "template (111111 one.txt)",
                "template (111111 one.txt):t",
                "template (222222 two.txt)",
                "template (222222 two.txt):t"
            ]
        );
        let rows = crate::rows::attacks(&found);
        assert!(rows.iter().all(|row| row.cells.iter().flatten().count() == 1));
        assert_eq!(rows.iter().filter(|row| row.part).count(), 2);
        // Where both are under the same ones, nothing has to be told apart.
        let mut same = manifest();
        same.figures.values_mut().for_each(|number| *number = 1);
        let mut found = summary();
        separate(&mut found, &same);
        assert_eq!(found, summary());
    }

    /// What a figure of a model that thinks depends on was not to be seen in its report.
    #[test]
    fn variables_of_the_template_and_limits_of_thoughts_are_told() {
        let mut manifest = manifest();
        let record = manifest.requests.get_mut(&1).unwrap();
        record.options["model"]["template_vars"] = json!({"enable_thinking": false, "mode": "short"});
        record.options["model"]["think_end"] = "</t>".into();
        record.options["model"]["max_think_tokens"] = 1.into();
        record.options["model"]["chat_template"] = "/home/x/own.jinja".into();
        let told = facts(record, "");
        for expected in [
            ("chat template", "own.jinja"),
            ("template variables", r#"enable_thinking = false, mode = "short""#),
            ("thoughts end", r#"with "</t>""#),
            ("thoughts", "at most 1 token"),
        ] {
            assert!(told.contains(&(expected.0, expected.1.to_owned())), "{expected:?}: {told:?}");
        }
        record.options["model"]["think_end"] = "none".into();
        assert!(facts(record, "").contains(&("thoughts end", "none: what the model writes is its answer".to_owned())));
    }
}
