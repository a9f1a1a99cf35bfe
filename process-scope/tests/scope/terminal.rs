//! Job control on a pseudo-terminal, which script(1) makes: an outer interactive shell, and the command in it.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::support::{LINE, User, have, users};

/// Longer than any step takes on a busy machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

struct Terminal {
    script: Child,
    keys: ChildStdin,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// An interactive bash of `user`'s on a terminal of its own, with `$SCOPED` set to what runs a command in a scope.
    fn open(user: &User) -> Terminal {
        let mut script = user
            .command("script")
            .args(["-qec", "stty rows 33 cols 77; exec bash --norc -i", "/dev/null"])
            .env("SCOPED", format!("{} '{LINE}' --", user.program.display()))
            .env("PS1", "outer:$?> ")
            .env("ECHO", ECHO)
            .env("PS0", "")
            .env("SHELL", "/bin/sh")
            .env("TERM", "dumb")
            .env("HISTFILE", "/dev/null")
            .env("INPUTRC", "/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = script.stdout.take().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let keys = script.stdin.take().unwrap();
        let mut terminal = Terminal {
            script,
            keys,
            output,
            seen: String::new(),
        };
        terminal.await_text("outer:0> ");
        terminal
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until [`ECHO`] runs, and gives its process id.
    fn await_ready(&mut self) -> u32 {
        self.await_text("ready ");
        self.await_text(".").trim_end_matches('.').parse().unwrap()
    }

    /// Waits until `text` appears in the output after what was awaited before. Gives all up to there.
    fn await_text(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                return self.seen.drain(..at + text.len()).collect();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{text:?} did not come, but {:?}", self.seen),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal goes with it, and with that (SIGHUP) the shells on it. It may have ended already.
        drop(self.script.kill());
        drop(self.script.wait());
    }
}

/// The shell's prompt comes once the process that it started has stopped, which may be a little before all of its group
/// have; a reader that is about to stop may still take a key that was meant for the shell.
fn await_stopped(pid: u32) {
    let deadline = Instant::now() + PATIENCE;
    let stat = format!("/proc/{pid}/stat");
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        assert!(Instant::now() < deadline, "{pid} did not stop");
        std::thread::yield_now();
    }
}

/// Runs `session` on a terminal of each user's.
fn on_terminals(session: impl Fn(&mut Terminal)) {
    if !have("script") || !have("bash") {
        return;
    }
    for user in users() {
        let mut terminal = Terminal::open(&user);
        session(&mut terminal);
    }
}

/// A command for the outer or inner shell: says `ready` and its process id, and echoes lines, `in` turned into `on`.
const ECHO: &str = "echo read''y $$.; exec sed -u s/in/on/";

// The quotes within a word keep the terminal's echo of the typed line from looking like its result. The prompt shows the
// last exit code.

#[test]
fn ctrl_z_stops_a_command_and_ctrl_c_ends_it() {
    on_terminals(|terminal| {
        terminal.press("eval $SCOPED 'sh -c \"$ECHO\"'\r");
        let command = terminal.await_ready();
        terminal.press("\x1a");
        terminal.await_text("Stopped");
        terminal.await_text("outer:148> ");
        await_stopped(command);
        terminal.press("fg\r");
        terminal.await_text("with-hosts");
        terminal.press("ping\r");
        terminal.await_text("pong");
        terminal.press("\x03");
        terminal.await_text("outer:130> ");
    });
}

#[test]
fn an_interactive_shell_inside_has_job_control() {
    on_terminals(|terminal| {
        terminal.press("eval $SCOPED \"bash --norc -i\"\r");
        terminal.await_text("outer:0> ");
        terminal.press("PS1='in''ner:$?> '; getent hosts orders.backend; stty size\r");
        terminal.await_text("127.77.3.4");
        terminal.await_text("33 77");
        terminal.await_text("inner:0> ");
        terminal.press("sh -c \"$ECHO\"\r");
        let command = terminal.await_ready();
        terminal.press("\x1a");
        // The inner shell notices, not the outer one.
        terminal.await_text("Stopped");
        terminal.await_text("inner:148> ");
        await_stopped(command);
        terminal.press("fg\r");
        terminal.await_text("sh -c");
        terminal.press("ping\r");
        terminal.await_text("pong");
        terminal.press("\x03");
        terminal.await_text("inner:130> ");
        terminal.press("exit 7\r");
        terminal.await_text("outer:7> ");
    });
}

#[test]
fn a_shell_that_suspends_itself_gives_the_terminal_back() {
    on_terminals(|terminal| {
        terminal.press("eval $SCOPED \"bash --norc -i\"\r");
        terminal.await_text("outer:0> ");
        terminal.press("PS1='in''ner> '\r");
        terminal.await_text("inner> ");
        terminal.press("suspend\r");
        terminal.await_text("Stopped");
        terminal.await_text("outer:");
        terminal.press("fg\r");
        terminal.await_text("with-hosts");
        terminal.press("exit 5\r");
        terminal.await_text("outer:5> ");
    });
}
