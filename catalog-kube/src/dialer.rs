//! A connection to a service: an endpoint is chosen, and another one where that fails before anything was sent.

mod carried;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use service_catalog::{Protocol, Target};
use tokio::time::{Instant, timeout, timeout_at};
use tunnel_bridge::{ByteStream, DatagramFlow, Dialer, Refusal, RefusalKind};

use self::carried::{CarriedFlow, CarriedStream, Elsewhere, Reached};
use crate::endpoints::{Endpoints, Nobody, Open};
use crate::road::{Endpoint, Road};

/// How long a connection waits for an API server that does not answer, or for an endpoint that says nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// So many endpoints are tried for one connection.
const ATTEMPTS: usize = 4;

/// The watch hears that the API server is gone about when a connection does, not always before it.
const NEWS: Duration = Duration::from_millis(250);

/// Dials targets of the catalog over one way into the cluster.
pub(crate) struct EndpointDialer<R>(Arc<Ways<R>>);

impl<R: Road> EndpointDialer<R> {
    pub(crate) fn new(endpoints: Endpoints, road: R) -> Self {
        Self(Arc::new(Ways { endpoints, road }))
    }
}

/// Who answers, and how they are reached.
struct Ways<R> {
    endpoints: Endpoints,
    road: R,
}

impl<R: Road> Ways<R> {
    /// Opens something to one of the target's endpoints, other than those that were `tried` in vain, the last of them with that
    /// refusal.
    async fn reach<T, F>(
        &self,
        target: &Target,
        tried: &[Arc<Endpoint>],
        last: Option<Refusal>,
        open: impl Fn(Arc<Endpoint>, Instant) -> F,
    ) -> Result<(T, Open), Refusal>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        let mut before = (tried.to_vec(), last);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let refusal = match self.reach_once(target, before, deadline, &open).await {
                Ok(reached) => return Ok(reached),
                Err(refusal) => refusal,
            };
            if Instant::now() >= deadline && is_the_endpoints(refusal.kind) {
                return Err(waited(&refusal));
            }
            if refusal.kind != RefusalKind::Unreachable {
                return Err(refusal);
            }
            // Nothing answers: perhaps since nothing gets into the cluster.
            let mut away = self.endpoints.away();
            if !matches!(timeout(NEWS, away.wait_for(Option::is_some)).await, Ok(Ok(_))) {
                return Err(refusal);
            }
            if !matches!(
                timeout_at(deadline, away.wait_for(Option::is_none)).await,
                Ok(Ok(_))
            ) {
                return Err(waited(&refusal));
            }
            before = (Vec::new(), None);
        }
    }

    /// Gives each endpoint one chance.
    async fn reach_once<T, F>(
        &self,
        target: &Target,
        (mut tried, mut last): (Vec<Arc<Endpoint>>, Option<Refusal>),
        deadline: Instant,
        open: &impl Fn(Arc<Endpoint>, Instant) -> F,
    ) -> Result<(T, Open), Refusal>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        while tried.len() < ATTEMPTS {
            let chosen = match self.endpoints.choose(target, &tried, Instant::now().into_std()) {
                Ok(chosen) => chosen,
                Err(Nobody::AllTried) => break,
                Err(nobody) => return Err(last.unwrap_or_else(|| no_endpoint(target, &nobody))),
            };
            let endpoint = Arc::clone(chosen.endpoint());
            let refusal = match open(Arc::clone(&endpoint), deadline).await {
                Ok(opened) => return Ok((opened, chosen)),
                Err(refusal) => refusal,
            };
            tracing::debug!(%target, %endpoint, %refusal, "endpoint does not answer");
            if !is_the_endpoints(refusal.kind) || Instant::now() >= deadline {
                return Err(refusal);
            }
            tried.push(endpoint);
            last = Some(refusal);
        }
        Err(last.unwrap_or_else(|| no_endpoint(target, &Nobody::AllTried)))
    }
}

/// What a connection is told whose time is over.
fn waited(last: &Refusal) -> Refusal {
    let message = format!("{}; waited {} s", last.message, PATIENCE.as_secs());
    Refusal::new(RefusalKind::TimedOut, message)
}

