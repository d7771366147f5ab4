//! A whole run: prepare -> train -> evaluate -> report in one directory. In: a plan; out: every file of the run.
//! Invariant: every stage reads files and leaves files; what a stage needs to know of its past is in manifest.json.

use crate::builtin::Assets;
use crate::directory::{Claimed, Earlier, claim, copy, remove};
use crate::divided::{Work, divide};
use crate::failure::{Kind, Outcome};
use crate::inputs::Inputs;
use crate::manifest::{Manifest, Outputs, Request, State, is_adapter};
use crate::plan::{Jailbreaks, RunPlan, Variant};
use crate::shards::{self, Joined, Part, ShardRequest};
use crate::stage::prepare::{Material, Preparing};
use crate::stage::train::Training;
use crate::stage::{common, evaluate, likelihood, prepare, report, served, subjects, summary, train, training_sets};
use crate::study::{self, Question};
use crate::watch::{Silent, Watch};
use eraser_data::files::write_atomic;
use eraser_data::{read_set, write_set};
use eraser_eval::{Plan, ServedSubject, Subject, Summary};
use eraser_model::error::PathContext as _;
use eraser_model::{Adapter, Error, Model, Result, counted};
use eraser_report::Written;
use eraser_train::{SetName, Sets, TrainSummary};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Does all stages, one after the other, and with a study what it reads off them. A stage that was done with the same
/// inputs is not done again. Gives where the report is.
///
/// # Errors
/// Everything that is wrong with options and files; a directory that another process holds or that is not a run's;
/// whatever ends a stage.
pub fn run(plan: &RunPlan, earlier: Earlier, study: Option<Question<'_>>, watch: &mut dyn Watch) -> Outcome<Written> {
    run_joined(plan, &Part::Whole, earlier, study, watch)
}

/// As [`run`]; where `part` joins shards, nothing is done that one of them should have done.
///
/// # Errors
/// As [`run`]; what a shard lacks.
pub fn run_joined(
    plan: &RunPlan,
    part: &Part,
    earlier: Earlier,
    study: Option<Question<'_>>,
    watch: &mut dyn Watch,
) -> Outcome<Written> {
    let start = Instant::now();
    let dir = plan.dir.as_path();
    let Opened { mut run, jailbreaks, mut asked, material, inputs: _, claimed: _claimed } =
        open(plan, part, earlier, study, watch)?;
    run.adopt(watch)?;
    let mut worked = run.make(material.as_ref(), &jailbreaks, watch)?;
    let names: Vec<&str> = plan.variants.iter().map(|v| v.name.as_str()).collect();
    let mut silent = Silent;
    // A search that goes on has its settings again one after the other.
    let told: &mut dyn Watch = if matches!(study, Some(Question::Tune { .. })) { &mut silent } else { &mut *watch };
    summary::keep_variants(dir, &mut run.manifest, &names, told)?;
    subjects::write(dir, &run.adapters(), &run.manifest)?;
    worked |= run.evaluate(&mut asked, watch)?;
    if worked || !dir.join(summary::FILE).exists() {
        run.write_timing(start, watch)?;
    }
    match study {
        Some(question) => study::write(question, dir, plan, jailbreaks.held_out)?,
        None => remove(dir, &[study::FILE])?,
    }
    run.manifest.seal(&[study::FILE])?;
    run.manifest.copy(summary::FILE, study::FILE, study.is_some())?;
    Ok(report::report(dir)?)
}

