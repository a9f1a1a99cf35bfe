//! DNS over TLS (RFC 7858).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "also outside the functions marked as tests"
)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::Rtype;
use nameserver::{Listening, Responder, Server};
use support::{answering, query, read, registry};
use tokio_rustls::rustls::{self, ClientConnection, RootCertStore, StreamOwned};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_trusts_the_certificate_is_answered() {
    let own = rcgen::generate_simple_self_signed(["dns.devbox.test".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let listening = Listening {
        tls: Some((vec!["127.0.0.1:0".parse().unwrap()], Arc::new(config))),
        ..Listening::on([])
    };
    let server = Server::start(Responder::new(registry(), answering()), listening)
        .await
        .unwrap();

    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(server.tls_addresses()[0]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let name = "dns.devbox.test".try_into().unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream);
    let packet = query("orders", Rtype::A);
    let mut message = u16::try_from(packet.len()).unwrap().to_be_bytes().to_vec();
    message.extend_from_slice(&packet);
    stream.write_all(&message).unwrap();
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut reply = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(read(&reply).answer, ["orders 5 A 127.77.0.2"]);
    server.stop().await;
}
