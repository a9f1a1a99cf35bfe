use async_trait::async_trait;
use service_catalog::{Source, SourceError, Update, wire};
use tokio::io::AsyncReadExt as _;
use tunnel_bridge::{GoAwayReason, Leaving, Link, LinkEnd, MuxStream, ResetReason, is_link_lost, reset_of};

use crate::push::Pushing;

/// Bytes read from the catalog stream at a time.
const READ_BYTES: usize = 16 * 1024;

/// The catalog as it arrives on a stream of the link.
pub(crate) struct GatewaySource {
    stream: MuxStream,
    decoder: wire::Decoder,
    link: Link,
    /// Read while connecting and not yet given out.
    first: Option<Update>,
    /// Hears where the gateway sends its clients as it leaves.
    successor: Box<dyn Fn(&str) + Send + Sync>,
    /// Keeps the client's own catalog up to date at the gateway for as long as this source lives.
    _pushing: Option<Pushing>,
}

impl GatewaySource {
    pub(crate) fn new(
        stream: MuxStream,
        link: Link,
        pushing: Option<Pushing>,
        successor: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        Self {
            stream,
            decoder: wire::Decoder::new(),
            link,
            first: None,
            successor: Box::new(successor),
            _pushing: pushing,
        }
    }

    /// Gives `update` out before anything else.
    pub(crate) fn put_back(&mut self, update: Update) {
        self.first = Some(update);
    }
}

#[async_trait]
impl Source for GatewaySource {
    async fn next(&mut self) -> Result<Update, SourceError> {
        if let Some(update) = self.first.take() {
            return Ok(update);
        }
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if let Some(update) = self.decoder.poll_update()? {
                return Ok(update);
            }
            tokio::select! {
                // Its streams may break at the same time, and the word says why.
                biased;
                // At once: a gateway that stops drains before it closes the link, and new connections want another one.
                Some(word) = self.link.leaving() => return Err(left(word, &self.successor)),
                read = self.stream.read(&mut buffer) => match read {
                    Ok(0) => return Err(SourceError::Ended),
                    Ok(count) => self.decoder.handle_bytes(buffer.get(..count).unwrap_or_default()),
                    Err(error) => return Err(why_it_ended(&self.link, error, &self.successor).await),
                },
            }
        }
    }
}

/// What a gateway's GOAWAY means for the session. `hear` learns of its successor.
fn left(word: Leaving, hear: impl Fn(&str)) -> SourceError {
    let Leaving {
        reason,
        message,
        successor,
        ..
    } = word;
    if let (GoAwayReason::Leaving, Some(successor)) = (reason, &successor) {
        hear(successor);
    }
    match reason {
        GoAwayReason::Superseded => SourceError::Superseded { message },
        GoAwayReason::Leaving => SourceError::Leaving { message },
        // It found a fault: its link is of no more use, and a new one may be.
        _ => SourceError::lost(LinkEnd::Protocol { message }),
    }
}

/// The link knows better than one of its streams why the stream broke, but may say so a moment later. `hear` learns of a successor.
pub(crate) async fn why_it_ended(link: &Link, error: std::io::Error, hear: impl Fn(&str)) -> SourceError {
    // A gateway that leaves resets its streams as it does.
    let with_the_link = is_link_lost(&error) || reset_of(&error) == Some(ResetReason::Leaving);
    if !with_the_link {
        return SourceError::lost(error);
    }
    match link.leaving().await {
        Some(word) => left(word, hear),
        None => match link.closed().await {
            // It was told so as it asked to go on.
            LinkEnd::Superseded { message } => SourceError::Superseded { message },
            end => SourceError::lost(end),
        },
    }
}
