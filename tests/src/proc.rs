//! What the system knows about processes: /proc and the password file.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::wait;

/// The command line of process `pid`, with its words joined by blanks; empty if it is gone or a zombie.
pub fn command_line(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    words.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

/// Whether process `pid` exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    stat_field(pid, 0).is_some_and(|state| state != "Z" && state != "X")
}

/// All descendants of `pid`, parents before their children.
pub fn descendants(pid: u32) -> Vec<u32> {
    let all: Vec<(u32, u32)> = every_process()
        .into_iter()
        .filter_map(|child| Some((child, stat_field(child, 1)?.parse().ok()?)))
        .collect();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(
            all.iter()
                .filter(|(_, of)| *of == parent)
                .map(|(child, _)| *child),
        );
        next += 1;
    }
    found.remove(0);
    found
}

/// The helper of the `devbox` process `pid`: its descendant that was started with the hidden argument.
///
/// # Errors
/// If there is none after a while.
pub fn helper_of(pid: u32) -> crate::Result<u32> {
    wait::until("a helper below the session's process", wait::SOON, || {
        descendants(pid)
            .into_iter()
            .find(|child| command_line(*child).contains("__helper"))
    })
}

/// Real, effective, saved and file system user of process `pid`, as proc(5) has them.
pub fn users(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .unwrap_or_default();
    line.split_ascii_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// The resident memory of process `pid` in bytes: at this moment, and the most that it ever was (proc(5), `VmRSS` and `VmHWM`).
///
/// # Errors
/// If it is gone.
pub fn resident_bytes(pid: u32) -> crate::Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let field = |name: &str| -> crate::Result<u64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        let value = value.context("a zombie has no memory")?.trim();
        Ok(1024 * value.trim_end_matches(" kB").parse::<u64>()?)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// The CPU time that process `pid` and its descendants have taken so far, in clock ticks (proc(5), `utime` and `stime`).
pub fn cpu_ticks(pid: u32) -> u64 {
    let all = [vec![pid], descendants(pid)].concat();
    let of = |pid, field| stat_field(pid, field)?.parse::<u64>().ok();
    // One that has just ended has none.
    all.into_iter()
        .flat_map(|pid| [of(pid, 11), of(pid, 12)])
        .flatten()
        .sum()
}

/// How many established connections process `pid` and its descendants have to this port of other machines and of their own
/// (proc(5), /proc/net/tcp), in its network.
///
/// # Errors
/// If it is gone.
pub fn connections_of(pid: u32, port: u16) -> crate::Result<usize> {
    const ESTABLISHED: &str = "01";
    let mut theirs = BTreeSet::new();
    for process in [vec![pid], descendants(pid)].concat() {
        // It may have ended.
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            theirs.extend(std::fs::read_link(descriptor.path()));
        }
    }
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).context("the process is gone")?;
    let to_port = format!(":{port:04X}");
    // 2 remote address, 3 state, 9 inode.
    let connections = table.lines().filter(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        matches!(fields[..], [_, _, remote, ESTABLISHED, _, _, _, _, _, inode, ..]
            if remote.ends_with(&to_port) && theirs.contains(Path::new(&format!("socket:[{inode}]"))))
    });
    Ok(connections.count())
}

/// How many established connections to this port have bytes that nobody has read, in the network of process `pid` (proc(5), /proc/net/tcp).
///
/// # Errors
/// If it is gone.
pub fn unread_connections(pid: u32, port: u16) -> crate::Result<usize> {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).context("the process is gone")?;
    let at_port = format!(":{port:04X}");
    // 1 local address, 3 state, 4 bytes to send and to read.
    let unread = table.lines().filter(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        matches!(fields[..], [_, local, _, ESTABLISHED, queues, ..]
            if local.ends_with(&at_port) && !queues.ends_with(":00000000"))
    });
    Ok(unread.count())
}

/// How many established connections a server at `address` has on this machine (proc(5), /proc/net/tcp).
pub fn connections_at(address: SocketAddr) -> usize {
    const ESTABLISHED: &str = "01";
    let IpAddr::V4(host) = address.ip() else { return 0 };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(host.octets()), address.port());
    let text = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let counted = text.lines().filter(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&ESTABLISHED)
    });
    counted.count()
}

/// Waits until every one of `pids` is gone.
///
/// # Errors
/// If one still exists after `within`.
pub fn wait_until_gone(pids: &[u32], within: Duration) -> crate::Result {
    let left = || {
        pids.iter()
            .copied()
            .filter(|pid| is_alive(*pid))
            .collect::<Vec<_>>()
    };
    wait::until("end of processes", within, || left().is_empty().then_some(())).map_err(|error| {
        let names: Vec<String> = left()
            .into_iter()
            .map(|pid| format!("{pid} ({})", command_line(pid)))
            .collect();
        error.context(format!("still there: {}", names.join(", ")))
    })
}

/// Every process with `text` in its environment. With a scene's folder as the text, this finds what its programs left behind.
pub fn with_environment(text: &str) -> Vec<u32> {
    let holds = |pid: &u32| {
        let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    every_process()
        .into_iter()
        .filter(|pid| is_alive(*pid))
        .filter(holds)
        .collect()
}

/// The name of the user with this id, or the id itself if it is not in the password file.
pub fn user_name(uid: u32) -> String {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| uid.to_string())
}

fn every_process() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(PathBuf::from("/proc")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Field `index` of /proc/<pid>/stat, counted after the command's name (proc(5)): 0 is the state, 1 the parent.
fn stat_field(pid: u32, index: usize) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(index).map(str::to_owned)
}
