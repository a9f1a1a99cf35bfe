//! What a gateway says of itself to probes and to Prometheus.

use devbox_gateway::Gateway;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::support::{Client, Files, Options, TOKEN, echo, file, ping, soon};

async fn ask(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn it_is_ready_until_it_leaves_and_counts_its_clients() {
    let echo = echo().await;
    let files = Files::new(&file(&[("a.x", 80, echo.address)]));
    let mut config = files.config().await;
    config.status = Some("127.0.0.1:0".parse().unwrap());
    let gateway = Gateway::bind(config).await.unwrap();
    let status = gateway.status_addr().unwrap();
    let options = Options {
        url: format!("ws://{}", gateway.local_addr()).parse().unwrap(),
        token: TOKEN.to_owned(),
        session: "laptop".to_owned(),
        generation: 0,
        environment: None,
        tls_ca: None,
    };
    let cancel = CancellationToken::new();
    let serving = tokio::spawn(gateway.run(cancel.clone()));

    for path in ["/healthz", "/readyz"] {
        let answer = ask(status, path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    assert!(ask(status, "/secret").await.starts_with("HTTP/1.1 404 "));
    let client = Client::connect(&options).await.unwrap();
    let mut stream = client.open("tcp/x/a/80").await.unwrap();
    ping(&mut stream, "counted").await;
    let answer = ask(status, "/metrics").await;
    for line in [
        "devbox_gateway_clients 1",
        "devbox_gateway_streams 1",
        "devbox_gateway_sessions_total 1",
    ] {
        assert!(answer.contains(line), "{line}: {answer}");
    }

    // It lives on while the stream does, and takes nobody any more.
    cancel.cancel();
    soon(client.link.watch_leaving().wait_for(Option::is_some))
        .await
        .unwrap();
    assert!(ask(status, "/readyz").await.starts_with("HTTP/1.1 503 "));
    assert!(ask(status, "/healthz").await.starts_with("HTTP/1.1 200 "));
    drop(stream);
    soon(serving).await.unwrap().unwrap();
}
