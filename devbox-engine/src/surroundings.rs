//! What happens to this machine that a link does not hear of by itself: its network changes, or it sleeps.

use std::time::{Instant, SystemTime};

use devbox_session::{Clocks, Handle, LOOK_AT_CLOCKS};
use netif::watch::{Interrupter, Watch};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// Changes that wait to be told. One is as good as many: further ones are dropped.
const TOLD: usize = 1;

/// Tells the session of changes until it ends or this is dropped.
pub(crate) async fn watch(session: Handle) {
    let (sender, mut changes) = mpsc::channel(TOLD);
    let mut network = Network::watch(sender);
    let mut clocks = Clocks::new(Instant::now(), SystemTime::now());
    let mut looks = interval(LOOK_AT_CLOCKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = session.ended() => break,
            _ = looks.tick() => {
                let Some(slept) = clocks.handle_look(Instant::now(), SystemTime::now()) else {
                    continue;
                };
                tracing::info!(seconds = slept.as_secs(), "this machine has slept");
            }
            Some(()) = changes.recv() => {}
        }
        session.nudge().await;
    }
    if let Some(network) = &mut network {
        network.end().await;
    }
}

/// A thread that waits for the network to change.
struct Network {
    interrupter: Interrupter,
    thread: JoinHandle<()>,
}

impl Network {
    fn watch(changes: mpsc::Sender<()>) -> Option<Self> {
        // Where the system cannot tell, links notice by their pings.
        let watch = Watch::new()
            .inspect_err(|error| {
                let error = devbox_provider::with_causes(error);
                tracing::debug!(error, "changes of the network are not heard of");
            })
            .ok()?;
        let interrupter = watch.interrupter();
        let thread = tokio::task::spawn_blocking(move || follow(watch, &changes));
        Some(Self { interrupter, thread })
    }

    async fn end(&mut self) {
        self.interrupter.interrupt();
        if let Err(error) = (&mut self.thread).await {
            tracing::debug!(%error, "the thread that hears of the network");
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Its runtime waits for the thread.
        self.interrupter.interrupt();
    }
}

fn follow(mut watch: Watch, changes: &mpsc::Sender<()>) {
    loop {
        match watch.wait(None) {
            Ok(Some(change)) => {
                tracing::info!(%change, "the network has changed");
                if let Err(mpsc::error::TrySendError::Closed(())) = changes.try_send(()) {
                    return;
                }
            }
            // Interrupted: nobody wants to know any more.
            Ok(None) => return,
            Err(error) => {
                let error = devbox_provider::with_causes(&error);
                return tracing::warn!(error, "changes of the network are not heard of any more");
            }
        }
    }
}
