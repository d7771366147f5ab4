//! Calls and their arguments. In: a call of a function, a method or a macro; out: the call as minijinja makes it.
//! Invariant: an argument with an undefined value counts as given, as in Jinja2.

use super::super::methods;
use super::{Done, Lower, name_of, refuse_private};
use minijinja::machinery::ast::{Call, CallArg, Expr};
use std::fmt::Write as _;

impl<'a> Lower<'a> {
    /// `(a, b=c)`.
    pub(super) fn args(&mut self, args: &[CallArg<'a>]) -> Done {
        if args.is_empty() {
            return Ok(());
        }
        self.out.push('(');
        self.arg_list(args, &[], "")?;
        self.out.push(')');
        Ok(())
    }

    pub(super) fn arg_list(&mut self, args: &[CallArg<'a>], parameters: &[(&'a str, bool)], callee: &str) -> Done {
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

    pub(super) fn call(&mut self, call: &Call<'a>) -> Done {
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
}