/// Whether another endpoint may answer where this one was refused.
fn is_the_endpoints(kind: RefusalKind) -> bool {
    !matches!(
        kind,
        RefusalKind::NotAllowed | RefusalKind::TooMany | RefusalKind::LinkLost | RefusalKind::Unsupported
    )
}

fn no_endpoint(target: &Target, nobody: &Nobody) -> Refusal {
    let kind = match nobody {
        Nobody::NoPort => RefusalKind::NotFound,
        // As the cluster itself answers for a service without endpoints.
        Nobody::NotReady { .. } | Nobody::AllTried => RefusalKind::Refused,
    };
    Refusal::new(kind, format!("{}: {nobody}", target.service))
}

/// What a target stands for, if it is carried as this.
fn parse(text: &tunnel_bridge::Target, protocol: Protocol) -> Result<Target, Refusal> {
    let Ok(target) = text.as_str().parse::<Target>() else {
        let message = "this is not a target of a catalog";
        return Err(Refusal::new(RefusalKind::NotAllowed, message));
    };
    if target.protocol != protocol {
        let message = format!("{target}: this is not carried as {protocol}");
        return Err(Refusal::new(RefusalKind::Unsupported, message));
    }
    Ok(target)
}

#[async_trait]
impl<R: Road> Dialer for EndpointDialer<R> {
    async fn dial(&self, target: &tunnel_bridge::Target) -> Result<Box<dyn ByteStream>, Refusal> {
        let attempt = Attempt {
            ways: Arc::clone(&self.0),
            target: parse(target, Protocol::Tcp)?,
            tried: Vec::new(),
        };
        let reached = attempt.open(None).await?;
        Ok(Box::new(CarriedStream::new(reached, Box::new(attempt))))
    }

    async fn dial_datagrams(&self, target: &tunnel_bridge::Target) -> Result<Box<dyn DatagramFlow>, Refusal> {
        let target = parse(target, Protocol::Udp)?;
        let open = |endpoint: Arc<Endpoint>, deadline| async move {
            self.0.road.open_datagrams(&endpoint, deadline).await
        };
        let (inner, open) = self.0.reach(&target, &[], None, open).await?;
        Ok(Box::new(CarriedFlow { inner, _open: open }))
    }

    fn carries_datagrams(&self) -> bool {
        self.0.road.carries_datagrams()
    }
}

/// A connection that looks for an endpoint which takes it.
struct Attempt<R> {
    ways: Arc<Ways<R>>,
    target: Target,
    /// Those that did not.
    tried: Vec<Arc<Endpoint>>,
}

impl<R: Road> Attempt<R> {
    async fn open(&self, last: Option<Refusal>) -> Result<Reached, Refusal> {
        let open =
            |endpoint: Arc<Endpoint>, deadline| async move { self.ways.road.open(&endpoint, deadline).await };
        self.ways.reach(&self.target, &self.tried, last, open).await
    }
}

