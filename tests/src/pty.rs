//! A terminal with which to drive interactive programs as a person would.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetpgrp, tcsetwinsize};

use crate::proc;
use crate::process::{Log, Process, Spawn};
use crate::scene::Scene;
use crate::wait;

/// A program on its own terminal. Dropping it hangs up the terminal and ends the program.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    log: Arc<Log>,
    process: Process,
}

impl Terminal {
    pub(crate) fn start(
        scene: &Scene,
        spawn: impl FnOnce(OwnedFd) -> crate::Result<Spawn>,
    ) -> crate::Result<Terminal> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = rustix::fs::open(
            name,
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let spawn = spawn(slave)?;
        let log = Arc::new(Log::new(format!("the terminal of {}", spawn.label)));
        scene.keep_log(Arc::clone(&log));
        let process = Process::start(scene, spawn)?;
        let master = File::from(master);
        let mut from = master.try_clone()?;
        let reader = Arc::clone(&log);
        // Ends when the terminal's last user closes it.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                reader.add(&buffer[..count]);
            }
        });
        let terminal = Terminal { master, log, process };
        terminal.resize(80, 24)?;
        Ok(terminal)
    }

    /// Types `keys`; `\x03` is Ctrl-C, `\x1a` Ctrl-Z.
    ///
    /// # Errors
    /// If the terminal is closed.
    pub fn keys(&self, keys: &str) -> crate::Result {
        Ok((&self.master).write_all(keys.as_bytes())?)
    }

    /// Types a line and presses return.
    ///
    /// # Errors
    /// If the terminal is closed.
    pub fn line(&self, line: &str) -> crate::Result {
        self.keys(&format!("{line}\r"))
    }

    /// Resizes the window, as a window manager does.
    ///
    /// # Errors
    /// If the terminal is closed.
    pub fn resize(&self, columns: u16, rows: u16) -> crate::Result {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(&self.master, size)?)
    }

    /// What has been shown so far, without carriage returns.
    pub fn screen(&self) -> String {
        self.log.text().replace('\r', "")
    }

    /// Waits until `text` has been shown at or after byte `from` of [`screen`](Terminal::screen), and returns where it ends.
    ///
    /// # Errors
    /// If it is not shown in time.
    pub fn wait_for(&self, text: &str, from: usize) -> crate::Result<usize> {
        let what = format!("{text:?} on the terminal");
        wait::until(&what, 2 * wait::SOON, || {
            let screen = self.screen();
            let found = screen.get(from..)?.find(text)?;
            Some(from + found + text.len())
        })
    }

    /// Waits until the program with this command line is in the terminal's foreground, where Ctrl-C and Ctrl-Z reach it. Waiting for
    /// the screen is not enough, since the typed words appear there before the program runs.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub fn wait_for_foreground(&self, command_line: &str) -> crate::Result<u32> {
        self.wait_for_foreground_of(|line| line == command_line)
    }

    /// The same, for a command line that satisfies `wanted`.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub fn wait_for_foreground_of(&self, wanted: impl Fn(&str) -> bool) -> crate::Result<u32> {
        wait::until("the program in the foreground", 2 * wait::SOON, || {
            let leader = u32::try_from(tcgetpgrp(&self.master).ok()?.as_raw_pid()).ok()?;
            wanted(&proc::command_line(leader)).then_some(leader)
        })
    }

    /// The program that leads the terminal's session.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits for the end of the program.
    ///
    /// # Errors
    /// If it still runs after `within`.
    pub fn wait(&mut self, within: Duration) -> crate::Result<crate::Exit> {
        self.process.wait(within)
    }
}
