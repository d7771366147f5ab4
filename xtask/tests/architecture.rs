//! The structure that ARCHITECTURE.md promises, read off the sources. In: the manifests and files of `crates/`; out: a
//! failing test that names the files. Invariant: what is under `#[cfg(test)]` does not count, and a module may name its
//! own submodules, because it is made of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::Visit;
use syn::{Attribute, Item, UseTree, Visibility};

fn crates() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut found: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    found.retain(|path| path.join("Cargo.toml").is_file());
    found.sort();
    found
}

#[test]
fn no_two_files_of_a_crate_import_each_other() {
    let mut circles = Vec::new();
    for dir in crates() {
        let sources = Sources::read(&dir.join("src"));
        for circle in circles_of(&sources.imports()) {
            circles.push(format!("{}: {}", dir.file_name().unwrap().to_string_lossy(), circle.join(" <-> ")));
        }
    }
    assert!(circles.is_empty(), "files that import each other:\n{}", circles.join("\n"));
}

#[test]
fn arrows_between_crates_point_one_way() {
    // From the lowest floor to the highest; a crate may use those on lower floors.
    let floors: [&[&str]; 6] =
        [&["ops", "report"], &["model"], &["data", "serve"], &["train", "eval"], &["run"], &["cli"]];
    let floor = |name: &str| {
        let found = floors.iter().position(|names| names.contains(&name));
        found.unwrap_or_else(|| {
            panic!("the crate {name} is on no floor: say in this test and in ARCHITECTURE.md on which")
        })
    };
    for dir in crates() {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let manifest: toml::Table = toml::from_str(&fs::read_to_string(dir.join("Cargo.toml")).unwrap()).unwrap();
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        for used in dependencies.keys().filter_map(|key| key.strip_prefix("eraser-")) {
            assert!(floor(used) < floor(&name), "{name} uses {used}, which is not below it");
            assert!(name != "report", "report reads files only, and uses {used}");
        }
    }
}

/// The modules of a crate by path; the crate itself is the empty one.
struct Sources {
    modules: BTreeMap<Vec<String>, Module>,
}

struct Module {
    file: syn::File,
    /// What `use` brings in under a name: the whole path.
    names: BTreeMap<String, Vec<String>>,
    /// Names brought in for others, by `pub use`.
    exported: BTreeSet<String>,
}

impl Sources {
    fn read(src: &Path) -> Self {
        let mut sources = Self { modules: BTreeMap::new() };
        let root = if src.join("lib.rs").is_file() { "lib.rs" } else { "main.rs" };
        sources.add(Vec::new(), &src.join(root), src);
        sources
    }

    fn add(&mut self, path: Vec<String>, source: &Path, below: &Path) {
        let text = fs::read_to_string(source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
        let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
        for item in &file.items {
            if let Item::Mod(module) = item
                && module.content.is_none()
                && !is_test(&module.attrs)
            {
                let name = module.ident.to_string();
                let (plain, nested) = (below.join(format!("{name}.rs")), below.join(&name).join("mod.rs"));
                let child = if plain.is_file() { plain } else { nested };
                let mut path = path.clone();
                path.push(name.clone());
                self.add(path, &child, &below.join(&name));
            }
        }
        self.modules.insert(path, Module { file, names: BTreeMap::new(), exported: BTreeSet::new() });
    }

    /// Which module uses which.
    fn imports(mut self) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
        let paths: Vec<Vec<String>> = self.modules.keys().cloned().collect();
        for path in &paths {
            let mut names = Names { at: path.clone(), paths: BTreeMap::new(), exported: BTreeSet::new() };
            for item in &self.modules[path].file.items {
                if let Item::Use(item) = item
                    && !is_test(&item.attrs)
                {
                    names.add(&item.tree, &mut Vec::new(), !matches!(item.vis, Visibility::Inherited), &self);
                }
            }
            let module = self.modules.get_mut(path).unwrap();
            (module.names, module.exported) = (names.paths, names.exported);
        }
        let mut edges = BTreeMap::new();
        for path in &paths {
            let mut uses = Uses { sources: &self, at: path.clone(), inside: 0, used: BTreeSet::new() };
            for item in &self.modules[path].file.items {
                uses.visit_item(item);
            }
            let used: BTreeSet<Vec<String>> =
                uses.used.into_iter().filter(|other| other != path && !other.starts_with(path)).collect();
            edges.insert(path.clone(), used);
        }
        edges
    }

    /// The module in which the last part of an absolute path is defined, re-exports followed.
    fn definition(&self, path: &[String], depth: usize) -> Option<Vec<String>> {
        let mut at: Vec<String> = Vec::new();
        for (i, part) in path.iter().enumerate() {
            let mut child = at.clone();
            child.push(part.clone());
            if self.modules.contains_key(&child) {
                at = child;
                continue;
            }
            let module = self.modules.get(&at)?;
            return match module.names.get(part).filter(|_| module.exported.contains(part) && depth < 8) {
                Some(target) => {
                    let rest: Vec<String> = target.iter().chain(&path[i + 1..]).cloned().collect();
                    self.definition(&rest, depth + 1)
                }
                None => Some(at),
            };
        }
        Some(at)
    }
}

