//! Signals.

use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a session.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` under `nohup`.
    hangup: Option<Signal>,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        let nohup = process_scope::signal_ignored(nix::libc::SIGHUP);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if nohup {
                None
            } else {
                Some(signal(SignalKind::hangup())?)
            },
        })
    }

    /// The next one, by name.
    pub(crate) async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = hangup => "SIGHUP",
        }
    }
}

/// The signals that `exec` passes on to its command. None comes from a keyboard: its process group is never in the foreground.
#[derive(Debug)]
pub(crate) struct ExecSignals {
    /// Without those that were ignored when this program started, under `nohup` or in a script's background job: they stay
    /// ignored, here and in the command.
    numbers: Vec<i32>,
    handled: Vec<(i32, Signal)>,
}

impl ExecSignals {
    /// To be called before any handler is installed.
    pub(crate) fn before_handlers() -> Self {
        use nix::libc::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
        let numbers = [SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGCONT];
        let heeded = numbers
            .into_iter()
            .filter(|number| !process_scope::signal_ignored(*number));
        Self {
            numbers: heeded.collect(),
            handled: Vec::new(),
        }
    }

    /// Installs the handlers. Needs the runtime.
    pub(crate) fn install(mut self) -> io::Result<Self> {
        for number in &self.numbers {
            self.handled
                .push((*number, signal(SignalKind::from_raw(*number))?));
        }
        Ok(self)
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> i32 {
        let next = std::future::poll_fn(|context| {
            let ready =
                self.handled
                    .iter_mut()
                    .find_map(|(number, signal)| match signal.poll_recv(context) {
                        Poll::Ready(Some(())) => Some(*number),
                        Poll::Ready(None) | Poll::Pending => None,
                    });
            ready.map_or(Poll::Pending, Poll::Ready)
        });
        next.await
    }

    /// The next signal that asks for an end, where there is no command to decide.
    pub(crate) async fn end(&mut self) -> i32 {
        loop {
            let number = self.next().await;
            if number != nix::libc::SIGCONT {
                return number;
            }
        }
    }
}