impl<R: Road> Elsewhere for Attempt<R> {
    fn reach(
        mut self: Box<Self>,
        refused: Arc<Endpoint>,
        refusal: Refusal,
    ) -> BoxFuture<'static, Result<(Reached, Box<dyn Elsewhere>), Refusal>> {
        self.tried.push(refused);
        async move {
            let reached = self.open(Some(refusal)).await?;
            Ok((reached, self as Box<dyn Elsewhere>))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use tokio::io::duplex;

    use super::*;
    use crate::objects::{Answers, Place};
    use crate::road::Host;

    /// Says of each port how it answers.
    struct Scripted {
        refusals: HashMap<u16, RefusalKind>,
        asked: Arc<Mutex<Vec<u16>>>,
        endpoints: Endpoints,
    }

    #[async_trait]
    impl Road for Scripted {
        async fn open(&self, endpoint: &Endpoint, _: Instant) -> Result<Box<dyn ByteStream>, Refusal> {
            let port = endpoint.port.get();
            self.asked.lock().unwrap().push(port);
            match self.refusals.get(&port) {
                // The API server comes back while the connection waits.
                Some(RefusalKind::Unreachable) if self.endpoints.away().borrow().is_none() => {
                    Ok(Box::new(duplex(1).0))
                }
                Some(kind) => Err(Refusal::new(*kind, "no")),
                None => Ok(Box::new(duplex(1).0)),
            }
        }
    }

    fn dialer(ports: &[(u16, Option<RefusalKind>)]) -> (EndpointDialer<Scripted>, Arc<Mutex<Vec<u16>>>) {
        let endpoints = Endpoints::new(None);
        let place = |(port, _): &(u16, Option<RefusalKind>)| Place {
            endpoint: Arc::new(Endpoint {
                host: Host::Address([10, 0, 0, 1].into()),
                port: (*port).try_into().unwrap(),
                protocol: Protocol::Tcp,
                pod: None,
            }),
            zone: None,
            for_zones: Vec::new(),
        };
        let answers = Answers {
            places: ports.iter().map(place).collect(),
            because: "it has no pod".to_owned(),
            affinity: None,
        };
        endpoints.set([("tcp/shop/web/80".parse().unwrap(), Some(Arc::new(answers)))]);
        let asked = Arc::default();
        let road = Scripted {
            refusals: ports
                .iter()
                .filter_map(|(port, kind)| Some((*port, (*kind)?)))
                .collect(),
            asked: Arc::clone(&asked),
            endpoints: endpoints.clone(),
        };
        (EndpointDialer::new(endpoints, road), asked)
    }

    async fn dial(dialer: &EndpointDialer<Scripted>, target: &str) -> Result<Box<dyn ByteStream>, Refusal> {
        dialer.dial(&tunnel_bridge::Target::new(target).unwrap()).await
    }

    #[tokio::test]
    async fn another_endpoint_is_tried_and_each_once() {
        let (all, asked) = dialer(&[
            (1, Some(RefusalKind::Refused)),
            (2, Some(RefusalKind::Refused)),
            (3, None),
        ]);
        for _ in 0..3 {
            dial(&all, "tcp/shop/web/80").await.unwrap();
        }
        assert_eq!(asked.lock().unwrap().iter().filter(|port| **port == 3).count(), 3);
        let (none, asked) = dialer(&[(1, Some(RefusalKind::Refused)), (2, Some(RefusalKind::Refused))]);
        let refusal = dial(&none, "tcp/shop/web/80").await.err().unwrap();
        assert_eq!(refusal.kind, RefusalKind::Refused);
        let mut asked = asked.lock().unwrap().clone();
        asked.sort_unstable();
        assert_eq!(asked, [1, 2]);
    }

    #[tokio::test]
    async fn who_may_not_is_refused_everywhere() {
        let (dialer, asked) = dialer(&[
            (1, Some(RefusalKind::NotAllowed)),
            (2, Some(RefusalKind::NotAllowed)),
        ]);
        let refusal = dial(&dialer, "tcp/shop/web/80").await.err().unwrap();
        assert_eq!(refusal.kind, RefusalKind::NotAllowed);
        assert_eq!(asked.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_to_answer_is_said_at_once() {
        let (dialer, _) = dialer(&[]);
        let began = Instant::now();
        let refusal = dial(&dialer, "tcp/shop/web/80").await.err().unwrap();
        assert_eq!(
            (refusal.kind, &*refusal.message),
            (RefusalKind::Refused, "web.shop: it has no pod")
        );
        assert_eq!(
            dial(&dialer, "tcp/shop/db/1").await.err().unwrap().kind,
            RefusalKind::NotFound
        );
        assert_eq!(
            dial(&dialer, "10.0.0.1:80").await.err().unwrap().kind,
            RefusalKind::NotAllowed
        );
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_away_is_waited_for() {
        let (dialer, asked) = dialer(&[(1, Some(RefusalKind::Unreachable))]);
        let endpoints = dialer.0.endpoints.clone();
        endpoints.set_away(Some("connection refused"));
        let began = Instant::now();
        let refusal = dial(&dialer, "tcp/shop/web/80").await.err().unwrap();
        assert_eq!(refusal.kind, RefusalKind::TimedOut);
        assert_eq!(began.elapsed(), PATIENCE);
        asked.lock().unwrap().clear();
        let back = async {
            tokio::time::sleep(PATIENCE / 2).await;
            endpoints.set_away(None);
        };
        let (dialed, ()) = tokio::join!(dial(&dialer, "tcp/shop/web/80"), back);
        assert!(dialed.is_ok());
        assert_eq!(*asked.lock().unwrap(), [1, 1]);
    }
}
