use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use catalog_file::follow::{Follower, Reading};
use devbox_gateway_client::{MAX_TOKEN_BYTES, Token, TokenSource};
use devbox_provider::Provider;
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{Admission, Error, Offer, Rejection, View};

/// How often a token file is read.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A token, and white space around it.
const MAX_TOKEN_FILE_BYTES: usize = 2 * MAX_TOKEN_BYTES;

/// Lets in whoever shows the token, and gives everybody the same provider.
pub struct TokenAdmission {
    token: TokenCheck,
    provider: Arc<dyn Provider>,
}

impl TokenAdmission {
    /// Reads the token, and begins to follow its file.
    ///
    /// # Errors
    /// [`Error::Token`].
    ///
    /// # Cancel safety
    /// Safe: dropped, nothing is left.
    pub async fn open(tokens: TokenSource, provider: Arc<dyn Provider>) -> Result<Self, Error> {
        let token = TokenCheck::open(tokens).await?;
        Ok(Self { token, provider })
    }
}

#[async_trait]
impl Admission for TokenAdmission {
    async fn admit(&self, offer: &Offer) -> Result<View, Rejection> {
        self.token.check(offer.token.as_ref())?;
        Ok(View::of(Arc::clone(&self.provider)))
    }
}

/// The token that clients must show. A token file is followed: a new token holds for new connections, and while the
/// file is missing or holds no token, nobody is let in. Connections that are up stay.
///
/// A part for an [`Admission`] of one's own.
#[derive(Debug)]
pub struct TokenCheck {
    token: watch::Receiver<Option<Token>>,
    _following: JoinSet<()>,
}

impl TokenCheck {
    /// Reads the token, and begins to follow its file. That ends when this is dropped.
    ///
    /// # Errors
    /// [`Error::Token`].
    ///
    /// # Cancel safety
    /// Safe: dropped, nothing is left.
    pub async fn open(tokens: TokenSource) -> Result<Self, Error> {
        let mut following = JoinSet::new();
        let token = match tokens {
            TokenSource::Fixed(token) => watch::channel(Some(token)).1,
            TokenSource::File(path) => {
                let first = Reading::now(&path, MAX_TOKEN_FILE_BYTES).await;
                let (sender, token) = watch::channel(Some(Token::read(&path)?));
                if path.metadata().is_ok_and(|metadata| metadata.is_file()) {
                    let follower = Follower::new(path.clone(), MAX_TOKEN_FILE_BYTES, first, POLL_INTERVAL);
                    following.spawn(async move { follow(follower, &path, &sender).await });
                }
                token
            }
        };
        Ok(Self {
            token,
            _following: following,
        })
    }

    /// Whether `shown` is the token.
    ///
    /// # Errors
    /// [`Rejection::token`], and [`Rejection::unavailable`] while there is no token.
    pub fn check(&self, shown: Option<&Token>) -> Result<(), Rejection> {
        let token = self.token.borrow();
        let Some(expected) = token.as_ref() else {
            let message = "the gateway has no token at present; its log says why";
            return Err(Rejection::unavailable(message));
        };
        let Some(shown) = shown else {
            let message = "a token is needed: `Authorization: Bearer TOKEN`";
            return Err(Rejection::token(message));
        };
        // In constant time for tokens of one length; the length itself is not kept secret.
        let same: bool = shown
            .expose()
            .as_bytes()
            .ct_eq(expected.expose().as_bytes())
            .into();
        if same {
            Ok(())
        } else {
            Err(Rejection::token("this token is not the gateway's"))
        }
    }
}

async fn follow(mut follower: Follower, path: &std::path::Path, sender: &watch::Sender<Option<Token>>) {
    while let Some(reading) = follower.next_change().await {
        let token = match &reading {
            Reading::Content(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Token::new(text.trim()).map_err(|error| error.to_string()),
                Err(_) => Err("not a token: it has characters other than visible ASCII".to_owned()),
            },
            Reading::TooLarge => Err("not a token: it is too long".to_owned()),
            Reading::Failed { message, .. } => Err(message.clone()),
        };
        match &token {
            Ok(_) => tracing::info!(file = %path.display(), "token file read again"),
            Err(fault) => {
                tracing::warn!(file = %path.display(), %fault, "token file not usable, nobody is let in");
            }
        }
        sender.send_replace(token.ok());
    }
}
