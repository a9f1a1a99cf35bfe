use async_trait::async_trait;
use catalog_file::DialPolicy;
use devbox_gateway_client::TokenSource;

use crate::{Admission, Error, Offer, Rejection, TokenCheck, View};

/// Lets in whoever shows a token that is taken and brings a catalog of its own: each client sees and reaches what it has pushed
/// and nothing else.
///
/// The [`DialPolicy`] keeps this from being an open proxy: whatever a client pushes, only the policy's networks and
/// ports are dialed, and what a name resolves to is checked before it is.
///
/// ```
/// use catalog_file::DialPolicy;
/// use devbox_gateway::{GatewayConfig, PushAdmission, Token, TokenSource};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tokens = TokenSource::Fixed(Token::new("not-a-secret")?);
/// let mut policy = DialPolicy::loopback();
/// policy.networks.push("10.20.0.0/16".parse()?);
/// let admission = PushAdmission::open(tokens, policy).await?;
/// let config = GatewayConfig::new(admission, "127.0.0.1:0".parse()?);
/// # drop(config);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PushAdmission {
    token: TokenCheck,
    policy: DialPolicy,
}

impl PushAdmission {
    /// Reads the token or the tokens file, and begins to follow the file. [`DialPolicy::loopback`] is the policy to start from.
    ///
    /// # Errors
    /// As [`TokenCheck::open`].
    ///
    /// # Cancel safety
    /// Safe: dropped, nothing is left.
    pub async fn open(tokens: TokenSource, policy: DialPolicy) -> Result<Self, Error> {
        let token = TokenCheck::open(tokens).await?;
        Ok(Self { token, policy })
    }
}

#[async_trait]
impl Admission for PushAdmission {
    async fn admit(&self, offer: &Offer) -> Result<View, Rejection> {
        let grant = self.token.check(offer.token.as_ref())?;
        Ok(View::pushed_by_client(self.policy.clone()).granted_by(grant))
    }
}
