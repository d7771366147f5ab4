//! Expressions. In: an expression of the syntax tree; out: its text, with a filter in place of every operator that
//! differs. Invariant: a filter can follow the text that is written.

use super::super::{methods, python, tests};
use super::{Done, Lower, name_of, push_string, refuse, refuse_private};
use minijinja::machinery::ast::{BinOpKind, CompareOpKind, Expr, UnaryOpKind};
use std::fmt::Write as _;

impl<'a> Lower<'a> {
    /// Writes an expression that `.`, `[` and `(` can follow.
    pub(super) fn base(&mut self, expr: &Expr<'a>) -> Done {
        let filtered = ends_in_filter(expr);
        self.out.push_str(if filtered { "(" } else { "" });
        self.expr(expr)?;
        self.out.push_str(if filtered { ")" } else { "" });
        Ok(())
    }

    /// Writes an expression that filters can follow.
    #[allow(clippy::too_many_lines, reason = "one arm for each kind of expression")]
    pub(super) fn expr(&mut self, expr: &Expr<'a>) -> Done {
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

    /// An operator that is the same in both. A chain of one operator is written without brackets, which the parser
    /// counts.
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
