//! A gateway and a session in one process, as an app has them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use devbox_ffi::{DevboxError, Gateway, GatewaySettings, Session, parse_config};
use tempfile::NamedTempFile;

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(work)
}

const TOKEN: &str = "a-token-for-the-tests-0123456789";

fn settings(catalog: &NamedTempFile) -> GatewaySettings {
    GatewaySettings {
        catalog: catalog.path().display().to_string(),
        token_file: None,
        token: Some(TOKEN.to_owned()),
        listen: "127.0.0.1:0".to_owned(),
        quic: None,
        status: None,
        tls_cert: None,
        tls_key: None,
        tls_client_ca: None,
        insecure: false,
        successor: None,
    }
}

#[test]
fn a_session_goes_through_a_gateway_of_the_same_process() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = service.local_addr().unwrap();
    let mut catalog = NamedTempFile::new().unwrap();
    write!(
        catalog,
        "environment: dev\nservices:\n  - {{name: web, namespace: backend, ports: [{{port: 8080, target: \"{target}\"}}]}}\n"
    )
    .unwrap();
    let gateway = wait(Gateway::serve(settings(&catalog))).unwrap();
    let url = gateway.url();
    let yaml = format!(
        "providers: [{{kind: gateway, name: g, url: '{url}', token: {TOKEN}}}]\npool: 127.79.28.0/24\n"
    );
    let session = wait(Session::start(parse_config(&yaml).unwrap(), None)).unwrap();
    wait(session.ready(None)).unwrap();
    let address = session.resolve("web.backend").remove(0);
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = service.accept().unwrap();
        stream.write_all(b"hello from web").unwrap();
    });
    let mut answer = String::new();
    let mut stream = TcpStream::connect((address, 8080)).unwrap();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello from web");
    answering.join().unwrap();
    wait(session.stop("the test".to_owned())).unwrap();
    wait(session.wait(None)).unwrap();
    gateway.stop();
    wait(gateway.wait(None)).unwrap();
    assert!(TcpStream::connect(gateway.address()).is_err(), "it still listens");
}

#[test]
fn what_keeps_it_from_starting_has_a_variant() {
    let catalog = NamedTempFile::new().unwrap();
    std::fs::write(catalog.path(), "environment: dev\nservices: [nonsense]\n").unwrap();
    let error = wait(Gateway::serve(settings(&catalog))).unwrap_err();
    assert!(
        matches!(
            &error,
            DevboxError::Catalog {
                file: Some(_),
                line: Some(2),
                ..
            }
        ),
        "{error:?}"
    );
    std::fs::write(catalog.path(), "environment: dev\nservices: []\n").unwrap();
    let open = GatewaySettings {
        listen: "0.0.0.0:0".to_owned(),
        ..settings(&catalog)
    };
    let error = wait(Gateway::serve(open)).unwrap_err();
    assert!(matches!(error, DevboxError::InsecureListen { .. }), "{error:?}");
    let unreadable = GatewaySettings {
        token: None,
        token_file: Some("/nowhere/token".to_owned()),
        ..settings(&catalog)
    };
    let error = wait(Gateway::serve(unreadable)).unwrap_err();
    assert!(
        matches!(&error, DevboxError::Token { file: Some(file), .. } if file == "/nowhere/token"),
        "{error:?}"
    );
}
