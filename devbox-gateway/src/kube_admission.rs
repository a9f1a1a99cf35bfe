use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use catalog_kube::gateway::{
    BadScope, ExternalNames, Inside, NotAllowed, NotAuthenticated, Reviews, Scope, User,
};
use devbox_provider::with_causes;
use tracing::warn;

use crate::{Admission, Grant, Offer, Rejection, TokenCheck, View};

/// Lets in whom the Kubernetes cluster around the gateway knows, and gives each client the namespaces that they want, as far as they may
/// see them and connect to their pods themselves.
///
/// A client shows a token of the cluster for the gateway's own audience (TokenReview), or a static one: its bearer is the user
/// `devbox:NAME`, to whom roles are bound as to any other. What they may is asked for each namespace (SubjectAccessReview) as they connect,
/// and again twice a minute while they are connected.
pub struct KubeAdmission {
    reviews: Arc<Reviews>,
    tokens: Option<TokenCheck>,
    names: ExternalNames,
}

impl KubeAdmission {
    /// Asks `reviews`, and takes static tokens as well where there are `tokens`.
    #[must_use]
    pub fn new(reviews: Reviews, tokens: Option<TokenCheck>) -> Self {
        Self {
            reviews: Arc::new(reviews),
            tokens,
            names: ExternalNames::default(),
        }
    }

    /// Says whether what an `ExternalName` stands for is dialed. Default: it is not.
    #[must_use]
    pub fn external_names(self, names: ExternalNames) -> Self {
        Self { names, ..self }
    }

    /// Who shows this token, and what a static one is good for.
    async fn user(&self, offer: &Offer) -> Result<(User, Option<Grant>), Rejection> {
        let Some(token) = &offer.token else {
            return Err(Rejection::token(
                "a token is needed: `Authorization: Bearer TOKEN`",
            ));
        };
        if let Some(tokens) = &self.tokens
            && let Ok(grant) = tokens.check(Some(token))
        {
            return Ok((User::of_static_token(grant.name()), Some(grant)));
        }
        match self.reviews.authenticate(token).await {
            Ok(user) => Ok((user, None)),
            Err(NotAuthenticated::Refused { because }) => Err(Rejection::token(because)),
            Err(error) => Err(unanswered(&error)),
        }
    }
}

#[async_trait]
impl Admission for KubeAdmission {
    async fn admit(&self, offer: &Offer) -> Result<View, Rejection> {
        let (user, grant) = self.user(offer).await?;
        let Some(scope) = &offer.scope else {
            let message = "this gateway is one of a Kubernetes cluster: name the namespaces (devbox up -n NAMESPACE --via URL)";
            return Err(Rejection::forbidden(message));
        };
        let scope: Scope = scope
            .parse()
            .map_err(|error: BadScope| Rejection::forbidden(error.to_string()))?;
        let allowed = match self.reviews.check(&user, &scope.namespaces).await {
            Ok(allowed) => allowed,
            Err(NotAllowed::Forbidden(forbidden)) => {
                return Err(Rejection::forbidden(format!("{}: {forbidden}", user.name)));
            }
            Err(error) => return Err(unanswered(&error)),
        };
        let name = user.name.clone();
        let inside = Inside::new(Arc::clone(&self.reviews), user, scope, allowed).external_names(self.names);
        let view = View::of(Arc::new(inside)).for_user(name);
        Ok(match grant {
            Some(grant) => view.granted_by(grant),
            None => view,
        })
    }
}

fn unanswered(error: &dyn std::error::Error) -> Rejection {
    let reason = with_causes(error);
    warn!(
        reason,
        "a client is turned away: who it is, or what it may, is not known"
    );
    Rejection::unavailable(reason)
}

impl fmt::Debug for KubeAdmission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeAdmission")
            .field("reviews", &self.reviews)
            .field("tokens", &self.tokens)
            .field("names", &self.names)
            .finish()
    }
}
