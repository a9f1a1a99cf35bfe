//! Systems that are arranged otherwise: each test changes what it needs in a mount namespace of its own, so it needs root.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use crate::support::{ADDRESS, LINE, NAME, User, have, ordinary_user_of_root, readable_folder, text};

/// Runs the script `arrange` in a mount namespace of its own, and there `argv` in a scope, as `user`.
fn arranged(user: &User, arrange: &str, argv: &[&str]) -> Output {
    arranged_with(user, arrange, "", argv)
}

/// The same, with `argument` as the script's `$0`.
fn arranged_with(user: &User, arrange: &str, argument: &str, argv: &[&str]) -> Output {
    let arrange = format!("set -e; {arrange}\ncd /; exec \"$@\"");
    Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &arrange, argument])
        .args(["setpriv", "--reuid", "1", "--regid", "1", "--clear-groups"])
        .arg(&user.program)
        .args([LINE, "--"])
        .args(argv)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

const GETENT: &[&str] = &["getent", "hosts", NAME];

#[test]
fn the_name_is_found_whatever_nsswitch_says() {
    let Some(user) = ordinary_user_of_root() else {
        return;
    };
    for conf in [
        "hosts: dns",
        "hosts: nosuchmodule [!UNAVAIL=return] files",
        "hosts:",
        "passwd: files",
        "",
    ] {
        let arrange =
            "mount -t tmpfs t /mnt; printf '%s\\n' \"$0\" >/mnt/n; mount --bind /mnt/n /etc/nsswitch.conf";
        let run = arranged_with(&user, arrange, conf, GETENT);
        assert!(text(&run.stdout).starts_with(ADDRESS), "{conf:?}: {run:?}");
        let seen = arranged_with(&user, arrange, conf, &["cat", "/etc/nsswitch.conf"]);
        assert_eq!(
            seen.stdout,
            process_scope::render_nsswitch(format!("{conf}\n").as_bytes()).unwrap(),
            "{conf:?}"
        );
    }
    let untouched = arranged(&user, "", &["grep", "nsswitch", "/proc/self/mountinfo"]);
    if process_scope::render_nsswitch(&std::fs::read("/etc/nsswitch.conf").unwrap()).is_none() {
        assert_eq!(text(&untouched.stdout), "");
    }
}

#[test]
fn a_listening_nscd_is_not_asked() {
    let Some(user) = ordinary_user_of_root() else {
        return;
    };
    let folder = readable_folder();
    // It answers nobody, and unlike a stream it keeps nobody waiting who asks before the scope is made.
    let _nscd = UnixDatagram::bind(folder.path().join("socket")).unwrap();
    let arrange = "mount -t tmpfs t /run; mkdir /run/nscd; mount --bind \"$0\" /run/nscd";
    let argument = folder.path().to_str().unwrap();
    let run = arranged_with(&user, arrange, argument, GETENT);
    assert!(text(&run.stdout).starts_with(ADDRESS), "{run:?}");
    let listed = arranged_with(&user, arrange, argument, &["ls", "/run/nscd"]);
    assert_eq!(
        (listed.status.code(), text(&listed.stdout)),
        (Some(0), String::new()),
        "{listed:?}"
    );
}

#[test]
fn ssh_accepts_what_root_has_configured() {
    let Some(user) = ordinary_user_of_root() else {
        return;
    };
    if !have("ssh") {
        return;
    }
    let arrange = "mount -t tmpfs t /mnt; mkdir -p /mnt/ssh/ssh_config.d; cd /mnt/ssh
        echo 'Include /etc/ssh/ssh_config.d/*.conf' >ssh_config
        printf 'Include more\\nHost one\\n HostName 192.0.2.1\\n' >ssh_config.d/1.conf
        ln -s /etc/ssh/elsewhere ssh_config.d/2.conf
        printf 'Host two\\n HostName 192.0.2.2\\n' >elsewhere
        printf 'Host three\\n HostName 192.0.2.3\\n' >more
        chmod -R go+rX .; mount --bind . /etc/ssh";
    for (host, address) in [("one", "192.0.2.1"), ("two", "192.0.2.2"), ("three", "192.0.2.3")] {
        let run = arranged(&user, arrange, &["ssh", "-G", host]);
        assert!(
            text(&run.stdout).contains(&format!("hostname {address}\n")),
            "{host}: {run:?}"
        );
    }
    // The copy is the user's; the system's configuration, whose owner ssh does not ask for, stays what it is.
    let owner = arranged(
        &user,
        arrange,
        &[
            "stat",
            "-c",
            "%u %n",
            "/etc/ssh/ssh_config.d/1.conf",
            "/etc/ssh/ssh_config",
        ],
    );
    assert_eq!(
        text(&owner.stdout),
        "1 /etc/ssh/ssh_config.d/1.conf\n65534 /etc/ssh/ssh_config",
        "{owner:?}"
    );
}