/// Does one shard of a run: makes the sets, trains its variants and has them answer, in a directory of its own, which is
/// that of `plan`. It leaves no figures and no report.
///
/// # Errors
/// As [`run`].
pub fn run_shard(
    plan: &RunPlan,
    shard: &ShardRequest,
    earlier: Earlier,
    study: Option<Question<'_>>,
    watch: &mut dyn Watch,
) -> Outcome {
    let part = Part::Shard(shard.clone());
    let Opened { mut run, jailbreaks, mut asked, material, inputs, claimed: _claimed } =
        open(plan, &part, earlier, study, watch)?;
    let settings = serde_json::to_value(plan.settings()?).map_err(Error::failed)?;
    let options = shards::options(shard, &settings);
    let request = Request { artefact: shards::ARTEFACT, verb: run.verb, options, inputs: &inputs, seed: None };
    let begun = run.manifest.begin(&request)?;
    let done = run.make(material.as_ref(), &jailbreaks, watch).and_then(|_| run.answer(&mut asked, watch));
    let outcome = done.as_ref().map(|()| Outputs::default()).map_err(Kind::kind);
    run.manifest.end(begun, outcome)?;
    done
}

/// A run whose directory is held.
struct Opened<'a> {
    run: Run<'a>,
    jailbreaks: Jailbreaks,
    asked: Plan,
    material: Option<Material<'a>>,
    /// What shards have in common; empty where there are none.
    inputs: Inputs,
    claimed: Claimed<'a>,
}

/// Takes the directory and reads everything.
fn open<'a>(
    plan: &'a RunPlan,
    part: &'a Part,
    earlier: Earlier,
    study: Option<Question<'_>>,
    watch: &mut dyn Watch,
) -> Outcome<Opened<'a>> {
    let dir = plan.dir.as_path();
    let claimed = claim(dir, earlier)?;
    let Begun { assets, jailbreaks, asked, material, model, served, inputs } =
        claimed.settle(begin(plan, part, study.is_some(), watch))?;
    let run = Run { plan, part, dir, assets, model, served, manifest: Manifest::read(dir), verb: verb(study) };
    Ok(Opened { run, jailbreaks, asked, material, inputs, claimed })
}

/// What a run has read before its first stage.
struct Begun<'a> {
    assets: Assets,
    jailbreaks: Jailbreaks,
    asked: Plan,
    material: Option<Material<'a>>,
    model: Model,
    served: Vec<ServedSubject>,
    inputs: Inputs,
}

/// Reads the model and, of shards, that they are of this work, before anything is written.
fn checked(
    plan: &RunPlan,
    part: &Part,
    material: Option<&Material<'_>>,
    assets: &Assets,
    watch: &mut dyn Watch,
) -> Result<Option<(Model, Inputs)>> {
    if matches!(part, Part::Whole) {
        return Ok(None);
    }
    let model = plan.model.load(assets, watch)?;
    let inputs = common::inputs(plan, (&model, material), assets)?;
    part.check(&inputs)?;
    if let Part::Shard(_) = part {
        shards::check(&plan.dir, &Manifest::read(&plan.dir), &inputs)?;
    }
    Ok(Some((model, inputs)))
}

/// Writes the plan and the sets, and checks what can be checked before anything is trained.
fn begin<'a>(plan: &'a RunPlan, part: &Part, study: bool, watch: &mut dyn Watch) -> Outcome<Begun<'a>> {
    let dir = plan.dir.as_path();
    let assets = Assets::InRun(dir.to_owned());
    let material =
        plan.prepare.as_ref().map(|p| Material::read(p, plan.eval.files(), &plan.eval.answers, &assets)).transpose()?;
    let checked = checked(plan, part, material.as_ref(), &assets, watch)?;
    write_atomic(&dir.join("plan.toml"), plan.to_toml()?.as_bytes())?;

    let data = dir.join("data");
    std::fs::create_dir_all(&data).writing(&data)?;
    for (set, source) in &plan.data.sets {
        write_set(&data.join(set.file()), &source.training_set(*set, &assets)?)?;
    }
    if plan.prepare.is_none() {
        for variant in &plan.variants {
            let swapped = read_sets(dir, variant)?.swapped(&variant.train);
            if !swapped.is_empty() {
                return Err(swapped.into());
            }
        }
    }
    let jailbreaks = jailbreaks(plan, study, &assets)?;
    // Before any training: what the evaluation cannot do is found out now.
    let mut asked = Plan::new(&plan.eval.options(dir, &assets)?, &in_file)?;
    asked.take_share(part.share_of_subject());
    // For sets that are prepared, the preparation checks it.
    for note in training_sets::check_files(asked.options(), plan.data.sets.iter().map(|(set, _)| *set), dir)? {
        watch.note(&note);
    }

    let (model, inputs) = match checked {
        Some(checked) => checked,
        None => (plan.model.load(&assets, watch)?, Inputs::default()),
    };
    // What the user names beside the run's own models counts as on the same one.
    let base = Subject { name: "base".to_owned(), model: &model, adapter: None }.fingerprint()?.model;
    let text = served::text_of(&model);
    let served = if part.takes_untrained() { plan.eval.served.as_slice() } else { &[] };
    let served = served::connect(served, (Some(&text), &base), &served::needs(&asked), dir, watch)?;
    Ok(Begun { assets, jailbreaks, asked, material, model, served, inputs })
}

