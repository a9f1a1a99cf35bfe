//! What devbox costs, beside its peers and the floor.
//!
//! Knows how to measure and how to show figures; each bench knows its own subjects. `cargo xtask bench NAME` builds this in
//! release and runs it: one table, whose columns are subjects and whose rows are what was measured, or with `--json` one
//! object a figure.
//!
//! A bench is a module with a [`Bench`] in it and its line in [`BENCHES`]:
//!
//! ```
//! use devbox_benches::{Bench, FLOOR, OURS, Report, Unit};
//!
//! const SORT: Bench = Bench { name: "sort", about: "a vector, sorted", run: sort };
//!
//! fn sort(report: &mut Report) -> anyhow::Result<()> {
//!     report.figure("1000 numbers", OURS, 12.5, Unit::MICROSECONDS);
//!     report.figure("1000 numbers", FLOOR, 10.0, Unit::MICROSECONDS);
//!     Ok(())
//! }
//!
//! let mut report = Report::new(SORT.name);
//! (SORT.run)(&mut report).unwrap();
//! assert!(report.table().contains("12.5 (1.25)"));
//! ```
#![forbid(unsafe_code)]

mod hosts;
mod ip;
pub mod measure;
mod report;
mod road;

pub use report::{Figure, Report, Unit};
pub use road::load;

/// The subject that devbox is.
pub const OURS: &str = "ours";

/// The subject that nothing can be better than: the same work with nothing of ours in it.
pub const FLOOR: &str = "floor";

/// Every bench, in the order in which they are listed.
pub const BENCHES: &[Bench] = &[
    hosts::BENCH,
    ip::BENCH, //
    road::BENCH,
];

/// A set of figures that belong into one table.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// What one types.
    pub name: &'static str,
    /// What it measures, in a line.
    pub about: &'static str,
    /// Measures. What cannot be measured here (a peer that is not installed) becomes a [`Report::note`], not an error.
    pub run: fn(&mut Report) -> anyhow::Result<()>,
}
