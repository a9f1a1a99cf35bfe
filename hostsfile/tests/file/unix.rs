//! What only Unix systems have: modes, owners, extended attributes, links, shells.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use hostsfile::{Diff, Document};

use super::*;

#[test]
fn mode_owner_and_extended_attributes_are_kept() {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        chown(&path, Some(1234), Some(2345)).unwrap();
    }
    let has_xattr = setxattr(&path, "user.devbox", b"kept", XattrFlags::empty()).is_ok();
    // A POSIX ACL: owner rw, user 4321 r, group r, mask r, others nothing.
    let acl: &[u8] = &[
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 0xE1, 0x10, 0, 0, 4, 0, 4, 0, 255, 255, 255,
        255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
    ];
    let has_acl = setxattr(&path, "system.posix_acl_access", acl, XattrFlags::empty()).is_ok();
    let look = || {
        let m = std::fs::metadata(&path).unwrap();
        let value = |name: &str| {
            let mut buffer = [0_u8; 256];
            getxattr(&path, name, &mut buffer[..])
                .ok()
                .map(|n| buffer[..n].to_vec())
        };
        (
            m.mode(),
            m.uid(),
            m.gid(),
            value("user.devbox"),
            value("system.posix_acl_access"),
        )
    };
    let (before, inode) = (look(), std::fs::metadata(&path).unwrap().ino());
    let hosts = HostsFile::open(&path).unwrap();
    assert_eq!(hosts.edit(&[set("a", "x.test")]).unwrap().method, Method::Renamed);
    assert_ne!(std::fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(look(), before);
    assert_eq!(before.3.is_some(), has_xattr);
    assert_eq!(before.4.is_some(), has_acl);
}

#[test]
fn a_narrow_umask_does_not_narrow_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let status = std::process::Command::new("sh")
        .args([
            "-c",
            "umask 077; exec \"$0\" --exact unix::edits_as_asked --ignored",
        ])
        .arg(std::env::current_exe().unwrap())
        .env("HOSTSFILE_TEST_PATH", &path)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(
        HostsFile::open(&path)
            .unwrap()
            .read()
            .unwrap()
            .lookup("x.test")
            .len(),
        1
    );
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
}

#[test]
#[ignore = "run by the test of the umask, in a process of its own"]
fn edits_as_asked() {
    let Some(path) = std::env::var_os("HOSTSFILE_TEST_PATH") else {
        return;
    };
    HostsFile::open(path)
        .unwrap()
        .edit(&[set("a", "x.test")])
        .unwrap();
}

#[test]
fn a_symbolic_link_stays_one_and_its_target_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("store");
    std::fs::create_dir(&real).unwrap();
    let path = hosts_in(&real);
    let link = dir.path().join("hosts");
    symlink("store/hosts", &link).unwrap();
    let hosts = HostsFile::open(&link).unwrap();
    assert_eq!(hosts.edit(&[set("a", "x.test")]).unwrap().method, Method::Renamed);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(std::fs::read_to_string(&path).unwrap().contains("x.test"));
    assert_eq!(files_in(&real), ["hosts"]);
    assert_eq!(files_in(dir.path()), ["hosts", "store"]);
}

#[test]
fn symlink_loops_and_directories_are_their_own_errors() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    symlink(&b, &a).unwrap();
    symlink(&a, &b).unwrap();
    assert!(matches!(HostsFile::open(&a), Err(Error::SymlinkLoop { .. })));
    assert!(matches!(HostsFile::open(dir.path()), Err(Error::NotAFile { .. })));
    let dangling = dir.path().join("dangling");
    symlink("made", &dangling).unwrap();
    let hosts = FileOptions::new().create_missing(true).open(&dangling).unwrap();
    hosts.edit(&[set("a", "x.test")]).unwrap();
    assert!(dir.path().join("made").is_file());
}

#[test]
fn writing_in_place_keeps_the_inode() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let inode = std::fs::metadata(&path).unwrap().ino();
    let hosts = FileOptions::new().in_place(true).open(&path).unwrap();
    hosts.edit(&[set("a", "x.test")]).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
}

#[test]
fn a_lock_directory_that_others_can_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let open_to_all = dir.path().join("locks");
    std::fs::create_dir(&open_to_all).unwrap();
    std::fs::set_permissions(&open_to_all, std::fs::Permissions::from_mode(0o777)).unwrap();
    let hosts = FileOptions::new()
        .lock_directory(&open_to_all)
        .open(&path)
        .unwrap();
    assert!(matches!(
        hosts.edit(&[set("a", "x.test")]),
        Err(Error::UnsafeLockDirectory { .. })
    ));
    symlink(dir.path(), dir.path().join("link")).unwrap();
    let hosts = FileOptions::new()
        .lock_directory(dir.path().join("link"))
        .open(&path)
        .unwrap();
    assert!(matches!(
        hosts.edit(&[set("a", "x.test")]),
        Err(Error::UnsafeLockDirectory { .. })
    ));
}

#[test]
fn leftovers_of_killed_writers_are_removed_and_other_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    for name in [
        ".hosts.hostsfile-0123456789abcdef.tmp",
        ".hosts.hostsfile-lock",
        ".hosts.hostsfile-notes.tmp",
        "hosts.tmp",
    ] {
        std::fs::write(dir.path().join(name), "left").unwrap();
    }
    HostsFile::open(&path).unwrap().sweep(|_| true).unwrap();
    assert_eq!(
        files_in(dir.path()),
        [".hosts.hostsfile-notes.tmp", "hosts", "hosts.tmp"]
    );
}

