//! Instructions for a person who has the permissions that this program lacks.

use std::fmt::Write as _;
use std::path::Path;

use crate::diff::Change;
use crate::plan::Plan;

/// The shell that the instructions are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shell {
    /// A POSIX shell with `sudo`: Linux, macOS, BSD.
    Posix,
    /// PowerShell on Windows, run as administrator.
    PowerShell,
}

impl Shell {
    /// The usual shell of the system this runs on.
    #[must_use]
    pub fn platform() -> Self {
        if crate::file::PLATFORM_RESOLVER == crate::Resolver::Windows {
            Shell::PowerShell
        } else {
            Shell::Posix
        }
    }
}

/// The commands with which a person can make a plan's change by hand; empty if the plan changes nothing.
///
/// The text is shell source with comments. New lines are shown in full, so that they can also be pasted into an editor. A change
/// that only adds to the end becomes an append; any other refers to lines of the file that the plan was made from.
/// ```
/// use hostsfile::{Block, Edit, Entry, Options, Shell, Tag, manual_instructions, plan};
/// let block = Block::new(Tag::new("devbox")?).with_entries([Entry::new("127.77.0.1".parse()?, ["orders"])?]);
/// let plan = plan(b"127.0.0.1 localhost\n", &[Edit::SetBlock(block)], &Options::new())?;
/// let text = manual_instructions(&plan, "/etc/hosts".as_ref(), Shell::Posix);
/// assert!(text.contains("sudo tee -a '/etc/hosts'"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn manual_instructions(plan: &Plan<'_>, path: &Path, shell: Shell) -> String {
    let old = plan.old_bytes();
    let changes = plan.diff_changes();
    if changes.is_empty() {
        return String::new();
    }
    let path = path.display().to_string();
    let append = match changes.as_slice() {
        [Change { old: range, new }] if range.is_empty() && range.start == old.len() => Some(new.as_slice()),
        _ => None,
    };
    let numbered: Vec<Numbered<'_>> = changes.iter().map(|c| Numbered::of(old, c)).collect();
    match shell {
        Shell::Posix => posix(&path, append, &numbered),
        Shell::PowerShell => power_shell(&path, append, &numbered),
    }
}

/// A change given by line numbers, counted from 1.
struct Numbered<'a> {
    first: usize,
    removed: usize,
    added: Vec<&'a [u8]>,
}

impl<'a> Numbered<'a> {
    fn of(old: &[u8], change: &'a Change) -> Self {
        Numbered {
            first: crate::scan::line_number(old, change.old.start),
            removed: crate::scan::lines_of(&old[..change.old.end], change.old.start).count(),
            added: crate::scan::lines_of(&change.new, 0)
                .map(|line| &change.new[line])
                .collect(),
        }
    }
}

fn posix(path: &str, append: Option<&[u8]>, changes: &[Numbered<'_>]) -> String {
    let path = single_quoted(path, "'\\''");
    if let Some(text) = append.filter(|text| is_plain(text) && text.ends_with(b"\n")) {
        return format!(
            "# Adds these lines to the end of the file.\nsudo tee -a {path} >/dev/null <<'END-OF-LINES'\n{}END-OF-LINES\n",
            String::from_utf8_lossy(text)
        );
    }
    // sed and printf can carry any bytes, which awk cannot.
    let mut text =
        String::from("# Changes the file through a copy, so that its owner, mode and links are kept.\n");
    text.push_str("copy=$(mktemp) && export LC_ALL=C\n");
    text.push_str("{\n");
    let mut next = 1;
    for change in changes {
        if change.first > next {
            let _infallible = writeln!(text, "  sed -n '{next},{}p' {path}", change.first - 1);
        }
        for line in &change.added {
            let _infallible = writeln!(text, "  printf '{}'", printf_quoted(line));
        }
        next = change.first + change.removed;
    }
    let _infallible = writeln!(text, "  sed -n '{next},$p' {path}");
    let _infallible = writeln!(
        text,
        "}} >\"$copy\" && sudo tee {path} <\"$copy\" >/dev/null && rm \"$copy\""
    );
    text
}

fn power_shell(path: &str, append: Option<&[u8]>, changes: &[Numbered<'_>]) -> String {
    let path = single_quoted(path, "''");
    if let Some(text) = append.filter(|text| text.is_ascii() && text.ends_with(b"\r\n")) {
        let lines: Vec<String> = String::from_utf8_lossy(text)
            .lines()
            .map(|l| single_quoted(l, "''"))
            .collect();
        return format!(
            "# In PowerShell, run as administrator: adds these lines to the end of the file.\n\
             Add-Content -LiteralPath {path} -Encoding Ascii -Value @(\n  {}\n)\n",
            lines.join(",\n  ")
        );
    }
    let mut text = String::from("# In PowerShell, run as administrator: changes these lines of the file.\n");
    text.push_str("$bytes = [Text.Encoding]::GetEncoding(28591)  # one character per byte\n");
    let _infallible = writeln!(
        text,
        "$lines = [Collections.Generic.List[string]]([IO.File]::ReadAllText({path}, $bytes) -split '(?<=\\n)')"
    );
    // From the end, so that the line numbers stay valid.
    for change in changes.iter().rev() {
        if change.removed > 0 {
            let _infallible = writeln!(
                text,
                "$lines.RemoveRange({}, {})",
                change.first - 1,
                change.removed
            );
        }
        for line in change.added.iter().rev() {
            let _infallible = writeln!(
                text,
                "$lines.Insert({}, \"{}\")",
                change.first - 1,
                power_shell_quoted(line)
            );
        }
    }
    let _infallible = writeln!(text, "[IO.File]::WriteAllText({path}, -join $lines, $bytes)");
    text
}

fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|b| matches!(b, b'\n' | b'\t' | 0x20..0x7f))
}

pub(crate) fn single_quoted(text: &str, quote: &str) -> String {
    format!("'{}'", text.replace('\'', quote))
}

/// Quotes a line for the format of printf(1), between single quotes.
fn printf_quoted(line: &[u8]) -> String {
    let mut quoted = String::new();
    for byte in line {
        match byte {
            b'\n' => quoted.push_str("\\n"),
            b'\\' => quoted.push_str("\\\\"),
            b'%' => quoted.push_str("%%"),
            b'\'' => quoted.push_str("'\\''"),
            0x20..0x7f => quoted.push(char::from(*byte)),
            _ => {
                let _infallible = write!(quoted, "\\{byte:03o}");
            }
        }
    }
    quoted
}

/// Quotes a line for a string between double quotes.
fn power_shell_quoted(line: &[u8]) -> String {
    let mut quoted = String::new();
    for byte in line {
        match byte {
            b'\n' => quoted.push_str("`n"),
            b'\r' => quoted.push_str("`r"),
            b'\t' => quoted.push_str("`t"),
            b'"' | b'`' | b'$' => {
                quoted.push('`');
                quoted.push(char::from(*byte));
            }
            0x20..0x7f => quoted.push(char::from(*byte)),
            _ => {
                let _infallible = write!(quoted, "$([char]{byte})");
            }
        }
    }
    quoted
}