/// A key of the run file's evaluation, for errors.
fn in_file(key: &str) -> String {
    format!("[eval] {key}")
}

/// The name of the verb in the manifest.
fn verb(study: Option<Question<'_>>) -> &'static str {
    match study {
        None => "run",
        Some(Question::Compare) => "compare",
        Some(Question::Sweep { .. }) => "sweep",
        Some(Question::Tune { .. }) => "tune",
    }
}

/// The sets that a variant learns from, of those that are in `dir/data`.
fn read_sets(dir: &Path, variant: &Variant) -> Result<Sets> {
    let mut sets = Sets::default();
    for set in SetName::ALL.into_iter().filter(|&set| variant.reads(set)) {
        let path = dir.join("data").join(set.file());
        if path.exists() {
            sets.insert(set, set.read(&path)?);
            sets.name_source(set, path.display().to_string());
        }
    }
    Ok(sets)
}

/// The templates, where a method learns from some or a study tells them apart.
fn jailbreaks(plan: &RunPlan, study: bool, assets: &Assets) -> Outcome<Jailbreaks> {
    let evaluation = &plan.eval.options.templates;
    if !plan.reads(SetName::Wrapped) && !study {
        return Ok(Jailbreaks::default());
    }
    let seed = plan.variants.first().map_or(0, |v| v.train.seed);
    Jailbreaks::read(&plan.data.jailbreaks, evaluation, seed, assets)
}

/// A run under way.
struct Run<'a> {
    plan: &'a RunPlan,
    part: &'a Part,
    dir: &'a Path,
    assets: Assets,
    model: Model,
    served: Vec<ServedSubject>,
    manifest: Manifest,
    verb: &'static str,
}

impl<'a> Run<'a> {
    /// The variants that fall to this process.
    fn variants(&self) -> impl Iterator<Item = &'a Variant> + use<'a> {
        let part = self.part;
        let mine = move |(place, _): &(usize, &Variant)| part.takes(*place);
        self.plan.variants.iter().enumerate().filter(mine).map(|(_, variant)| variant)
    }

    /// Makes the sets and trains what was not; true when there was something.
    fn make(
        &mut self,
        material: Option<&Material<'_>>,
        jailbreaks: &Jailbreaks,
        watch: &mut dyn Watch,
    ) -> Outcome<bool> {
        let mut worked = false;
        if let Some(material) = material {
            worked |= self.prepare(material, watch)?;
        }
        if self.plan.reads(SetName::Wrapped) {
            let wrapped = jailbreaks.wrap(&read_set(&self.set(SetName::Align))?);
            write_set(&self.set(SetName::Wrapped), &wrapped)?;
        }
        for variant in self.variants() {
            worked |= self.train(variant, watch)?;
        }
        Ok(worked)
    }

