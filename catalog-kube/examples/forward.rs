//! A port of a pod on a local address, as `kubectl port-forward` does it:
//! `cargo run --release -p catalog-kube --example forward -- NAMESPACE/POD:PORT [LOCAL-ADDRESS]`, with `$DEVBOX_KUBE` as the kubeconfig if
//! it is set. It prints the address, and ends with its standard input.

use std::error::Error;
use std::io::Write as _;
use std::num::NonZeroU16;
use std::sync::Arc;

use catalog_kube::forward::Forward;
use catalog_kube::{Cluster, ClusterOptions};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().ok_or("expected NAMESPACE/POD:PORT")?;
    let local = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let (namespace, rest) = place.split_once('/').ok_or("expected NAMESPACE/POD:PORT")?;
    let (pod, port) = rest.split_once(':').ok_or("expected NAMESPACE/POD:PORT")?;
    let port: NonZeroU16 = port.parse()?;

    let options = ClusterOptions {
        kubeconfig: std::env::var_os("DEVBOX_KUBE").map(Into::into),
        context: None,
    };
    let forward = Arc::new(Forward::new(Cluster::open(&options).await?));
    let listener = TcpListener::bind(local).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;

    let mut connections = JoinSet::new();
    let mut input = tokio::io::stdin();
    let mut ignored = [0; 64];
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let carried = carry(accepted?.0, Arc::clone(&forward), namespace.to_owned(), pod.to_owned(), port);
                connections.spawn(carried);
            }
            Some(ended) = connections.join_next() => ended?,
            read = input.read(&mut ignored) => if read? == 0 { return Ok(()) },
        }
    }
}

async fn carry(local: TcpStream, forward: Arc<Forward>, namespace: String, pod: String, port: NonZeroU16) {
    let mut told = std::io::stderr();
    let line = match forward.open_pod(&namespace, &pod, port).await {
        Ok(stream) => {
            drop(local.set_nodelay(true));
            let report = tunnel_bridge::splice(local, stream).await;
            format!("{} up, {} down: {}", report.sent, report.received, report.end)
        }
        Err(refusal) => refusal.to_string(),
    };
    // Whoever closes the standard error does not want to read it.
    drop(writeln!(told, "{line}"));
}
