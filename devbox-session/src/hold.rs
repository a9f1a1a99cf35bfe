//! The dialer that listeners keep while links come and go.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tunnel_bridge::{ByteStream, Dialer, Refusal, RefusalKind, Target};

/// The link that is up, if one is.
pub(crate) type CurrentDialer = Option<Arc<dyn Dialer>>;

/// Dials over whichever link is up, and holds a connection for a while when none is: a reconnect takes less time
/// than a user needs to notice, and an error would reach the program at once.
pub(crate) struct HoldingDialer {
    current: watch::Receiver<CurrentDialer>,
    patience: Duration,
}

impl HoldingDialer {
    pub(crate) fn new(current: watch::Receiver<CurrentDialer>, patience: Duration) -> Self {
        Self { current, patience }
    }
}

#[async_trait::async_trait]
impl Dialer for HoldingDialer {
    async fn dial(&self, target: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        {
            let mut current = self.current.clone();
            let waiting = tokio::time::timeout(self.patience, current.wait_for(Option::is_some));
            let dialer = match waiting.await {
                Ok(Ok(dialer)) => dialer.clone(),
                Ok(Err(_)) | Err(_) => None,
            };
            match dialer {
                Some(dialer) => dialer.dial(target).await,
                None => Err(Refusal {
                    kind: RefusalKind::LinkLost,
                    message: format!("no link to the gateway for {} s", self.patience.as_secs()),
                }),
            }
        }
    }
}
