//! The near end: a listener whose connections are streams of a link, and another link when that is lost.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tunnel_bridge::listener::{Listener, ListenerOptions, bind};
use tunnel_bridge::{ByteStream, Dialer, Link, Refusal, RefusalKind, Target};

use crate::arguments::ClientOptions;
use crate::{Result, carriers, say};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

pub(crate) async fn run(options: ClientOptions) -> Result<()> {
    let listen = options.listen;
    let failed = |why: &dyn std::fmt::Display| format!("cannot listen on {listen}: {why}");
    let socket = bind(listen).map_err(|error| failed(&error))?;
    // The server knows where to go.
    let target = Target::new("tunnel").map_err(|error| error.to_string())?;
    // Whether the first connection works is a matter of the command line; later ones are repeated.
    let mut link = carriers::connect(&options.server, &options.carrier).await?;
    let (links, current) = watch::channel(link.clone());
    let dialer = Arc::new(Current(current));
    let listener = Listener::spawn(socket, target, dialer, ListenerOptions::default(), Arc::default())
        .map_err(|error| failed(&error))?;
    let kind = options.carrier.kind;
    say(&format!(
        "{} goes to {kind}://{}",
        listener.local_addr(),
        options.server
    ));
    loop {
        say(&format!("the link is gone: {}", link.closed().await));
        let mut wait = FIRST_WAIT;
        link = loop {
            tokio::time::sleep(wait).await;
            match carriers::connect(&options.server, &options.carrier).await {
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
