//! The text of a template, before it is parsed. In: the source; out: one that minijinja's lexer reads as Jinja2's reads
//! the original. Invariant: what comes out nests no deeper than the parser's stack allows, and has as many lines as
//! what came in.

use minijinja::{Error, ErrorKind};

/// Tokens of one tag that can nest an expression: brackets, operators, words.
const MAX_NESTING_TOKENS: usize = 1000;
/// Blocks that are open at once.
const MAX_BLOCKS: usize = 100;
/// `elif` and `else` branches of a template.
const MAX_BRANCHES: usize = 1000;

/// Line ends as `\n`; `{% raw %}` keeps the line end after it; `{% generation %}` marks what the assistant says, for
/// training masks, and is a scope that renders its content; escapes in strings that only Python knows.
pub(super) fn prepare(source: &str, trim: bool) -> Result<String, Error> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    let (mut open, mut branches) = (0usize, 0usize);
    while let Some(at) = tag_start(rest) {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        if let Some(inside) = tag.strip_prefix("{#") {
            let Some(end) = inside.find("#}").map(|n| n + 4) else {
                return if tag == "{#" { Ok(out) } else { Err(error("unexpected end of comment", &source, rest, at)) };
            };
            out.push_str(&tag[..end]);
            rest = &tag[end..];
            continue;
        }
        let Some(end) = tag_end(tag) else {
            // The parser says what is missing.
            out.push_str(tag);
            return Ok(out);
        };
        let (inner, after) = (&tag[2..end], &tag[end + 2..]);
        if nesting_tokens(inner) > MAX_NESTING_TOKENS {
            return Err(error("an expression is too long", &source, rest, at));
        }
        let block = tag.starts_with("{%");
        let (left, word, right) = parts(inner);
        if !block && right == "+" {
            return Err(error("unexpected `+` at the end of an expression", &source, rest, at));
        }
        if block && word == "raw" {
            let Some((content, tail)) = raw_end(after) else {
                return Err(error("missing end of raw block", &source, rest, at));
            };
            out.push_str(&tag[..end + 2]);
            // minijinja drops a line end here, Jinja2 does not.
            if trim && right.is_empty() && content.starts_with('\n') {
                out.push('\n');
            }
            out.push_str(content);
            rest = tail;
            let close = rest.find("%}").map_or(rest.len(), |n| n + 2);
            out.push_str(&rest[..close]);
            rest = &rest[close..];
            continue;
        }
        let first = word.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        if block {
            match first {
                "if" | "for" | "with" | "macro" | "call" | "filter" | "block" | "generation" => open += 1,
                "elif" | "else" => branches += 1,
                _ if first.starts_with("end") => open = open.saturating_sub(1),
                _ => {}
            }
            if open > MAX_BLOCKS || branches > MAX_BRANCHES {
                return Err(error("blocks are nested too deeply", &source, rest, at));
            }
        }
        match word {
            "generation" if block => out.push_str(&["{%", left, " with ", right, "%}"].concat()),
            "endgeneration" if block => out.push_str(&["{%", left, " endwith ", right, "%}"].concat()),
            _ => {
                out.push_str(&tag[..2]);
                push_escapes(&mut out, inner).map_err(|what| error(what, &source, rest, at))?;
                out.push_str(&tag[end..end + 2]);
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn error(what: &'static str, source: &str, rest: &str, at: usize) -> Error {
    let line = source[..source.len() - rest.len() + at].matches('\n').count() + 1;
    Error::new(ErrorKind::SyntaxError, format!("{what} (line {line} of the template)"))
}

/// Where the first tag begins.
fn tag_start(text: &str) -> Option<usize> {
    let found = |(at, _): &(usize, &str)| matches!(text.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#'));
    text.match_indices('{').find(found).map(|(at, _)| at)
}

/// Where the `%}` or `}}` of the tag at the start of `tag` is: outside strings and brackets.
fn tag_end(tag: &str) -> Option<usize> {
    let bytes = tag.as_bytes();
    let close = if bytes.get(1) == Some(&b'{') { b"}}" } else { b"%}" };
    let (mut at, mut depth) = (2, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'\'' | b'"') => {
                at += 1;
                while bytes.get(at).is_some_and(|&b| b != quote) {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
            }
            _ if depth == 0 && bytes[at..].starts_with(close) => return Some(at),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// A tag's inside: whitespace control, the trimmed text, whitespace control.
fn parts(inner: &str) -> (&str, &str, &str) {
    let left = if inner.starts_with(['-', '+']) { &inner[..1] } else { "" };
    let inner = &inner[left.len()..];
    let right = if inner.ends_with(['-', '+']) { &inner[inner.len() - 1..] } else { "" };
    (left, inner[..inner.len() - right.len()].trim(), right)
}

/// What is before the `{% endraw %}`, and the rest from it on.
fn raw_end(text: &str) -> Option<(&str, &str)> {
    let end = text.match_indices("{%").find(|(at, _)| {
        let inner = &text[at + 2..];
        inner.find("%}").is_some_and(|end| parts(&inner[..end]).1 == "endraw")
    });
    end.map(|(at, _)| text.split_at(at))
}

/// How many tokens of a tag can make the tree of its expression deeper.
fn nesting_tokens(inner: &str) -> usize {
    let mut count = 0;
    let (mut quote, mut escaped, mut word) = (None, false, String::new());
    for c in inner.chars() {
        if let Some(open) = quote {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if c == open => quote = None,
                _ => {}
            }
            continue;
        }
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        count += usize::from(matches!(word.as_str(), "not" | "and" | "or" | "if" | "else" | "is" | "in"));
        word.clear();
        match c {
            '\'' | '"' => quote = Some(c),
            '(' | '[' | '{' | '+' | '-' | '*' | '/' | '~' | '%' | '|' | '.' | '<' | '>' | '=' => count += 1,
            _ => {}
        }
    }
    count
}

/// Copies a tag, with the escapes of its strings that minijinja would leave as they are.
fn push_escapes(out: &mut String, inner: &str) -> Result<(), &'static str> {
    let mut quote = None;
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            (Some(_), '\\') => match chars.next() {
                Some((_, '\n')) => continue,
                Some((_, 'N')) => return Err("the escape \\N{..} of a string is not supported"),
                Some((_, 'U')) => {
                    let digits = inner.get(at + 2..at + 10).ok_or("an escape \\U has fewer than 8 digits")?;
                    let code = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
                    match code.ok_or("an escape \\U is no character")? {
                        special @ ('\\' | '\'' | '"') => out.extend(['\\', special]),
                        plain => out.push(plain),
                    }
                    chars.nth(7);
                    continue;
                }
                Some((_, next)) => {
                    out.extend([c, next]);
                    continue;
                }
                None => {}
            },
            _ => {}
        }
        out.push(c);
    }
    Ok(())
}
