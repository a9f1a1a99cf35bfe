//! `devbox helper …`: the helper as a service of the system.

use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{fs, io};

use devbox_helper_client::{ClaimReport, Client, StatusReport, installed_socket};

use super::plan::{Plan, Starter, plan};
use crate::args::{HelperCommand, InstallArgs, UninstallArgs};
use crate::failure::{Failure, code};
use crate::{print, sys};

/// Where the installed helper listens. The variable is for tests, and for those who run it in another way.
pub(crate) fn socket() -> PathBuf {
    std::env::var_os("DEVBOX_HELPER_SOCKET").map_or_else(installed_socket, PathBuf::from)
}

pub(crate) fn run(command: &HelperCommand) -> Result<ExitCode, Failure> {
    match command {
        HelperCommand::Install(args) => install(args).map_err(as_administrator),
        HelperCommand::Uninstall(args) => uninstall(args).map_err(as_administrator),
        HelperCommand::Status => {
            let report = Client::connect(socket()).and_then(|mut client| client.status());
            print::out(&told(&report.map_err(|error| {
                Failure::because(error).help("devbox helper install")
            })?));
            Ok(ExitCode::SUCCESS)
        }
        HelperCommand::Policy => {
            let path = Path::new(devbox_helper::POLICY_FILE);
            let text = fs::read_to_string(path).map_err(|error| Failure::because(error).about(path))?;
            print::out(&text);
            devbox_helper::PolicyFile::load(path).map_err(Failure::because)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn install(args: &InstallArgs) -> Result<ExitCode, Failure> {
    let user = match &args.user {
        Some(user) if user.parse::<u32>().is_ok() || user.starts_with("S-1-") => user.clone(),
        Some(user) => {
            return Err(Failure::new(
                code::FAILED,
                format!("{user:?} is neither a number nor S-1-…"),
            ));
        }
        None => own_account()?,
    };
    let program = match &args.program {
        Some(program) => std::path::absolute(program).map_err(Failure::because)?,
        None => beside(&std::env::current_exe().map_err(Failure::because)?),
    };
    let plan = plan(starter()?, &user);
    if args.dry_run {
        print::out(&plan.shown(&program));
        return Ok(ExitCode::SUCCESS);
    }
    if !program.is_file() {
        return Err(
            Failure::new(code::FAILED, format!("{}: no such program", program.display()))
                .help("devbox helper install --program PATH/devbox-helper"),
        );
    }
    if args.root.is_none() && !sys::is_root() && !sys::HAS_MANAGER {
        let mut again: Vec<std::ffi::OsString> = ["helper", "install", "--program"].map(Into::into).into();
        again.push(program.into());
        again.extend(["--user".into(), user.into()]);
        return with_sudo(&again);
    }
    let root = args.root.as_deref();
    if root.is_none() {
        for command in &plan.before {
            run_command(command).ok();
        }
    }
    put_program(&program, &below(root, Path::new(plan.program)))?;
    for file in &plan.files {
        let path = below(root, &file.path);
        if !(file.keep && path.exists()) {
            write(&path, file.text.as_bytes()).map_err(|error| Failure::because(error).about(&path))?;
        } else if let Some(note) = about_policy(&path, &user) {
            print::note(&note);
        }
    }
    if root.is_none() {
        for command in &plan.start {
            run_command(command)?;
        }
    }
    print::out(&format!("installed {}\n", plan.program));
    Ok(ExitCode::SUCCESS)
}

/// What somebody would want to know of a policy that was there before: it stays, and may not admit whom the helper was installed for.
fn about_policy(path: &Path, user: &str) -> Option<String> {
    let told = match fs::read_to_string(path).map(|text| devbox_helper::PolicyFile::parse(&text)) {
        Ok(Ok(policy)) if user == "0" || policy.lists(user) => return None,
        Ok(Ok(_)) => {
            format!("does not list user {user}: add them to `users`, or a group of theirs to `groups`")
        }
        Ok(Err(why)) => format!("serves nobody: {}", why.lines().next().unwrap_or_default()),
        Err(why) => format!("serves nobody: {why}"),
    };
    Some(format!(
        "warning: {} was there before, stays, and {told}",
        path.display()
    ))
}

fn uninstall(args: &UninstallArgs) -> Result<ExitCode, Failure> {
    if args.root.is_none() && !sys::is_root() && !sys::HAS_MANAGER {
        return with_sudo(&["helper", "uninstall"].map(Into::into));
    }
    let plan = plan(starter()?, "0");
    let root = args.root.as_deref();
    if root.is_none() {
        // It undoes everything before it ends. One that does not run cannot be stopped.
        for command in &plan.stop {
            run_command(command).ok();
        }
    }
    for folder in remove(&plan, root).map_err(Failure::because)? {
        print::note(&format!(
            "note: {} stays: a session that runs, or a change that could not be undone, is written down there (`sudo devbox cleanup`)",
            folder.display()
        ));
    }
    if root.is_none() {
        for command in &plan.forget {
            run_command(command)?;
        }
    }
    print::out(&format!("removed {}\n", plan.program));
    Ok(ExitCode::SUCCESS)
}

/// Removes all files, and gives the folders that are needed still: those with a journal.
fn remove(plan: &Plan, root: Option<&Path>) -> io::Result<Vec<PathBuf>> {
    let files = plan.files.iter().map(|file| file.path.as_path());
    for file in files.chain([Path::new(plan.program)]) {
        gone(fs::remove_file(below(root, file)))?;
    }
    let mut left = Vec::new();
    for folder in &plan.folders {
        let folder = below(root, folder);
        if has_journal(&folder) {
            left.push(folder);
        } else {
            gone(fs::remove_dir_all(folder))?;
        }
    }
    Ok(left)
}

/// Whether a helper's journal is in this folder or right below it, as long as it has something to say.
fn has_journal(folder: &Path) -> bool {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let below = entries(folder).flat_map(|entry| entries(&entry.path()));
    entries(folder).chain(below).any(|entry| {
        let is_journal = entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "journal");
        is_journal && entry.metadata().is_ok_and(|found| found.len() > 0)
    })
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A copy that takes the place of the old one at once: a program that runs cannot be written.
fn put_program(from: &Path, to: &Path) -> Result<(), Failure> {
    let put = || {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = to.with_extension("new");
        fs::copy(from, &new)?;
        sys::make_program(&new)?;
        fs::rename(&new, to)
    };
    put().map_err(|error: io::Error| Failure::because(error).about(to))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes)
}

fn below(root: Option<&Path>, path: &Path) -> PathBuf {
    match root {
        Some(root) => {
            let names = path
                .components()
                .filter(|part| matches!(part, Component::Normal(_)));
            root.join(names.collect::<PathBuf>())
        }
        None => path.to_owned(),
    }
}

fn beside(program: &Path) -> PathBuf {
    program.with_file_name(format!("devbox-helper{}", std::env::consts::EXE_SUFFIX))
}

/// Windows asks nobody for a password on a command line.
fn as_administrator(failure: Failure) -> Failure {
    if sys::HAS_MANAGER {
        return failure.help("run it in a terminal that was started as administrator");
    }
    failure
}

/// Who runs this, under sudo who has called it, as a policy names them.
fn own_account() -> Result<String, Failure> {
    if sys::HAS_MANAGER {
        return devbox_helper::own_account().map_err(Failure::because);
    }
    Ok(sys::caller().map_err(Failure::because)?.uid.to_string())
}

fn starter() -> Result<Starter, Failure> {
    if sys::HAS_LAUNCHD {
        return Ok(Starter::Launchd);
    }
    if sys::HAS_SYSTEMD {
        return Ok(Starter::Systemd);
    }
    if sys::HAS_MANAGER {
        return Ok(Starter::Manager);
    }
    Err(Failure::new(
        code::FAILED,
        "there is no installed helper on this system: it is for Linux with systemd, macOS and Windows",
    ))
}

fn with_sudo(arguments: &[std::ffi::OsString]) -> Result<ExitCode, Failure> {
    let program = std::env::current_exe().map_err(Failure::because)?;
    let status = Command::new("sudo")
        .arg("--")
        .arg(program)
        .args(arguments)
        .status();
    let status = status.map_err(|error| Failure::new(code::FAILED, format!("cannot run sudo: {error}")))?;
    match status.success() {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Failure::new(
            code::FAILED,
            "the helper needs root to be installed or removed",
        )),
    }
}

fn run_command(command: &[&str]) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(code::FAILED, format!("{}: {why}", command.join(" ")));
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let status = Command::new(program).args(arguments).status();
    let status = status.map_err(|error| failed(error.to_string()))?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(status.to_string()))
    }
}

