//! From Jinja2's meaning to minijinja's. In: a template; out: another that minijinja runs as Jinja2 would run the first.
//! Invariant: every construct is written again knowingly, or refused; lines stay where they were.
//!
//! Whitespace control is done when the syntax tree is there, so all text is written as string literals. Operators that differ
//! become filters whose names start with `__` (`operators.rs`).

use super::{filters, methods, python, select, tests};
use minijinja::machinery::ast::{BinOpKind, Call, CallArg, CompareOpKind, Expr, Macro, Stmt, UnaryOpKind};
use minijinja::machinery::parse;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind};
use std::collections::BTreeMap;
use std::fmt::Write as _;

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

    #[allow(clippy::too_many_lines, reason = "one arm for each kind of statement")]
    fn stmt(&mut self, stmt: &Stmt<'a>) -> Done {
        match stmt {
            Stmt::Template(s) => self.body(&s.children)?,
            Stmt::EmitRaw(s) => {
                self.tag("{{", s.span().start_line);
                push_string(&mut self.out, s.raw);
                self.out.push_str(" }}");
            }
            Stmt::EmitExpr(s) => {
                self.tag("{{", s.span().start_line);
                match &s.expr {
                    Expr::Filter(f) if filters::MARKUP.contains(&f.name) && f.args.is_empty() => {
                        let Some(inner) = &f.expr else { return refuse("a filter has no value") };
                        self.expr(inner)?;
                        let _ = write!(self.out, "|{}", f.name);
                    }
                    other => self.expr(other)?,
                }
                self.out.push_str(" }}");
            }
            Stmt::ForLoop(s) => {
                self.block(s.span().start_line, "for ");
                self.target(&s.target, false)?;
                self.out.push_str(" in ");
                self.expr(&s.iter)?;
                self.out.push_str("|__iter");
                if let Some(filter) = &s.filter_expr {
                    self.out.push_str(" if ");
                    self.expr(filter)?;
                }
                self.out.push_str(if s.recursive { " recursive %}" } else { " %}" });
                self.body(&s.body)?;
                if !s.else_body.is_empty() {
                    self.out.push_str("{% else %}");
                    self.body(&s.else_body)?;
                }
                self.out.push_str("{% endfor %}");
            }
            Stmt::IfCond(s) => {
                let (mut branch, mut word) = (s, "if ");
                loop {
                    self.block(branch.span().start_line, word);
                    self.expr(&branch.expr)?;
                    self.out.push_str(" %}");
                    self.body(&branch.true_body)?;
                    // A chain of branches, not a nest of conditions.
                    match branch.false_body.as_slice() {
                        [Stmt::IfCond(next)] => (branch, word) = (next, "elif "),
                        [] => break,
                        other => {
                            self.out.push_str("{% else %}");
                            self.body(other)?;
                            break;
                        }
                    }
                }
                self.out.push_str("{% endif %}");
            }
            Stmt::WithBlock(s) => {
                // Values are computed before any name is set.
                self.block(s.span().start_line, "with ");
                let first = self.scopes;
                for (_, value) in &s.assignments {
                    let _ = write!(self.out, "{}__w{} = ", if self.scopes > first { ", " } else { "" }, self.scopes);
                    self.scopes += 1;
                    self.expr(value)?;
                }
                self.out.push_str(" %}{% with ");
                for (i, (target, _)) in s.assignments.iter().enumerate() {
                    self.out.push_str(if i > 0 { ", " } else { "" });
                    self.target(target, true)?;
                    let _ = write!(self.out, " = __w{}", first + i);
                }
                self.out.push_str(" %}");
                self.body(&s.body)?;
                self.out.push_str("{% endwith %}{% endwith %}");
            }
            Stmt::Set(s) => {
                self.block(s.span().start_line, "set ");
                self.target(&s.target, false)?;
                self.out.push_str(" = ");
                self.expr(&s.expr)?;
                self.out.push_str(" %}");
            }
            Stmt::SetBlock(s) => {
                self.block(s.span().start_line, "set ");
                self.target(&s.target, false)?;
                if let Some(filter) = &s.filter {
                    self.out.push_str(" | ");
                    self.filter_chain(filter)?;
                }
                self.out.push_str(" %}");
                self.body(&s.body)?;
                self.out.push_str("{% endset %}");
            }
            Stmt::FilterBlock(s) => {
                self.block(s.span().start_line, "filter ");
                self.filter_chain(&s.filter)?;
                self.out.push_str(" %}");
                self.body(&s.body)?;
                self.out.push_str("{% endfilter %}");
            }
            Stmt::Macro(s) => {
                self.block(s.span().start_line, "macro ");
                self.out.push_str(s.name);
                self.parameters(s)?;
                self.out.push_str(" %}");
                self.body(&s.body)?;
                self.out.push_str("{% endmacro %}");
            }
            Stmt::CallBlock(s) => {
                self.block(s.span().start_line, "call");
                self.parameters(&s.macro_decl)?;
                self.out.push(' ');
                self.call(&s.call)?;
                self.out.push_str(" %}");
                self.body(&s.macro_decl.body)?;
                self.out.push_str("{% endcall %}");
            }
            Stmt::Block(s) => {
                self.block(s.span().start_line, "block ");
                self.out.push_str(s.name);
                self.out.push_str(" %}");
                self.body(&s.body)?;
                self.out.push_str("{% endblock %}");
            }
            Stmt::Continue(s) => self.block(s.span().start_line, "continue %}"),
            Stmt::Break(s) => self.block(s.span().start_line, "break %}"),
            Stmt::AutoEscape(_) => return refuse("`autoescape` is not supported"),
            Stmt::Import(_) | Stmt::FromImport(_) | Stmt::Extends(_) | Stmt::Include(_) => {
                return refuse("a template cannot load another one");
            }
            Stmt::Do(_) => return refuse("`do` is not known to Jinja as transformers configures it"),
        }
        Ok(())
    }

    fn parameters(&mut self, m: &Macro<'a>) -> Done {
        self.out.push('(');
        let plain = m.args.len() - m.defaults.len();
        let names: Vec<&str> = m.args.iter().map(name_of).collect();
        for (i, name) in names.iter().enumerate() {
            self.out.push_str(if i > 0 { ", " } else { "" });
            self.out.push_str(name);
            if let Some(default) = i.checked_sub(plain).and_then(|i| m.defaults.get(i)) {
                if names.iter().any(|name| mentions(default, name)) {
                    return refuse(format!(
                        "macro {}: a default that depends on another parameter is not supported",
                        m.name
                    ));
                }
                self.out.push('=');
                self.expr(default)?;
            }
        }
        self.out.push(')');
        Ok(())
    }

    fn target(&mut self, target: &Expr<'a>, nested: bool) -> Done {
        match target {
            Expr::Var(v) => self.out.push_str(v.id),
            Expr::GetAttr(a) => {
                self.target(&a.expr, true)?;
                self.out.push('.');
                self.out.push_str(a.name);
            }
            Expr::List(list) => {
                self.out.push_str(if nested { "(" } else { "" });
                for (i, item) in list.items.iter().enumerate() {
                    self.out.push_str(if i > 0 { ", " } else { "" });
                    self.target(item, true)?;
                }
                self.out.push_str(if list.items.len() == 1 { "," } else { "" });
                self.out.push_str(if nested { ")" } else { "" });
            }
            _ => return refuse("this cannot be assigned to"),
        }
        Ok(())
    }

    fn filter_chain(&mut self, filter: &Expr<'a>) -> Done {
        let Expr::Filter(f) = filter else { return refuse("a filter is expected") };
        if let Some(inner) = &f.expr {
            self.filter_chain(inner)?;
            self.out.push_str(" | ");
        }
        self.filter_name(f.name)?;
        self.args(&f.args)
    }

    fn filter_name(&mut self, name: &str) -> Done {
        if filters::MARKUP.contains(&name) {
            return refuse(format!(
                "filter `{name}` is supported only at the end of what is printed: {{{{ x|{name} }}}}"
            ));
        }
        if !filters::known(name) && !select::known(name) {
            return refuse(format!("filter `{name}` is not supported"));
        }
        self.out.push_str(name);
        Ok(())
    }

    /// `(a, b=c)`.
    fn args(&mut self, args: &[CallArg<'a>]) -> Done {
        if args.is_empty() {
            return Ok(());
        }
        self.out.push('(');
        self.arg_list(args, &[], "")?;
        self.out.push(')');
        Ok(())
    }

    fn arg_list(&mut self, args: &[CallArg<'a>], parameters: &[(&'a str, bool)], callee: &str) -> Done {
        for (i, arg) in args.iter().enumerate() {
            self.out.push_str(if i > 0 { ", " } else { "" });
            let (value, default) = match arg {
                CallArg::Pos(value) => (value, parameters.get(i).is_some_and(|p| p.1)),
                CallArg::Kwarg(name, value) => {
                    self.out.push_str(name);
                    self.out.push('=');
                    (value, parameters.iter().any(|p| p.0 == *name && p.1))
                }
                CallArg::PosSplat(value) => {
                    self.out.push('*');
                    (value, false)
                }
                CallArg::KwargSplat(value) => {
                    self.out.push_str("**");
                    (value, false)
                }
            };
            self.expr(value)?;
            // minijinja takes an undefined argument for one that is not given, Jinja2 does not.
            if default {
                let _ = write!(self.out, "|__given(\"{callee}\")");
            }
        }
        Ok(())
    }

    fn call(&mut self, call: &Call<'a>) -> Done {
        let name = match &call.expr {
            Expr::GetAttr(a) if a.name.starts_with('_') => return refuse_private(a.name),
            Expr::GetAttr(a) if methods::is_name(a.name) => {
                self.expr(&a.expr)?;
                let _ = write!(self.out, "|__call(\"{}\"", a.name);
                self.out.push_str(if call.args.is_empty() { "" } else { ", " });
                self.arg_list(&call.args, &[], "")?;
                self.out.push(')');
                return Ok(());
            }
            Expr::GetAttr(a) if name_of(&a.expr) == "self" => {
                let _ = write!(self.out, "self.{}", a.name);
                ""
            }
            Expr::GetAttr(a) => {
                self.base(&a.expr)?;
                self.out.push('.');
                self.out.push_str(a.name);
                ""
            }
            Expr::Var(v) => {
                self.out.push_str(v.id);
                v.id
            }
            other => {
                self.out.push('(');
                self.expr(other)?;
                self.out.push(')');
                ""
            }
        };
        let parameters = self.macros.get(name).cloned().unwrap_or_default();
        self.out.push('(');
        self.arg_list(&call.args, &parameters, name)?;
        self.out.push(')');
        Ok(())
    }

    /// Writes an expression that `.`, `[` and `(` can follow.
    fn base(&mut self, expr: &Expr<'a>) -> Done {
        let filtered = ends_in_filter(expr);
        self.out.push_str(if filtered { "(" } else { "" });
        self.expr(expr)?;
        self.out.push_str(if filtered { ")" } else { "" });
        Ok(())
    }

    /// Writes an expression that filters can follow.
    #[allow(clippy::too_many_lines, reason = "one arm for each kind of expression")]
    fn expr(&mut self, expr: &Expr<'a>) -> Done {
        match expr {
            Expr::Var(v) if v.id.starts_with("__") => return refuse_private(v.id),
            Expr::Var(v) if v.id == "self" => return refuse("`self` is supported only as in `self.block()`"),
            Expr::Var(v) => self.out.push_str(v.id),
            Expr::Const(c) => self.constant(&c.value),
            Expr::Slice(s) => {
                self.expr(&s.expr)?;
                self.out.push_str("|__slice(");
                for (i, bound) in [&s.start, &s.stop, &s.step].into_iter().enumerate() {
                    self.out.push_str(if i > 0 { ", " } else { "" });
                    match bound {
                        Some(bound) => self.expr(bound)?,
                        None => self.out.push_str("none"),
                    }
                }
                self.out.push(')');
            }
            Expr::UnaryOp(u) => match u.op {
                UnaryOpKind::Not => {
                    self.out.push_str("(not ");
                    self.expr(&u.expr)?;
                    self.out.push(')');
                }
                UnaryOpKind::Neg => {
                    self.expr(&u.expr)?;
                    self.out.push_str("|__neg");
                }
            },
            Expr::BinOp(b) => self.binary(b.op, &b.left, &b.right)?,
            Expr::Compare(c) => {
                self.expr(&c.expr)?;
                self.out.push_str("|__chain(");
                for (i, op) in c.ops.iter().enumerate() {
                    let _ = write!(self.out, "{}\"{}\", ", if i > 0 { ", " } else { "" }, comparison(op.op));
                    self.expr(&op.expr)?;
                }
                self.out.push(')');
            }
            Expr::IfExpr(c) => {
                self.out.push('(');
                self.expr(&c.true_expr)?;
                self.out.push_str(" if ");
                self.expr(&c.test_expr)?;
                if let Some(other) = &c.false_expr {
                    self.out.push_str(" else ");
                    self.expr(other)?;
                }
                self.out.push(')');
            }
            Expr::Filter(f) => {
                let Some(inner) = &f.expr else { return refuse("a filter has no value") };
                self.expr(inner)?;
                self.out.push('|');
                self.filter_name(f.name)?;
                self.args(&f.args)?;
            }
            Expr::Test(t) => {
                if !tests::known(t.name) {
                    return refuse(format!("test `{}` is not supported", t.name));
                }
                self.out.push('(');
                self.expr(&t.expr)?;
                self.out.push_str(" is ");
                self.out.push_str(t.name);
                self.args(&t.args)?;
                self.out.push(')');
            }
            Expr::GetAttr(a) if a.name.starts_with('_') => return refuse_private(a.name),
            Expr::GetAttr(a) if a.name == "arguments" && self.macros.contains_key(name_of(&a.expr)) => {
                return refuse("a macro's `arguments` are not supported");
            }
            Expr::GetAttr(a) if methods::is_name(a.name) => {
                self.expr(&a.expr)?;
                let _ = write!(self.out, "|__attr(\"{}\")", a.name);
            }
            Expr::GetAttr(a) => {
                self.base(&a.expr)?;
                self.out.push('.');
                self.out.push_str(a.name);
            }
            Expr::GetItem(i) => {
                let plain = is_plain(&i.subscript_expr);
                if plain {
                    self.base(&i.expr)?;
                } else {
                    self.expr(&i.expr)?;
                }
                self.out.push_str(if plain { "[" } else { "|__item(" });
                self.expr(&i.subscript_expr)?;
                self.out.push_str(if plain { "]" } else { ")" });
            }
            Expr::Call(c) => self.call(c)?,
            Expr::List(l) => {
                self.out.push('[');
                self.items(&l.items)?;
                self.out.push(']');
            }
            Expr::Tuple(t) => {
                self.out.push('(');
                self.items(&t.items)?;
                self.out.push(')');
            }
            Expr::Map(m) => {
                self.out.push('{');
                for (key, value) in m.keys.iter().zip(&m.values) {
                    self.expr(key)?;
                    self.out.push_str(": ");
                    self.expr(value)?;
                    self.out.push_str(", ");
                }
                self.out.push('}');
            }
        }
        Ok(())
    }

    fn items(&mut self, items: &[Expr<'a>]) -> Done {
        items.iter().try_for_each(|item| {
            self.expr(item)?;
            self.out.push_str(", ");
            Ok(())
        })
    }

    fn binary(&mut self, op: BinOpKind, left: &Expr<'a>, right: &Expr<'a>) -> Done {
        let filter = match op {
            BinOpKind::Lt => "__lt",
            BinOpKind::Lte => "__le",
            BinOpKind::Gt => "__gt",
            BinOpKind::Gte => "__ge",
            BinOpKind::In => "__in",
            BinOpKind::Rem => "__percent",
            BinOpKind::Concat => "__concat",
            BinOpKind::Add => "__add",
            BinOpKind::Mul => "__mul",
            BinOpKind::Eq => return self.native(op, " == ", left, right),
            BinOpKind::Ne => return self.native(op, " != ", left, right),
            BinOpKind::ScAnd => return self.native(op, " and ", left, right),
            BinOpKind::ScOr => return self.native(op, " or ", left, right),
            BinOpKind::Sub => return self.native(op, " - ", left, right),
            BinOpKind::Div => return self.native(op, " / ", left, right),
            BinOpKind::FloorDiv => return self.native(op, " // ", left, right),
            BinOpKind::Pow => {
                self.native(op, " ** ", left, right)?;
                self.out.push_str("|__real");
                return Ok(());
            }
        };
        self.expr(left)?;
        self.out.push('|');
        self.out.push_str(filter);
        self.out.push('(');
        self.expr(right)?;
        self.out.push(')');
        Ok(())
    }

    /// An operator that is the same in both. A chain of one operator is written without brackets, which the parser counts.
    fn native(&mut self, op: BinOpKind, text: &str, left: &Expr<'a>, right: &Expr<'a>) -> Done {
        self.out.push('(');
        let mut operands = vec![right];
        let mut first = left;
        while let Expr::BinOp(inner) = first {
            // A filter that follows the power belongs to it alone.
            let same = std::mem::discriminant(&inner.op) == std::mem::discriminant(&op);
            if !same || matches!(op, BinOpKind::Pow | BinOpKind::Eq | BinOpKind::Ne) {
                break;
            }
            operands.push(&inner.right);
            first = &inner.left;
        }
        self.expr(first)?;
        for operand in operands.into_iter().rev() {
            self.out.push_str(text);
            self.expr(operand)?;
        }
        self.out.push(')');
        Ok(())
    }

    fn constant(&mut self, value: &minijinja::Value) {
        match python::kind(value) {
            "str" => push_string(&mut self.out, value.as_str().unwrap_or_default()),
            "float" => match f64::try_from(value.clone()) {
                Ok(x) if x.is_finite() => {
                    let _ = write!(self.out, "{x:?}");
                }
                _ => self.out.push_str("(\"inf\"|float)"),
            },
            "None" => self.out.push_str("none"),
            "bool" => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            _ => {
                let _ = write!(self.out, "{value}");
            }
        }
    }
}

