//! `cargo xtask test --all`: what looks for the rare, and takes minutes each. The tests of these campaigns are `#[ignore]`d; `cargo xtask
//! test` runs a short form of each.

use anyhow::bail;

use crate::bindings;
use crate::check;
use crate::command::cargo;
use crate::steps::{Done, Steps};
use crate::vm;

/// A step's name, what it is, and the arguments of `cargo test`.
type Campaign = (&'static str, &'static str, &'static [&'static str]);

/// The campaigns that are tests; CONTRIBUTING.md lists them for people.
const TESTS: &[Campaign] = &[
    (
        "links",
        "5,000 links that lose their connections",
        &[
            "--release",
            "-p",
            "tunnel-proto",
            "--test",
            "mux",
            "--",
            "campaign",
        ],
    ),
    (
        "resolvers",
        "2,000 hosts files, read by glibc, musl and our model",
        &[
            "-p",
            "hostsfile",
            "--test",
            "resolvers",
            "--",
            "real_resolvers_agree",
        ],
    ),
    (
        "kills",
        "1,000 helpers and callers that are killed",
        &["-p", "devbox-helper", "--test", "installed", "--", "campaign"],
    ),
];

/// Runs all of them.
pub(crate) fn steps(steps: &mut Steps, may_install: bool) {
    for (name, what, arguments) in TESTS {
        steps.loud_step(name, what, |skips| {
            let mut command = cargo();
            command.args(["test", "--locked"]).args(*arguments);
            check::run_tests(command, &["--ignored".to_owned()], skips)
        });
    }
    vm::systemd_steps(steps, may_install);
    bindings::campaign_step(steps);
    steps.step("attack", |_| {
        if check::attack(&[])? {
            return Ok(Done::passed());
        }
        bail!("the attacks that got through are marked above")
    });
}
