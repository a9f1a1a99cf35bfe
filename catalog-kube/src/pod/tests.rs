//! A gateway pod on a real node: `cargo xtask kube-test` starts one, and says in the environment what there is on it.

use std::collections::BTreeSet;
use std::sync::Mutex;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::timeout;
use tunnel_bridge::LinkStatus;

use super::*;
use crate::ClusterOptions;
use crate::forward::Forward;

fn said(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("${variable} is not set"))
}

/// A session that knows one endpoint: a web server at `$DEVBOX_TEST_WEB`, `ADDRESS:PORT`.
struct Session {
    cluster: Cluster,
    options: PodOptions,
    forward: Arc<dyn Road>,
    feed: Feed,
    web: Endpoint,
    told: Mutex<Vec<String>>,
    _changes: watch::Sender<()>,
}

impl Session {
    async fn new(name: &str) -> Self {
        let cluster = Cluster::open(&ClusterOptions::default()).await.unwrap();
        let web: std::net::SocketAddr = said("DEVBOX_TEST_WEB").parse().unwrap();
        let web = Endpoint {
            address: web.ip(),
            port: web.port().try_into().unwrap(),
            protocol: Protocol::Tcp,
            pod: None,
        };
        let (changes, changed) = watch::channel(());
        let all = BTreeSet::from([web.clone()]);
        Self {
            options: PodOptions {
                namespace: said("DEVBOX_TEST_NAMESPACE"),
                image: Some(said("DEVBOX_TEST_GATEWAY_IMAGE")),
                session: name.to_owned(),
                environment: "dev".parse().unwrap(),
            },
            forward: Arc::new(Forward::new(cluster.clone())),
            feed: Feed::new(move || all.clone(), changed),
            cluster,
            web,
            told: Mutex::default(),
            _changes: changes,
        }
    }

    async fn connect(&self) -> Result<Up, NotUp> {
        let wanted = Wanted::default();
        let tell = |what: String| self.told.lock().unwrap().push(what);
        let connecting = connect(
            &self.cluster,
            &self.options,
            &self.feed,
            &self.forward,
            &wanted,
            &tell,
        );
        timeout(Duration::from_secs(60), connecting)
            .await
            .expect("in time")
    }

    async fn ask(&self, up: &Up) -> String {
        let mut stream = up.road.open(&self.web).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        timeout(Duration::from_secs(10), stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        answer
    }

    /// How many Jobs and Secrets of gateways there are.
    async fn left(&self) -> usize {
        let (client, namespace) = (self.cluster.client(), &self.options.namespace);
        let ours = ListParams::default().labels("app.kubernetes.io/name=devbox-gateway");
        let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        jobs.list(&ours).await.unwrap().items.len() + secrets.list(&ours).await.unwrap().items.len()
    }

    async fn wait_until_nothing_is_left(&self) {
        timeout(Duration::from_secs(20), async {
            while self.left().await > 0 {
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await
        .expect("the Job and the Secret are removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a node: cargo xtask kube-test"]
async fn sessions_of_a_user_share_a_pod_which_goes_with_the_last_of_them() {
    let (first, second) = (Session::new("first").await, Session::new("second").await);
    first.wait_until_nothing_is_left().await;
    let from = Instant::now();
    let (one, two) = tokio::join!(first.connect(), second.connect());
    let (one, two) = (one.unwrap(), two.unwrap());
    println!("{} over {}, after {:?}", one.way, one.over, from.elapsed());
    assert_eq!(one.way, two.way);
    assert!(one.over.contains("through the API server"), "{}", one.over);
    assert_eq!(first.left().await, 2);
    one.link.shutdown().await;
    assert!(second.ask(&two).await.starts_with("HTTP/1.1 200"));
    two.link.shutdown().await;
    second.wait_until_nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a node: cargo xtask kube-test"]
async fn an_image_that_cannot_be_had_is_said_at_once_and_nothing_is_left() {
    let mut session = Session::new("no-image").await;
    session.options.image = Some("localhost:1/no/such/image:1".to_owned());
    match session.connect().await {
        Err(NotUp::StepDown { because }) => {
            assert!(because.contains("localhost:1/no/such/image:1"), "{because}");
        }
        other => panic!("{:?}", other.map(|up| up.way)),
    }
    session.wait_until_nothing_is_left().await;
}

/// For whoever stops the API server, or this process, meanwhile: `$DEVBOX_TEST_HOLD` says for how many seconds.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a node, and somebody who stops its API server"]
async fn a_stream_goes_on_where_it_was_after_the_api_server_was_away() {
    let session = Session::new("holds").await;
    let up = session.connect().await.unwrap();
    println!("{} over {}", up.way, up.over);
    let seconds: u64 = said("DEVBOX_TEST_HOLD").parse().unwrap();
    let mut stream = up.road.open(&session.web).await.unwrap();
    let mut status = up.link.watch_status();
    let from = Instant::now();
    let mut longest = Duration::ZERO;
    while from.elapsed() < Duration::from_secs(seconds) {
        let asked = Instant::now();
        stream
            .write_all(b"HEAD / HTTP/1.1\r\nHost: web\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        longest = longest.max(asked.elapsed());
        sleep(Duration::from_millis(200)).await;
    }
    println!("longest wait {longest:?}, {:?}", *status.borrow_and_update());
    assert!(matches!(*status.borrow(), LinkStatus::Up { resumes } if resumes > 0));
    up.link.shutdown().await;
}
