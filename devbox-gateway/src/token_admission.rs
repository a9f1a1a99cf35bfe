use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use catalog_file::follow::{Follower, Reading};
use devbox_gateway_client::{Token, TokenSource};
use devbox_provider::{Provider, with_causes};
use service_catalog::Label;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::tokens::{MAX_TOKENS_FILE_BYTES, Taken, Tokens};
use crate::{Admission, Error, Offer, Rejection, View};

/// How often a token file is read.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Lets in whoever shows a token that is taken, and gives everybody the same provider.
pub struct TokenAdmission {
    token: TokenCheck,
    provider: Arc<dyn Provider>,
}

impl TokenAdmission {
    /// Reads the token or the tokens file, and begins to follow the file.
    ///
    /// # Errors
    /// As [`TokenCheck::open`].
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
        let grant = self.token.check(offer.token.as_ref())?;
        Ok(View::of(Arc::clone(&self.provider)).granted_by(grant))
    }
}

/// `None` while there is no file that could be used.
type InForce = Option<Arc<Tokens>>;

/// The tokens that clients may show: one, or those of a file.
///
/// A file holds one token and nothing else, or a list in YAML:
///
/// ```yaml
/// revoke: true                # optional: end sessions whose token is no longer here
/// tokens:
///   - name: alice             # for the log
///     token: zYfO3Qd1m7...
///   - name: ci
///     sha256: 9b74c9897b...   # of the token, in place of it: printf %s "$TOKEN" | sha256sum
///     environments: [staging] # optional: the only ones that it is good for
/// ```
///
/// It is followed: a change holds for new connections, and while the file is missing or has a mistake, nobody is let
/// in. Connections that are up stay, unless the file says `revoke: true`: then those end whose token is not in it, or
/// not for their environment.
///
/// A part for an [`Admission`] of one's own.
#[derive(Debug)]
pub struct TokenCheck {
    tokens: watch::Receiver<InForce>,
    _following: JoinSet<()>,
}

impl TokenCheck {
    /// Reads the token or the tokens file, and begins to follow the file. That ends when this is dropped.
    ///
    /// # Errors
    /// [`Error::Token`], and [`Error::TokensFile`] for a mistake in a list.
    ///
    /// # Cancel safety
    /// Safe: dropped, nothing is left.
    pub async fn open(tokens: TokenSource) -> Result<Self, Error> {
        let mut following = JoinSet::new();
        let tokens = match tokens {
            TokenSource::Fixed(token) => watch::channel(Some(Arc::new(Tokens::one(&token)))).1,
            TokenSource::Issued(_) => return Err(Error::IssuedToken),
            TokenSource::File(path) => {
                let first = Reading::now(&path, MAX_TOKENS_FILE_BYTES).await;
                let (sender, tokens) = watch::channel(Some(Arc::new(Tokens::read(&first, &path)?)));
                // A pipe gives what it holds once: there is nothing to follow.
                if path.metadata().is_ok_and(|metadata| metadata.is_file()) {
                    following.spawn(follow(path, first, sender));
                }
                tokens
            }
        };
        Ok(Self {
            tokens,
            _following: following,
        })
    }

    /// Whether the token that a client shows is taken, and what it is good for.
    ///
    /// # Errors
    /// [`Rejection::token`], and [`Rejection::unavailable`] while there are no tokens.
    pub fn check(&self, shown: Option<&Token>) -> Result<Grant, Rejection> {
        let Some(tokens) = self.tokens.borrow().clone() else {
            let message = "the gateway has no token at present; its log says why";
            return Err(Rejection::unavailable(message));
        };
        let Some(shown) = shown else {
            let message = "a token is needed: `Authorization: Bearer TOKEN`";
            return Err(Rejection::token(message));
        };
        let Some(taken) = tokens.find(shown) else {
            return Err(Rejection::token("this token is not the gateway's"));
        };
        Ok(Grant {
            taken: Arc::clone(taken),
            tokens: self.tokens.clone(),
        })
    }
}

/// What a token that was shown is good for, until it is revoked.
#[derive(Clone)]
pub struct Grant {
    taken: Arc<Taken>,
    tokens: watch::Receiver<InForce>,
}

impl Grant {
    /// The token's name, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.taken.name.as_ref().map(Label::as_str)
    }

    /// Checks that the token is good for an environment; `None` is one that is not known.
    ///
    /// # Errors
    /// [`Rejection::unknown_environment`].
    pub fn check_environment(&self, environment: Option<&Label>) -> Result<(), Rejection> {
        if self.taken.is_good_for(environment) {
            return Ok(());
        }
        let name = self.name().unwrap_or_default();
        Err(Rejection::unknown_environment(match environment {
            Some(environment) => format!("the token `{name}` is not for the environment `{environment}`"),
            None => format!("the token `{name}` is for certain environments: ask for one of them"),
        }))
    }

    /// Resolves when the tokens file says `revoke: true` and does not have the token any more, or not for the
    /// environment; where that is not known (`None`), not for all of them. A file that is missing or has a mistake revokes nothing.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn revoked(&self, environment: Option<&Label>) {
        let good = |taken: &Arc<Taken>| taken.is_good_for(environment);
        let mut tokens = self.tokens.clone();
        let revoked = tokens.wait_for(|tokens| {
            let revoking = tokens.as_ref().filter(|tokens| tokens.revoke);
            revoking.is_some_and(|tokens| !tokens.find_digest(&self.taken.digest).is_some_and(good))
        });
        if revoked.await.is_err() {
            // Nobody follows the file any more.
            std::future::pending::<()>().await;
        }
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant")
            .field("name", &self.taken.name)
            .finish_non_exhaustive()
    }
}

async fn follow(path: PathBuf, first: Reading, sender: watch::Sender<InForce>) {
    let mut follower = Follower::new(path.clone(), MAX_TOKENS_FILE_BYTES, first, POLL_INTERVAL);
    while let Some(reading) = follower.next_change().await {
        sender.send_replace(read_again(&reading, &path));
    }
}

fn read_again(reading: &Reading, path: &Path) -> InForce {
    match Tokens::read(reading, path) {
        Ok(tokens) => {
            tracing::info!(file = %path.display(), "token file read again");
            Some(Arc::new(tokens))
        }
        Err(error) => {
            let reason = with_causes(&error);
            tracing::warn!(file = %path.display(), reason, "token file not usable, nobody is let in");
            None
        }
    }
}
