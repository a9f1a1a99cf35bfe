//! File systems as they occur in containers and on hardened systems. Each test runs in its own mount namespace, which needs root,
//! and leaves the machine as it was; without root it reports that it was skipped.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hostsfile::{Block, Edit, Entry, Error, FileOptions, HostsFile, Method, Tag};

const BEFORE: &[u8] = b"127.0.0.1 localhost\n10.0.0.1 printer # mine\n";

/// Runs the rest of a test in a fresh mount namespace; `false` in the process that only starts it.
fn in_namespace(test: &str) -> bool {
    if std::env::var("HOSTSFILE_TEST_NAMESPACE").is_ok_and(|t| t == test) {
        return true;
    }
    let skip = |why: &str| skipped(test, why);
    if !rustix::process::geteuid().is_root() {
        skip("it takes root to make a mount namespace");
        return false;
    }
    let able = Command::new("unshare")
        .args(["-m", "--propagation", "private", "true"])
        .stderr(Stdio::null())
        .status();
    if !able.is_ok_and(|status| status.success()) {
        skip("unshare(1) cannot make a mount namespace here");
        return false;
    }
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("HOSTSFILE_TEST_NAMESPACE", test)
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    for line in text.lines().filter(|l| l.starts_with("SKIP ")) {
        say(line);
    }
    assert!(output.status.success(), "{text}");
    false
}

fn skipped(test: &str, why: &str) {
    say(&format!("SKIP {test}: {why}"));
}

/// Prints past the test harness, which would capture the line.
fn say(line: &str) {
    std::io::stderr()
        .write_all(format!("{line}\n").as_bytes())
        .unwrap();
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}: {status}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn set(tag: &str, names: usize) -> Edit {
    let entries = (0..names).map(|n| Entry::parse("127.77.0.1", [format!("n{n}.{tag}.test")]).unwrap());
    Edit::SetBlock(Block::new(Tag::new(tag).unwrap()).with_entries(entries))
}

fn remove(tag: &str) -> Edit {
    Edit::RemoveBlock(Tag::new(tag).unwrap())
}

fn hosts_in(directory: &Path) -> PathBuf {
    let path = directory.join("hosts");
    std::fs::write(&path, BEFORE).unwrap();
    path
}

fn files_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn tmpfs(at: &Path, options: &str) {
    std::fs::create_dir_all(at).unwrap();
    run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", text(at)]);
}

