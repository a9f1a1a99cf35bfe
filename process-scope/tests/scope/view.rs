//! What the command sees and keeps, and that nobody else sees it.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use process_scope::{Error, ExitOutcome, Scope, ScopedCommand};

use crate::support::{ADDRESS, LINE, NAME, am_root, example, fifo, have, readable_folder, text, users};

fn scope(hosts: &str) -> Scope {
    Scope {
        hosts: hosts.into(),
        program: example(),
    }
}

/// Whether this process itself may make a scope.
fn may_spawn() -> bool {
    users().iter().any(|user| user.is_root() || !am_root())
}

#[test]
fn a_name_is_seen_inside_and_not_outside() {
    let before = std::fs::read("/etc/hosts").unwrap();
    for user in users() {
        let inside = user.scoped(&["getent", "hosts", NAME]).output().unwrap();
        assert!(
            text(&inside.stdout).starts_with(ADDRESS),
            "{}: {inside:?}",
            user.name
        );
        let during = user.script("cat /etc/hosts");
        assert!(text(&during.stdout).ends_with(LINE), "{}: {during:?}", user.name);
    }
    let outside = Command::new("getent")
        .args(["-s", "files", "hosts", NAME])
        .output()
        .unwrap();
    assert_eq!(outside.status.code(), Some(2), "{outside:?}");
    assert_eq!(std::fs::read("/etc/hosts").unwrap(), before);
}

#[test]
fn the_private_file_cannot_be_written_from_inside() {
    let before = std::fs::read("/etc/hosts").unwrap();
    for user in users() {
        let tried =
            user.script("echo 127.0.0.9 evil >> /etc/hosts; echo $?; rm -f /etc/hosts; cat /etc/hosts");
        let said = text(&tried.stdout);
        assert!(!said.starts_with('0'), "{}: {said}", user.name);
        assert!(said.ends_with(LINE), "{}: {said}", user.name);
    }
    assert_eq!(std::fs::read("/etc/hosts").unwrap(), before);
}

#[test]
fn an_ordinary_user_cannot_take_the_mount_away() {
    for user in users().iter().filter(|user| !user.is_root()) {
        let tried = user.script("umount /etc/hosts; unshare -Urm umount /etc/hosts; unshare -Urm umount -l /etc/hosts; cat /etc/hosts");
        assert!(text(&tried.stdout).ends_with(LINE), "{tried:?}");
    }
}

