//! The far end: links are accepted, and each stream is joined to the target.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tunnel_bridge::listener::bind;
use tunnel_bridge::{Incoming, direct, splice};

use crate::arguments::ServerOptions;
use crate::carriers::Server;
use crate::{Result, say};

pub(crate) async fn run(options: ServerOptions) -> Result<()> {
    let listen = options.listen;
    let failed = |error| format!("cannot listen on {listen}: {error}");
    let socket = bind(listen).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let socket = TcpListener::from_std(socket).map_err(failed)?;
    let server = Arc::new(Server::new(&options.carrier)?);
    let to: Arc<str> = options.to.into();
    say(&format!(
        "{} on {} goes to {to}",
        options.carrier.kind,
        socket.local_addr().map_err(failed)?
    ));
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = clients.join_next() => {}
            accepted = socket.accept() => {
                let (stream, peer) = accepted.map_err(|error| format!("cannot accept: {error}"))?;
                clients.spawn(serve(Arc::clone(&server), stream, peer, Arc::clone(&to)));
            }
        }
    }
}

async fn serve(server: Arc<Server>, stream: TcpStream, peer: SocketAddr, to: Arc<str>) {
    let link = match server.accept(stream).await {
        Ok(link) => link,
        Err(why) => return say(&format!("no link with {peer}: {why}")),
    };
    say(&format!("{peer} is here"));
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            incoming = link.accept() => match incoming {
                Some(incoming) => {
                    streams.spawn(join(incoming, Arc::clone(&to)));
                }
                None => break,
            },
            Some(_) = streams.join_next() => {}
        }
    }
    say(&format!("{peer} is gone: {}", link.closed().await));
}

async fn join(incoming: Incoming, to: Arc<str>) {
    let dialled = tokio::select! {
        biased;
        dialled = direct::connect(&*to, direct::DIAL_TIMEOUT) => dialled,
        () = incoming.abandoned() => return,
    };
    match dialled {
        // How it ended, the two sides have been told.
        Ok(stream) => drop(splice(stream, Box::new(incoming.accept())).await),
        Err(refusal) => incoming.refuse(refusal),
    }
}
