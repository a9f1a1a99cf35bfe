//! A running gateway, clients of it, and services behind it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use catalog_file::CatalogFile;
use devbox_gateway::{Gateway, GatewayConfig, Token, TokenAdmission, TokenSource};
use devbox_gateway_client::{GatewayProvider, handshake};
use service_catalog::{CATALOG_STREAM, Catalog, Update, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunnel_bridge::ws::{self, ConnectError, ConnectOptions};
use tunnel_bridge::{Link, MuxStream, Refusal, Target};
use url::Url;

pub(super) const TOKEN: &str = "correct-horse";

/// No wait of these tests is longer, unless something is broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Fails the test where `future` takes too long.
pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future)
        .await
        .expect("within the tests' patience")
}

/// Files of a gateway in a directory of their own.
pub(super) struct Files {
    pub(super) dir: tempfile::TempDir,
    pub(super) catalog: PathBuf,
    pub(super) token: PathBuf,
}

impl Files {
    pub(super) fn new(catalog: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let this = Self {
            catalog: dir.path().join("catalog.yaml"),
            token: dir.path().join("token"),
            dir,
        };
        std::fs::write(&this.catalog, catalog).unwrap();
        std::fs::write(&this.token, format!("{TOKEN}\n")).unwrap();
        this
    }

    /// A gateway that serves the catalog file to whoever has the token file's token.
    pub(super) async fn config(&self) -> GatewayConfig {
        let catalog = CatalogFile::open(&self.catalog).await.unwrap();
        let tokens = TokenSource::File(self.token.clone());
        let admission = TokenAdmission::open(tokens, Arc::new(catalog)).await.unwrap();
        GatewayConfig::new(admission, "127.0.0.1:0".parse().unwrap())
    }

    /// Puts `text` in the place of `path` by a rename.
    pub(super) fn replace(&self, path: &Path, text: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, path).unwrap();
    }
}

/// The text of a catalog file: each service is `name.namespace`, a port and an address.
pub(super) fn file(services: &[(&str, u16, SocketAddr)]) -> String {
    let mut text = "environment: dev\nservices:".to_owned();
    if services.is_empty() {
        text.push_str(" []");
    }
    for (id, port, address) in services {
        let (name, namespace) = id.split_once('.').unwrap();
        text.push_str(&format!(
            "\n  - name: {name}\n    namespace: {namespace}\n    ports: [{{port: {port}, target: \"{address}\"}}]"
        ));
    }
    text.push('\n');
    text
}

pub(super) struct Running {
    pub(super) address: SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), devbox_gateway::Error>>,
}

pub(super) async fn start(config: GatewayConfig) -> Running {
    let gateway = Gateway::bind(config).await.unwrap();
    let cancel = CancellationToken::new();
    let address = gateway.local_addr();
    Running {
        address,
        task: tokio::spawn(gateway.run(cancel.clone())),
        cancel,
    }
}

/// What a client says about itself.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) url: Url,
    pub(super) token: String,
    pub(super) session: String,
    pub(super) generation: u64,
    pub(super) environment: Option<String>,
    pub(super) tls_ca: Option<PathBuf>,
}

impl Options {
    fn request(&self) -> ConnectOptions {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{}", handshake::TUNNEL_PATH, self.session));
        let mut options = ConnectOptions::new(url, handshake::SUBPROTOCOL)
            .header(handshake::GENERATION, &self.generation.to_string())
            .secret_header("Authorization", &format!("Bearer {}", self.token));
        if let Some(environment) = &self.environment {
            options = options.header(handshake::ENVIRONMENT, environment);
        }
        options.trust.ca.clone_from(&self.tls_ca);
        options.answer_header = Some(handshake::MESSAGE.to_owned());
        options
    }

    /// The same client as a session sees its gateway.
    pub(super) fn provider(&self) -> GatewayProvider {
        let token = TokenSource::Fixed(Token::new(&self.token).unwrap());
        let mut provider = GatewayProvider::new(self.url.clone(), token, self.session.clone());
        provider.connect_timeout = PATIENCE;
        provider
    }
}

/// The status and the line that a client was turned away with.
pub(super) fn rejection(error: &ConnectError) -> (u16, String) {
    match error {
        ConnectError::Rejected { response, .. } => {
            let message = response.header(handshake::MESSAGE);
            (response.status, message.unwrap_or_default().to_owned())
        }
        other => panic!("not turned away by the gateway: {other:?}"),
    }
}

