//! One line of the far side's words, fit for a terminal.

use serde::{Deserialize, Deserializer};

/// The longest reason in bytes.
pub const MAX_REASON_BYTES: usize = 1024;

/// Control characters become spaces, and what is over [`MAX_REASON_BYTES`] is cut.
pub(crate) fn line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_REASON_BYTES));
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
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