#[test]
fn ids_stay_and_capabilities_are_gone_for_an_ordinary_user() {
    // Of the signals the ordinary ones: those from 32 on are the C library's own.
    let script = "id -u; id -g; umask; grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs):' /proc/self/status
        for set in SigBlk SigIgn; do
            mask=$(sed -n \"s/^$set:.*\\(........\\)$/\\1/p\" /proc/self/status); echo $((0x$mask & 0x7fffffff))
        done";
    for user in users() {
        let outside = user.command("sh").args(["-c", script]).output().unwrap();
        let inside = user.script(script);
        // For an ordinary user outside: no capabilities. For root: all that it has.
        assert_eq!(text(&inside.stdout), text(&outside.stdout), "{}", user.name);
        if !user.is_root() {
            assert!(
                text(&inside.stdout).contains("CapEff:\t0000000000000000"),
                "{inside:?}"
            );
        }
    }
}

#[test]
fn directory_environment_input_and_descriptors_are_the_callers() {
    let script = "pwd; cat; echo \"$KEPT\"; for fd in /proc/self/fd/*; do echo ${fd##*/}; done";
    for user in users() {
        let run = |command: &mut Command| {
            let mut child = command
                .current_dir("/usr")
                .env("KEPT", "a value")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(b"from outside\n").unwrap();
            text(&child.wait_with_output().unwrap().stdout)
        };
        let outside = run(user.command("sh").args(["-c", script]));
        let inside = run(&mut user.scoped(&["sh", "-c", script]));
        assert!(
            inside.starts_with("/usr\nfrom outside\na value\n0\n1\n"),
            "{}: {inside}",
            user.name
        );
        assert_eq!(inside, outside, "{}", user.name);
    }
}

#[test]
fn the_command_gets_the_limit_of_open_files_that_is_asked_for() {
    if !may_spawn() {
        return;
    }
    let script = |limit: u64| format!("test \"$(ulimit -S -n)\" = {limit}");
    for limit in [100, 200] {
        let command = ScopedCommand::new(["sh", "-c", &script(limit)]).open_files(Some(limit));
        let ended = process_scope::spawn(&scope("127.0.0.1 localhost\n"), &command)
            .unwrap()
            .wait();
        assert_eq!(ended.unwrap(), ExitOutcome::Code(0), "limit {limit}");
    }
}

#[test]
fn a_closed_standard_input_does_no_harm() {
    for user in users() {
        let run = user
            .command("sh")
            .args(["-c", "exec \"$0\" -- getent hosts localhost <&-"])
            .arg(&user.program)
            .output();
        let run = run.unwrap();
        assert!(run.status.success(), "{}: {run:?}", user.name);
    }
}

#[test]
fn exit_codes_and_signals_pass_through() {
    for user in users() {
        assert_eq!(user.script("exit 37").status.code(), Some(37), "{}", user.name);
        for signal in [1, 2, 9, 11, 13, 15] {
            let status = user.script(&format!("kill -{signal} $$")).status;
            assert_eq!(status.signal(), Some(signal), "{}: {status:?}", user.name);
        }
    }
}

#[test]
fn commands_that_cannot_be_run_are_told_apart() {
    let folder = readable_folder();
    let file = |name: &str, content: &str, mode: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain", "#!/bin/sh\n", 0o644);
    let orphan = file("orphan", "#!/no/such/interpreter\n", 0o755);
    let bare = file("bare", "exit 12\n", 0o755);
    for user in users() {
        let run = |program: &str| {
            let run = user
                .scoped(&[program])
                .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
                .output()
                .unwrap();
            (run.status.code(), text(&run.stderr))
        };
        for (program, code, variant) in [
            ("no-such-program", 127, "CommandNotFound"),
            ("/no/such/program", 127, "CommandNotFound"),
            ("", 127, "CommandNotFound"),
            (plain.as_str(), 126, "CommandNotExecutable"),
            ("plain", 126, "CommandNotExecutable"),
            ("orphan", 126, "CommandNotExecutable"),
            (orphan.as_str(), 126, "CommandNotExecutable"),
            ("/etc", 126, "CommandNotExecutable"),
            ("/etc/hosts/x", 126, "CommandNotExecutable"),
        ] {
            let (status, said) = run(program);
            assert_eq!(status, Some(code), "{} {program}: {said}", user.name);
            assert!(said.contains(variant), "{} {program}: {said}", user.name);
        }
        // execvp(3) gives a file without an interpreter line to the shell.
        assert_eq!(run(&bare).0, Some(12), "{}", user.name);
    }
}

#[test]
fn the_program_is_searched_in_the_commands_own_path() {
    if !may_spawn() {
        return;
    }
    let folder = readable_folder();
    let program = folder.path().join("only-here");
    std::fs::write(&program, "#!/bin/sh\nexit \"$CODE\"\n").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let command = ScopedCommand::new(["only-here"])
        .env("PATH", folder.path())
        .env("CODE", "21");
    let outcome = process_scope::spawn(&scope(""), &command)
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!(outcome, ExitOutcome::Code(21));
    let error = process_scope::spawn(&scope(""), &ScopedCommand::new(["only-here"])).unwrap_err();
    assert!(
        matches!(error, Error::CommandNotFound { ref program } if program == "only-here"),
        "{error:?}"
    );
}

#[test]
fn a_program_that_does_not_play_its_part_is_named() {
    let silent = Scope {
        program: "/bin/true".into(),
        ..scope("")
    };
    let error = process_scope::spawn(&silent, &ScopedCommand::new(["true"])).unwrap_err();
    assert!(
        matches!(error, Error::NoAnswer { ref program, .. } if program == Path::new("/bin/true")),
        "{error:?}"
    );
    let absent = Scope {
        program: "/no/such/program".into(),
        ..scope("")
    };
    let error = process_scope::spawn(&absent, &ScopedCommand::new(["true"])).unwrap_err();
    assert!(matches!(error, Error::Start { .. }), "{error:?}");
}

#[test]
fn run_by_hand_the_hidden_argument_does_nothing_and_says_so() {
    let run = Command::new(example())
        .arg(process_scope::HIDDEN_ARGUMENT)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(125));
    assert!(text(&run.stderr).contains("not by hand"), "{run:?}");
}

