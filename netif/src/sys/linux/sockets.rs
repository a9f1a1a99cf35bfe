//! Sockets that wait, and the programs that have them: proc(5).

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::observed::{Listener, Program, Transport};
use crate::parse::proc_net;

/// Of the thread's own network namespace.
const TABLES: [(Transport, &str); 4] = [
    (Transport::Tcp, "/proc/thread-self/net/tcp"),
    (Transport::Tcp, "/proc/thread-self/net/tcp6"),
    (Transport::Udp, "/proc/thread-self/net/udp"),
    (Transport::Udp, "/proc/thread-self/net/udp6"),
];

/// None where /proc does not tell; a kernel without IPv6 has half of the tables.
pub(crate) fn listeners(with_programs: bool) -> Vec<Listener> {
    let mut found: Vec<(Listener, Option<u64>)> = Vec::new();
    for (transport, table) in TABLES {
        if let Ok(text) = fs::read_to_string(table) {
            found.extend(proc_net::listeners(transport, &text));
        }
    }
    if with_programs {
        let inodes = found.iter().filter_map(|(_, inode)| *inode);
        let programs = programs(inodes);
        for (listener, inode) in &mut found {
            listener.program = inode.and_then(|inode| programs.get(&inode).cloned());
        }
    }
    found.into_iter().map(|(listener, _)| listener).collect()
}

/// Looks for sockets among the descriptors of every process.
fn programs(inodes: impl Iterator<Item = u64>) -> HashMap<u64, Program> {
    let wanted: HashMap<String, u64> = inodes.map(|inode| (format!("socket:[{inode}]"), inode)).collect();
    let mut programs = HashMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
        // Another user's descriptors cannot be read.
        let Some((pid, open)) =
            pid.and_then(|pid| Some((pid, fs::read_dir(process.path().join("fd")).ok()?)))
        else {
            continue;
        };
        for entry in open.flatten() {
            let link = fs::read_link(entry.path()).ok();
            let inode = link.and_then(|link| wanted.get(link.to_str()?).copied());
            if let Some(inode) = inode {
                programs.entry(inode).or_insert_with(|| Program {
                    name: command_of(&process.path()),
                    pid,
                });
            }
        }
    }
    programs
}

fn command_of(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    name.trim().to_owned()
}
