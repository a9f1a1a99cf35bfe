//! `cargo xtask test --all`, and `cargo xtask campaign NAME` for one: what looks for the rare, and takes minutes each. The tests of these campaigns are `#[ignore]`d; `cargo xtask
//! test` runs a short form of each.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::bindings;
use crate::check;
use crate::command::cargo;
use crate::image;
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

/// The others, by name.
const SYSTEMD: &str = "systemd";
const BINDINGS: &str = "bindings";
const ATTACK: &str = "attack";
const IMAGE: &str = "image";

/// Runs some of them alone; without a name, all.
pub(crate) fn run(may_install: bool, names: &[String]) -> Result<ExitCode> {
    let known: Vec<&str> = known().collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no campaign {unknown:?}; there are {}", known.join(", "));
    }
    let mut all = Steps::default();
    steps(&mut all, may_install, names);
    Ok(all.summary())
}

fn known() -> impl Iterator<Item = &'static str> {
    let tests = TESTS.iter().map(|(name, ..)| *name);
    tests.chain([SYSTEMD, BINDINGS, ATTACK, IMAGE])
}

/// Runs those of these names; all of them where there are none.
pub(crate) fn steps(steps: &mut Steps, may_install: bool, names: &[String]) {
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    for (name, what, arguments) in TESTS.iter().filter(|(name, ..)| is_wanted(name)) {
        steps.loud_step(name, what, |skips| {
            let mut command = cargo();
            command.args(["test", "--locked"]).args(*arguments);
            check::run_tests(command, &["--ignored".to_owned()], skips)
        });
    }
    if is_wanted(SYSTEMD) {
        vm::systemd_steps(steps, may_install);
    }
    if is_wanted(BINDINGS) {
        bindings::campaign_step(steps);
    }
    if is_wanted(ATTACK) {
        steps.step(ATTACK, |_| {
            if check::attack(&[])? {
                return Ok(Done::passed());
            }
            bail!("the attacks that got through are marked above")
        });
    }
    if is_wanted(IMAGE) {
        steps.step(IMAGE, |_| match image::lacking()? {
            Some(why) => Ok(Done::Skipped(why)),
            None => image::same_elsewhere().map(Done::Passed),
        });
    }
}
