//! `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:?why}` and `$NAME`, as Compose replaces them, in the
//! text of the document. `$$` stands for a dollar sign and is left for the reader of the scalars, so that a text
//! once replaced can be read again with no environment. Lines that are comments are left alone.
//!
//! Unlike in Compose, a variable that is not set and has no default is an error: an address that silently becomes
//! empty is worse than a start that does not happen.

use super::SpecError;
use std::iter::Peekable;
use std::str::CharIndices;

/// Replaces every variable; what cannot be replaced is reported and becomes empty.
pub(super) fn interpolate(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    errors: &mut Vec<SpecError>,
) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_start().starts_with('#') {
            out.push_str(line);
            continue;
        }
        let mut report = |message: String| {
            errors.push(SpecError { line: index + 1, column: 0, path: String::new(), message })
        };
        let mut chars = line.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match (c, chars.peek().map(|&(_, next)| next)) {
                ('$', Some('$')) => {
                    chars.next();
                    out.push_str("$$");
                }
                ('$', Some('{')) => {
                    let Some(length) = closing_brace(&line[at + 2..]) else {
                        report(format!("'{}' has no closing brace", line[at..].trim_end()));
                        out.push_str(&line[at..]);
                        break;
                    };
                    let inside = &line[at + 2..at + 2 + length];
                    skip_to(&mut chars, at + 2 + length);
                    push_value(&mut out, expand(inside, env), &mut report);
                }
                ('$', Some(next)) if next.is_ascii_alphabetic() || next == '_' => {
                    let rest = &line[at + 1..];
                    let length =
                        rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                    skip_to(&mut chars, at + length);
                    push_value(&mut out, expand(&rest[..length], env), &mut report);
                }
                _ => out.push(c),
            }
        }
    }
    out
}

/// Consumes everything up to and including the byte offset `last`.
fn skip_to(chars: &mut Peekable<CharIndices<'_>>, last: usize) {
    while chars.next_if(|&(at, _)| at <= last).is_some() {}
}

/// Offset of the brace that closes the variable; defaults may hold variables themselves.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn push_value(out: &mut String, value: Result<String, String>, report: &mut impl FnMut(String)) {
    match value {
        Ok(value) if value.contains(['\n', '\r']) => {
            report(
                "the value of a variable here has more than one line; only single lines can be put in".into(),
            );
        }
        Ok(value) => out.push_str(&value),
        Err(message) => report(message),
    }
}

fn expand(inside: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let length = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    let (name, rest) = inside.split_at(length);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("'${{{inside}}}' does not name a variable; write $$ for a dollar sign"));
    }
    // What comes from the environment is text, not a template: its dollar signs are doubled.
    let value = env(name).map(|v| v.replace('$', "$$"));
    let default = |text: &str| {
        let mut errors = Vec::new();
        let text = interpolate(text, env, &mut errors);
        match errors.into_iter().next() {
            None => Ok(text),
            Some(error) => Err(error.message),
        }
    };
    let nonempty = value.clone().filter(|v| !v.is_empty());
    if rest.is_empty() {
        value.ok_or_else(|| format!("${{{name}}} is not set; set it, or write ${{{name}:-default}}"))
    } else if let Some(text) = rest.strip_prefix(":-") {
        nonempty.map_or_else(|| default(text), Ok)
    } else if let Some(text) = rest.strip_prefix('-') {
        value.map_or_else(|| default(text), Ok)
    } else if let Some(why) = rest.strip_prefix(":?") {
        nonempty.ok_or_else(|| format!("${{{name}}} is not set: {why}"))
    } else if let Some(why) = rest.strip_prefix('?') {
        value.ok_or_else(|| format!("${{{name}}} is not set: {why}"))
    } else {
        Err(format!("'${{{inside}}}' is not understood; use ${{{name}}} or ${{{name}:-default}}"))
    }
}
