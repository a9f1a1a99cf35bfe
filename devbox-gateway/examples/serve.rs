//! A gateway with two demo services behind it, on a port of the system's choice, until Ctrl-C.
//! `cargo run -p devbox-gateway --example serve`

use std::sync::Arc;

use catalog_file::LiveCatalog;
use devbox_gateway::{Gateway, GatewayConfig, Token, TokenAdmission, TokenSource, demo_services as demo};
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example shows something")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("debug")
        .with_writer(std::io::stderr)
        .init();

    let services = demo::start().await?;
    let catalog = LiveCatalog::new(services.catalog(demo::WEB_PORT, demo::ECHO_PORT)?);
    let token = TokenSource::Fixed(Token::new("example-token")?);
    let admission = TokenAdmission::open(token, Arc::new(catalog)).await?;
    let gateway = Gateway::bind(GatewayConfig::new(admission, "127.0.0.1:0".parse()?)).await?;
    println!(
        "ws://{} serves web.demo:{} and echo.demo:{}, token `example-token`",
        gateway.local_addr(),
        demo::WEB_PORT,
        demo::ECHO_PORT
    );

    let cancel = CancellationToken::new();
    let stop = async {
        let interrupted = tokio::signal::ctrl_c().await;
        cancel.cancel();
        interrupted
    };
    let (ended, interrupted) = tokio::join!(gateway.run(cancel.clone()), stop);
    ended?;
    Ok(interrupted?)
}
