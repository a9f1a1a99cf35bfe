//! The far side's words, fit for a terminal.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};

/// The longest reason in bytes.
pub const MAX_REASON_BYTES: usize = 1024;

/// The format characters (Unicode's category Cf), and the separators of lines and paragraphs (Zl, Zp).
const FORMAT: [(char, char); 21] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{2064}'),
    ('\u{2066}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0001}', '\u{e0001}'),
    ('\u{e0020}', '\u{e007f}'),
];

/// Whether a terminal would obey or hide a character that is not a control character: text that turns direction reads as
/// something else than it is.
#[must_use]
pub fn is_format(c: char) -> bool {
    FORMAT.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// Text from elsewhere as it may be printed: what a terminal would obey or hide (control characters, format characters such as
/// U+202E, separators of lines) becomes U+FFFD, except characters that are to be `kept`.
///
/// ```
/// use service_catalog::printable;
/// assert_eq!(printable("pay\u{202e}lap\n\u{1b}[2J", &['\n']), "pay\u{fffd}lap\n\u{fffd}[2J");
/// ```
#[must_use]
pub fn printable<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let obeyed = |c: char| (c.is_control() || is_format(c)) && !kept.contains(&c);
    if text.chars().any(obeyed) {
        let shown = |c| if obeyed(c) { char::REPLACEMENT_CHARACTER } else { c };
        Cow::Owned(text.chars().map(shown).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Control and format characters become spaces, and what is over [`MAX_REASON_BYTES`] is cut.
pub(crate) fn line(text: &str) -> String {
    let shown = |c: char| if c.is_control() || is_format(c) { ' ' } else { c };
    let mut line = String::with_capacity(text.len().min(MAX_REASON_BYTES));
    for c in text.chars().map(shown) {
        if line.len() + c.len_utf8() > MAX_REASON_BYTES {
            break;
        }
        line.push(c);
    }
    line
}

pub(crate) fn one_line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(line(&String::deserialize(deserializer)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_or_hides_text_is_replaced_and_letters_are_not() {
        let turning =
            "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
        let hidden = "\u{ad}\u{200b}\u{200d}\u{2028}\u{2029}\u{2060}\u{feff}\u{e0041}\u{1b}\u{9b}\u{7f}\n\t";
        for c in turning.chars().chain(hidden.chars()) {
            assert_eq!(printable(&c.to_string(), &[]), "\u{fffd}", "{c:?}");
            assert_eq!(line(&c.to_string()), " ", "{c:?}");
        }
        let fine = "orders ñ 数据 עברית عربي \u{20ac} \u{1f600}";
        assert!(matches!(printable(fine, &[]), Cow::Borrowed(_)));
        assert_eq!(line(fine), fine);
        assert_eq!(printable("a\n\u{202e}b\n", &['\n']), "a\n\u{fffd}b\n");
    }
}
