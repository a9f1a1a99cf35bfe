//! What only QUIC has: its handshake, and links whose client moves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::UdpSocket;
use tunnel_bridge::Link;
use tunnel_bridge::quic::{Listener, Options, connect};
use tunnel_bridge::tls::Acceptor;
use tunnel_bridge::ws::ConnectOptions;

use crate::support::Relay;

/// A certificate for the loopback interface, and its key.
pub(crate) struct Certificate {
    _folder: TempDir,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificate {
    pub(crate) fn new(name: &str) -> Certificate {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Certificate {
            _folder: folder,
            certificate,
            key,
        }
    }

    pub(crate) fn acceptor(&self) -> Acceptor {
        Acceptor::from_pem(&self.certificate, &self.key).unwrap()
    }
}

pub(crate) fn certificate() -> &'static Certificate {
    static MADE: OnceLock<Certificate> = OnceLock::new();
    MADE.get_or_init(|| Certificate::new("127.0.0.1"))
}

/// How long a link may be silent where a test waits for its loss.
pub(crate) const IMPATIENT: Duration = Duration::from_secs(2);

pub(crate) fn listener(options: Options) -> Listener {
    Listener::bind("127.0.0.1:0".parse().unwrap(), &certificate().acceptor(), options).unwrap()
}

pub(crate) fn options(server: SocketAddr) -> ConnectOptions {
    let url = format!("quic://{server}/mounted/here").parse().unwrap();
    let mut options = ConnectOptions::new(url, "");
    options.trust.ca = Some(certificate().certificate.clone());
    options
}

/// Two ends of a link, by way of what `road` puts before the far end's address.
pub(crate) async fn pair_through<R, F>(idle_timeout: Option<Duration>, road: R) -> (Link, Link)
where
    R: FnOnce(SocketAddr) -> F,
    F: Future<Output = SocketAddr>,
{
    let mut limits = Options::default();
    limits.idle_timeout = idle_timeout.unwrap_or(limits.idle_timeout);
    let listener = listener(limits);
    let options = options(road(listener.local_addr()).await);
    let far = async {
        let request = listener.accept().await.unwrap().request().await.unwrap();
        request.accept().await.unwrap()
    };
    let (near, far) = tokio::join!(connect(&options), far);
    (near.unwrap(), far)
}

/// As [`Relay::to`], for datagrams.
pub(crate) async fn relay_to(gateway: SocketAddr) -> Relay {
    let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = near.local_addr().unwrap();
    let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    far.connect(gateway).await.unwrap();
    let task = tokio::spawn(async move {
        let (mut client, mut there, mut back) = (None, vec![0; 65_536], vec![0; 65_536]);
        loop {
            // A datagram that cannot be sent on is lost, as it may be anywhere.
            tokio::select! {
                Ok((length, peer)) = near.recv_from(&mut there) => {
                    client = Some(peer);
                    drop(far.send(&there[..length]).await);
                }
                Ok(length) = far.recv(&mut back) => {
                    if let Some(client) = client {
                        drop(near.send_to(&back[..length], client).await);
                    }
                }
            }
        }
    });
    Relay { address, task }
}
