//! What devbox costs, compared with its peers and the floor.
//!
//! Knows how to measure and how to show figures; each bench knows its own subjects. `cargo xtask bench NAME` builds this in release
//! mode and runs it. It prints one table, with a column per subject and a row per measurement, or with `--json` one object per
//! figure.
//!
//! A bench is a module with a [`Bench`], and a line in [`BENCHES`]:
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

mod dns;
#[cfg(target_os = "linux")]
mod helper;
mod hosts;
mod ip;
#[cfg(target_os = "linux")]
mod kube;
pub mod measure;
mod report;
mod road;
mod session;

pub use report::{Figure, Report, Unit};
pub use road::load;

/// Serves what the benches measure until the process is killed, if these are the arguments for it.
///
/// # Errors
/// If the port cannot be had.
pub fn serve(arguments: &[String]) -> std::io::Result<bool> {
    road::service::serve_if_asked(arguments)
}

/// The subject that is devbox.
pub const OURS: &str = "ours";

/// The subject that nothing can beat: the same work with nothing of ours in it.
pub const FLOOR: &str = "floor";

/// Every bench, in the order in which they are listed.
pub const BENCHES: &[Bench] = &[
    dns::BENCH,
    #[cfg(target_os = "linux")]
    helper::BENCH,
    hosts::BENCH,
    ip::BENCH, //
    #[cfg(target_os = "linux")]
    kube::BENCH,
    road::BENCH,
    session::BENCH,
];

/// A set of figures that belong in one table.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// The name to type.
    pub name: &'static str,
    /// What it measures, in one line.
    pub about: &'static str,
    /// Runs the measurements. What cannot be measured here (a peer that is not installed) becomes a [`Report::note`], not an error.
    pub run: fn(&mut Report) -> anyhow::Result<()>,
}
