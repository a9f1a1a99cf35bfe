//! A provider of the seam crate, as the session takes one.

use std::sync::Arc;

use devbox_provider::{ConnectError, Wanted};
use devbox_session::{ConnectFailure, FarSide};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use service_catalog::Label;

/// Any provider, for a session.
pub(crate) fn boxed(
    provider: impl devbox_provider::Provider,
    environment: Option<Label>,
) -> Box<dyn devbox_session::Provider> {
    Box::new(Adapted(Arc::new(provider), environment))
}

struct Adapted(Arc<dyn devbox_provider::Provider>, Option<Label>);

impl devbox_session::Provider for Adapted {
    fn connect(&mut self, generation: u64) -> BoxFuture<'static, Result<FarSide, ConnectFailure>> {
        let provider = Arc::clone(&self.0);
        let wanted = Wanted {
            generation,
            environment: self.1.clone(),
        };
        async move {
            let connection = provider.connect(wanted).await.map_err(failure)?;
            let dialer = Arc::clone(&connection.dialer);
            // The session takes the parts; the goodbye is the gateway's, which notices a closed socket as well.
            Ok(FarSide {
                source: connection.source,
                dialer,
                close: Box::new(|| async {}.boxed()),
            })
        }
        .boxed()
    }
}

fn failure(error: ConnectError) -> ConnectFailure {
    match error {
        ConnectError::Unreachable { far_side, reason } => ConnectFailure::Unreachable {
            gateway: far_side,
            reason,
        },
        ConnectError::TimedOut { far_side, after } => ConnectFailure::TimedOut {
            gateway: far_side,
            after,
        },
        ConnectError::CredentialRefused {
            far_side,
            file,
            message,
        } => ConnectFailure::TokenRefused {
            gateway: far_side,
            file,
            message,
        },
        ConnectError::Certificate { far_side, message } => ConnectFailure::Certificate {
            gateway: far_side,
            message,
        },
        ConnectError::UnknownEnvironment { far_side, message } => ConnectFailure::UnknownEnvironment {
            gateway: far_side,
            message,
        },
        ConnectError::NotAGateway { far_side, message } => ConnectFailure::NotAGateway {
            gateway: far_side,
            message,
        },
        ConnectError::Setup { message } => ConnectFailure::Setup { message },
        ConnectError::Unavailable { far_side, message } => ConnectFailure::Unreachable {
            gateway: far_side,
            reason: message,
        },
        error => ConnectFailure::Setup {
            message: error.to_string(),
        },
    }
}
