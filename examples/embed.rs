//! A session inside one's own program: a catalog file, an address for its service, one fetch by name.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it is a program")]

use std::io::Write as _;

use anyhow::Context as _;
use devbox_engine::{Config, ProviderConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let service = TcpListener::bind("127.0.0.1:0").await?;
    let port = format!("{{port: 8080, target: \"{}\"}}", service.local_addr()?);
    let mut catalog = tempfile::NamedTempFile::new()?;
    writeln!(catalog, "environment: dev\nservices:")?;
    writeln!(catalog, "  - {{name: web, namespace: shop, ports: [{port}]}}")?;

    let config = Config::new([ProviderConfig::direct("local", catalog.path())]);
    let engine = devbox_engine::start(config).await?;
    engine.ready().await?;
    let addresses = engine.registry().resolve("web.shop.svc");
    let address = *addresses.first().context("the name leads nowhere")?;

    let mut stream = TcpStream::connect((address, 8080)).await?;
    let (mut served, _) = service.accept().await?;
    served.write_all(b"hello from web").await?;
    drop(served);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    println!("web.shop.svc is {address} and says `{answer}`");

    engine.stop("the example is over").await;
    engine.wait().await?;
    Ok(())
}
