//! systemd-resolved.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::observed::SeenResolver;
use crate::parse::resolvectl::rules;
use crate::render::resolvectl;
use crate::{InterfaceName, ResolverRule};

/// Where distributions have it. Root's programs are not looked for in a `PATH`.
const PROGRAMS: &[&str] = &["/usr/bin/resolvectl", "/bin/resolvectl"];

/// Made by the service when it starts (RuntimeDirectory=).
const RUNTIME: &str = "/run/systemd/resolve";

/// The program, or why there is none to tell.
pub(super) fn program() -> Result<&'static str, &'static str> {
    if !Path::new(RUNTIME).is_dir() {
        return Err("systemd-resolved is not running");
    }
    let program = PROGRAMS.iter().find(|program| Path::new(program).exists());
    program.copied().ok_or("there is no resolvectl")
}

/// The rules of all interfaces; none where the service does not run.
pub(super) fn observe() -> io::Result<Vec<SeenResolver>> {
    let Ok(program) = program() else {
        return Ok(Vec::new());
    };
    let [dns, domains] = resolvectl::show();
    Ok(rules(&run(program, &dns)?, &run(program, &domains)?))
}

/// Makes a rule, or leaves none.
pub(super) fn add(rule: &ResolverRule) -> io::Result<()> {
    let program = program().map_err(io::Error::other)?;
    let added = resolvectl::add(rule)
        .iter()
        .try_for_each(|line| run(program, line).map(drop));
    if added.is_err() {
        // The first failure is the one to tell.
        drop(run(program, &resolvectl::remove(&rule.interface)));
    }
    added
}

pub(super) fn remove(interface: &InterfaceName) -> io::Result<()> {
    let program = program().map_err(io::Error::other)?;
    run(program, &resolvectl::remove(interface)).map(drop)
}

fn run(program: &str, arguments: &[String]) -> io::Result<String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let told = told.lines().next().unwrap_or_default();
    Err(io::Error::other(format!(
        "{program} {}: {told}",
        arguments.join(" ")
    )))
}
