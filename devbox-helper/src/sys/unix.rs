//! Sessions, signals, effective ids.

pub(super) mod service;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, getegid, geteuid, setegid, seteuid};
use rustix::net::{AddressFamily, SocketType};

use crate::policy::Caller;

/// Whether a listener can be passed to the caller.
pub(crate) const PASSES_LISTENERS: bool = true;

/// Blocks the signals that a terminal or a shell sends, which then come only where somebody waits for them. Signals blocked in every
/// thread are never delivered, so call it before there is a second thread. Also leaves the working directory, so that its file system
/// can be unmounted.
pub(crate) fn hold_signals() -> io::Result<()> {
    let mut deaf = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGTERM,
    ] {
        deaf.add(signal);
    }
    deaf.thread_block()?;
    std::env::set_current_dir("/")
}

/// [Holds signals](hold_signals), and leaves the caller's session.
pub(crate) fn detach() -> io::Result<()> {
    hold_signals()?;
    if let Err(errno) = rustix::process::setsid() {
        // setsid(2): EPERM also means that this process already leads a session.
        let session = rustix::process::getsid(None)?;
        if session != rustix::process::getpid() {
            return Err(errno.into());
        }
    }
    Ok(())
}

/// Services here are started as programs.
pub(crate) fn as_service(
    run: impl FnOnce() -> Result<(), crate::Error> + Send + 'static,
) -> Result<(), crate::Error> {
    run()
}

/// Whether this process can change the machine's network.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// Gives back what was freed.
#[cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "malloc_trim(3) has no safe form")
)]
pub(crate) fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: only what is free is given back, and other threads may allocate meanwhile.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What came of a [`fork`].
pub(crate) enum Fork {
    /// In the new process: its standard input is its end of a new channel.
    Helper,
    /// In the old one.
    Keeper {
        /// The other end of the channel, in the form in which descriptors are passed.
        callers_end: TcpListener,
        helper: Pid,
    },
}

/// Becomes two processes with a new channel. The program is not loaded again: whoever may have replaced its file meanwhile would
/// gain this process's rights.
#[expect(unsafe_code, reason = "fork has no safe form")]
pub(crate) fn fork() -> io::Result<Fork> {
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: this process has no other thread, so the new one finds no lock held and no state half changed.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            rustix::stdio::dup2_stdin(&ours)?;
            Ok(Fork::Helper)
        }
        ForkResult::Parent { child } => Ok(Fork::Keeper {
            callers_end: TcpListener::from(OwnedFd::from(theirs)),
            helper: child,
        }),
    }
}

/// Waits for a helper's end; `true` if a signal ended it.
pub(crate) fn was_killed(helper: Pid) -> io::Result<bool> {
    loop {
        match waitpid(helper, None) {
            Ok(status) => return Ok(matches!(status, WaitStatus::Signaled(..))),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// SIGTERM is meant for this process itself, from an administrator or a shutdown.
pub(crate) fn on_terminate(end: impl FnOnce() + Send + 'static) -> io::Result<()> {
    on_signals([Signal::SIGTERM].into_iter().collect(), end)
}

/// The same, and SIGINT, which is meant for a program that somebody runs on a terminal.
pub(crate) fn on_terminate_or_interrupt(end: impl FnOnce() + Send + 'static) -> io::Result<()> {
    on_signals([Signal::SIGTERM, Signal::SIGINT].into_iter().collect(), end)
}

fn on_signals(signals: SigSet, end: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .name("terminate".into())
        .stack_size(64 << 10)
        .spawn(move || {
            while let Err(errno) = signals.wait() {
                if errno != nix::errno::Errno::EINTR {
                    return;
                }
            }
            end();
        })?;
    Ok(())
}

/// Ends the stream of the one caller, as the end of that caller would.
pub(crate) fn shut_input() {
    // Fails only when the stream has ended already, which is just as good.
    rustix::net::shutdown(io::stdin().as_fd(), rustix::net::Shutdown::Read).ok();
}

/// A listener as std creates it, but with a backlog of 1024: a web page that opens all its connections at once soon fills
/// std's 128.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 1024)?;
    Ok(TcpListener::from(socket))
}

/// A UDP socket. To whoever passes it on, one descriptor is as good as another.
pub(crate) fn bind_datagrams(address: SocketAddr) -> io::Result<TcpListener> {
    Ok(TcpListener::from(OwnedFd::from(UdpSocket::bind(address)?)))
}

/// Does `work` with the caller's permissions, then returns to the helper's own. Ids belong to the whole process, which is safe
/// because the only other thread, the one for SIGTERM, touches no file.
pub(crate) fn with_rights_of<T>(caller: &Caller, work: impl FnOnce() -> T) -> io::Result<T> {
    let (uid, gid) = (Uid::from_raw(caller.uid), Gid::from_raw(caller.gid));
    if geteuid() == uid && !geteuid().is_root() {
        return Ok(work());
    }
    let own = Rights {
        uid: geteuid(),
        gid: getegid(),
        groups: rustix::process::getgroups()?,
    };
    // Groups and gid first: they can only be set while the uid is still root's.
    groups::set(&caller.groups)?;
    let result = setegid(gid).and_then(|()| seteuid(uid)).map(|()| work());
    own.restore()?;
    Ok(result?)
}

struct Rights {
    uid: Uid,
    gid: Gid,
    groups: Vec<rustix::process::Gid>,
}

impl Rights {
    fn restore(self) -> io::Result<()> {
        seteuid(self.uid)?;
        setegid(self.gid)?;
        let groups: Vec<u32> = self.groups.iter().map(|group| group.as_raw()).collect();
        groups::set(&groups)
    }
}

#[cfg(not(target_vendor = "apple"))]
mod groups {
    use super::{Gid, io};

    pub(super) fn set(groups: &[u32]) -> io::Result<()> {
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        Ok(nix::unistd::setgroups(&groups)?)
    }
}

#[cfg(target_vendor = "apple")]
mod groups {
    #![expect(unsafe_code, reason = "nix leaves setgroups out on these systems")]

    use super::io;

    pub(super) fn set(groups: &[u32]) -> io::Result<()> {
        let count = i32::try_from(groups.len()).map_err(io::Error::other)?;
        // SAFETY: the pointer and the count are those of one slice, which the call only reads.
        match unsafe { libc::setgroups(count, groups.as_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
