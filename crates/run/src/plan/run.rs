//! A run file, resolved. In: TOML and `--set`; out: every stage's settings with every default filled in. Invariant: the
//! plan written to run/plan.toml is itself a run file that resolves to the same plan.

use super::basics::{check_name, check_out, clash};
use super::document::Document;
use super::measures::Measures;
use super::model::ModelPlan;
use super::prepare::Preparation;
use super::section::Section;
use super::sets::{SETS, SetKey};
use super::settings::{train_json, train_table};
use super::source::{Source, check_path};
use super::study::Variants;
use super::table::{path_value, source_table};
use super::{check, values};
use crate::builtin;
use crate::failure::{Outcome, Problems};
use eraser_model::{Error, Result};
use eraser_train::{METHODS, Method, Preset, SetName, Templates, TrainOptions};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The tables of a run file.
pub(super) const ROOT_KEYS: [&str; 9] =
    ["run", "model", "prepare", "data", "train", "method", "variant", "eval", "tune"];
/// The keys of `[run]`.
pub(super) const RUN_KEYS: [&str; 2] = ["name", "dir"];
/// The keys of `[[variant]]` besides those of `[train]`.
pub(super) const VARIANT_KEYS: [&str; 2] = ["name", "retain"];

/// The whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunPlan {
    /// The name of the run.
    pub name: String,
    /// The run directory.
    pub dir: PathBuf,
    /// The model that is hardened.
    pub model: ModelPlan,
    /// How the three sets are made; None: they are files.
    pub prepare: Option<Preparation>,
    /// The sets that are files.
    pub data: SetSources,
    /// What is trained.
    pub variants: Vec<Variant>,
    /// What is measured.
    pub eval: Measures,
}

/// The sets that are files: all but the retain set are there, or none of them is and they are prepared.
#[derive(Clone, Debug, PartialEq)]
pub struct SetSources {
    /// Each set that is a file.
    pub sets: Vec<(SetName, Source)>,
    /// Templates that methods may learn from; none = half of the evaluation's.
    pub jailbreaks: Vec<PathBuf>,
}

/// One way to train.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// Its name, which is that of the subject with its adapter.
    pub name: String,
    /// Its directory below the run's: that of a run's first variant is the run's own.
    pub dir: PathBuf,
    /// Uses the retain set.
    pub retain: bool,
    /// The settings of its training.
    pub train: TrainOptions,
}

impl Variant {
    /// Whether its training sees a set.
    pub(crate) fn reads(&self, set: SetName) -> bool {
        self.train.method.reads(set) && (set != SetName::Retain || self.retain)
    }
}

/// What of a run is said outside its file.
#[derive(Clone, Debug, Default)]
pub struct Overrides<'a> {
    /// The run directory.
    pub out: Option<&'a Path>,
    /// Where to compute.
    pub device: Option<&'a str>,
    /// Assignments `KEY=VALUE`.
    pub set: &'a [String],
    /// Which variants the run has.
    pub variants: Variants<'a>,
    /// The table `[tune]` is in the place of `[eval]`.
    pub tune: bool,
    /// Comes after the name of the directory, unless that is `out`.
    pub suffix: &'a str,
}

impl RunPlan {
    /// Whether the training of some variant sees a set.
    pub(crate) fn reads(&self, set: SetName) -> bool {
        self.variants.iter().any(|v| v.reads(set))
    }

