//! Figures, and the two ways to show them.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;

use crate::{FLOOR, OURS};

/// The unit of a value, and which direction is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// How it is written: `us`, `GiB/s`.
    pub name: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
}

impl Unit {
    /// Microseconds.
    pub const MICROSECONDS: Self = Self {
        name: "us",
        more_is_better: false,
    };
    /// Nanoseconds.
    pub const NANOSECONDS: Self = Self {
        name: "ns",
        more_is_better: false,
    };
    /// Milliseconds.
    pub const MILLISECONDS: Self = Self {
        name: "ms",
        more_is_better: false,
    };
    /// Units of work per second.
    pub const PER_SECOND: Self = Self {
        name: "1/s",
        more_is_better: true,
    };
    /// Gibibytes per second.
    pub const GIB_PER_SECOND: Self = Self {
        name: "GiB/s",
        more_is_better: true,
    };
    /// Seconds of processor time per gibibyte.
    pub const CPU_PER_GIB: Self = Self {
        name: "CPU s/GiB",
        more_is_better: false,
    };
    /// Mebibytes per second.
    pub const MIB_PER_SECOND: Self = Self {
        name: "MiB/s",
        more_is_better: true,
    };
    /// Seconds.
    pub const SECONDS: Self = Self {
        name: "s",
        more_is_better: false,
    };
    /// Kibibytes of memory.
    pub const KIB: Self = Self {
        name: "KiB",
        more_is_better: false,
    };
    /// A plain number; less is better.
    pub const COUNT: Self = Self {
        name: "",
        more_is_better: false,
    };
}

/// One measured value.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What was measured.
    pub row: String,
    /// Whose value it is: [`OURS`], [`FLOOR`] or a peer.
    pub subject: String,
    /// The value.
    pub value: f64,
    /// The value's unit.
    pub unit: Unit,
}

/// The figures of one bench.
#[derive(Clone, Debug)]
pub struct Report {
    bench: String,
    baseline: &'static str,
    figures: Vec<Figure>,
    wanted: BTreeMap<String, &'static str>,
    notes: Vec<String>,
}

impl Report {
    /// An empty report.
    pub fn new(bench: &str) -> Self {
        Self {
            bench: bench.to_owned(),
            baseline: FLOOR,
            figures: Vec::new(),
            wanted: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// Compares with this subject, where it is not the floor that matters but a peer.
    pub fn compare_with(&mut self, subject: &'static str) {
        self.baseline = subject;
    }

    /// Says what a row should be, in a column of its own.
    pub fn wanted(&mut self, row: &str, wanted: &'static str) {
        self.wanted.insert(row.to_owned(), wanted);
    }

    /// Adds a value. Rows and subjects are shown in the order in which they are first added, with ours and the floor first.
    pub fn figure(&mut self, row: &str, subject: &str, value: f64, unit: Unit) {
        self.figures.push(Figure {
            row: row.to_owned(),
            subject: subject.to_owned(),
            value,
            unit,
        });
    }

    /// Adds a line under the table: what was left out and why, or what one must know to read it.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The values added so far.
    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }

    /// The lines under the table.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// One JSON object per line: `{"bench", "row", "subject", "value", "unit"}`.
    pub fn json_lines(&self) -> String {
        self.figures.iter().fold(String::new(), |text, figure| {
            let Figure { row, subject, value, unit } = figure;
            let object =
                json!({"bench": self.bench, "row": row, "subject": subject, "value": value, "unit": unit.name});
            text + &object.to_string() + "\n"
        })
    }

    /// A table of rows by subjects. Each value is followed by its ratio to the floor's, or to that of the peer that it is compared
    /// with, in brackets.
    pub fn table(&self) -> String {
        let subjects = self.subjects();
        let mut rows: Vec<(&str, Unit)> = Vec::new();
        let mut values = BTreeMap::new();
        for Figure {
            row,
            subject,
            value,
            unit,
        } in &self.figures
        {
            if !rows.iter().any(|(known, _)| known == row) {
                rows.push((row, *unit));
            }
            values.insert((row.as_str(), subject.as_str()), *value);
        }
        let mut lines = vec![
            [self.bench.as_str(), "unit"]
                .into_iter()
                .chain(subjects.iter().copied())
                .chain((!self.wanted.is_empty()).then_some("wanted"))
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        ];
        for (row, unit) in rows {
            let floor = values.get(&(row, self.baseline)).copied();
            let floor = floor.filter(|floor| *floor > 0.0);
            let cell = |subject: &&str| match values.get(&(row, *subject)) {
                Some(value) => cell(*value, floor.filter(|_| *subject != self.baseline)),
                None => "-".to_owned(),
            };
            let better = if unit.more_is_better { "+" } else { "-" };
            let mut line = vec![
                row.to_owned(),
                format!("{} {better}", unit.name).trim_start().to_owned(),
            ];
            line.extend(subjects.iter().map(cell));
            if !self.wanted.is_empty() {
                line.push(self.wanted.get(row).copied().unwrap_or_default().to_owned());
            }
            lines.push(line);
        }
        let mut text = aligned(&lines);
        let baseline = self.baseline;
        text.push_str(&format!(
            "in brackets: value / {baseline}'s value; + more is better, - less is better\n"
        ));
        for note in &self.notes {
            text.push_str(note);
            text.push('\n');
        }
        text
    }

    fn subjects(&self) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for figure in &self.figures {
            if !found.contains(&figure.subject.as_str()) {
                found.push(&figure.subject);
            }
        }
        let rank = |subject: &str| {
            [OURS, FLOOR]
                .iter()
                .position(|first| *first == subject)
                .unwrap_or(2)
        };
        found.sort_by_key(|subject| rank(subject));
        found
    }
}

