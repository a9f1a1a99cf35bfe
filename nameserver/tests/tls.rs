//! DNS over TLS (RFC 7858).
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

#[expect(dead_code, reason = "shared with the other tests")]
mod support;

use std::time::Duration;

use domain::base::iana::Rtype;
use nameserver::{Listening, Responder, Server, TlsError, ask_over_tls, tls_server};
use support::{answering, query, read, registry};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_trusts_the_certificate_is_answered() {
    let own = rcgen::generate_simple_self_signed(["dns.devbox.test".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["dns.devbox.test".to_owned()]).unwrap();
    let config = tls_server(
        own.cert.pem().as_bytes(),
        own.signing_key.serialize_pem().as_bytes(),
    )
    .unwrap();
    let listening = Listening {
        tls: Some((vec!["127.0.0.1:0".parse().unwrap()], config)),
        ..Listening::on([])
    };
    let server = Server::start(Responder::new(registry(), answering()), listening)
        .await
        .unwrap();
    let ask = |name: &str, authorities: String| {
        let packet = query("orders", Rtype::A);
        ask_over_tls(
            server.tls_addresses()[0],
            name,
            authorities.as_bytes(),
            &packet,
            PATIENCE,
        )
    };
    let reply = ask("dns.devbox.test", own.cert.pem()).unwrap();
    assert_eq!(read(&reply).answer, ["orders 5 A 127.77.0.2"]);
    let elsewhere = ask("dns.example", own.cert.pem());
    assert!(matches!(elsewhere, Err(TlsError::Io(_))), "{elsewhere:?}");
    let distrusted = ask("dns.devbox.test", other.cert.pem());
    assert!(matches!(distrusted, Err(TlsError::Io(_))), "{distrusted:?}");
    server.stop().await;
}

#[test]
fn files_that_are_no_certificate_and_its_key_are_told() {
    let [one, other] =
        ["a.test", "b.test"].map(|name| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap());
    let key = |of: &rcgen::CertifiedKey<rcgen::KeyPair>| of.signing_key.serialize_pem().into_bytes();
    let missing = tls_server(b"no PEM", &key(&one));
    assert!(matches!(missing, Err(TlsError::NoCertificate)), "{missing:?}");
    let no_key = tls_server(one.cert.pem().as_bytes(), b"no PEM");
    assert!(matches!(no_key, Err(TlsError::Pem(_))), "{no_key:?}");
    let strangers = tls_server(one.cert.pem().as_bytes(), &key(&other));
    assert!(matches!(strangers, Err(TlsError::Tls(_))), "{strangers:?}");
}
