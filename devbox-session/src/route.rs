//! Which far side a listener's connections go to, while links come and go.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use service_catalog::Label;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tunnel_bridge::{ByteStream, DatagramFlow, Dialer, Refusal, RefusalKind, Target};

/// A link that may be dialed over, and the environment that it leads to.
pub(crate) struct Road {
    pub(crate) environment: Label,
    pub(crate) dialer: Arc<dyn Dialer>,
    /// Tells one link of a provider from the next.
    pub(crate) generation: u64,
}

/// The road to a provider.
#[derive(Clone)]
pub(crate) enum CurrentRoad {
    Open(Arc<Road>),
    Closed(Why),
}

impl CurrentRoad {
    fn open(&self) -> Option<&Arc<Road>> {
        match self {
            CurrentRoad::Open(road) => Some(road),
            CurrentRoad::Closed(_) => None,
        }
    }
}

/// Why no road is open.
#[derive(Clone, Default)]
pub(crate) enum Why {
    /// Nothing has failed so far.
    #[default]
    Unknown,
    /// There is no link.
    Failed(Arc<str>),
    /// The link is without a connection: why the last attempt to make one failed.
    Interrupted(watch::Receiver<Option<Arc<str>>>),
}

impl Why {
    fn text(&self) -> Option<Arc<str>> {
        match self {
            Why::Unknown => None,
            Why::Failed(why) => Some(Arc::clone(why)),
            Why::Interrupted(trouble) => trouble.borrow().clone(),
        }
    }
}

/// What a listener's connections ask for.
#[derive(Clone)]
pub(crate) struct Aim {
    pub(crate) environment: Label,
    pub(crate) target: Target,
    pub(crate) road: watch::Receiver<CurrentRoad>,
}

/// The dialer of one listener. It dials over whichever link of its provider is up, and holds a connection for a while
/// when none is: a reconnect takes less time than a user needs to notice, and an error would reach the program at
/// once. It never dials into another environment than the one that its connection was accepted for.
pub(crate) struct Route {
    aim: Mutex<Aim>,
    patience: Duration,
}

impl Route {
    pub(crate) fn new(aim: Aim, patience: Duration) -> Self {
        Self {
            aim: Mutex::new(aim),
            patience,
        }
    }

    /// What is accepted from here on goes there. Whether that is another place than before.
    pub(crate) fn set(&self, aim: Aim) -> bool {
        let mut current = self.aim.lock().unwrap_or_else(PoisonError::into_inner);
        let same = current.environment == aim.environment
            && current.target == aim.target
            && current.road.same_channel(&aim.road);
        *current = aim;
        !same
    }

    fn aim(&self) -> Aim {
        self.aim.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next road for `aim`, other than the link with the generation `not`.
    async fn road(&self, aim: &mut Aim, not: Option<u64>, deadline: Instant) -> Result<Arc<Road>, Refusal> {
        let open = |road: &CurrentRoad| road.open().is_some_and(|road| Some(road.generation) != not);
        let waiting = timeout_at(deadline, aim.road.wait_for(open));
        let road = match waiting.await {
            Ok(Ok(road)) => road.open().cloned(),
            Ok(Err(_)) | Err(_) => None,
        };
        let Some(road) = road else {
            let why = match &*aim.road.borrow() {
                CurrentRoad::Open(_) => None,
                CurrentRoad::Closed(why) => why.text(),
            };
            let why = why.as_deref().unwrap_or("there is no link to the far side");
            let message = format!("{why}; waited {} s", self.patience.as_secs());
            return Err(Refusal::new(RefusalKind::TimedOut, message));
        };
        if road.environment == aim.environment {
            Ok(road)
        } else {
            // Wrong environment is worse than no environment.
            Err(Refusal::new(
                RefusalKind::LinkLost,
                format!(
                    "the session has switched from `{}` to `{}`",
                    aim.environment, road.environment
                ),
            ))
        }
    }
}

/// Dials over one road after the other until one takes the connection: a link that is about to go refuses at once.
macro_rules! over_each_road {
    ($route:ident, $dial:ident) => {{
        let mut aim = $route.aim();
        let deadline = Instant::now() + $route.patience;
        let mut gone = None;
        loop {
            let road = $route.road(&mut aim, gone, deadline).await?;
            match road.dialer.$dial(&aim.target).await {
                Err(refusal) if refusal.kind == RefusalKind::LinkLost => gone = Some(road.generation),
                dialed => return dialed,
            }
        }
    }};
}

#[async_trait]
impl Dialer for Route {
    /// The target that the listener was opened with is of no account: a listener may be given to another service.
    async fn dial(&self, _target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        over_each_road!(self, dial)
    }

