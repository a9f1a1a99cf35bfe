//! Another connection under a link that lost the one it had.

use async_trait::async_trait;
use devbox_provider::{ConnectError, Wanted};
use tunnel_bridge::resume::{Redial, RedialError};
use tunnel_bridge::{Carrier, LinkEnd, ws};

use crate::GatewayProvider;
use crate::handshake::RESUME;

/// Asks as the link itself was asked for, at the same address and with the same generation: it is the same connection of the
/// session that goes on. The token is read anew.
pub(crate) struct Again {
    pub(crate) provider: GatewayProvider,
    pub(crate) wanted: Wanted,
}

#[async_trait]
impl Redial for Again {
    async fn redial(&self) -> Result<Box<dyn Carrier>, RedialError> {
        // A token file that is being replaced is there again in a moment.
        let options = self.provider.options(&self.wanted).await;
        let mut options = options.map_err(RedialError::later)?.header(RESUME, "1");
        // What the session shows is what its own connects wait for.
        options.progress = None;
        let connected = ws::establish(&options).await;
        let connected = connected.map_err(|error| verdict(self.provider.not_connected(error)))?;
        self.provider.show(&connected);
        Ok(connected.carrier)
    }
}

/// Only a gateway's own word is final. What a captive portal answers, and whose certificate it shows, goes away with the portal.
fn verdict(error: ConnectError) -> RedialError {
    match error {
        ConnectError::Superseded { message, .. } => RedialError::Final {
            end: LinkEnd::Superseded { message },
        },
        ConnectError::CredentialRefused { .. } | ConnectError::UnknownEnvironment { .. } => {
            let message = error.to_string();
            RedialError::Final {
                end: LinkEnd::NotResumed { message },
            }
        }
        error => RedialError::later(error),
    }
}
