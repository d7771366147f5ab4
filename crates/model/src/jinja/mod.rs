//! Jinja as transformers configures it. In: a template's source and the variables; out: the text that Jinja2 renders
//! (`ImmutableSandboxedEnvironment` with `trim_blocks`, `lstrip_blocks`, loop controls). Invariant: a template is
//! foreign code, so rendering ends within a bounded amount of work, output and stack, and what would render differently
//! from Jinja2 is an error.
//!
//! minijinja parses and runs. Where the two differ, [`source`] changes the text, [`lower`] the syntax tree, and
//! `filters`, `tests`, `methods` and `operators` follow Python's rules (`python`) at run time. docs/templates.md lists
//! what is refused; `tests/jinja.rs` compares with what Jinja2 gives.
//!
//! The files are layers, and each imports from lower ones only:
//! - `unicode`, `characters`: properties of characters;
//! - `objects`: types of values; `python`: what any value means; `bind`, `strings`, `sort`, `percent`: arguments, text,
//!   order, `%`;
//! - `globals`, `json`, `methods`: functions, `tojson` and the methods of strings, lists and dicts;
//! - `operators`, which look methods up, and `filters`;
//! - `select`, filters that call operators and other filters; `tests`, which know the names of all filters;
//! - `lower`, which asks filters, methods and tests for the names they know. `source` works on text and needs none of
//!   these.

mod bind;
mod characters;
mod filters;
mod globals;
mod json;
mod lower;
mod methods;
mod objects;
mod operators;
mod percent;
mod python;
mod select;
mod sort;
mod source;
mod strings;
mod tests;
mod unicode;

use crate::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};

/// Work that one render may do, in minijinja's units: an instruction, or 64 bytes of data made, output included.
/// A short chat under a long template takes some thousand; this many take a fraction of a second.
const FUEL: u64 = 2_000_000;

/// Most bytes of a template.
const MAX_SOURCE: usize = 1 << 20;

/// Stack of the thread that renders. Values nest at most as deeply as the fuel allows, a few hundred thousand levels,
/// and are freed level by level; pages that are not touched cost nothing.
const STACK: usize = 256 << 20;

/// The name of the template inside its environment.
const TEMPLATE: &str = "template";

/// A compiled template.
pub struct Jinja {
    environment: Environment<'static>,
    name: String,
    what: &'static str,
}

impl Jinja {
    /// Compiles `source`, with white space around blocks as transformers has it. Errors say `name: what: ...`, as in
    /// `tokenizer_config.json: chat template: ...`.
    ///
    /// # Errors
    /// A source that is too long or too deeply nested, that is not Jinja, or that uses what is not supported.
    pub fn new(name: &str, what: &'static str, source: &str) -> Result<Self> {
        Self::compiled(name, what, source, true)
    }

    /// As [`Self::new`], with white space around blocks left as it is: Jinja2's own default.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn untrimmed(name: &str, what: &'static str, source: &str) -> Result<Self> {
        Self::compiled(name, what, source, false)
    }

    /// The variables that the template reads and does not set, sorted.
    pub fn variables(&self) -> Vec<String> {
        let template = self.environment.get_template(TEMPLATE);
        let names = template.map(|template| template.undeclared_variables(false)).unwrap_or_default();
        let mut names: Vec<String> =
            names.into_iter().filter(|name| !globals::NAMES.contains(&name.as_str())).collect();
        names.sort();
        names
    }

    fn compiled(name: &str, what: &'static str, source: &str, trim: bool) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            return Err(Error::request(format!("{name}: {what} of {} bytes is too long", source.len())));
        }
        // Parsing and code generation recurse, though no deeper than `source` lets them.
        let compiled = on_large_stack(|| {
            let failed = |e| describe(name, what, &e).hint("the template must be Jinja as transformers understands it");
            compile(source, trim).map_err(failed)
        });
        let environment = compiled.map_err(|e| e.context(name))??;
        Ok(Self { environment, name: name.into(), what })
    }

    /// The text that the template gives for `variables`, an object.
    ///
    /// # Errors
    /// The template refuses them (`raise_exception`), fails, or does not come to an end.
    pub fn render(&self, variables: &serde_json::Value) -> Result<String> {
        // An error may hold values of the template: it is described where they can be freed.
        let run = || {
            let template = self.environment.get_template(TEMPLATE);
            let text = template.and_then(|template| template.render(Value::from(Serde(variables))));
            text.map_err(|e| describe(&self.name, self.what, &e))
        };
        on_large_stack(run).map_err(|e| e.context(&self.name))?
    }
}

impl std::fmt::Debug for Jinja {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jinja").field("name", &self.name).finish_non_exhaustive()
    }
}

fn compile(source: &str, trim: bool) -> std::result::Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(methods::unknown);
    environment.set_formatter(|out, _, value| {
        let text = python::text(value)?;
        out.write_str(&text).map_err(|e| minijinja::Error::new(ErrorKind::WriteFailure, e.to_string()))
    });
    globals::add(&mut environment);
    operators::add(&mut environment);
    filters::add(&mut environment);
    select::add(&mut environment);
    tests::add(&mut environment);
    let syntax = SyntaxConfig::builder().trim_blocks(trim).lstrip_blocks(trim).build()?;
    let text = source::prepare(source, trim)?;
    let lowered = lower::lower(&text, syntax)?;
    environment.add_template_owned(TEMPLATE, lowered)?;
    Ok(environment)
}

/// One line for a template error: what `raise_exception` said, or what went wrong, and where.
fn describe(name: &str, what: &str, error: &minijinja::Error) -> Error {
    if error.kind() == ErrorKind::OutOfFuel {
        return Error::request(format!("{name}: {what}: it takes too long or writes too much"));
    }
    let line = error.line().map_or(String::new(), |n| format!(" (line {n} of the template)"));
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::request(format!("{name}: {what}: {detail}{line}"))
}

/// Runs `work` on a thread with a stack for deep recursion.
fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    let ended = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("template".into()).stack_size(STACK);
        thread.spawn_scoped(scope, work).map(std::thread::ScopedJoinHandle::join)
    });
    match ended {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(Error::failed("a bug in the template engine ended the rendering")),
        Err(e) => Err(Error::failed(format!("cannot start a thread: {e}"))),
    }
}
