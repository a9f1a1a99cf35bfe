//! The files that ssh would refuse within a user namespace, found before there is one.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use super::mounts::Replaced;
use crate::ssh_config::{absolute, includes};

/// Files of root's that ssh reads by an `Include`, from the system's configuration or the user's, and root's among the
/// user's own. The system's configuration itself is not among them: ssh does not ask who owns that.
///
/// What cannot be read is passed over: ssh meets the same.
pub(super) fn root_owned_includes(home: &OsStr) -> Vec<Replaced> {
    let home = home.to_str().filter(|home| home.starts_with('/'));
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut queue: VecDeque<Config> = SYSTEM
        .iter()
        .map(|path| Config {
            path: PathBuf::from(path),
            base: "/etc/ssh".to_owned(),
            home: None,
            checked: false,
        })
        .collect();
    if let Some(home) = home {
        let base = format!("{home}/.ssh");
        queue.push_back(Config {
            path: PathBuf::from(format!("{base}/config")),
            base,
            home: Some(home.to_owned()),
            checked: true,
        });
    }
    while let Some(config) = queue.pop_front() {
        let Ok(path) = fs::canonicalize(&config.path) else {
            continue;
        };
        if seen.len() >= MAX_FILES || !seen.insert(path.clone()) {
            continue;
        }
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            continue;
        }
        let Ok(content) = fs::read(&path) else { continue };
        for pattern in includes(&String::from_utf8_lossy(&content)) {
            let Some(pattern) = absolute(&pattern, &config.base, config.home.as_deref()) else {
                continue;
            };
            let Ok(paths) = glob::glob(&pattern) else { continue };
            queue.extend(paths.flatten().map(|path| Config {
                path,
                checked: true,
                ..config.clone()
            }));
        }
        if config.checked && metadata.uid() == 0 {
            found.push(Replaced {
                path,
                content,
                mode: metadata.permissions().mode() & 0o777,
            });
        }
    }
    found
}

/// One configuration file and how its own `Include` lines are read.
#[derive(Clone)]
struct Config {
    path: PathBuf,
    base: String,
    home: Option<String>,
    /// Whether ssh asks who owns it.
    checked: bool,
}

/// The second is where SUSE keeps its own.
const SYSTEM: [&str; 2] = ["/etc/ssh/ssh_config", "/usr/etc/ssh/ssh_config"];
/// Against a pattern that matches half the system.
const MAX_FILES: usize = 256;
const MAX_BYTES: u64 = 1 << 20;