    /// Brings what the shards that are joined have trained, and the sets that they trained on, into the directory.
    fn adopt(&mut self, watch: &mut dyn Watch) -> Result<()> {
        for (i, part) in self.part.joined().into_iter().flat_map(Joined::directories).enumerate() {
            let theirs = Manifest::read(part);
            // Every shard has made the same sets.
            if i == 0 && theirs.get(prepare::ARTEFACT) != self.manifest.get(prepare::ARTEFACT) {
                for name in prepare::FILES {
                    copy(&part.join(name), &self.dir.join(name))?;
                }
                self.manifest.adopt(&theirs, prepare::ARTEFACT, "prepare/")?;
            }
            for (artefact, record) in theirs.artefacts().filter(|(artefact, _)| is_adapter(artefact)) {
                let home = artefact.strip_suffix("adapter").unwrap_or_default();
                let file = self.dir.join(artefact).join("adapter_model.safetensors");
                if self.manifest.get(artefact) == Some(record) && file.exists() {
                    continue;
                }
                train::forget_durability(self.dir, &mut self.manifest, watch)?;
                for name in ["adapter", "train"] {
                    copy(&part.join(home).join(name), &self.dir.join(home).join(name))?;
                }
                self.manifest.adopt(&theirs, artefact, &format!("{home}train/"))?;
            }
        }
        Ok(())
    }

    /// Has the subjects of a shard answer. Figures are made where shards are joined.
    fn answer(&self, asked: &mut Plan, watch: &mut dyn Watch) -> Outcome {
        likelihood::plan_own(asked, self.dir, &[], &in_file, watch)?;
        let directories = self.adapters();
        let adapters = load(&self.model, &directories)?;
        let measured = subjects(&self.model, self.part, &adapters);
        let admitted = summary::admit(self.dir, (&measured, &self.served), false, watch)?;
        evaluate::evaluate(&admitted, asked, None, watch).map(drop)
    }

    /// Makes the sets unless that was done; true when it was not.
    fn prepare(&mut self, material: &Material<'_>, watch: &mut dyn Watch) -> Outcome<bool> {
        let mut inputs = Inputs::of_model(&self.model, self.plan.model.base_dtype)?;
        material.add_to(&mut inputs)?;
        if self.manifest.state(prepare::ARTEFACT, &inputs, &prepare::outputs(self.dir, material.plan()))? == State::Done
        {
            watch.note("prepare: done before");
            return Ok(false);
        }
        self.not_joined("the sets")?;
        self.tell_changes(prepare::ARTEFACT, &inputs, watch);
        let start = Instant::now();
        let (model, part) = (&self.model, &Part::Whole);
        let with = Preparing { model, plan: &self.plan.model, assets: &self.assets, dir: self.dir, part };
        material.prepare(&with, self.verb, &inputs, &mut self.manifest, watch)?;
        watch.note(&format!("prepare: the sets in {:.1} s", start.elapsed().as_secs_f64()));
        Ok(true)
    }

    /// Trains a variant unless that was done; true when it was not.
    fn train(&mut self, variant: &Variant, watch: &mut dyn Watch) -> Outcome<bool> {
        let dir = self.dir.join(&variant.dir);
        let sets = read_sets(self.dir, variant)?;
        let artefact = artefact(variant);
        let inputs = train::inputs(self.dir, &self.model, &self.plan.model, &variant.train, &sets)?;
        let state = self.manifest.state(&artefact, &inputs, &[dir.join("adapter/adapter_model.safetensors")])?;
        if state == State::Done {
            self.manifest.rename(&artefact, &variant.name)?;
            watch.note(&format!("train {}: done before", variant.name));
            return Ok(false);
        }
        self.not_joined(&format!("the adapter of {}", variant.name))?;
        if state == State::New {
            self.tell_changes(&artefact, &inputs, watch);
            remove(&dir, &["adapter", "train"])?;
            train::forget_durability(self.dir, &mut self.manifest, watch)?;
        }
        let name = format!("train {}", variant.name);
        let training = Training {
            artefact: &artefact,
            verb: self.verb,
            name: &name,
            variant: &variant.name,
            model: &self.model,
            plan: &self.plan.model,
            as_loaded: true,
            sets: &sets,
            options: &variant.train,
            dir,
            // All variants compute the same on the frozen model.
            states: self.dir.join("reference/states.bin"),
            inputs,
        };
        let summary = training.run(&mut self.manifest, state == State::Begun, watch)?;
        watch.note(&format!("{name}: {}", describe(&summary)));
        Ok(true)
    }