#[test]
fn a_full_file_system_leaves_the_old_file_whole() {
    if !in_namespace("a_full_file_system_leaves_the_old_file_whole") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    tmpfs(dir.path(), "size=64k");
    let path = hosts_in(dir.path());
    let hosts = HostsFile::open(&path).unwrap();
    assert!(matches!(
        hosts.edit(&[set("big", 20_000)]),
        Err(Error::NoSpace { .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), BEFORE);
    assert_eq!(files_in(dir.path()), ["hosts"]);

    // In place: space is reserved before the first byte is written.
    let in_place = FileOptions::new().in_place(true).open(&path).unwrap();
    let inode = std::fs::metadata(&path).unwrap().ino();
    assert!(matches!(
        in_place.edit(&[set("big", 20_000)]),
        Err(Error::NoSpace { .. })
    ));
    std::fs::write(dir.path().join("ballast"), vec![0; 48 * 1024]).unwrap();
    assert!(matches!(
        in_place.edit(&[set("medium", 800)]),
        Err(Error::NoSpace { .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), BEFORE);
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(files_in(dir.path()), ["ballast", "hosts"]);

    std::fs::remove_file(dir.path().join("ballast")).unwrap();
    assert!(hosts.edit(&[set("small", 3)]).unwrap().changed);
    hosts.edit(&[remove("small")]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), BEFORE);
}

#[test]
fn a_bind_mount_is_written_in_place() {
    if !in_namespace("a_bind_mount_is_written_in_place") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    let outside = hosts_in(dir.path());
    let inside = hosts_in(&etc);
    run("mount", &["--bind", text(&outside), text(&inside)]);
    let inode = std::fs::metadata(&inside).unwrap().ino();
    let hosts = HostsFile::open(&inside).unwrap();
    let outcome = hosts.edit(&[set("a", 3)]).unwrap();
    assert_eq!((outcome.changed, outcome.method), (true, Method::InPlace));
    assert_eq!(std::fs::metadata(&inside).unwrap().ino(), inode);
    assert_eq!(std::fs::read(&outside).unwrap(), std::fs::read(&inside).unwrap());
    assert_eq!(hosts.read().unwrap().lookup("n2.a.test").len(), 1);
    assert_eq!(hosts.edit(&[remove("a")]).unwrap().method, Method::InPlace);
    assert_eq!(std::fs::read(&inside).unwrap(), BEFORE);
    assert_eq!(files_in(&etc), ["hosts"]);
}

#[test]
fn a_read_only_directory_with_a_writable_file_bound_into_it() {
    if !in_namespace("a_read_only_directory_with_a_writable_file_bound_into_it") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    tmpfs(&root, "size=1m");
    let outside = hosts_in(dir.path());
    let inside = hosts_in(&root);
    run("mount", &["--bind", text(&outside), text(&inside)]);
    run("mount", &["-o", "remount,ro", text(&root)]);
    assert!(std::fs::write(root.join("other"), "x").is_err());
    let hosts = HostsFile::open(&inside).unwrap();
    assert_eq!(hosts.edit(&[set("a", 3)]).unwrap().method, Method::InPlace);
    assert_eq!(hosts.read().unwrap().lookup("n2.a.test").len(), 1);
    hosts.edit(&[remove("a")]).unwrap();
    assert_eq!(std::fs::read(&outside).unwrap(), BEFORE);
    // The file itself is the lock if no other file can be created.
    let held = hosts.lock().unwrap();
    let impatient = FileOptions::new()
        .first_lock_wait(std::time::Duration::from_millis(5))
        .open(&inside)
        .unwrap();
    assert!(matches!(
        impatient.edit(&[set("a", 3)]),
        Err(Error::Locked { .. })
    ));
    drop(held);
}

#[test]
fn a_read_only_file_system_is_its_own_error() {
    if !in_namespace("a_read_only_file_system_is_an_error_of_its_own") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    tmpfs(dir.path(), "size=1m");
    let path = hosts_in(dir.path());
    run("mount", &["-o", "remount,ro", text(dir.path())]);
    let hosts = HostsFile::open(&path).unwrap();
    assert!(matches!(
        hosts.edit(&[set("a", 3)]),
        Err(Error::ReadOnlyFileSystem { .. })
    ));
    assert!(!hosts.edit(&[remove("a")]).unwrap().changed);
}

#[test]
fn the_nix_store_is_an_error_that_says_what_to_do() {
    if !in_namespace("the_nix_store_is_an_error_that_says_what_to_do") {
        return;
    }
    // This process gets its own root directory, with a store in it.
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("nix/store/abc-etc");
    std::fs::create_dir_all(&etc).unwrap();
    hosts_in(&etc);
    std::os::unix::fs::symlink("/nix/store/abc-etc/hosts", root.path().join("hosts")).unwrap();
    let outside = std::fs::File::open("/").unwrap();
    rustix::process::chroot(root.path()).unwrap();
    let outcome = HostsFile::open("/hosts").unwrap().edit(&[set("a", 3)]);
    rustix::process::fchdir(&outside).unwrap();
    rustix::process::chroot(".").unwrap();
    match outcome {
        Err(e @ Error::ManagedByNix { .. }) => {
            assert!(e.to_string().contains("networking.extraHosts"), "{e}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_immutable_file_is_its_own_error_and_can_be_overridden() {
    if !in_namespace("an_immutable_file_is_an_error_of_its_own_and_can_be_overridden") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let chattr = |flag: &str| {
        Command::new("chattr")
            .args([flag, text(&path)])
            .stderr(Stdio::null())
            .status()
    };
    if !chattr("+i").is_ok_and(|s| s.success()) {
        skipped("an_immutable_file", "chattr +i does not work here");
        return;
    }
    let refused = HostsFile::open(&path).unwrap().edit(&[set("a", 3)]);
    let in_place = FileOptions::new()
        .in_place(true)
        .open(&path)
        .unwrap()
        .edit(&[set("a", 3)]);
    let overridden = FileOptions::new()
        .override_read_only(true)
        .open(&path)
        .unwrap()
        .edit(&[set("a", 3)]);
    let still = std::fs::write(&path, "x").is_err();
    chattr("-i").unwrap();
    for outcome in [refused, in_place] {
        match outcome {
            Err(Error::Immutable { clear, .. }) => assert!(clear.starts_with("chattr -i "), "{clear}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(overridden.unwrap().changed);
    assert!(still, "the flag was not set again");
    assert_eq!(
        HostsFile::open(&path)
            .unwrap()
            .read()
            .unwrap()
            .lookup("n2.a.test")
            .len(),
        1
    );
}

#[test]
fn a_default_acl_of_the_directory_is_not_applied_to_the_file() {
    if !in_namespace("a_default_acl_of_the_directory_does_not_come_over_the_file") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    // user::rwx, user:4321:rwx, group::r-x, mask::rwx, other::r-x
    let acl: &[u8] = &[
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 0xE1, 0x10, 0, 0, 4, 0, 5, 0, 255, 255, 255,
        255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255,
    ];
    if rustix::fs::setxattr(
        dir.path(),
        "system.posix_acl_default",
        acl,
        rustix::fs::XattrFlags::empty(),
    )
    .is_err()
    {
        skipped("a_default_acl", "no ACLs here");
        return;
    }
    let mode = std::fs::metadata(&path).unwrap().mode();
    let outcome = HostsFile::open(&path).unwrap().edit(&[set("a", 3)]).unwrap();
    assert_eq!(outcome.method, Method::Renamed);
    let mut buffer = [0_u8; 64];
    assert!(rustix::fs::getxattr(&path, "system.posix_acl_access", &mut buffer[..]).is_err());
    assert_eq!(std::fs::metadata(&path).unwrap().mode(), mode);
}

#[test]
fn a_caller_without_permission_gets_an_error_and_changes_nothing() {
    if !in_namespace("a_caller_without_rights_is_told_so_and_changes_nothing") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = hosts_in(dir.path());
    // Another user may not be able to read the test program where it is, so copy it.
    let program = dir.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=12345", "--regid=12345", "--clear-groups"])
        .arg(&program)
        .args(["--exact", "tries_without_rights", "--ignored", "--nocapture"])
        .env("HOSTSFILE_TEST_PATH", &path)
        .output();
    let Ok(output) = output else {
        skipped("a_caller_without_rights", "setpriv(1) is not installed");
        return;
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(std::fs::read(&path).unwrap(), BEFORE);
    assert_eq!(files_in(dir.path()), ["hosts", "program"]);
}

#[test]
#[ignore = "run by the test of a caller without rights, as another user"]
fn tries_without_rights() {
    let Some(path) = std::env::var_os("HOSTSFILE_TEST_PATH") else {
        return;
    };
    let hosts = HostsFile::open(path).unwrap();
    match hosts.edit(&[set("a", 3)]) {
        Err(Error::PermissionDenied { source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
        }
        other => panic!("{other:?}"),
    }
    assert!(!hosts.edit(&[remove("a")]).unwrap().changed);
}

#[test]
fn the_systems_file_is_locked_where_only_root_can_and_nothing_is_left_there() {
    if !in_namespace("the_systems_file_is_locked_where_only_root_can_and_nothing_stays_there") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    let path = hosts_in(&etc);
    run("mount", &["--bind", text(&etc), "/etc"]);
    let hosts = HostsFile::system().unwrap();
    let lock = hosts.lock_path().unwrap();
    assert_eq!(lock, Path::new("/run/hostsfile/lock"));
    let held = hosts.lock().unwrap();
    assert_eq!(std::fs::metadata("/run/hostsfile").unwrap().mode() & 0o777, 0o700);
    drop(held);
    assert_eq!(hosts.edit(&[set("a", 3)]).unwrap().method, Method::Renamed);
    assert_eq!(files_in(&etc), ["hosts"]);
    assert!(!Path::new("/run/hostsfile").exists());
    hosts.edit(&[remove("a")]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), BEFORE);
}

#[test]
fn glibc_and_musl_resolve_what_was_written() {
    if !in_namespace("glibc_and_musl_resolve_what_was_written") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    run("mount", &["--bind", text(&path), "/etc/hosts"]);
    let hosts = HostsFile::system().unwrap();
    let many: Vec<String> = (0..30)
        .map(|n| format!("alias-{n}.with-a-long-label-to-fill-lines.test"))
        .collect();
    let block = Block::new(Tag::new("devbox").unwrap()).with_entries([
        Entry::parse("127.77.3.4", ["Orders.Backend", "orders"]).unwrap(),
        Entry::parse("fd00::77", ["orders.backend"]).unwrap(),
        Entry::parse("127.77.3.5", &many).unwrap(),
    ]);
    hosts.edit(&[Edit::SetBlock(block)]).unwrap();

    let ask = |program: &Path, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let getent = Path::new("getent");
    assert!(ask(getent, &["ahostsv4", "orders"]).starts_with("127.77.3.4"));
    assert!(ask(getent, &["ahostsv6", "orders.backend"]).starts_with("fd00::77"));
    for alias in &many {
        assert!(
            ask(getent, &["ahostsv4", alias]).starts_with("127.77.3.5"),
            "{alias}"
        );
    }
    assert!(ask(getent, &["ahostsv4", "localhost"]).starts_with("127.0.0.1"));

    let (source, program) = (dir.path().join("ask.c"), dir.path().join("ask"));
    std::fs::write(&source, MUSL_PROGRAM).unwrap();
    let compiled = Command::new("musl-gcc")
        .args(["-static", "-o", text(&program), text(&source)])
        .status();
    if !compiled.is_ok_and(|s| s.success()) {
        skipped("glibc_and_musl_resolve (musl)", "musl-gcc is not installed");
        return;
    }
    assert_eq!(ask(&program, &["orders"]), "127.77.3.4\n");
    assert_eq!(ask(&program, &["orders.backend"]), "127.77.3.4\nfd00::77\n");
    for alias in &many {
        assert_eq!(ask(&program, &[alias]), "127.77.3.5\n", "{alias}");
    }
    assert_eq!(ask(&program, &["printer"]), "10.0.0.1\n");
}

const MUSL_PROGRAM: &str = r#"
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int argc, char **argv) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
    char text[64];
    if (argc < 2 || getaddrinfo(argv[1], 0, &hints, &list)) return 1;
    for (; list; list = list->ai_next) {
        void *address = list->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)list->ai_addr)->sin_addr
                                                   : (void *)&((struct sockaddr_in6 *)list->ai_addr)->sin6_addr;
        puts(inet_ntop(list->ai_family, address, text, sizeof text));
    }
    return 0;
}
"#;