/// Whether a subscript is one that minijinja looks up as Jinja2 does.
fn is_plain(subscript: &Expr<'_>) -> bool {
    let Expr::Const(c) = subscript else { return false };
    match c.value.as_str() {
        Some(name) => !methods::is_name(name) && !name.starts_with('_'),
        None => c.value.is_integer(),
    }
}

/// Whether an expression is written with a filter at its end.
fn ends_in_filter(expr: &Expr<'_>) -> bool {
    match expr {
        Expr::Slice(_) | Expr::Compare(_) | Expr::Filter(_) => true,
        Expr::UnaryOp(u) => matches!(u.op, UnaryOpKind::Neg),
        Expr::BinOp(b) => !matches!(
            b.op,
            BinOpKind::Eq
                | BinOpKind::Ne
                | BinOpKind::ScAnd
                | BinOpKind::ScOr
                | BinOpKind::Sub
                | BinOpKind::Div
                | BinOpKind::FloorDiv
        ),
        Expr::GetAttr(a) => methods::is_name(a.name),
        Expr::GetItem(i) => !is_plain(&i.subscript_expr),
        Expr::Call(c) => matches!(&c.expr, Expr::GetAttr(a) if methods::is_name(a.name)),
        _ => false,
    }
}

fn refuse_private<T>(name: &str) -> Result<T, Error> {
    refuse(format!("`{name}`: names of Python's own are not accessible"))
}

fn comparison(op: CompareOpKind) -> &'static str {
    match op {
        CompareOpKind::Eq => "==",
        CompareOpKind::Ne => "!=",
        CompareOpKind::Lt => "<",
        CompareOpKind::Lte => "<=",
        CompareOpKind::Gt => ">",
        CompareOpKind::Gte => ">=",
        CompareOpKind::In => "in",
        CompareOpKind::NotIn => "not in",
    }
}

fn name_of<'a>(expr: &Expr<'a>) -> &'a str {
    if let Expr::Var(v) = expr { v.id } else { "" }
}

/// Whether an expression reads the variable `name`.
fn mentions(expr: &Expr<'_>, name: &str) -> bool {
    // What the tree's own printer shows of a variable.
    format!("{expr:?}").contains(&format!("id: {name:?}"))
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