/// Collects what `use` items bring in.
struct Names {
    at: Vec<String>,
    paths: BTreeMap<String, Vec<String>>,
    exported: BTreeSet<String>,
}

impl Names {
    fn add(&mut self, tree: &UseTree, before: &mut Vec<String>, exported: bool, sources: &Sources) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add(&path.tree, before, exported, sources);
                before.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add(tree, before, exported, sources)),
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.bring(&name, &name, before, exported, sources);
            }
            UseTree::Rename(name) => {
                self.bring(&name.ident.to_string(), &name.rename.to_string(), before, exported, sources);
            }
            UseTree::Glob(_) => {}
        }
    }

    fn bring(&mut self, name: &str, under: &str, before: &[String], exported: bool, sources: &Sources) {
        let mut whole = before.to_vec();
        let mut under = under.to_owned();
        if name == "self" {
            under = whole.last().cloned().unwrap_or_default();
        } else {
            whole.push(name.to_owned());
        }
        if let Some(path) = absolute(&whole, &self.at, sources) {
            self.paths.insert(under.clone(), path);
            if exported {
                self.exported.insert(under);
            }
        }
    }
}

/// A path from the crate's root; None for those of other crates.
fn absolute(path: &[String], at: &[String], sources: &Sources) -> Option<Vec<String>> {
    let first = path.first()?;
    let mut base: Vec<String> = match first.as_str() {
        "crate" => Vec::new(),
        "self" => at.to_vec(),
        "super" => at.split_last().map(|(_, rest)| rest.to_vec()).unwrap_or_default(),
        _ => {
            let mut child = at.to_vec();
            child.push(first.clone());
            if !sources.modules.contains_key(&child) {
                return None;
            }
            at.to_vec()
        }
    };
    let skip = usize::from(["crate", "self", "super"].contains(&first.as_str()));
    for part in &path[skip..] {
        if part == "super" {
            base.pop();
        } else {
            base.push(part.clone());
        }
    }
    Some(base)
}

/// Collects the modules that a file uses.
struct Uses<'a> {
    sources: &'a Sources,
    at: Vec<String>,
    /// Depth of modules within the file.
    inside: usize,
    used: BTreeSet<Vec<String>>,
}

impl Uses<'_> {
    fn path(&mut self, parts: &[String]) {
        let module = &self.sources.modules[&self.at];
        // Within a module of the file, `super` is the file.
        let supers = parts.iter().take_while(|part| *part == "super").count();
        let parts = if self.inside > 0 && supers > 0 && supers <= self.inside { &parts[supers..] } else { parts };
        let Some(first) = parts.first() else { return };
        let whole = match module.names.get(first) {
            Some(target) => Some(target.iter().chain(&parts[1..]).cloned().collect()),
            None => absolute(parts, &self.at, self.sources),
        };
        if let Some(found) = whole.and_then(|path: Vec<String>| self.sources.definition(&path, 0)) {
            self.used.insert(found);
        }
    }
}

impl<'ast> Visit<'ast> for Uses<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Fn(i) => &i.attrs,
            Item::Impl(i) => &i.attrs,
            Item::Mod(i) => &i.attrs,
            Item::Struct(i) => &i.attrs,
            Item::Static(i) => &i.attrs,
            Item::Use(i) => &i.attrs,
            _ => &[],
        };
        if is_test(attributes) {
            return;
        }
        if let Item::Mod(module) = item {
            if module.content.is_some() {
                self.inside += 1;
                syn::visit::visit_item(self, item);
                self.inside -= 1;
            }
            return;
        }
        syn::visit::visit_item(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.path(&parts);
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, found: &'ast syn::Macro) {
        // The arguments of a macro are tokens: names in them count when they are brought in by `use`.
        for token in found.tokens.clone() {
            self.token(token);
        }
        syn::visit::visit_macro(self, found);
    }
}

impl Uses<'_> {
    fn token(&mut self, token: proc_macro2::TokenTree) {
        match token {
            proc_macro2::TokenTree::Group(group) => group.stream().into_iter().for_each(|t| self.token(t)),
            proc_macro2::TokenTree::Ident(ident) => {
                let name = ident.to_string();
                if self.sources.modules[&self.at].names.contains_key(&name) {
                    self.path(&[name]);
                }
            }
            _ => {}
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|a| a.path().is_ident("cfg") && quoted(a).contains("test"))
}

fn quoted(attribute: &Attribute) -> String {
    match &attribute.meta {
        syn::Meta::List(list) => list.tokens.to_string(),
        _ => String::new(),
    }
}

/// Groups of files each of which reaches all others, as text.
fn circles_of(edges: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Vec<Vec<String>> {
    let reach = |from: &Vec<String>| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(at) = open.pop() {
            for next in edges.get(&at).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> = edges.keys().map(|path| (path, reach(path))).collect();
    let (mut circles, mut done) = (Vec::new(), BTreeSet::new());
    for (path, to) in &reached {
        if to.contains(*path) && done.insert((*path).clone()) {
            let members: Vec<&Vec<String>> =
                to.iter().filter(|other| reached.get(other).is_some_and(|back| back.contains(*path))).collect();
            done.extend(members.iter().map(|m| (*m).clone()));
            circles.push(members.iter().map(|m| if m.is_empty() { "lib".into() } else { m.join("/") }).collect());
        }
    }
    circles
}