    /// From a file; `builtin` is that of the built-in model.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(file: &Path, overrides: &Overrides<'_>) -> Outcome<Self> {
        if file == Path::new(builtin::NAME) {
            return Self::parse(Path::new("configs/organism.toml"), builtin::RUN_FILE, overrides);
        }
        let mut problems = Problems::default();
        let document = Document::read(file, &mut problems);
        let plan = document.map(|document| Self::resolve(document, overrides, &mut problems));
        problems.finish(plan)
    }

    /// From `text`, taken as the content of `file`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &Path, text: &str, overrides: &Overrides<'_>) -> Outcome<Self> {
        let mut problems = Problems::default();
        let document = Document::parse(file, text, &mut problems);
        let plan = document.map(|document| Self::resolve(document, overrides, &mut problems));
        problems.finish(plan)
    }

    fn resolve(mut document: Document, overrides: &Overrides<'_>, problems: &mut Problems) -> Self {
        for assignment in overrides.set {
            if let Err(e) = document.set(assignment) {
                problems.push(e);
            }
        }
        if overrides.tune && !document.replace_table("eval", "tune") {
            let file = document.file.display();
            problems
                .push(Error::request(format!("{file}: no table [tune], which says what settings are chosen by")).hint(
                    "it has the keys of [eval], with questions of its own: those that choose are not to measure",
                ));
        }
        overrides.variants.apply(&mut document, problems);
        let root = Section::root(&document);
        root.know(&ROOT_KEYS, problems);

        let run = root.section("run", problems);
        run.know(&RUN_KEYS, problems);
        let stem = document.file.file_stem().map_or_else(|| "run".to_owned(), |s| s.to_string_lossy().into_owned());
        let name: String = run.value("name", problems).unwrap_or(stem);
        if let Err(e) = check_name(&name) {
            problems.push(Error::request(format!("{}: {e}", run.place("name"))).hint("set [run] name"));
        }
        let own_dir = run.path("dir", problems);
        let own_dir = || {
            let mut dir = own_dir.unwrap_or_else(|| Path::new("runs").join(&name)).into_os_string();
            dir.push(overrides.suffix);
            PathBuf::from(dir)
        };
        let dir = overrides.out.map_or_else(own_dir, ToOwned::to_owned);
        let at = if overrides.out.is_some() { "--out".to_owned() } else { run.place("dir") };
        check_out(&dir, &at, problems);

        let model = ModelPlan::from_section(&root.section("model", problems), overrides.device, problems);
        let prepared = root.get("prepare").is_some();
        let prepare =
            if prepared { Preparation::from_section(&root.section("prepare", problems), problems) } else { None };
        let data = data(&root.section("data", problems), prepared, problems);
        let given = data.sets.iter().any(|(set, _)| *set == SetName::Retain);
        let made = prepare.as_ref().is_some_and(Preparation::retains);
        if given && made {
            let file = document.file.display();
            problems.push(
                Error::request(format!("{file}: [data] names a retain set, and [prepare] makes one"))
                    .hint("leave out either `retain_set`, or `retain_questions` and `retain_text`"),
            );
        }
        let has_retain = given || made;
        let first_in_run = matches!(overrides.variants, Variants::AsWritten);
        let variants = variants(&root, has_retain, first_in_run, problems);
        let eval = Measures::from_section(&root.section("eval", problems), problems);
        for (i, served) in eval.served.iter().enumerate() {
            let taken = std::iter::once("base").chain(variants.iter().map(|v| v.name.as_str()));
            if let Some(error) = clash("subjects", &served.name, taken) {
                let place = root.section("eval", problems).place(&format!("subject[{i}].name"));
                problems.push(
                    Error::request(format!("{place}: {error}")).hint(
                        "the run's own model is `base`, and each variant has its name: give the served one another",
                    ),
                );
            }
        }
        let wraps = variants.iter().find(|v| v.train.method.reads(SetName::Wrapped));
        if let Some(variant) = wraps.filter(|_| data.jailbreaks.is_empty() && eval.options.templates.is_empty()) {
            let (file, name) = (document.file.display(), &variant.name);
            problems.push(
                Error::request(format!("{file}: variant `{name}` learns from jailbreak templates, and there are none"))
                    .hint("name template files or directories as [data] jailbreaks"),
            );
        }
        Self { name, dir, model, prepare, data, variants, eval }
    }

    /// The plan as a run file. Paths are absolute, so that it means the same from every directory.
    pub(crate) fn to_toml(&self) -> Result<String> {
        let mut root = self.settings()?;
        let run = [("name", self.name.clone().into()), ("dir", path_value(&self.dir)?)];
        root.insert("run".into(), toml::Table::from_iter(run.map(|(k, v)| (k.to_owned(), v))).into());
        toml::to_string_pretty(&root).map_err(|e| Error::failed(format!("cannot write plan.toml: {e}")))
    }

    /// The tables of the run file but for the run's name and directory, every default filled in.
    pub(crate) fn settings(&self) -> Result<toml::Table> {
        let mut root = toml::Table::new();
        root.insert("model".into(), self.model.to_toml()?.into());
        if let Some(prepare) = &self.prepare {
            root.insert("prepare".into(), prepare.to_toml()?.into());
        }
        let mut data = toml::Table::new();
        for (name, source) in &self.data.sets {
            if let Some(set) = SETS.iter().find(|known| known.set == *name) {
                data.insert(set.key.into(), source_table(source, "input")?.into());
            }
        }
        if !self.data.jailbreaks.is_empty() {
            let paths = self.data.jailbreaks.iter().map(|p| path_value(p)).collect::<Result<Vec<_>>>()?;
            data.insert("jailbreaks".into(), paths.into());
        }
        root.insert("data".into(), data.into());
        let variants = self.variants.iter().map(|v| Ok(v.to_toml()?.into())).collect::<Result<Vec<toml::Value>>>()?;
        root.insert("variant".into(), variants.into());
        root.insert("eval".into(), self.eval.to_toml()?.into());
        Ok(root)
    }
}

