//! The demo's services, directly and through a gateway.

use std::net::SocketAddr;
use std::sync::Arc;

use catalog_file::LiveCatalog;
use devbox_gateway::{GatewayConfig, Token, TokenAdmission, TokenSource, demo_services as demo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::{TOKEN, ping, soon, start};

async fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn the_http_service_keeps_to_http() {
    let services = demo::start().await.unwrap();
    let page = demo::PAGE;
    let length = format!("\r\nContent-Length: {}\r\n", page.len());

    let answer = ask(
        services.web(),
        b"GET / HTTP/1.1\r\nHost: web.demo:8080\r\nAccept: */*\r\n\r\n",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains(&length),
        "{answer}"
    );
    assert_eq!(answer.split_once("\r\n\r\n").unwrap().1, page);

    let head = ask(services.web(), b"HEAD /?x=1 HTTP/1.1\r\nhost: web.demo\r\n\r\n").await;
    assert_eq!(head, answer.strip_suffix(page).unwrap());

    for (request, status) in [
        (
            &b"GET http://web.demo:8080/ HTTP/1.1\r\nHost: web.demo\r\n\r\n"[..],
            "200 ",
        ),
        (b"GET http://web.demo HTTP/1.1\r\nHost: web.demo\r\n\r\n", "200 "),
        (b"GET / HTTP/1.0\r\n\r\n", "200 "),
        (b"GET / HTTP/1.1\nHost: x\n\n", "200 "),
        (b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n", "404 "),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            "405 ",
        ),
        (b"GET / HTTP/1.1\r\n\r\n", "400 "),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", "400 "),
        (b"GET /\r\n\r\n", "400 "),
        (b"\x16\x03\x01\r\n\r\n", "400 "),
    ] {
        let answer = ask(services.web(), request).await;
        let text = String::from_utf8_lossy(request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{text}: {answer}"
        );
    }

    let long = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; 20_000], b"\r\n\r\n"].concat();
    assert!(ask(services.web(), &long).await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_request_in_pieces_is_answered() {
    let services = demo::start().await.unwrap();
    let mut stream = TcpStream::connect(services.web()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with(demo::PAGE), "{answer}");
}

#[tokio::test]
async fn the_echo_gives_back_each_line_and_the_rest() {
    let services = demo::start().await.unwrap();
    let mut stream = TcpStream::connect(services.echo()).await.unwrap();
    for line in ["one\n", "\n", "three\r\n"] {
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut answer = vec![0; line.len()];
        soon(stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer, line.as_bytes());
    }
    stream.write_all(b"no end").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    soon(stream.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "no end");
}

#[tokio::test]
async fn both_are_reached_through_a_gateway() {
    let services = demo::start().await.unwrap();
    let catalog = LiveCatalog::new(services.catalog(demo::WEB_PORT, demo::ECHO_PORT).unwrap());
    let tokens = TokenSource::Fixed(Token::new(TOKEN).unwrap());
    let admission = TokenAdmission::open(tokens, Arc::new(catalog)).await.unwrap();
    let config = GatewayConfig::new(admission, "127.0.0.1:0".parse().unwrap());
    let gateway = start(config).await;
    let client = gateway.client("demo").await;
    let mut updates = client.updates().await;
    updates.next().await;
    assert_eq!(updates.known.environment.as_str(), "demo");
    let echo = format!("tcp/demo/echo/{}", demo::ECHO_PORT);
    let web = format!("tcp/demo/web/{}", demo::WEB_PORT);
    let targets: Vec<_> = updates.known.targets().map(|target| target.to_string()).collect();
    assert_eq!(targets, [echo.as_str(), web.as_str()]);

    ping(&mut client.open(&echo).await.unwrap(), "a line\n").await;
    let mut page = client.open(&web).await.unwrap();
    page.write_all(b"GET / HTTP/1.1\r\nHost: web.demo:8080\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    soon(page.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with(demo::PAGE), "{answer}");

    // The services end with their owner.
    drop(services);
    drop(page);
    soon(async {
        while client.open(&echo).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gateway.stop().await;
}