#[test]
fn a_hosts_file_of_any_size_arrives_whole() {
    if !may_spawn() {
        return;
    }
    let folder = readable_folder();
    let seen = folder.path().join("seen");
    for lines in [0, 1, 100_000] {
        let hosts: String = (0..lines)
            .map(|line| format!("127.77.0.1 name-{line}.backend\n"))
            .collect();
        let command = ScopedCommand::new(["cp", "/etc/hosts", seen.to_str().unwrap()]);
        let outcome = process_scope::spawn(&scope(&hosts), &command)
            .unwrap()
            .wait()
            .unwrap();
        assert_eq!(outcome, ExitOutcome::Code(0));
        assert!(std::fs::read(&seen).unwrap() == hosts.as_bytes(), "{lines} lines");
    }
}

#[test]
fn an_update_is_seen_by_the_running_command() {
    if !may_spawn() {
        return;
    }
    let folder = readable_folder();
    let told = fifo(folder.path());
    let script = "timeout 30 sh -c 'until getent -s files hosts later.backend; do :; done' && echo seen >\"$0\" || echo late >\"$0\"
                  timeout 30 sh -c 'while getent -s files hosts later.backend; do :; done' && cmp -s /etc/hosts - <<-'END'
\t127.0.0.1 localhost
\tEND";
    let command = ScopedCommand::new([
        "sh",
        "-c",
        &format!("exec >/dev/null; {script}"),
        told.to_str().unwrap(),
    ]);
    let mut scoped = process_scope::spawn(&scope("127.0.0.1 localhost\n"), &command).unwrap();
    scoped
        .update_hosts(b"127.0.0.1 localhost\n127.77.0.9 later.backend\n")
        .unwrap();
    assert_eq!(std::fs::read_to_string(&told).unwrap(), "seen\n");
    scoped.update_hosts(b"127.0.0.1 localhost\n").unwrap();
    assert_eq!(scoped.wait().unwrap(), ExitOutcome::Code(0));
}

#[test]
fn programs_with_resolvers_of_their_own_ways_resolve_too() {
    let server = TcpListener::bind((ADDRESS, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    for user in users() {
        if have("python3")
            && user
                .command("python3")
                .args(["-c", ""])
                .status()
                .unwrap()
                .success()
        {
            let code = format!(
                "import socket; print(socket.getaddrinfo('{NAME}', 80, type=socket.SOCK_STREAM)[0][4][0])"
            );
            let run = user.scoped(&["python3", "-c", &code]).output().unwrap();
            assert_eq!(text(&run.stdout), ADDRESS, "{}: {run:?}", user.name);
        }
        if have("curl") {
            // Nobody answers: that the connection was made is what is asked.
            let url = format!("http://{NAME}:{port}/");
            let run = user
                .scoped(&[
                    "curl",
                    "-sS",
                    "--noproxy",
                    "*",
                    "-o",
                    "/dev/null",
                    "-m",
                    "1",
                    "-w",
                    "%{remote_ip}",
                    &url,
                ])
                .output()
                .unwrap();
            assert_eq!(text(&run.stdout), ADDRESS, "{}: {run:?}", user.name);
        }
    }
}

#[test]
fn a_scope_within_a_scope_sees_both() {
    for user in users() {
        let program = user.program.to_str().unwrap();
        let script = format!("getent hosts {NAME} && getent hosts inner.backend");
        let run = user
            .scoped(&[program, "127.77.8.8 inner.backend", "--", "sh", "-c", &script])
            .output()
            .unwrap();
        let said = text(&run.stdout);
        assert!(
            said.contains(ADDRESS) && said.contains("127.77.8.8"),
            "{}: {run:?}",
            user.name
        );
    }
}
