//! Linux: the child's side: from the request to the moment when it becomes the command.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, unshare};
use rustix::process::{
    Gid, Resource, Rlimit, Signal, Uid, getegid, geteuid, getppid, getrlimit,
    set_parent_process_death_signal, setrlimit,
};

use super::{mounts, receive_with, send_with, ssh};
use crate::lookup::{Verdict, judge};
use crate::wire::{Failure, Report, Request, Step};

pub(crate) fn enter(alone: bool) -> ExitCode {
    let served = if alone {
        serve()
    } else {
        Err(io::Error::other("no arguments are expected"))
    };
    if let Err(error) = served {
        // Nobody to report to but whoever ran this by hand. There is nothing else to do if even that fails.
        drop(writeln!(
            io::stderr(),
            "this is run by the program itself, not by hand: {error}"
        ));
        return ExitCode::from(125);
    }
    ExitCode::SUCCESS
}

/// Does as the request says. `Ok` once that was a probe, or the failure has been reported.
fn serve() -> io::Result<()> {
    // Moved away from the standard input's number, and not inherited by the command: its closing says that the command
    // runs.
    let socket = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?);
    let (request, stdin) = receive(&socket)?;
    let failure = match attempt(&socket, &request, stdin) {
        Ok(None) => return Ok(()),
        Ok(Some(never)) => match never {},
        Err(failure) => failure,
    };
    let mut socket = socket;
    socket.write_all(&Report::Failed(failure).encode())
}

fn attempt(socket: &UnixStream, request: &Request, stdin: OwnedFd) -> Result<Option<Infallible>, Failure> {
    rustix::stdio::dup2_stdin(&stdin).map_err(failed(Step::Stdin, ""))?;
    drop(stdin);
    let foreign = if geteuid().is_root() {
        Vec::new()
    } else {
        ssh::root_owned_includes(&home_of(request))
    };
    enter_namespaces()?;
    tie_to_parent(request.parent)?;
    let hosts = mounts::make(&request.hosts, &foreign)?;
    send_with(socket, &Report::Prepared.encode(), hosts.as_fd()).map_err(failed(Step::HandOver, ""))?;
    drop(hosts);
    if request.probe {
        return Ok(None);
    }
    if let Some(soft_limit) = request.open_files {
        limit_open_files(soft_limit)?;
    }
    Err(become_command(request))
}

/// The hard limit stays: a process may lower that one for good only (getrlimit(2)).
fn limit_open_files(soft_limit: u64) -> Result<(), Failure> {
    let limit = Rlimit {
        current: Some(soft_limit),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, limit).map_err(failed(Step::OpenFiles, ""))
}

/// Reads the request and the standard input that comes with its first byte.
fn receive(socket: &UnixStream) -> io::Result<(Request, OwnedFd)> {
    let mut length = [0; 8];
    let (count, stdin) = receive_with(socket, &mut length)?;
    let stdin = stdin.ok_or_else(|| io::Error::other("no standard input came with the request"))?;
    let mut socket = socket;
    socket.read_exact(&mut length[count..])?;
    let mut bytes = Vec::new();
    socket.take(u64::from_le_bytes(length)).read_to_end(&mut bytes)?;
    let request = Request::decode(&bytes).ok_or_else(|| io::Error::other("the request was cut short"))?;
    Ok((request, stdin))
}

/// A mount namespace, and for all but root a user namespace that gives the right to mount in it, in which the caller is who
/// it was (user_namespaces(7)).
fn enter_namespaces() -> Result<(), Failure> {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        return unshare(CloneFlags::CLONE_NEWNS).map_err(failed(Step::UnshareMount, ""));
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(failed(Step::UnshareUser, ""))?;
    map_ids(uid, gid)
}

fn map_ids(uid: Uid, gid: Gid) -> Result<(), Failure> {
    let (uid, gid) = (uid.as_raw(), gid.as_raw());
    // Without it a group could be given up that denies access to a file; the kernel insists.
    fs::write("/proc/self/setgroups", "deny").map_err(failed(Step::SetGroups, ""))?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1\n")).map_err(failed(Step::MapUser, ""))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1\n")).map_err(failed(Step::MapGroup, ""))
}

/// From here on the kernel kills this process when the parent dies. After the namespaces: a change of credentials
/// clears it (prctl(2)).
fn tie_to_parent(parent: u32) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed(Step::DeathSignal, ""))?;
    // It may have died before that.
    let now = getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    if now == Some(parent) {
        return Ok(());
    }
    Err(Failure {
        step: Step::Orphaned,
        path: Path::new("").into(),
        errno: 0,
    })
}

/// Returns only if the command could not be run. All capabilities end here for a caller that is not root: nothing
/// is ambient or inheritable after unshare(2), and an id other than 0 keeps nothing else at exec (capabilities(7)).
fn become_command(request: &Request) -> Failure {
    let Some((program, arguments)) = request.argv.split_first() else {
        return Failure {
            step: Step::Receive,
            path: Path::new("").into(),
            errno: 0,
        };
    };
    let variables = request.env.iter().map(|(name, value)| (name, value));
    let error = Command::new(program).args(arguments).envs(variables).exec();
    let path = variable(request, "PATH").unwrap_or_else(|| OsString::from("/bin:/usr/bin"));
    let is_file = |file: &Path| file.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir());
    let is_there = |file: &Path| {
        if program.as_encoded_bytes().contains(&b'/') {
            file.exists()
        } else {
            is_file(file)
        }
    };
    let errno = error.raw_os_error().unwrap_or(0);
    match judge(program, &path, &error, is_there) {
        Verdict::NotFound => Failure {
            step: Step::NotFound,
            path: program.into(),
            errno,
        },
        Verdict::NotExecutable(file) => Failure {
            step: Step::NotExecutable,
            path: file,
            errno,
        },
    }
}

/// A variable as the command will see it.
fn variable(request: &Request, name: &str) -> Option<OsString> {
    let changed = request
        .env
        .iter()
        .rev()
        .find(|(changed, _)| changed == OsStr::new(name));
    changed
        .map(|(_, value)| value.clone())
        .or_else(|| std::env::var_os(name))
}

fn home_of(request: &Request) -> OsString {
    variable(request, "HOME").unwrap_or_default()
}

/// For `map_err`: this step, on this path.
pub(super) fn failed<E: Into<io::Error>>(step: Step, path: impl AsRef<Path>) -> impl FnOnce(E) -> Failure {
    let path = path.as_ref().to_owned();
    move |error| Failure {
        step,
        path,
        errno: error.into().raw_os_error().unwrap_or(0),
    }
}