    /// An error where shards are joined, of which one should have made `what`.
    fn not_joined(&self, what: &str) -> Result<()> {
        let Part::Joined(_) = self.part else { return Ok(()) };
        Err(Error::request(format!("the shards lack {what}, or have made it from other inputs"))
            .hint("run every shard again, by the same command with --force, and merge again"))
    }

    /// Says why something that was made before is made again.
    fn tell_changes(&self, artefact: &str, inputs: &Inputs, watch: &mut dyn Watch) {
        if let Some(why) = self.manifest.why_again(artefact, inputs) {
            watch.note(&why);
        }
    }

    /// The variants' names and the directories of their adapters.
    fn adapters(&self) -> Vec<(String, PathBuf)> {
        let adapter = |v: &Variant| (v.name.clone(), self.dir.join(&v.dir).join("adapter"));
        self.variants().map(adapter).collect()
    }

    /// Evaluates the base and every variant unless that was done; true when it was not.
    fn evaluate(&mut self, asked: &mut Plan, watch: &mut dyn Watch) -> Outcome<bool> {
        likelihood::plan_own(asked, self.dir, &[], &in_file, watch)?;
        let (asked, options) = (&*asked, asked.options());
        let directories = self.adapters();
        let begun = Inputs::of_model(&self.model, self.plan.model.base_dtype)?;
        let mut inputs = evaluate::inputs(begun, options, &directories)?;
        inputs.served(&self.served);
        let file = self.dir.join(summary::FILE);
        let names = ["base"].into_iter().chain(directories.iter().map(|(name, _)| name.as_str()));
        let names: Vec<&str> = names.chain(self.served.iter().map(|served| served.name.as_str())).collect();
        let answers = evaluate::files(&names, asked);
        let mut notes = summary::clear(&mut self.manifest, (summary::FILE, "eval"), &inputs)?;
        notes.extend(self.manifest.discard_changed(summary::FILE, &answers)?);
        notes.extend(self.manifest.missing(summary::FILE, &answers));
        for note in &notes {
            watch.note(note);
        }
        let made = self.manifest.state(summary::FILE, &inputs, std::slice::from_ref(&file))? == State::Done;
        if made && notes.is_empty() {
            watch.note("eval: done before");
            return Ok(false);
        }
        if !made {
            self.tell_changes(summary::FILE, &inputs, watch);
        }
        let start = Instant::now();
        let adapters = load(&self.model, &directories)?;
        let measured = subjects(&self.model, self.part, &adapters);
        let admitted = summary::admit(self.dir, (&measured, &self.served), false, watch)?;
        self.part.join(self.dir, "eval")?;
        self.manifest.seal(&summary::FIGURES)?;
        let mut leakage = training_sets::check(options, &directories)?;
        leakage.extend_from_slice(asked.notes());
        let request = Request {
            artefact: summary::FILE,
            verb: self.verb,
            options: json!({
                "model": self.plan.model.to_json()?,
                "eval": self.plan.eval.recorded(&self.assets)?,
                "leakage": leakage,
            }),
            inputs: &inputs,
            seed: Some(options.seed),
        };
        let all = self.manifest.record(
            &request,
            || -> Outcome<Summary> {
                if matches!(self.part, Part::Whole) {
                    let adapters = directories.iter().map(|(name, dir)| (name.clone(), Some(dir.clone())));
                    let subjects = std::iter::once(("base".to_owned(), None)).chain(adapters).collect();
                    let work = Work::Eval { options: Box::new(options.clone()), subjects };
                    divide(&work, (&self.plan.model, &self.model), self.dir, watch)?;
                }
                let judge = evaluate::judge(options, (&self.plan.model, &self.assets), watch)?;
                let found = evaluate::evaluate(&admitted, asked, judge.as_ref(), watch)?;
                Ok(summary::record(self.dir, &found, watch)?)
            },
            |_| Ok(Outputs::default()),
        )?;
        evaluate::attribute(&mut self.manifest, self.dir, &all, &names, asked)?;
        watch.note(&format!("eval: {} in {:.1} s", counted(names.len(), "subject"), start.elapsed().as_secs_f64()));
        Ok(true)
    }