#[test]
fn the_manual_instructions_do_what_the_plan_says() {
    use hostsfile::{Shell, manual_instructions};
    let cases: [(&[u8], Vec<Edit>); 5] = [
        (BEFORE, vec![set("a", "x.test")]),
        (
            b"127.0.0.1 localhost\n# BEGIN a\n10.0.0.1 x\n# END a\n10.0.0.2 'it''s' 50%\\n\n",
            vec![remove("a")],
        ),
        (
            b"127.0.0.1 caf\xE9\r\n# BEGIN a\r\n10.0.0.1 x\r\n# END a\r\nlast\r\n",
            vec![set("a", "y.test"), set("b", "z.test")],
        ),
        (b"no final line end", vec![set("a", "x.test")]),
        (b"x\n# BEGIN a eol=0\n10.0.0.1 x\n# END a\n", vec![remove("a")]),
    ];
    for (before, edits) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ho'sts");
        std::fs::write(&path, before).unwrap();
        let planned = plan(before, &edits, &Options::new()).unwrap();
        let script = manual_instructions(&planned, &path, Shell::Posix).replace("sudo ", "");
        let status = std::process::Command::new("sh")
            .arg("-ec")
            .arg(&script)
            .status()
            .unwrap();
        assert!(status.success(), "{script}");
        let after = std::fs::read(&path).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&after),
            String::from_utf8_lossy(&planned.new_bytes()),
            "{script}"
        );
    }
}

#[test]
fn patch_accepts_the_diff() {
    // The comments are Latin-1 and have a control character.
    let before: Vec<u8> = (0..40)
        .flat_map(|n| [format!("10.0.0.{n} n{n} # ").as_bytes(), b"caf\xE9 \x1B[1m\n"].concat())
        .collect();
    let doc = Document::parse(before.clone());
    let edits = vec![
        Edit::RemoveLine(doc.line(3).unwrap().reference()),
        Edit::AddNames {
            line: doc.line(20).unwrap().reference(),
            names: vec!["more".parse().unwrap()],
        },
        set("a", "x.test"),
    ];
    let planned = doc.plan(&edits, &Options::new()).unwrap();
    let between = Diff::between(&before, &planned.new_bytes());
    assert_eq!(between.to_string(), planned.diff().to_string());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hosts");
    std::fs::write(&path, &before).unwrap();
    let child = std::process::Command::new("patch")
        .arg("-s")
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        std::io::Write::write_all(
            &mut std::io::stderr(),
            b"SKIP patch_accepts_the_diff: patch is not installed\n",
        )
        .unwrap();
        return;
    };
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), planned.diff().as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::read(&path).unwrap(), planned.new_bytes());
}

/// A file beside the hosts file that says how to finish a write, which another user may plant in a shared folder.
#[test]
fn an_interrupted_write_is_finished_only_if_it_was_our_own() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().canonicalize().unwrap();
    let path = hosts_in(&real);
    let journal = real.join(".hosts.hostsfile-redo");
    // Through a link, so that errors name the folder that the journal is really in.
    let link = tempfile::tempdir().unwrap();
    symlink(&path, link.path().join("hosts")).unwrap();
    let hosts = HostsFile::open(link.path().join("hosts")).unwrap();
    // The file is half the old and half the new text: the state in which a journal is replayed.
    let (half, old, new) = ("10.6.0.2 a\n", "10.0.0.2 a\n", "10.6.6.6 bank\n");
    let plant = || {
        std::fs::write(&path, half).unwrap();
        drop(std::fs::remove_file(&journal));
        let text = format!("hostsfile-redo 1 0 {} {}\n{old}{new}", old.len(), new.len());
        std::fs::write(&journal, text).unwrap();
        std::fs::set_permissions(&journal, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let refused = |how: &str| {
        let error = hosts.edit(&[set("a", "x.test")]).unwrap_err();
        assert!(
            matches!(&error, Error::ForeignJournal { path } if *path == journal),
            "{how}: {error}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), half, "{how}");
    };

    plant();
    std::fs::set_permissions(&journal, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused("its mode");
    plant();
    std::fs::hard_link(&journal, dir.path().join("second")).unwrap();
    refused("its links");
    plant();
    std::fs::rename(&journal, dir.path().join("elsewhere")).unwrap();
    symlink("elsewhere", &journal).unwrap();
    refused("a link");
    if rustix::process::geteuid().is_root() {
        plant();
        chown(&journal, Some(65534), None).unwrap();
        refused("its owner");
    }

    plant();
    hosts.edit(&[set("a", "x.test")]).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(new) && text.contains("x.test"), "{text}");
    assert!(!journal.exists());
}

/// In a folder that another user can write to, the name of the record may be taken by a link.
#[test]
fn a_planted_link_is_not_written_through() {
    let dir = tempfile::tempdir().unwrap();
    let path = hosts_in(dir.path());
    let (folder, victim) = (dir.path().join("backups"), dir.path().join("victim"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(&victim, "precious").unwrap();
    let rules = BackupRules::in_directory(&folder);
    let first = HostsFile::open(&path).unwrap().back_up(&rules).unwrap().path;
    let record = |backup: &std::path::Path| std::path::PathBuf::from(format!("{}.source", backup.display()));
    assert_eq!(
        std::fs::metadata(record(&first)).unwrap().permissions().mode() & 0o777,
        0o600
    );
    std::fs::remove_file(record(&first)).unwrap();
    std::fs::remove_file(&first).unwrap();
    symlink(&victim, record(&first)).unwrap();

    assert_eq!(
        HostsFile::open(&path).unwrap().back_up(&rules).unwrap().path,
        first
    );
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    assert!(std::fs::symlink_metadata(record(&first)).unwrap().is_file());
}
