//! `/proc` (proc(5)).

use std::fs;
use std::io;
use std::sync::OnceLock;

use devbox_helper_client::Descriptor;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{Credentials, Started};

/// Ticks since boot: field 22 of `/proc/<pid>/stat`. A zombie counts as ended.
pub(crate) fn started(pid: u32) -> io::Result<Started> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => {
            parse(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/<pid>/stat"))
        }
        // With the mount option hidepid=2, living processes of other users are invisible.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !exists(pid) => Ok(Started::Never),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Started::Lives(None)),
        // ESRCH: it exited between open and read.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            Ok(Started::Never)
        }
        Err(error) => Err(error),
    }
}

/// The first part of the random boot id.
pub(crate) fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        match id.get(..8) {
            Some(part) if part.bytes().all(|b| b.is_ascii_hexdigit()) => part.to_owned(),
            _ => "0".to_owned(),
        }
    })
}

/// SO_PEERCRED, SO_PEERGROUPS and SO_PEERPIDFD (socket(7), unix(7)).
pub(crate) fn credentials(socket: &Descriptor) -> io::Result<Credentials> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    let pid = u32::try_from(peer.pid.as_raw_nonzero().get()).map_err(io::Error::other)?;
    Ok(Credentials {
        uid: peer.uid.as_raw(),
        gid: peer.gid.as_raw(),
        groups: groups(socket)?,
        pid,
        program: program(socket, pid),
    })
}

fn groups(socket: &Descriptor) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; USUAL_GROUPS];
    let count = read_groups(socket, &mut groups).or_else(|error| {
        if error.raw_os_error() != Some(libc::ERANGE) {
            return Err(error);
        }
        groups.resize(NGROUPS_MAX, 0);
        read_groups(socket, &mut groups)
    })?;
    groups.truncate(count);
    groups.shrink_to_fit();
    Ok(groups)
}

/// How many there are.
fn read_groups(socket: &Descriptor, groups: &mut [u32]) -> io::Result<usize> {
    let mut bytes = libc::socklen_t::try_from(size_of_val(groups)).map_err(io::Error::other)?;
    // SAFETY: the buffer is ours and of the length that is told.
    let told = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    match told {
        0 => Ok(bytes as usize / size_of::<u32>()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// More are asked for once the kernel says that there are more.
const USUAL_GROUPS: usize = 64;
/// linux/limits.h
const NGROUPS_MAX: usize = 65_536;

/// What `/proc` says of the pid, if the process that connected still has it afterwards.
fn program(socket: &Descriptor, pid: u32) -> Option<String> {
    let process = process(socket)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    // pidfd_open(2): readable once the process has ended.
    let ended = poll(
        &mut [PollFd::new(&process, PollFlags::IN)],
        Some(&Timespec::default()),
    );
    (ended == Ok(0)).then(|| name.trim_end().to_owned())
}

/// The process that connected; `None` before Linux 6.5, or once it is gone.
fn process(socket: &Descriptor) -> Option<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut bytes = libc::socklen_t::try_from(size_of_val(&fd)).ok()?;
    // SAFETY: the buffer is one number of ours, of the length that is told.
    let told = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut bytes,
        )
    };
    if told != 0 || fd < 0 {
        return None;
    }
    // SAFETY: the kernel has just made it for us, and nobody else has it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The name in parentheses may contain anything, even parentheses; the fields are counted from the last one.
fn parse(stat: &str) -> Option<Started> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" | "x" => Some(Started::Never),
        _ => fields
            .nth(18)?
            .parse()
            .ok()
            .map(|start| Started::Lives(Some(start))),
    }
}

fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_with_parentheses_and_blanks_is_passed_over() {
        let tail = "1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 99";
        assert_eq!(
            parse(&format!("42 (a) S 9 (b)) S 1 {tail}")),
            Some(Started::Lives(Some(777)))
        );
        assert_eq!(parse(&format!("42 (sh) Z 1 {tail}")), Some(Started::Never));
        for odd in ["", "42", "42 (sh)", "42 (sh) S 1 2 3"] {
            assert_eq!(parse(odd), None, "{odd:?}");
        }
    }
}