impl Variant {
    /// As a table `[[variant]]` of a run file.
    fn to_toml(&self) -> Result<toml::Table> {
        let mut table = train_table(&self.train)?;
        table.retain(|key, _| self.train.uses(key));
        table.insert("name".into(), self.name.clone().into());
        table.insert("retain".into(), self.retain.into());
        Ok(table)
    }
}

fn data(section: &Section<'_>, prepared: bool, problems: &mut Problems) -> SetSources {
    let keys = SETS.iter().map(|set| set.key).chain(["jailbreaks"]);
    let known: Vec<&str> = keys.chain(SETS.iter().map(|set| set.alias)).collect();
    section.know(&known, problems);
    let mut jailbreaks = Vec::new();
    for text in section.value::<Vec<String>>("jailbreaks", problems).unwrap_or_default() {
        if let Some(path) = problems.ok(section.resolve("jailbreaks", &text)) {
            if let Err(e) = check_path(&path) {
                problems.push(e.context(section.place("jailbreaks")));
            }
            jailbreaks.push(path);
        }
    }
    let mut sets = Vec::new();
    for SetKey { set, key, alias, required } in SETS {
        let given = [key, alias].into_iter().find(|key| section.get(key).is_some());
        match given {
            None if required && !prepared => {
                problems.push(section.missing(key).hint("a set is a path, or a table with path, input, output, take"));
            }
            Some(given) if required && prepared => {
                let error = section.wrong(given, "this set is made by [prepare]");
                problems.push(error.hint("leave it out here, or leave [prepare] out"));
            }
            _ => {}
        }
        if let Some(source) = given.and_then(|key| Source::set(section, key, problems)) {
            sets.push((set, source));
        }
    }
    SetSources { sets, jailbreaks }
}

