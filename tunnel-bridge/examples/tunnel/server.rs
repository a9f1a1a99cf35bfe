//! The far end: links are accepted, and each stream is joined to the target.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tunnel_bridge::listener::bind;
use tunnel_bridge::resume::Received;
use tunnel_bridge::{Incoming, Link, Role, direct, splice};

use crate::arguments::{Kind, ServerOptions};
use crate::carriers::{Server, accept_quic};
use crate::{Result, say};

pub(crate) async fn run(options: ServerOptions) -> Result<()> {
    let server = Server::new(&options.carrier)?;
    let to: Arc<str> = options.to.into();
    let kind = options.carrier.kind;
    match kind {
        Kind::Quic => run_quic(&server, options.listen, to).await,
        _ => run_tcp(Arc::new(server), kind, options.listen, to).await,
    }
}

async fn run_tcp(server: Arc<Server>, kind: Kind, listen: SocketAddr, to: Arc<str>) -> Result<()> {
    let failed = |error| format!("cannot listen on {listen}: {error}");
    let socket = bind(listen).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let socket = TcpListener::from_std(socket).map_err(failed)?;
    say(&format!(
        "{kind} on {} goes to {to}",
        socket.local_addr().map_err(failed)?
    ));
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = clients.join_next() => {}
            accepted = socket.accept() => {
                let (stream, peer) = accepted.map_err(|error| format!("cannot accept: {error}"))?;
                let (server, to) = (Arc::clone(&server), Arc::clone(&to));
                match kind {
                    Kind::Mtls => clients.spawn(serve_stream(server, stream, peer, to)),
                    _ => clients.spawn(serve_tcp(server, stream, peer, to)),
                };
            }
        }
    }
}

async fn run_quic(server: &Server, listen: SocketAddr, to: Arc<str>) -> Result<()> {
    let listener = server.listen(listen)?;
    say(&format!("quic on {} goes to {to}", listener.local_addr()));
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = clients.join_next() => {}
            arrival = listener.accept() => {
                let arrival = arrival.ok_or("the socket has failed")?;
                let (peer, to) = (arrival.peer(), Arc::clone(&to));
                clients.spawn(async move {
                    match accept_quic(arrival).await {
                        Ok(link) => serve(link, peer, to).await,
                        Err(why) => say(&format!("no link with {peer}: {why}")),
                    }
                });
            }
        }
    }
}

async fn serve_tcp(server: Arc<Server>, stream: TcpStream, peer: SocketAddr, to: Arc<str>) {
    match link(&server, stream).await {
        Ok(Some(link)) => serve(link, peer, to).await,
        Ok(None) => say(&format!("{peer} goes on with a link")),
        Err(why) => say(&format!("no link with {peer}: {why}")),
    }
}

/// The link that a connection begins; `None` where it takes one up again.
async fn link(server: &Server, stream: TcpStream) -> Result<Option<Link>> {
    let carrier = server.accept(stream).await?;
    let Some(desk) = &server.desk else {
        return Ok(Some(Link::over(carrier, Role::Server)));
    };
    // Everybody is let in, and only who has a link's token takes it up again.
    match desk.receive(carrier, "anybody").await {
        Ok(Received::New(link)) => Ok(Some(link)),
        Ok(Received::Resumed(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

async fn serve(link: Link, peer: SocketAddr, to: Arc<str>) {
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
        // Boxed: what dialing needs should not be held by the connection that comes of it.
        dialled = Box::pin(direct::connect(&*to, direct::DIAL_TIMEOUT)) => dialled,
        () = incoming.abandoned() => return,
    };
    match dialled {
        // How it ended, the two sides have been told.
        Ok(stream) => drop(splice(stream, Box::new(incoming.accept())).await),
        Err(refusal) => incoming.refuse(refusal),
    }
}

/// Joins the one stream of a connection to the target.
async fn serve_stream(server: Arc<Server>, stream: TcpStream, peer: SocketAddr, to: Arc<str>) {
    let incoming = match server.accept_stream(stream).await {
        Ok(incoming) => incoming,
        Err(why) => return say(&format!("no stream of {peer}: {why}")),
    };
    let failed = match direct::connect(&*to, direct::DIAL_TIMEOUT).await {
        Ok(stream) => match incoming.accept().await {
            Ok(far) => return drop(splice(stream, far).await),
            Err(error) => Err(error),
        },
        Err(refusal) => incoming.refuse(&refusal).await,
    };
    if let Err(error) = failed {
        say(&format!("lost {peer}: {error}"));
    }
}
