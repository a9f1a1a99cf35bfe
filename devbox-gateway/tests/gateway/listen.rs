//! Where a gateway listens, and over what.

use devbox_gateway::{Error, Gateway, TlsFiles, TokenCheck, TokenSource};
use tunnel_bridge::ws::ConnectError;

use super::support::{Client, Files, Log, echo, file, ping, soon, start};

#[tokio::test]
async fn other_machines_need_tls_or_insecure() {
    let files = Files::new(&file(&[]));
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"] {
        let mut config = files.config().await;
        config.listen = address.parse().unwrap();
        let error = Gateway::bind(config).await.unwrap_err();
        assert!(
            matches!(error, Error::InsecureListen { .. }),
            "{address}: {error}"
        );
    }
    let mut config = files.config().await;
    config.listen = "0.0.0.0:0".parse().unwrap();
    config.insecure = true;
    let gateway = start(config).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_told_with_its_address() {
    let files = Files::new(&file(&[]));
    let gateway = start(files.config().await).await;
    let mut config = files.config().await;
    config.listen = gateway.address;
    let error = Gateway::bind(config).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {}", gateway.address));
    gateway.stop().await;
}

#[tokio::test]
async fn a_token_file_that_cannot_be_used_is_told_at_the_start() {
    let files = Files::new(&file(&[]));
    for wrong in ["", " \n", "two words"] {
        std::fs::write(&files.token, wrong).unwrap();
        let error = TokenCheck::open(TokenSource::File(files.token.clone()))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(&files.token.display().to_string()), "{error}");
    }
    std::fs::remove_file(&files.token).unwrap();
    let error = TokenCheck::open(TokenSource::File(files.token.clone())).await;
    assert!(matches!(error, Err(Error::Token { .. })), "{error:?}");
}

#[tokio::test]
async fn tls_works_and_is_checked() {
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let certified =
        rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let tls = TlsFiles::new(
        files.dir.path().join("cert.pem"),
        files.dir.path().join("key.pem"),
    );
    std::fs::write(&tls.certificate, certified.cert.pem()).unwrap();
    std::fs::write(&tls.key, certified.signing_key.serialize_pem()).unwrap();

    let mut config = files.config().await;
    config.tls = Some(tls.clone());
    let gateway = start(config).await;
    let mut options = gateway.options("laptop");
    options.url = format!("wss://localhost:{}", gateway.address.port())
        .parse()
        .unwrap();
    options.tls_ca = Some(tls.certificate.clone());
    let client = Client::connect(&options).await.unwrap();
    ping(&mut client.open("tcp/x/a/80").await.unwrap(), "in private").await;

    // Nobody vouches for the certificate.
    options.tls_ca = None;
    let error = Client::connect(&options).await.err().unwrap();
    assert!(matches!(error, ConnectError::Certificate { .. }), "{error:?}");
    // Without TLS there is no talking to it.
    assert!(Client::connect(&gateway.options("laptop")).await.is_err());
    gateway.stop().await;

    // A key that is none.
    let mut config = files.config().await;
    config.tls = Some(TlsFiles::new(&tls.certificate, &tls.certificate));
    let error = Gateway::bind(config).await.unwrap_err();
    assert!(
        matches!(&error, Error::Tls { source: tunnel_bridge::Error::BadPem { path, .. } } if *path == tls.certificate),
        "{error}"
    );
    // Another one's key.
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&tls.key, other.signing_key.serialize_pem()).unwrap();
    let mut config = files.config().await;
    config.tls = Some(tls.clone());
    let error = Gateway::bind(config).await.unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Tls {
                source: tunnel_bridge::Error::Tls { .. }
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let certify = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (former, renewed) = (certify(), certify());
    let tls = TlsFiles::new(
        files.dir.path().join("cert.pem"),
        files.dir.path().join("key.pem"),
    );
    // What the client trusts: a file of its own for each.
    let trusted = |name: &str, pem: &str| {
        let path = files.dir.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let (trust_former, trust_renewed) = (
        trusted("former.pem", &former.cert.pem()),
        trusted("renewed.pem", &renewed.cert.pem()),
    );
    std::fs::write(&tls.certificate, former.cert.pem()).unwrap();
    std::fs::write(&tls.key, former.signing_key.serialize_pem()).unwrap();
    let mut config = files.config().await;
    config.tls = Some(tls.clone());
    let gateway = start(config).await;
    let log = Log::start();
    let mut options = gateway.options("laptop");
    options.url = format!("wss://localhost:{}", gateway.address.port())
        .parse()
        .unwrap();
    options.tls_ca = Some(trust_former);
    let client = Client::connect(&options).await.unwrap();
    let mut live = client.open("tcp/x/a/80").await.unwrap();
    options.session = "desktop".to_owned();

    // A certificate without its key changes nothing, and is told with both files.
    files.replace(&tls.certificate, &renewed.cert.pem());
    log.wait_for("the former one stays in use").await;
    let text = log.text();
    for named in [&tls.certificate, &tls.key] {
        assert!(text.contains(&named.display().to_string()), "{text}");
    }
    assert!(Client::connect(&options).await.is_ok());
    files.replace(&tls.key, &renewed.signing_key.serialize_pem());
    options.tls_ca = Some(trust_renewed);
    soon(async {
        while Client::connect(&options).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    // Whoever was in has noticed nothing.
    ping(&mut live, "still there").await;

    // A file that is no certificate any more.
    files.replace(&tls.certificate, "oops");
    log.wait_for("no usable certificate").await;
    assert!(Client::connect(&options).await.is_ok());
    gateway.stop().await;
}