/// The table `[train]`, and every `[[variant]]` on top of it.
fn variants(root: &Section<'_>, has_retain: bool, first_in_run: bool, problems: &mut Problems) -> Vec<Variant> {
    let base = root.section("train", problems);
    let shared = train_options(&base, &TrainOptions::default(), &[], true, problems);
    let of_methods = root.section("method", problems);
    of_methods.know(&METHODS.map(|m| m.name), problems);
    // The settings of a method: the shared ones, its published rate if there is none, its own table.
    let of_method = METHODS.map(|method| {
        let of_preset = base.get("preset").is_some() && method == shared.method;
        let lr = if base.get("lr").is_some() || of_preset { shared.lr } else { method.lr };
        let table = of_methods.section(method.name, problems);
        let settings = TrainOptions { method, lr, ..shared.clone() };
        (method, train_options(&table, &settings, &[], false, problems))
    });
    let settings = |method: Method| {
        let found = of_method.iter().find(|(m, _)| *m == method);
        found.map_or_else(|| shared.clone(), |(_, settings)| settings.clone())
    };
    let tables = root.sections("variant", problems);
    if tables.is_empty() {
        let train = settings(shared.method);
        unused(&base, &train, problems);
        let train = train.without_unused();
        let retain = has_retain && train.method.reads(SetName::Retain);
        let (name, dir) = (shared.method.name.to_owned(), PathBuf::new());
        return vec![Variant { name, dir, retain, train }];
    }
    let mut variants: Vec<Variant> = Vec::new();
    for table in tables {
        let method = table.get("method").and_then(toml::Value::as_str).and_then(Method::named);
        let settings = settings(method.unwrap_or(shared.method));
        let train = train_options(&table, &settings, &VARIANT_KEYS, false, problems);
        if table.get("name").is_none() {
            problems.push(table.missing("name"));
        }
        let name: String = table.value("name", problems).unwrap_or_else(|| format!("variant{}", variants.len()));
        if let Err(e) = check_name(&name) {
            problems.push(table.wrong("name", e));
        }
        if name == "base" {
            problems.push(table.wrong("name", "`base` is the name of the model without an adapter"));
        } else if let Some(error) = clash("subjects", &name, std::iter::once("base")) {
            problems.push(table.wrong("name", error));
        } else if let Some(error) = clash("variants", &name, variants.iter().map(|v| v.name.as_str())) {
            problems.push(table.wrong("name", error));
        }
        let reads = train.method.reads(SetName::Retain);
        let retain = table.value("retain", problems).unwrap_or(has_retain && reads);
        if retain && !reads {
            problems.push(table.wrong("retain", format!("method `{}` has no use for it", train.method.name)));
        } else if retain && !has_retain {
            problems.push(table.wrong("retain", "there is no retain set").hint("give one as [data] retain_set"));
        }
        let in_run = first_in_run && variants.is_empty();
        let dir = if in_run { PathBuf::new() } else { Path::new("variants").join(&name) };
        variants.push(Variant { name, dir, retain, train: train.without_unused() });
    }
    variants
}

/// A value of a table, or why it is none.
pub(super) type Reading = std::result::Result<toml::Value, String>;

/// A setting as the TOML that it deserialises from.
fn encoded<T: Serialize>(setting: T) -> Reading {
    toml::Value::try_from(setting).map_err(|e| e.to_string())
}

/// A training setting that is written in another way than it deserialises from; None: it is written in the same way.
pub(super) fn converted(table: &Section<'_>, key: &str, value: &toml::Value) -> Option<Reading> {
    let text = value.as_str();
    Some(match (key, text) {
        ("targets", Some(text)) => values::targets(text).and_then(encoded),
        ("targets", None) => {
            let names: Vec<&str> = value.as_array()?.iter().map(|i| i.as_str().unwrap_or("?")).collect();
            values::targets(&names.join(",")).and_then(encoded)
        }
        ("layers" | "loss_layers", Some(text)) => values::layers(text).and_then(encoded),
        ("templates", Some(text)) => match values::templates(text) {
            Ok(Templates::File(_)) => {
                table.relative(text).map_err(|e| e.to_string()).and_then(|file| encoded(Templates::File(file)))
            }
            Ok(other) => encoded(other),
        },
        ("init_adapter" | "dump_grads", Some(text)) => {
            table.relative(text).map_err(|e| e.to_string()).and_then(encoded)
        }
        ("noise" | "align_noise" | "retain_noise", Some("on")) => Ok(true.into()),
        ("noise" | "align_noise" | "retain_noise", Some("off")) => Ok(false.into()),
        _ => return None,
    })
}

/// Training settings of a table on top of its preset, or of `defaults`; values as in the flags.
fn train_options(
    table: &Section<'_>,
    defaults: &TrainOptions,
    special: &[&str],
    shared: bool,
    problems: &mut Problems,
) -> TrainOptions {
    let convert = |key: &str, value: &toml::Value| converted(table, key, value);
    let mut defaults = defaults.clone();
    let preset: Option<Preset> = table.value("preset", problems);
    if let Some(preset) = preset {
        let method = table.get("method").and_then(toml::Value::as_str).and_then(Method::named);
        defaults.method = method.unwrap_or(defaults.method);
        preset.apply(&mut defaults);
    }
    let special: Vec<&str> = special.iter().copied().chain(["preset"]).collect();
    let options = table.settings(&defaults, &special, convert, problems);
    if let Some(Err(e)) = preset.map(|preset| preset.check(options.method)) {
        problems.push(table.wrong("preset", e));
    }
    // Of a table that builds on others only its own keys are checked here; the shared ones were checked once.
    let own = |field: &str| shared || table.get(field).is_some();
    let at = |field: &str| own(field).then(|| format!("{}: `{field}`", table.place(field)));
    check::train_options(&options, &at, problems);
    // The shared table is for other methods too.
    if !shared {
        unused(table, &options, problems);
    }
    options
}

