//! Who is connected, so that a gateway that nobody uses can end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How long a gateway stays after the last goodbye: commands that are run one after the other each have a session, and another
/// gateway would take longer to start than this one to be found.
const LINGER: Duration = Duration::from_secs(5);

/// The clients that are connected, and those whose links are kept for them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Presence(Arc<watch::Sender<Clients>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Clients {
    connected: usize,
    away: usize,
    /// When whoever left last said so, and does not come back.
    goodbye: Option<Instant>,
}

impl Presence {
    /// How many are connected, and how many have lost their connection and may come back.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let clients = self.0.borrow();
        (clients.connected, clients.away)
    }

    /// A client's link begins.
    pub(crate) fn enter(&self) -> Present {
        self.0.send_modify(|clients| {
            clients.connected += 1;
            clients.goodbye = None;
        });
        Present {
            presence: self.clone(),
            connected: true,
            goodbye: false,
        }
    }

    /// Resolves when nobody has been connected for `limit`, and 5 s after the last client has said goodbye. A client that lost its
    /// connection is not connected, whether or not its link is kept.
    ///
    /// # Cancel safety
    /// The time counts from the call.
    pub(crate) async fn idle(&self, limit: Duration) {
        let mut clients = self.0.subscribe();
        let mut since = Some(Instant::now());
        loop {
            let now = *clients.borrow_and_update();
            let goodbye = now.goodbye.filter(|_| now.connected + now.away == 0);
            since = match now.connected {
                0 => since.or_else(|| Some(Instant::now())),
                _ => None,
            };
            let after_loss = since.map(|since| since + limit);
            let after_goodbye = goodbye.map(|goodbye| goodbye + LINGER);
            let over = async {
                match [after_loss, after_goodbye].into_iter().flatten().min() {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return,
                changed = clients.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
            }
        }
    }
}

/// A client whose link is up or kept. It leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Present {
    presence: Presence,
    connected: bool,
    goodbye: bool,
}

impl Present {
    /// Its link lost its connection, or goes on over another one.
    pub(crate) fn set_connected(&mut self, connected: bool) {
        if connected == self.connected {
            return;
        }
        self.connected = connected;
        self.presence.0.send_modify(|clients| {
            let (to, from) = if connected {
                (&mut clients.connected, &mut clients.away)
            } else {
                (&mut clients.away, &mut clients.connected)
            };
            *to += 1;
            *from -= 1;
        });
    }

    /// It leaves for good.
    pub(crate) fn say_goodbye(mut self) {
        self.goodbye = true;
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let Self {
            connected, goodbye, ..
        } = *self;
        self.presence.0.send_modify(|clients| {
            if connected {
                clients.connected -= 1;
            } else {
                clients.away -= 1;
            }
            clients.goodbye = goodbye.then(Instant::now);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(120);

    /// How long it takes until `presence` is idle, while `meanwhile` goes on.
    async fn idle_after(presence: &Presence, meanwhile: impl Future<Output = ()>) -> Duration {
        let from = Instant::now();
        tokio::join!(presence.idle(LIMIT), meanwhile);
        from.elapsed()
    }

    async fn seconds(count: u64) {
        tokio::time::sleep(Duration::from_secs(count)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_without_any_client_is_idle_from_its_start() {
        let presence = Presence::default();
        assert_eq!(idle_after(&presence, async {}).await, LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_client_counts_from_the_loss_of_its_connection_and_not_from_the_end_of_its_link() {
        let presence = Presence::default();
        let lost = async {
            let mut client = presence.enter();
            seconds(600).await;
            client.set_connected(false);
            seconds(60).await;
            drop(client);
        };
        assert_eq!(
            idle_after(&presence, lost).await,
            Duration::from_secs(600) + LIMIT
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_comes_back_is_waited_for_anew() {
        let presence = Presence::default();
        let back = async {
            let mut client = presence.enter();
            client.set_connected(false);
            seconds(100).await;
            client.set_connected(true);
            seconds(100).await;
            client.set_connected(false);
            seconds(300).await;
        };
        let idle = presence.idle(LIMIT);
        let from = Instant::now();
        tokio::select! {
            () = idle => {}
            () = back => panic!("not idle"),
        }
        assert_eq!(from.elapsed(), Duration::from_secs(200) + LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_goodbye_ends_it_soon_unless_somebody_comes_or_may_come_back() {
        let presence = Presence::default();
        let two = async {
            let (first, second) = (presence.enter(), presence.enter());
            first.say_goodbye();
            seconds(10).await;
            second.say_goodbye();
        };
        assert_eq!(idle_after(&presence, two).await, Duration::from_secs(10) + LINGER);

        let presence = Presence::default();
        let one_after_the_other = async {
            for _ in 0..3 {
                let next = presence.enter();
                seconds(1).await;
                next.say_goodbye();
                seconds(5).await;
            }
        };
        assert_eq!(
            idle_after(&presence, one_after_the_other).await,
            Duration::from_secs(13) + LINGER
        );

        let presence = Presence::default();
        let one_away = async {
            let (first, mut second) = (presence.enter(), presence.enter());
            second.set_connected(false);
            first.say_goodbye();
            seconds(60).await;
            drop(second);
        };
        assert_eq!(idle_after(&presence, one_away).await, LIMIT);
    }
}