    async fn dial_datagrams(&self, _target: &Target) -> Result<Box<dyn DatagramFlow>, Refusal> {
        over_each_road!(self, dial_datagrams)
    }

    /// Not before there is a link, which it then may wait for.
    fn carries_datagrams(&self) -> bool {
        let aim = self.aim();
        let road = aim.road.borrow();
        road.open().is_some_and(|road| road.dialer.carries_datagrams())
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;

    /// Refuses everything in its own words.
    struct Refusing(RefusalKind, &'static str);

    #[async_trait]
    impl Dialer for Refusing {
        async fn dial(&self, target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
            Err(Refusal::new(self.0, format!("{} {target}", self.1)))
        }
    }

    fn road(environment: &str, generation: u64, dialer: Refusing) -> CurrentRoad {
        CurrentRoad::Open(Arc::new(Road {
            environment: environment.parse().unwrap(),
            dialer: Arc::new(dialer),
            generation,
        }))
    }

    struct World {
        roads: watch::Sender<CurrentRoad>,
        route: Arc<Route>,
    }

    impl World {
        fn new() -> Self {
            let (roads, road) = watch::channel(CurrentRoad::Closed(Why::Unknown));
            let aim = Aim {
                environment: "staging".parse().unwrap(),
                target: Target::new("tcp/backend/orders/5432").unwrap(),
                road,
            };
            let route = Arc::new(Route::new(aim, Duration::from_secs(10)));
            Self { roads, route }
        }

        fn dial(&self) -> tokio::task::JoinHandle<Refusal> {
            let route = Arc::clone(&self.route);
            tokio::spawn(async move {
                let target = Target::new("ignored").unwrap();
                route.dial(&target).await.err().expect("these dialers refuse")
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_held_for_a_while_and_then_refused() {
        let world = World::new();
        let held = world.dial();
        yield_now().await;
        world
            .roads
            .send_replace(road("staging", 1, Refusing(RefusalKind::Refused, "one")));
        let refusal = held.await.unwrap();
        assert_eq!(
            (refusal.kind, refusal.message.as_str()),
            (RefusalKind::Refused, "one tcp/backend/orders/5432")
        );
        let (says, trouble) = watch::channel(None);
        for (why, message) in [
            (Why::Unknown, "there is no link to the far side; waited 10 s"),
            (Why::Failed("it is down".into()), "it is down; waited 10 s"),
            (Why::Interrupted(trouble), "connection refused; waited 10 s"),
        ] {
            world.roads.send_replace(CurrentRoad::Closed(why));
            let before = Instant::now();
            let held = world.dial();
            yield_now().await;
            // What is said is what was found out last.
            says.send_replace(Some("connection refused".into()));
            assert_eq!(held.await.unwrap(), Refusal::new(RefusalKind::TimedOut, message));
            assert_eq!(before.elapsed(), Duration::from_secs(10));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_leaving_link_refuses_is_dialed_over_the_next() {
        let world = World::new();
        world
            .roads
            .send_replace(road("staging", 1, Refusing(RefusalKind::LinkLost, "leaving")));
        let held = world.dial();
        for _ in 0..10 {
            yield_now().await;
        }
        assert!(!held.is_finished());
        world.roads.send_replace(CurrentRoad::Closed(Why::Unknown));
        world
            .roads
            .send_replace(road("staging", 2, Refusing(RefusalKind::Refused, "two")));
        assert!(held.await.unwrap().message.starts_with("two"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_never_reaches_another_environment() {
        let world = World::new();
        let held = world.dial();
        yield_now().await;
        world
            .roads
            .send_replace(road("dev", 2, Refusing(RefusalKind::Refused, "reached")));
        let refusal = held.await.unwrap();
        assert_eq!(refusal.kind, RefusalKind::LinkLost);
        assert!(refusal.message.contains("`staging` to `dev`"), "{refusal}");
    }
}