fn cell(value: f64, floor: Option<f64>) -> String {
    let shown = three_digits(value);
    floor.map_or_else(
        || shown.clone(),
        |floor| format!("{shown} ({:.2})", value / floor),
    )
}

/// Three significant digits: `0.0123`, `1.23`, `12.3`, `123`, `12345`.
fn three_digits(value: f64) -> String {
    let size = value.abs();
    match size {
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        size if size >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

/// Aligns the first column to the left and the rest to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let written = if column == 0 {
                write!(row, "{cell:<width$}")
            } else {
                write!(row, "  {cell:>width$}")
            };
            debug_assert!(written.is_ok(), "writing to a String cannot fail");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("road");
        report.figure("1 byte there and back, p50", "ssh -L", 210.0, Unit::MICROSECONDS);
        report.figure("1 byte there and back, p50", FLOOR, 20.0, Unit::MICROSECONDS);
        report.figure("1 byte there and back, p50", OURS, 61.26, Unit::MICROSECONDS);
        report.figure("bulk", OURS, 1.5, Unit::GIB_PER_SECOND);
        report.figure("bulk", FLOOR, 6.0, Unit::GIB_PER_SECOND);
        report.note("socat is not installed");
        report
    }

    #[test]
    fn the_table_is_aligned_and_has_the_ratios() {
        let expected = "\
road                           unit         ours  floor       ssh -L
1 byte there and back, p50     us -  61.3 (3.06)   20.0  210 (10.50)
bulk                        GiB/s +  1.50 (0.25)   6.00            -
in brackets: value / floor's value; + more is better, - less is better
socat is not installed
";
        assert_eq!(report().table(), expected);
    }

    #[test]
    fn each_figure_is_one_json_object() {
        let report = report();
        let lines: Vec<serde_json::Value> = report
            .json_lines()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(
            lines[3],
            json!({"bench": "road", "row": "bulk", "subject": "ours", "value": 1.5, "unit": "GiB/s"})
        );
    }

    #[test]
    fn without_a_floor_there_is_no_ratio() {
        let mut report = Report::new("x");
        report.figure("a", OURS, 3.0, Unit::COUNT);
        assert_eq!(report.table().lines().nth(1), Some("a     -  3.00"));
    }

    #[test]
    fn three_digits_count() {
        let shown: Vec<_> = [0.01234, 0.1234, 1.234, 12.34, 123.4, 12345.6, 0.0]
            .map(three_digits)
            .into();
        assert_eq!(shown, ["0.0123", "0.123", "1.23", "12.3", "123", "12346", "0"]);
    }
}
