//! Under sudo the helper is root and its caller is not: no file but the system's own is touched with root's rights.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use devbox_helper::{Caller, Policy};
use devbox_helper_client::{Client, Endpoint, Error, HelperError, HostsBlock, HostsEntry, HostsReport};

const ORIGINAL: &[u8] = b"127.0.0.1 localhost\n";
/// Debian's and most others' `nobody`; any user without rights of its own does.
const NOBODY: u32 = 65534;

/// Whether the rest of a test can run. If not, it says so past the test runner, which keeps to itself what a passing test
/// prints; `cargo xtask test` collects the line.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("rights");
        let line = format!("SKIP {test}: needs root, to act with another user's rights\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    root
}

fn policy(file: &Path) -> Policy {
    let mut policy = Policy::new(file).unwrap();
    policy.pools.push("127.77.0.0/16".parse().unwrap());
    policy.caller = Some(Caller {
        uid: NOBODY,
        gid: NOBODY,
        groups: vec![NOBODY],
    });
    policy
}

fn block() -> HostsBlock {
    let entry = HostsEntry {
        address: "127.77.0.2".parse().unwrap(),
        names: vec!["orders".into()],
    };
    HostsBlock {
        tag: "devbox-a".into(),
        entries: vec![entry],
    }
}

fn set(file: &Path) -> (Client, Result<HostsReport, Error>) {
    let mut client = Client::start(env!("CARGO_BIN_EXE_devbox-helper"), policy(file).to_args()).unwrap();
    let result = client.set_hosts(block());
    (client, result)
}

fn directory_of_nobody() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    dir
}

#[test]
fn file_of_the_caller_is_edited_and_stays_theirs() {
    if !is_root() {
        return;
    }
    let dir = directory_of_nobody();
    let file = dir.path().join("hosts");
    fs::write(&file, ORIGINAL).unwrap();
    chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    let (client, result) = set(&file);
    assert!(result.unwrap().changed);
    assert_ne!(fs::read(&file).unwrap(), ORIGINAL);
    for entry in fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().uid(), NOBODY, "{:?}", entry.file_name());
    }
    assert!(client.close().unwrap().success());
    assert_eq!(fs::read(&file).unwrap(), ORIGINAL);
}

#[test]
fn listener_is_still_bound_with_the_helpers_rights() {
    if !is_root() {
        return;
    }
    let dir = directory_of_nobody();
    let file = dir.path().join("hosts");
    fs::write(&file, ORIGINAL).unwrap();
    chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    let (mut client, result) = set(&file);
    result.unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let bound = (0..20).find_map(|_| {
        client
            .bind(Endpoint::tcp(
                ([127, 77, random.u8(1..), 9], random.u16(1..1024)).into(),
            ))
            .ok()
    });
    assert!(bound.is_some(), "root's rights came back after the edit");
}

/// In a mount namespace of its own, where another file stands in for the system's.
#[test]
fn systems_file_is_edited_with_the_helpers_rights() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stand_in = dir.path().join("hosts");
    fs::write(&stand_in, ORIGINAL).unwrap();
    let system = hostsfile::system_path();
    let policy = policy(&system);
    let script = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
    let mut args = vec![
        "--mount".into(),
        "sh".into(),
        "-c".into(),
        script.into(),
        "sh".into(),
    ];
    args.extend([stand_in.clone().into_os_string(), system.clone().into_os_string()]);
    args.push(env!("CARGO_BIN_EXE_devbox-helper").into());
    args.extend(policy.to_args());
    let mut client = Client::start("unshare", args).unwrap();
    let report = client.set_hosts(block()).unwrap();
    assert!(report.changed && report.in_place, "{report:?}");
    assert_eq!(report.file, system);
    assert_ne!(fs::read(&stand_in).unwrap(), ORIGINAL);
    assert!(client.close().unwrap().success());
    assert_eq!(fs::read(&stand_in).unwrap(), ORIGINAL);
}

#[test]
fn file_of_root_is_refused() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let file = dir.path().join("hosts");
    fs::write(&file, ORIGINAL).unwrap();
    let (client, result) = set(&file);
    assert!(
        matches!(result, Err(Error::Helper(HelperError::PermissionDenied { .. }))),
        "{result:?}"
    );
    client.close().unwrap();
    assert_eq!(fs::read(&file).unwrap(), ORIGINAL);
}

#[test]
fn directory_of_root_is_not_looked_into() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    let file = dir.path().join("hosts");
    fs::write(&file, ORIGINAL).unwrap();
    let (client, result) = set(&file);
    assert!(
        matches!(result, Err(Error::Helper(HelperError::PermissionDenied { .. }))),
        "{result:?}"
    );
    client.close().unwrap();
    assert_eq!(fs::read(&file).unwrap(), ORIGINAL);
}

#[test]
fn link_of_the_caller_to_a_file_of_root_is_refused() {
    if !is_root() {
        return;
    }
    let roots = tempfile::tempdir().unwrap();
    fs::set_permissions(roots.path(), Permissions::from_mode(0o755)).unwrap();
    let target = roots.path().join("target");
    fs::write(&target, ORIGINAL).unwrap();
    let dir = directory_of_nobody();
    let file = dir.path().join("hosts");
    symlink(&target, &file).unwrap();
    let (client, result) = set(&file);
    assert!(
        matches!(result, Err(Error::Helper(HelperError::PermissionDenied { .. }))),
        "{result:?}"
    );
    client.close().unwrap();
    assert_eq!(fs::read(&target).unwrap(), ORIGINAL);
}
