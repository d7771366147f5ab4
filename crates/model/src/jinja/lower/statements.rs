//! Statements. In: a statement of the syntax tree; out: its tags, each on the line where the original has it.
//! Invariant: a statement that could load another template or change another scope is refused by name.

use super::super::{filters, select};
use super::{Done, Lower, name_of, push_string, refuse};
use minijinja::machinery::ast::{Expr, Macro, Stmt};
use std::fmt::Write as _;

impl<'a> Lower<'a> {
    #[allow(clippy::too_many_lines, reason = "one arm for each kind of statement")]
    pub(super) fn stmt(&mut self, stmt: &Stmt<'a>) -> Done {
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

    pub(super) fn filter_chain(&mut self, filter: &Expr<'a>) -> Done {
        let Expr::Filter(f) = filter else { return refuse("a filter is expected") };
        if let Some(inner) = &f.expr {
            self.filter_chain(inner)?;
            self.out.push_str(" | ");
        }
        self.filter_name(f.name)?;
        self.args(&f.args)
    }

    pub(super) fn filter_name(&mut self, name: &str) -> Done {
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
}

/// Whether an expression reads the variable `name`.
fn mentions(expr: &Expr<'_>, name: &str) -> bool {
    // What the tree's own printer shows of a variable.
    format!("{expr:?}").contains(&format!("id: {name:?}"))
}
