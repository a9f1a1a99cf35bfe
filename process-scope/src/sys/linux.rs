//! Linux: the parent's side, up to the moment when the command runs.

mod child;
mod life;
mod mounts;
mod split;
mod ssh;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

pub(crate) use child::enter;
pub(crate) use life::{Signaller, Tree, die_by, signal_ignored, signal_of, wait};
pub(crate) use split::{Back, Front, Group, Watch, split};

use crate::facts::{Facts, Refusal, restriction};
use crate::scope::{HIDDEN_ARGUMENT, PrivateHosts, Scope, Scoped, ScopedCommand};
use crate::wire::{Failure, PREPARED, Report, Request, Step};
use crate::{Error, Restriction};

pub(crate) fn spawn(scope: &Scope, command: &ScopedCommand) -> Result<Scoped, Error> {
    let program = check(command)?;
    let request = Request {
        probe: false,
        parent: std::process::id(),
        hosts: scope.hosts.clone(),
        argv: command.argv.clone(),
        env: command.env.clone(),
        open_files: command.open_files,
    };
    let group = command.group.map(|group| group.0);
    let (child, hosts) = begin(&scope.program, group, &request, program)?;
    Ok(Scoped {
        child,
        hosts: PrivateHosts {
            file: File::from(hosts),
        },
    })
}

pub(crate) fn probe(scope: &Scope) -> Result<(), Error> {
    let request = Request {
        probe: true,
        parent: std::process::id(),
        hosts: scope.hosts.clone(),
        ..Request::default()
    };
    let (mut child, _hosts) = begin(&scope.program, None, &request, &OsString::new())?;
    child.wait().map_err(|source| Error::Setup {
        step: "wait for the attempt's end",
        source,
    })?;
    Ok(())
}

/// What the system could not be given at all. Returns the program.
fn check(command: &ScopedCommand) -> Result<&OsString, Error> {
    let has = |text: &OsString, byte: u8| text.as_encoded_bytes().contains(&byte);
    let Some(program) = command.argv.first() else {
        return Err(Error::BadCommand {
            what: "the command is empty",
        });
    };
    let mut texts = command
        .argv
        .iter()
        .chain(command.env.iter().flat_map(|(name, value)| [name, value]));
    if texts.any(|text| has(text, 0)) {
        return Err(Error::BadCommand {
            what: "a NUL byte in the command or its environment",
        });
    }
    if command
        .env
        .iter()
        .any(|(name, _)| name.is_empty() || has(name, b'='))
    {
        return Err(Error::BadCommand {
            what: "an environment variable without a proper name",
        });
    }
    Ok(program)
}

/// Runs the program again, tells it what to do, and hears how it went. On success the child has become the command,
/// or, for a probe, is about to end.
fn begin(
    program: &Path,
    group: Option<Group>,
    request: &Request,
    command: &OsString,
) -> Result<(Child, OwnedFd), Error> {
    let (mut child, socket) = start(program, group)?;
    let told = tell(&socket, request);
    // A child that could not read it all has said why, or has ended; both are heard below.
    let heard = hear(&socket);
    let failure = match (told, heard) {
        (Ok(()), Ok((Some(hosts), rest))) if rest.is_empty() => return Ok((child, hosts)),
        (_, Ok((_, rest))) => Report::decode_failure(&rest),
        (_, Err(_)) => None,
    };
    // The child ends by itself now: it has failed, or the socket it would write to is closed.
    drop(socket);
    let status = child.wait().map_err(|source| Error::Setup {
        step: "wait for the child's end",
        source,
    })?;
    Err(match failure {
        Some(failure) => explain(&failure, command),
        None => Error::NoAnswer {
            program: program.to_owned(),
            status,
        },
    })
}

/// Forks on a thread that lives as long as the child does: a parent death signal is sent when the *thread* that forked
/// ends (prctl(2), `PR_SET_PDEATHSIG`).
fn start(program: &Path, group: Option<Group>) -> Result<(Child, UnixStream), Error> {
    let setup = |source| Error::Setup {
        step: "start a thread and a socket for the command",
        source,
    };
    let (ours, theirs) = UnixStream::pair().map_err(setup)?;
    let (tell, told) = mpsc::sync_channel(1);
    let mut command = Command::new(program);
    command.arg(HIDDEN_ARGUMENT).stdin(OwnedFd::from(theirs));
    if let Some(group) = group {
        command.process_group(group.as_raw_nonzero().get());
    }
    std::thread::Builder::new()
        .name("scope-keeper".to_owned())
        .spawn(move || {
            split::give_back_signals();
            let spawned = command.spawn();
            drop(command); // and with it the child's end of the socket: its closing is a signal
            let pid = spawned.as_ref().map(Child::id).ok();
            if tell.send(spawned).is_ok()
                && let Some(pid) = pid
            {
                life::until_ended(pid);
            }
        })
        .map_err(setup)?;
    let child = match told.recv() {
        Ok(spawned) => spawned.map_err(|source| Error::Start {
            program: program.to_owned(),
            source,
        })?,
        Err(_) => return Err(setup(io::Error::other("the thread ended early"))),
    };
    Ok((child, ours))
}

/// Sends the request, the caller's own standard input with its first byte.
fn tell(socket: &UnixStream, request: &Request) -> io::Result<()> {
    let bytes = request.encode();
    let sent = send_with(socket, &bytes, io::stdin().as_fd())?;
    let mut socket = socket;
    socket.write_all(&bytes[sent..])
}

