//! Cases from other tools' test suites, issues and sources, and from running resolvers. `cases/hosts.jsonl` has one per line, each
//! with its id, its origin, what is expected there, and in `ours` what is expected here.
//!
//! Each case has a function in one of the tables; the runner prints the id of every case that fails.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "also outside the functions marked as tests"
)]

#[path = "cases/hostctl.rs"]
mod hostctl;
#[path = "cases/others.rs"]
mod others;
#[path = "cases/probes.rs"]
mod probes;
#[path = "cases/support.rs"]
mod support;
#[path = "cases/txeh.rs"]
mod txeh;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use support::{Case, Check};

#[test]
fn every_case_holds() {
    let cases: Vec<Case> = include_str!("cases/hosts.jsonl")
        .lines()
        .map(Case::parse)
        .collect();
    let mut checks: BTreeMap<&str, Check> = BTreeMap::new();
    for (id, check) in [txeh::CASES, hostctl::CASES, others::CASES, probes::CASES].concat() {
        assert!(checks.insert(id, check).is_none(), "{id} has two checks");
    }
    let mut failed = Vec::new();
    for case in &cases {
        let Some(check) = checks.remove(case.id.as_str()) else {
            failed.push(format!("{}: no check", case.id));
            continue;
        };
        match catch_unwind(AssertUnwindSafe(|| check(case))) {
            Ok(()) => println!("{} ok ({}: {})", case.id, case.source, case.operation),
            Err(_) => failed.push(format!(
                "{}: {} | expected {} | ours {}",
                case.id, case.operation, case.expected, case.ours
            )),
        }
    }
    assert!(checks.is_empty(), "checks without a case: {:?}", checks.keys());
    assert!(
        failed.is_empty(),
        "{} of {} cases failed:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
    assert_eq!(cases.len(), 127);
}