    /// The file of a set.
    fn set(&self, set: SetName) -> PathBuf {
        self.dir.join("data").join(set.file())
    }

    /// Completes summary.json by what the run took, the time of earlier invocations included.
    fn write_timing(&mut self, start: Instant, watch: &mut dyn Watch) -> Result<()> {
        let mut found = Summary::read(self.dir)?;
        let train: f64 = self.plan.variants.iter().filter_map(|v| self.manifest.seconds(&artefact(v))).sum();
        let prepare = self.manifest.seconds(prepare::ARTEFACT).unwrap_or_default();
        let own = self.manifest.seconds(summary::FILE);
        // What shards did besides training, they did for the evaluation.
        let eval = self
            .part
            .joined()
            .map(Joined::seconds)
            .map(|all| (all - train - prepare).max(0.0) + own.unwrap_or_default())
            .or(own);
        let stages = train + eval.unwrap_or_default() + prepare;
        let timing = &mut found.timing;
        timing.train_s = Some(train);
        timing.eval_s = eval;
        timing.total_s = Some(start.elapsed().as_secs_f64().max(stages));
        timing.peak_rss_mb = eraser_ops::threads::peak_rss_mb().map(|mb| mb.round() as u64);
        summary::record(self.dir, &found, watch)?;
        self.manifest.seal(&summary::FIGURES)
    }
}

/// The adapters in `directories`, with their names.
fn load<'a>(model: &Model, directories: &'a [(String, PathBuf)]) -> Result<Vec<(&'a str, Adapter)>> {
    let device = model.decoder.device();
    let load = |(name, dir): &'a (String, PathBuf)| Ok((name.as_str(), Adapter::load(dir, &model.config, device)?));
    directories.iter().map(load).collect()
}

/// What is measured: the base, where it falls to this `part`, and `adapters` on it.
fn subjects<'a>(model: &'a Model, part: &Part, adapters: &'a [(&str, Adapter)]) -> Vec<Subject<'a>> {
    let subject = |name: &str, adapter| Subject { name: name.to_owned(), model, adapter };
    let base = part.takes_untrained().then(|| subject("base", None));
    base.into_iter().chain(adapters.iter().map(|(name, adapter)| subject(name, Some(adapter)))).collect()
}

/// The name of a variant's adapter in the manifest: its path in the run directory.
fn artefact(variant: &Variant) -> String {
    variant.dir.join("adapter").to_string_lossy().replace('\\', "/")
}

/// Steps, speed and memory in words.
pub fn describe(summary: &TrainSummary) -> String {
    let parts = [
        Some(counted(summary.steps, "step")),
        (summary.ranks > 1).then(|| counted(summary.ranks, "rank")),
        summary.tokens_per_s.map(|speed| format!("{speed:.0} tokens/s")),
        summary.peak_rss_mb.map(|mb| format!("{mb} MB")),
        summary.capped_share.map(|share| format!("gamma reached in {:.0} % of hinges", 100.0 * share)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
