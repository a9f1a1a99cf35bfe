//! What tests of sessions ask a service.

use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What the service answers to `hello`.
pub(crate) async fn ask(address: IpAddr, port: u16) -> String {
    let mut stream = TcpStream::connect((address, port)).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
