//! A session that goes over port-forwards where it would go through an installed gateway, and moves to one as soon as it can.

use std::time::Duration;

use async_trait::async_trait;
use devbox_provider::{ConnectError, Wanted};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use service_catalog::{Source, SourceError, Update};
use tokio::sync::oneshot;
use tokio::time::{Instant, Timeout, sleep_until, timeout};

use super::installed::{Client, In, NoGateway, Replica};

/// How long a gateway is looked for while a connect waits for that.
const LOOKING: Duration = Duration::from_secs(3);

/// The pauses between two looks: the first, and the longest. As long as they find the same, each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Why a session does not go through an installed gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotUsed {
    #[error(transparent)]
    None(#[from] NoGateway),
    #[error("the API server did not say in time whether a gateway is installed")]
    Unknown,
    #[error("the installed gateway cannot be used: {0}")]
    TurnedAway(ConnectError),
}

impl Client {
    /// Goes to an installed gateway, if there is one that lets the session in.
    pub(crate) async fn enter(&self, wanted: &Wanted) -> Result<In, NotUsed> {
        self.enter_one_of(timeout(LOOKING, self.replicas()), wanted).await
    }

    /// The same, for a session that has another way meanwhile.
    async fn look(&self, wanted: &Wanted) -> Result<In, NotUsed> {
        let found = timeout(FIRST_PAUSE, self.replicas_in_turn());
        self.enter_one_of(found, wanted).await
    }

    async fn enter_one_of(
        &self,
        found: Timeout<impl Future<Output = Result<Vec<Replica>, NoGateway>>>,
        wanted: &Wanted,
    ) -> Result<In, NotUsed> {
        let found = found.await;
        let replicas = found.map_err(|_| NotUsed::Unknown)??;
        let entered = self.to_replicas(replicas, wanted).await;
        entered.map_err(NotUsed::TurnedAway)
    }
}

/// When a gateway is looked for.
#[derive(Debug)]
struct Looks {
    last: NotUsed,
    pause: Duration,
    next: Instant,
}

impl Looks {
    fn new(last: NotUsed, now: Instant) -> Self {
        Self {
            last,
            pause: FIRST_PAUSE,
            next: now + FIRST_PAUSE,
        }
    }

    /// Takes what a look has found. Whether that is news.
    fn handle_look(&mut self, found: NotUsed, now: Instant) -> bool {
        let is_news = found != self.last;
        self.pause = if is_news {
            FIRST_PAUSE
        } else {
            (2 * self.pause).min(LONGEST_PAUSE)
        };
        self.last = found;
        self.next = now + self.pause;
        is_news
    }

    const fn poll_timeout(&self) -> Instant {
        self.next
    }
}

/// A source over port-forwards that ends once a gateway lets the session in.
pub(crate) struct Lookout {
    source: Box<dyn Source>,
    /// Ends with the way that there is.
    looking: BoxFuture<'static, String>,
    to: Option<String>,
}

impl Lookout {
    /// `last` is why no gateway is used; `tell` hears what else it comes to be, and `moving` is given the gateway that let the session in.
    pub(crate) fn new(
        source: Box<dyn Source>,
        client: Client,
        wanted: Wanted,
        last: NotUsed,
        tell: impl Fn(&NotUsed) + Send + Sync + 'static,
        moving: oneshot::Sender<In>,
    ) -> Self {
        let looks = Looks::new(last, Instant::now());
        let looking = async move {
            let entered = until_entered(looks, tell, || client.look(&wanted)).await;
            let to = entered.way.clone();
            if moving.send(entered).is_err() {
                tracing::debug!("whoever connected over port-forwards is gone");
            }
            to
        };
        Self {
            source,
            looking: looking.boxed(),
            to: None,
        }
    }
}

