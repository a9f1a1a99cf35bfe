//! The near end: a listener whose connections are streams of a link, and another link when that is lost; or, where each
//! connection has one of its own to the server, just the listener.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tunnel_bridge::listener::{Listener, ListenerOptions, bind};
use tunnel_bridge::resume::{self, Redial, RedialError};
use tunnel_bridge::{ByteStream, Carrier, Dialer, Link, Refusal, RefusalKind, Role, Target};

use crate::arguments::{ClientOptions, Kind};
use crate::{Result, carriers, say};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Refusals that wait to be told; more are not told.
const MAX_UNTOLD: usize = 16;

pub(crate) async fn run(options: ClientOptions) -> Result<()> {
    let listen = options.listen;
    let socket = bind(listen).map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    if options.carrier.kind == Kind::Mtls {
        let dialer = carriers::stream_dialer(&options.server, &options.carrier)?;
        let (_listener, mut refusals) = spawn(&options, socket, Arc::new(dialer))?;
        while let Some((_, refusal)) = refusals.recv().await {
            say(&refusal.to_string());
        }
        return Ok(());
    }
    // Whether the first connection works is a matter of the command line; later ones are repeated.
    let link = connect(&options).await?;
    let (links, current) = watch::channel(link.clone());
    let (_listener, mut refusals) = spawn(&options, socket, Arc::new(Current(current)))?;
    let telling = async {
        while let Some((_, refusal)) = refusals.recv().await {
            say(&refusal.to_string());
        }
    };
    tokio::select! {
        () = keep(&options, link, &links) => {}
        () = telling => {}
    }
    Ok(())
}

type Refusals = mpsc::Receiver<(SocketAddr, Refusal)>;

fn spawn(
    options: &ClientOptions,
    socket: TcpListener,
    dialer: Arc<dyn Dialer>,
) -> Result<(Listener, Refusals)> {
    // The server knows where to go.
    let target = Target::new("tunnel").map_err(|error| error.to_string())?;
    let (tell, refusals) = mpsc::channel(MAX_UNTOLD);
    let listening = ListenerOptions {
        refusals: Some(tell),
        ..ListenerOptions::default()
    };
    let listener = Listener::spawn(socket, target, dialer, listening, Arc::default())
        .map_err(|error| format!("cannot listen on {}: {error}", options.listen))?;
    say(&format!(
        "{} goes to {}://{}",
        listener.local_addr(),
        options.carrier.kind,
        options.server
    ));
    Ok((listener, refusals))
}

/// Makes another link whenever one is lost. It never resolves.
async fn keep(options: &ClientOptions, mut link: Link, links: &watch::Sender<Link>) {
    loop {
        say(&format!("the link is gone: {}", link.closed().await));
        let mut wait = FIRST_WAIT;
        link = loop {
            tokio::time::sleep(wait).await;
            match connect(options).await {
                Ok(link) => break link,
                Err(why) if wait == FIRST_WAIT => say(&why),
                // Said once.
                Err(_) => {}
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        };
        links.send_replace(link.clone());
        say("connected again");
    }
}

async fn connect(options: &ClientOptions) -> Result<Link> {
    if options.carrier.kind == Kind::Quic {
        return carriers::connect_quic(&options.server, &options.carrier).await;
    }
    let carrier = carriers::connect(&options.server, &options.carrier).await?;
    Ok(if options.carrier.resume {
        Link::resumable(carrier, Again(options.clone()), resume::Options::default())
    } else {
        Link::over(carrier, Role::Client)
    })
}

/// Connects to the same server.
struct Again(ClientOptions);

#[async_trait]
impl Redial for Again {
    async fn redial(&self) -> std::result::Result<Box<dyn Carrier>, RedialError> {
        carriers::connect(&self.0.server, &self.0.carrier)
            .await
            .map_err(RedialError::later)
    }
}

/// Dials over the link that there is.
struct Current(watch::Receiver<Link>);

#[async_trait]
impl Dialer for Current {
    async fn dial(&self, target: &Target) -> std::result::Result<Box<dyn ByteStream>, Refusal> {
        let mut links = self.0.clone();
        let link = links
            .wait_for(|link| !link.is_closed() && !link.is_leaving())
            .await
            .map(|link| link.clone())
            .map_err(|_| Refusal::new(RefusalKind::LinkLost, "the client has ended"))?;
        link.dial(target).await
    }
}