impl Running {
    pub(super) fn options(&self, session: &str) -> Options {
        Options {
            url: format!("ws://{}", self.address).parse().unwrap(),
            token: TOKEN.to_owned(),
            session: session.to_owned(),
            generation: 0,
            environment: None,
            tls_ca: None,
        }
    }

    pub(super) async fn client(&self, session: &str) -> Client {
        Client::connect(&self.options(session)).await.unwrap()
    }

    /// Asks the gateway to end, and waits until it has.
    pub(super) async fn stop(self) {
        self.cancel.cancel();
        soon(self.task).await.unwrap().unwrap();
    }

    pub(super) fn ask_to_stop(&self) {
        self.cancel.cancel();
    }

    /// One request by hand: the whole answer.
    pub(super) async fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let mut piece = [0; 1024];
        // The gateway may keep the connection open after its answer: its head and a body of the told length are enough.
        while !is_whole(&answer) {
            match soon(stream.read(&mut piece)).await.unwrap() {
                0 => break,
                n => answer.extend_from_slice(&piece[..n]),
            }
        }
        String::from_utf8(answer).unwrap()
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.is_some_and(|length| body.len() >= length.trim().parse().unwrap())
}

/// What the program would log, usually its warnings, while this test, which runs on one thread, goes on.
pub(super) struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

#[derive(Clone)]
struct Writer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(super) fn start() -> Self {
        Self::from(tracing::Level::WARN)
    }

    /// With what is of this level or weightier.
    pub(super) fn from(level: tracing::Level) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .without_time()
            .with_writer({
                let writer = Writer(Arc::clone(&text));
                move || writer.clone()
            })
            .finish();
        Self {
            text,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }

    pub(super) fn count(&self, word: &str) -> usize {
        self.text().matches(word).count()
    }

    pub(super) async fn wait_for(&self, word: &str) {
        soon(async {
            while self.count(word) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

pub(super) struct Client {
    pub(super) link: Link,
}

impl Client {
    pub(super) async fn connect(options: &Options) -> Result<Self, ConnectError> {
        Ok(Self {
            link: soon(ws::connect(&options.request())).await?,
        })
    }

    /// A stream that the gateway has connected to `target`.
    pub(super) async fn open(&self, target: &str) -> Result<MuxStream, Refusal> {
        let mut stream = self.link.open(&Target::new(target).unwrap()).await?;
        soon(stream.accepted()).await?;
        Ok(stream)
    }

    pub(super) async fn refusal(&self, target: &str) -> Refusal {
        self.open(target)
            .await
            .expect_err("this target should be refused")
    }

    pub(super) async fn updates(&self) -> Updates {
        let stream = self.open(CATALOG_STREAM).await.unwrap();
        Updates {
            stream,
            decoder: wire::Decoder::new(),
            known: Catalog::empty("unknown".parse().unwrap()),
        }
    }
}

/// The catalog as a client is told.
pub(super) struct Updates {
    pub(super) stream: MuxStream,
    decoder: wire::Decoder,
    /// With all updates applied that were taken.
    pub(super) known: Catalog,
}

impl Updates {
    pub(super) async fn next(&mut self) -> Update {
        let mut piece = [0; 4096];
        loop {
            if let Some(update) = self.decoder.poll_update().unwrap() {
                self.known.apply(&update);
                return update;
            }
            let n = soon(self.stream.read(&mut piece)).await.unwrap();
            assert_ne!(n, 0, "the catalog stream ended");
            self.decoder.handle_bytes(&piece[..n]);
        }
    }

    pub(super) fn services(&self) -> Vec<String> {
        self.known.services.keys().map(ToString::to_string).collect()
    }
}

/// Sends and gets back.
pub(super) async fn ping(stream: &mut MuxStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = vec![0; text.len()];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), text);
}

/// A service that gives back what it gets, and runs until it is dropped.
pub(super) struct Echo {
    pub(super) address: SocketAddr,
    _task: JoinSet<()>,
}

pub(super) async fn echo() -> Echo {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let (mut reader, mut writer) = stream.split();
                // A reset by a test that ends is no trouble here.
                if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
                    writer.shutdown().await.ok();
                }
            });
        }
    });
    Echo { address, _task: task }
}

/// An address of loopback where nobody listens.
pub(super) async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}