/// Looks for a gateway until there is one that lets the session in.
async fn until_entered<T, F>(mut looks: Looks, tell: impl Fn(&NotUsed), look: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, NotUsed>>,
{
    loop {
        sleep_until(looks.poll_timeout()).await;
        match look().await {
            Ok(entered) => return entered,
            Err(found) => {
                tracing::debug!(because = %found, "no gateway is used");
                if looks.handle_look(found, Instant::now()) {
                    tell(&looks.last);
                }
            }
        }
    }
}

#[async_trait]
impl Source for Lookout {
    async fn next(&mut self) -> Result<Update, SourceError> {
        if self.to.is_none() {
            tokio::select! {
                update = self.source.next() => return update,
                to = &mut self.looking => self.to = Some(to),
            }
        }
        let to = self.to.clone().unwrap_or_default();
        Err(SourceError::Moving { to })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::{pending, ready};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn not_ready() -> NotUsed {
        let namespace = "devbox".to_owned();
        NoGateway::NotReady { namespace }.into()
    }

    fn turned_away() -> NotUsed {
        NotUsed::TurnedAway(ConnectError::Unavailable {
            far_side: "devbox-gateway-1".to_owned(),
            message: "it is full".to_owned(),
        })
    }

    #[test]
    fn pauses_grow_while_nothing_changes_and_what_is_news_is_looked_at_again_soon() {
        let start = Instant::now();
        let mut looks = Looks::new(not_ready(), start);
        let mut pause = |found| {
            let now = looks.poll_timeout();
            let is_news = looks.handle_look(found, now);
            (is_news, (looks.poll_timeout() - now).as_secs())
        };
        for seconds in [120, 240, 300, 300] {
            assert_eq!(pause(not_ready()), (false, seconds));
        }
        assert_eq!(pause(turned_away()), (true, 60));
        assert_eq!(pause(turned_away()), (false, 120));
        assert_eq!(pause(not_ready()), (true, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn looks_are_a_minute_apart_or_more_however_often_the_answer_changes() {
        for (answers, most) in [(&[not_ready()][..], 14), (&[not_ready(), turned_away()], 60)] {
            let (looked, told) = (Cell::new(0), RefCell::new(Vec::new()));
            let look = || {
                looked.set(looked.get() + 1);
                ready(Err::<(), _>(answers[looked.get() % answers.len()].clone()))
            };
            let looks = Looks::new(not_ready(), Instant::now());
            let looking = until_entered(looks, |why| told.borrow_mut().push(why.clone()), look);
            timeout(HOUR, looking).await.unwrap_err();
            assert!((most - 2..=most).contains(&looked.get()), "{}", looked.get());
            // What is known already is not told again.
            let news = if answers.len() == 1 { 0 } else { looked.get() };
            assert_eq!(told.borrow().len(), news);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_look_that_enters_is_the_last() {
        let looked = Cell::new(0);
        let look = || {
            looked.set(looked.get() + 1);
            ready(if looked.get() == 3 {
                Ok("gateway")
            } else {
                Err(not_ready())
            })
        };
        let begun = Instant::now();
        let entered = until_entered(Looks::new(not_ready(), begun), |_| (), look).await;
        assert_eq!((entered, looked.get()), ("gateway", 3));
        assert_eq!(begun.elapsed(), FIRST_PAUSE * (1 + 2 + 4));
    }

    struct Silent;

    #[async_trait]
    impl Source for Silent {
        async fn next(&mut self) -> Result<Update, SourceError> {
            pending().await
        }
    }

    #[tokio::test]
    async fn the_source_ends_for_good_with_the_way_that_there_is() {
        let mut lookout = Lookout {
            source: Box::new(Silent),
            looking: ready("gateway devbox-gateway-1 in devbox".to_owned()).boxed(),
            to: None,
        };
        for _ in 0..2 {
            let error = lookout.next().await.unwrap_err();
            assert!(
                matches!(error, SourceError::Moving { to } if to == "gateway devbox-gateway-1 in devbox")
            );
        }
    }
}
