//! A Rust source with comments and literals blanked out, so that any word found in it is code.

use std::ops::Range;

/// The code of a source file.
#[derive(Debug)]
pub(crate) struct Text {
    /// As long as the source, byte for byte: whatever is not code is replaced by spaces, and line ends are kept.
    code: String,
    /// Items that are compiled only for tests.
    test_items: Vec<Range<usize>>,
}

impl Text {
    pub(crate) fn new(source: &str) -> Self {
        let code = blank(source);
        let test_items = test_items(&code);
        Self { code, test_items }
    }

    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    /// The places of a word in the code, as a whole name and not as part of a longer one.
    pub(crate) fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        words(&self.code, word)
    }

    /// The line of a place, counted from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    pub(crate) fn is_in_test(&self, at: usize) -> bool {
        self.test_items.iter().any(|item| item.contains(&at))
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let bytes = code.as_bytes();
        let before = at.checked_sub(1).map(|index| bytes[index]);
        let after = bytes.get(at + word.len()).copied();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

/// The range between the bracket at `open` and the one that closes it.
pub(crate) fn bracketed(code: &str, open: usize) -> Range<usize> {
    let bytes = code.as_bytes();
    let mut depth = 0_usize;
    for (index, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return open + 1..index;
                }
            }
            _ => {}
        }
    }
    open + 1..code.len()
}

/// Items under `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut items: Vec<Range<usize>> = Vec::new();
    for at in words(code, "cfg") {
        let Some(open) = next_is(code, at + "cfg".len(), b'(') else {
            continue;
        };
        let condition = bracketed(code, open);
        let inside = &code[condition.clone()];
        let for_tests = words(inside, "test").next().is_some() && words(inside, "not").next().is_none();
        let only = inside.trim() == "test" || inside.trim_start().starts_with("all");
        if !for_tests || !only {
            continue;
        }
        // An inner attribute, `#![cfg(test)]`, applies to the whole file.
        if code[..at].trim_end().ends_with("#![") {
            return std::iter::once(0..code.len()).collect();
        }
        let item = condition.end + 1;
        let end = code[item..]
            .find(['{', ';'])
            .map_or(code.len(), |index| item + index);
        let end = if code.as_bytes().get(end) == Some(&b'{') {
            bracketed(code, end).end
        } else {
            end
        };
        items.push(at..end);
    }
    items
}

/// The place of `byte`, if it is the next byte that is not white space.
pub(crate) fn next_is(code: &str, from: usize, byte: u8) -> Option<usize> {
    let at = from + code[from..].len() - code[from..].trim_start().len();
    (code.as_bytes().get(at) == Some(&byte)).then_some(at)
}

/// The source with comments, strings and character literals replaced by spaces.
fn blank(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let after_name = at > 0 && is_name(bytes[at - 1]);
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'\'' => char_end(source, at),
            b'r' | b'b' | b'c' if !after_name => prefixed_end(bytes, at),
            _ => at,
        };
        for byte in code.iter_mut().take(end).skip(at).filter(|byte| **byte != b'\n') {
            *byte = b' ';
        }
        at = end.max(at + 1);
    }
    // A character is blanked whole or not at all, so this is still UTF-8.
    String::from_utf8_lossy(&code).into_owned()
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes
        .iter()
        .skip(at)
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |length| at + length)
}

/// Block comments nest.
fn comment_end(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0_usize;
    let mut index = at;
    while index < bytes.len() {
        match bytes.get(index..index + 2) {
            Some(b"/*") => {
                depth += 1;
                index += 2;
            }
            Some(b"*/") => {
                depth -= 1;
                index += 2;
                if depth == 0 {
                    return index;
                }
            }
            _ => index += 1,
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut index = at + 1;
    while index < bytes.len() {
        match bytes[index] {
            b'\\' => index += 2,
            b'"' => return index + 1,
            _ => index += 1,
        }
    }
    bytes.len()
}

/// `'a'` and `'\n'` are character literals; `'a` is a lifetime.
fn char_end(source: &str, at: usize) -> usize {
    let rest = &source[at + 1..];
    let mut chars = rest.char_indices();
    match chars.next() {
        Some((_, '\\')) => {
            // The character after the backslash may itself be a quote.
            let from = chars.nth(1).map_or(rest.len(), |(index, _)| index);
            rest[from..]
                .find('\'')
                .map_or(at, |index| at + 1 + from + index + 1)
        }
        Some((_, first)) if rest[first.len_utf8()..].starts_with('\'') => at + 1 + first.len_utf8() + 1,
        _ => at,
    }
}

/// Literals with a prefix: `r"…"`, `r#"…"#`, `b"…"`, `br#"…"#`, `c"…"`, `b'x'`. `r#name` is a name.
fn prefixed_end(bytes: &[u8], at: usize) -> usize {
    let letters = bytes[at..]
        .iter()
        .take(2)
        .take_while(|byte| matches!(byte, b'r' | b'b' | b'c'))
        .count();
    let raw = bytes[at..at + letters].contains(&b'r');
    let hashes = bytes[at + letters..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    let quote = at + letters + hashes;
    match bytes.get(quote) {
        Some(b'"') if raw => {
            let close: Vec<u8> = std::iter::once(b'"')
                .chain(std::iter::repeat_n(b'#', hashes))
                .collect();
            let body = &bytes[quote + 1..];
            body.windows(close.len())
                .position(|window| window == close)
                .map_or(bytes.len(), |index| quote + 1 + index + close.len())
        }
        Some(b'"') if hashes == 0 => string_end(bytes, quote),
        // `b'x'`: the prefix stays; the character literal is blanked next.
        _ => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> String {
        let text = Text::new(source);
        assert_eq!(text.code().len(), source.len());
        assert_eq!(text.code().matches('\n').count(), source.matches('\n').count());
        text.code().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        assert_eq!(code("a // unsafe\nb /* x /* y */ unsafe */ c"), "a b c");
        assert_eq!(
            code(r#"f("unsafe \" still", 'x', '\'', '"', "end")"#),
            "f( , , , , )"
        );
        assert_eq!(
            code("f(r#\"a \" unsafe\"#, br\"\\\", b\"x\", c\"y\", b'z') g"),
            "f( , , , , b ) g"
        );
        assert_eq!(
            code("fn f<'a>(x: &'a str) -> &'a str { r#type(x) }"),
            "fn f<'a>(x: &'a str) -> &'a str { r#type(x) }"
        );
        assert_eq!(code("let é = 'ü'; \"日本\" z"), "let é = ; z");
    }

    #[test]
    fn a_word_is_a_whole_name() {
        let text = Text::new("unsafe_code; unsafe { }; my_unsafe");
        assert_eq!(text.words("unsafe").collect::<Vec<_>>(), [13]);
    }

    #[test]
    fn items_for_tests_are_recognised() {
        let source = "fn a() { print!() }\n#[cfg(test)]\nmod tests {\n    fn b() { { print!() } }\n}\nfn c() { print!() }";
        let text = Text::new(source);
        let inside: Vec<_> = text
            .words("print")
            .map(|at| (text.line(at), text.is_in_test(at)))
            .collect();
        assert_eq!(inside, [(1, false), (4, true), (6, false)]);
    }

    #[test]
    fn code_that_tests_leave_out_is_not_test_code() {
        let text =
            Text::new("#[cfg(not(test))] fn a() { print!() }\n#[cfg(any(test, unix))] fn b() { print!() }");
        assert!(text.words("print").all(|at| !text.is_in_test(at)));
    }
}