/// Notes an error for each setting of a table that its method does not use, unless it is the default.
fn unused(table: &Section<'_>, options: &TrainOptions, problems: &mut Problems) {
    let named = table.get("method").and_then(toml::Value::as_str);
    if named.is_some_and(|name| Method::named(name).is_none()) {
        return;
    }
    let (Ok(own), Ok(usual)) = (train_json(options), train_json(&TrainOptions::default())) else { return };
    for name in options.unused().filter(|name| table.get(name).is_some()) {
        if own[name] != usual[name] {
            problems.push(check::unused(options, name, &format!("{}: `{name}`", table.place(name))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eraser_train::Gamma;

    const RUN: &str = r#"
[model]
path = "builtin"
base_dtype = "f32"
[data]
harm = { path = "harm.csv", input = "goal", output = "target", take = "0-2", where = { kind = "x" }, shuffle = 3 }
help = "set.jsonl"
align = "builtin/sets/align.jsonl"
retain = "set.jsonl"
[train]
steps = 7
lr = 1e-3
targets = "all-linear"
layers = "1-2"
noise = "off"
templates = "plain.txt"
[[variant]]
name = "one"
retain = false
[[variant]]
name = "two"
gamma = 3
targets = ["q", "v_proj"]
[eval]
attacks = ["direct", "template"]
templates = ["templates"]
temperature = 0.7
questions = [{ set = "seen", path = "harm.csv", column = "goal", take = "1-" }]
tasks = [{ task = "t", path = "set.jsonl" }]
over_refusal = { set = "o", path = "set.jsonl" }
likelihood = true
likelihood_set = [{ set = "unseen", path = "harm.csv", input = "goal", output = "target", take = "1-" }]
likelihood_cuts = [0, 9]
"#;

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["harm.csv", "set.jsonl", "plain.txt"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(dir.path().join("templates")).unwrap();
        dir
    }

    #[test]
    fn values_are_those_of_the_file() {
        let dir = directory();
        let plan = RunPlan::parse(&dir.path().join("run.toml"), RUN, &Overrides::default()).unwrap();
        assert_eq!((plan.name.as_str(), plan.dir.as_path()), ("run", Path::new("runs/run")));
        let [one, two] = &plan.variants[..] else { panic!("two variants") };
        assert_eq!((one.retain, one.train.gamma, one.train.targets.len()), (false, Gamma::Nats(1.8), 7));
        assert_eq!((two.retain, two.train.gamma, two.train.targets.len()), (true, Gamma::Nats(3.0), 2));
        assert_eq!(
            (two.train.steps, two.train.layers.as_deref(), two.train.noise),
            (Some(7), Some(&[1, 2][..]), false)
        );
        assert_eq!(two.train.templates, Templates::File(dir.path().join("plain.txt")));
        let path = |set: SetName| plan.data.sets.iter().find(|(s, _)| *s == set).unwrap().1.path.clone();
        assert_eq!(path(SetName::Help), dir.path().join("set.jsonl"));
        assert_eq!(path(SetName::Align), Path::new("builtin/sets/align.jsonl"));
    }

    #[test]
    fn a_plan_is_a_run_file_of_itself() {
        let dir = directory();
        let file = dir.path().join("run.toml");
        let out = dir.path().join("out");
        let overrides = Overrides { out: Some(&out), ..Overrides::default() };
        let plan = RunPlan::parse(&file, RUN, &overrides).unwrap();
        let text = plan.to_toml().unwrap();
        let again = RunPlan::parse(&out.join("plan.toml"), &text, &Overrides::default()).unwrap();
        assert_eq!(plan, again, "{text}");
        assert_eq!(text, again.to_toml().unwrap());
    }

    #[test]
    fn without_variants_there_is_one() {
        let dir = directory();
        let (before, rest) = RUN.split_once("[[variant]]").unwrap();
        let text = format!("{before}[eval]{}", rest.split_once("[eval]").unwrap().1);
        let plan = RunPlan::parse(&dir.path().join("run.toml"), &text, &Overrides::default()).unwrap();
        assert_eq!(plan.variants.iter().map(|v| (v.name.as_str(), v.retain)).collect::<Vec<_>>(), [("eraser", true)]);
    }

    #[test]
    fn the_configurations_of_the_repository_resolve() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let plan = RunPlan::read(&configs.join("organism.toml"), &Overrides::default()).unwrap();
        assert_eq!(plan.variants.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["eraser", "eraser+retain"]);
        let mut seen = 0;
        for entry in std::fs::read_dir(&configs).unwrap() {
            let path = entry.unwrap().path();
            let mut problems = Problems::default();
            let document = Document::read(&path, &mut problems).unwrap();
            let _ = RunPlan::resolve(document, &Overrides::default(), &mut problems);
            // Only the files may be missing, which are the user's.
            let missing = |m: &String| m.contains("is not set") || m.contains("No such file");
            let other: Vec<String> = problems.messages().into_iter().filter(|m| !missing(m)).collect();
            assert!(other.is_empty(), "{}: {other:?}", path.display());
            seen += 1;
        }
        assert!(seen >= 5, "{seen}");
    }

    #[test]
    fn every_setting_of_a_configuration_says_what_it_trades() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        for entry in std::fs::read_dir(configs).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let mut above = "";
            for line in text.lines() {
                let key = line.split_once(" = ").map_or("", |(key, _)| key);
                let setting = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                let plain =
                    ["path", "seed", "questions", "utility", "over_refusal", "contrast", "answers_file"].contains(&key);
                let explained = line.contains(" # ") || above.starts_with('#');
                assert!(!setting || plain || explained, "{}: {line}", path.display());
                above = line;
            }
        }
    }

    #[test]
    fn a_preset_is_below_the_keys_beside_it_and_above_those_of_other_tables() {
        let dir = directory();
        let run = RUN
            .replace("[train]\nsteps = 7\nlr = 1e-3\n", "[train]\npreset = \"strong\"\nsteps = 7\n")
            .replace("name = \"one\"\n", "name = \"one\"\npreset = \"paper\"\nrank = 4\n")
            .replace("[eval]\n", "[[variant]]\nname = \"three\"\nmethod = \"gam\"\npreset = \"paper\"\n[eval]\n");
        let plan = RunPlan::parse(&dir.path().join("run.toml"), &run, &Overrides::default()).unwrap();
        let [one, two, three] = &plan.variants[..] else { panic!("three variants") };
        let mut strong = TrainOptions::default();
        Preset::Strong.apply(&mut strong);
        assert_eq!((two.train.steps, two.train.rank, two.train.lr), (Some(7), strong.rank, strong.lr));
        assert_eq!((two.train.gamma, two.train.align_noise), (Gamma::Nats(3.0), strong.align_noise));
        assert_eq!((one.train.rank, one.train.steps, one.train.align_noise), (4, None, false));
        assert_eq!(three.train.lr.to_string(), Method::named("gam").unwrap().lr.to_string());
        let error =
            RunPlan::parse(&dir.path().join("run.toml"), &run.replace("strong", "stong"), &Overrides::default());
        let error = error.unwrap_err();
        let meant = |e: &Error| e.hints().contains(&"did you mean `strong`?".to_owned());
        assert!(error.errors().iter().any(|e| e.to_string().contains("`preset`: ") && meant(e)), "{error:?}");
        let run = run.replace("method = \"gam\"", "method = \"gma\"");
        let error = RunPlan::parse(&dir.path().join("run.toml"), &run, &Overrides::default()).unwrap_err();
        let meant = |e: &Error| e.hints().contains(&"did you mean `gam`?".to_owned());
        assert!(error.errors().iter().any(|e| e.to_string().contains("`method`: ") && meant(e)), "{error:?}");
    }
}