#[test]
fn a_hosts_file_behind_a_symbolic_link_is_replaced_where_it_is() {
    let Some(user) = ordinary_user_of_root() else {
        return;
    };
    let arrange = "mount -t tmpfs -o mode=755 t /mnt; cp /etc/nsswitch.conf /mnt; mount --bind /mnt /etc
        mount -t tmpfs -o mode=755 t /run; echo 127.0.0.1 localhost >/run/hosts; ln -s ../run/hosts /etc/hosts";
    let run = arranged(
        &user,
        arrange,
        &["sh", "-c", "getent hosts orders.backend; cat /run/hosts"],
    );
    let said = text(&run.stdout);
    assert!(said.starts_with(ADDRESS) && said.ends_with(LINE), "{run:?}");
}

#[test]
fn a_system_without_a_hosts_file_gets_a_clear_error() {
    let Some(user) = ordinary_user_of_root() else {
        return;
    };
    let run = arranged(&user, "mount -t tmpfs t /etc", GETENT);
    assert_eq!(run.status.code(), Some(125));
    assert!(text(&run.stderr).contains("/etc/hosts does not exist"), "{run:?}");
}

#[test]
fn mounts_made_inside_stay_inside_and_those_made_outside_arrive() {
    let Some(user) = ordinary_user_of_root() else {
        return;
    };
    let folder = readable_folder();
    // Root's own scope, and an ordinary user's, on a system where all mounts are shared, as systemd has them.
    for run_as in ["", "setpriv --reuid 1 --regid 1 --clear-groups"] {
        let outer = format!(
            "cd /; mkfifo -m 666 \"$0/in\" \"$0/out\"; before=$(cat /proc/self/mountinfo)
             {run_as} \"$1\" '{LINE}' -- sh -c 'mount -t tmpfs inside /media 2>/dev/null
                 echo ready >\"$0/out\"; read line <\"$0/in\"; mountpoint -q /mnt && echo arrived' \"$0\" &
             read line <\"$0/out\"
             test \"$before\" = \"$(cat /proc/self/mountinfo)\" && echo unchanged
             mount -t tmpfs outside /mnt; echo go >\"$0/in\"; wait; umount /mnt; rm \"$0/in\" \"$0/out\""
        );
        let run = Command::new("unshare")
            .args(["-m", "--propagation", "shared", "sh", "-c", &outer])
            .arg(folder.path())
            .arg(&user.program)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(text(&run.stdout), "unchanged\narrived", "{run_as:?}: {run:?}");
    }
}

#[test]
fn the_setting_that_forbids_user_namespaces_is_named() {
    let Some(user) = ordinary_user_of_root() else {
        return;
    };
    // The limit belongs to a user namespace: one is made in which all ids exist, and there it is set to none.
    // The right to do that comes with the exec after the ids are there.
    let script = "read mapped; exec sh -c 'echo 0 >/proc/sys/user/max_user_namespaces &&
        exec setpriv --reuid 1 --regid 1 --clear-groups \"$0\" -- true' \"$0\"";
    let mut child = Command::new("unshare")
        .args(["-U", "sh", "-c", script])
        .arg(&user.program)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    // unshare(1) becomes the shell once it is in the new namespace; only then are there ids to be given.
    let mine = std::fs::read_link("/proc/self/ns/user").unwrap();
    let link = format!("/proc/{}/ns/user", child.id());
    while std::fs::read_link(&link).unwrap() == mine {
        std::thread::yield_now();
    }
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{}/{map}", child.id()), "0 0 65536\n").unwrap();
    }
    child.stdin.take().unwrap().write_all(b"mapped\n").unwrap();
    let run = child.wait_with_output().unwrap();
    assert_eq!(run.status.code(), Some(125), "{run:?}");
    let said = text(&run.stderr);
    assert!(said.contains("user.max_user_namespaces is 0"), "{said}");
    assert!(said.contains("MaxUserNamespaces(0)"), "{said}");
}