fn told(report: &StatusReport) -> String {
    let (oldest, newest) = report.versions;
    let mut text = format!("helper {} speaks versions {oldest} to {newest}\n", report.pid);
    // Whoever asks is connected, too.
    let holds = |claim: &&ClaimReport| {
        let things = claim.addresses.len() + claim.listeners.len() + claim.network.len();
        claim.names != (0, 0) || things > 0
    };
    if !report.claims.iter().any(|claim| holds(&claim)) {
        text.push_str("nobody holds anything\n");
    }
    for claim in report.claims.iter().filter(holds) {
        let (names, waits) = claim.names;
        text.push_str(&format!("{}: {}", claim.holder, counted(names, "name")));
        if waits > 0 {
            text.push_str(&format!(" ({waits} more are held by others)"));
        }
        for (count, what) in [
            (claim.addresses.len(), "address"),
            (claim.listeners.len(), "listener"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {}", counted(count, what)));
            }
        }
        for thing in &claim.network {
            text.push_str(&format!(", {thing}"));
        }
        text.push_str(if claim.waits {
            ", waits to be taken over\n"
        } else {
            "\n"
        });
    }
    text
}

fn counted(count: usize, what: &str) -> String {
    let ending = match (count, what.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{count} {what}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_files_are_gone_after_the_removal() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let args = InstallArgs {
            program: Some(program),
            user: Some("1000".to_owned()),
            root: Some(root.clone()),
            dry_run: false,
        };
        // A second time, as for a newer version, keeps the policy.
        let plan = plan(starter().unwrap(), "1000");
        let policy = below(Some(&root), &plan.files[0].path);
        install(&args).unwrap();
        let text = fs::read_to_string(&policy).unwrap() + "# mine\n";
        fs::write(&policy, &text).unwrap();
        install(&args).unwrap();
        assert_eq!(fs::read_to_string(&policy).unwrap(), text);
        assert!(below(Some(&root), Path::new(plan.program)).is_file());
        // What a helper writes that lives stays for whoever undoes it.
        let state = below(Some(&root), Path::new("/var/lib/devbox"));
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("1.2.boot.journal"), "left").unwrap();
        fs::write(state.join("2.2.boot.journal"), "").unwrap();
        let removal = || {
            uninstall(&UninstallArgs {
                root: Some(root.clone()),
            })
            .unwrap()
        };
        if !sys::HAS_MANAGER {
            removal();
            assert_eq!(files(&root).len(), 2);
        }
        fs::write(state.join("1.2.boot.journal"), "").unwrap();
        removal();
        if sys::HAS_MANAGER {
            fs::remove_dir_all(state).unwrap();
        }
        let left = files(&root);
        assert_eq!(left, [""; 0]);
    }

    #[test]
    fn a_policy_that_stays_is_told_where_it_does_not_admit_the_user() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        let about = |text: &str, user: &str| {
            fs::write(&path, text).unwrap();
            about_policy(&path, user)
        };
        let one = devbox_helper::default_policy("1000");
        let told = about(&one, "1001").unwrap();
        assert!(told.contains("does not list user 1001"), "{told}");
        assert_eq!(about(&one, "0"), None);
        if !sys::HAS_MANAGER {
            assert_eq!(about(&one, "1000"), None);
        }
        let told = about("pools = [", "1000").unwrap();
        assert!(told.contains("serves nobody"), "{told}");
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path));
            } else {
                found.push(path.display().to_string());
            }
        }
        found
    }
}