/// Hears all that the child says until it closes its end: the hosts file's descriptor and what follows it.
fn hear(socket: &UnixStream) -> io::Result<(Option<OwnedFd>, Vec<u8>)> {
    let mut said = vec![0];
    let (count, hosts) = receive_with(socket, &mut said)?;
    said.truncate(count);
    let mut socket = socket;
    socket.read_to_end(&mut said)?;
    if hosts.is_some() && said.first() == Some(&PREPARED) {
        said.remove(0);
    }
    Ok((hosts, said))
}

/// Sends some of `bytes`, at least one, and `descriptor` with them. Returns how many went.
fn send_with(socket: &UnixStream, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let descriptors = [descriptor];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // The space was made for just this message.
    let fits = control.push(SendAncillaryMessage::ScmRights(&descriptors));
    debug_assert!(fits);
    Ok(retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?)
}

/// Receives some bytes, none at the end of the stream, and the descriptor that came with them.
fn receive_with(socket: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((received.bytes, descriptor))
}

fn explain(failure: &Failure, command: &OsString) -> Error {
    let step = failure.step.text();
    let source = match failure.errno {
        0 => io::Error::other("unexpected answer"),
        errno => io::Error::from_raw_os_error(errno),
    };
    let path = failure.path.clone();
    match failure.step {
        Step::NotFound => Error::CommandNotFound {
            program: command.clone(),
        },
        Step::NotExecutable => Error::CommandNotExecutable { file: path, source },
        Step::NoHosts => Error::NoHostsFile { path },
        Step::UnshareMount if refusal(failure.errno) == Some(Refusal::Forbidden) => {
            Error::MountNamespaceForbidden { source }
        }
        Step::UnshareUser | Step::SetGroups | Step::MapUser | Step::MapGroup => {
            match refusal(failure.errno) {
                Some(refusal) => {
                    let restriction = restriction(refusal, &read_facts());
                    Error::UserNamespacesForbidden {
                        step,
                        restriction,
                        source,
                    }
                }
                None => Error::Setup { step, source },
            }
        }
        Step::Propagation
        | Step::Tmpfs
        | Step::Write
        | Step::Bind
        | Step::Detach
        | Step::ReadOnly
        | Step::Mask => {
            // Ubuntu's rule lets the namespace be made and then forbids everything in it; so may a filter.
            let forbidden =
                refusal(failure.errno) == Some(Refusal::Forbidden) && !rustix::process::geteuid().is_root();
            match restriction(Refusal::Forbidden, &read_facts()) {
                restriction if forbidden && restriction != Restriction::Unknown => {
                    Error::UserNamespacesForbidden {
                        step,
                        restriction,
                        source,
                    }
                }
                _ => Error::Mount { step, path, source },
            }
        }
        Step::OpenHosts => Error::Mount { step, path, source },
        Step::Receive
        | Step::UnshareMount
        | Step::DeathSignal
        | Step::Orphaned
        | Step::HandOver
        | Step::Stdin
        | Step::OpenFiles => Error::Setup { step, source },
    }
}

fn refusal(errno: i32) -> Option<Refusal> {
    match Errno::from_raw_os_error(errno) {
        Errno::PERM | Errno::ACCESS => Some(Refusal::Forbidden),
        Errno::NOSPC | Errno::USERS => Some(Refusal::Exhausted),
        Errno::NOSYS | Errno::INVAL => Some(Refusal::Missing),
        _ => None,
    }
}

fn read_facts() -> Facts {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
    Facts {
        apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        unprivileged_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
        max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
        seccomp: life::status_field("Seccomp").and_then(|value| value.parse().ok()),
    }
}

/// Makes `bytes` the content of `file` in place; see [`PrivateHosts::update`].
pub(crate) fn rewrite(file: &File, bytes: &[u8]) -> io::Result<()> {
    let old = read_all(file)?;
    let same = old.iter().zip(bytes).take_while(|(old, new)| old == new).count();
    let mut rest = bytes[same..].to_vec();
    if rest.len() + same < old.len() {
        rest.resize(old.len() - same, b'\n');
    }
    file.write_all_at(&rest, same as u64)?;
    if bytes.len() < old.len() {
        file.set_len(bytes.len() as u64)?;
    }
    Ok(())
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let mut content = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewriting_gives_the_new_content_whatever_was_there() {
        let contents: [&[u8]; 6] = [b"", b"a\n", b"a\nb\nc\n", b"a\nc\n", b"x\nb\nc", b"a\nb\nc\nd\n"];
        for old in contents {
            for new in contents {
                let file = tempfile::tempfile().unwrap();
                file.write_all_at(old, 0).unwrap();
                rewrite(&file, new).unwrap();
                assert_eq!(read_all(&file).unwrap(), new);
            }
        }
    }

    #[test]
    fn a_command_that_cannot_be_passed_on_is_refused_before_anything_starts() {
        for command in [
            ScopedCommand::default(),
            ScopedCommand::new(["a\0b"]),
            ScopedCommand::new(["a"]).env("A=B", "c"),
            ScopedCommand::new(["a"]).env("", "c"),
            ScopedCommand::new(["a"]).env("A", "\0"),
        ] {
            assert!(
                matches!(check(&command), Err(Error::BadCommand { .. })),
                "{command:?}"
            );
        }
    }
}
