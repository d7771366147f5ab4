//! From Jinja2's meaning to minijinja's. In: a template; out: another that minijinja runs as Jinja2 would run the
//! first. Invariant: every construct has code here that writes or refuses it, and keeps its line number.
//!
//! Whitespace control is done when the syntax tree is there, so all text is written as string literals. Operators that
//! differ become filters whose names start with `__` (`operators.rs`). This file holds what is written and where; what
//! a statement, an expression and a call become is in the files below it.

mod calls;
mod expressions;
mod statements;

use minijinja::machinery::ast::{Expr, Stmt};
use minijinja::machinery::parse;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind};
use std::collections::BTreeMap;

type Done = Result<(), Error>;

/// The template that minijinja is given for `source`.
pub(super) fn lower(source: &str, syntax: SyntaxConfig) -> Result<String, Error> {
    let template = parse(source, super::TEMPLATE, syntax)?;
    let Stmt::Template(template) = &template else { return refuse("not a template") };
    let mut lower = Lower { out: String::with_capacity(2 * source.len()), line: 1, macros: BTreeMap::new(), scopes: 0 };
    lower.find_macros(&template.children);
    lower.body(&template.children)?;
    Ok(lower.out)
}

fn refuse<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(ErrorKind::SyntaxError, what.into()))
}

struct Lower<'a> {
    out: String,
    line: usize,
    /// Parameters of each macro, and whether they have a default.
    macros: BTreeMap<&'a str, Vec<(&'a str, bool)>>,
    scopes: usize,
}
impl<'a> Lower<'a> {
    fn find_macros(&mut self, body: &[Stmt<'a>]) {
        for stmt in body {
            if let Stmt::Macro(m) = stmt {
                let plain = m.args.len() - m.defaults.len();
                let parameters = m.args.iter().enumerate().map(|(i, arg)| (name_of(arg), i >= plain));
                self.macros.insert(m.name, parameters.collect());
            }
            for body in bodies(stmt) {
                self.find_macros(body);
            }
        }
    }

    fn body(&mut self, body: &[Stmt<'a>]) -> Done {
        body.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    /// Begins a tag on the line where the original has it.
    fn tag(&mut self, open: &str, line: u16) {
        self.out.push_str(open);
        while self.line < usize::from(line) {
            self.out.push('\n');
            self.line += 1;
        }
        self.out.push(' ');
    }

    fn block(&mut self, line: u16, text: &str) {
        self.tag("{%", line);
        self.out.push_str(text);
    }
}

/// The statements inside a statement.
fn bodies<'s, 'a>(stmt: &'s Stmt<'a>) -> Vec<&'s [Stmt<'a>]> {
    match stmt {
        Stmt::ForLoop(s) => vec![&s.body, &s.else_body],
        Stmt::IfCond(s) => vec![&s.true_body, &s.false_body],
        Stmt::WithBlock(s) => vec![&s.body],
        Stmt::SetBlock(s) => vec![&s.body],
        Stmt::FilterBlock(s) => vec![&s.body],
        Stmt::Block(s) => vec![&s.body],
        Stmt::Macro(s) => vec![&s.body],
        Stmt::CallBlock(s) => vec![&s.macro_decl.body],
        _ => Vec::new(),
    }
}
fn refuse_private<T>(name: &str) -> Result<T, Error> {
    refuse(format!("`{name}`: names of Python's own are not accessible"))
}

fn name_of<'a>(expr: &Expr<'a>) -> &'a str {
    if let Expr::Var(v) = expr { v.id } else { "" }
}

/// A string literal that is its text whatever the lexer does to line ends.
fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
}
