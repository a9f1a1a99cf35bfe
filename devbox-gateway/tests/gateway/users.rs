//! Sessions of different users, and what a client says of what it wants.

use std::sync::Arc;

use async_trait::async_trait;
use catalog_file::{LiveCatalog, StaticCatalog};
use devbox_gateway::{Admission, GatewayConfig, Offer, Rejection, View};
use tunnel_bridge::LinkEnd;

use super::support::{Client, soon, start};

/// Takes every token for its bearer's name.
struct ByName(LiveCatalog);

#[async_trait]
impl Admission for ByName {
    async fn admit(&self, offer: &Offer) -> Result<View, Rejection> {
        let token = offer.token.as_ref().ok_or_else(|| Rejection::token("no token"))?;
        Ok(View::of(Arc::new(self.0.clone())).for_user(token.expose()))
    }
}

#[tokio::test]
async fn sessions_of_one_name_and_different_users_do_not_meet() {
    let catalog = LiveCatalog::new(StaticCatalog::new("dev".parse().unwrap()));
    let config = GatewayConfig::new(ByName(catalog), "127.0.0.1:0".parse().unwrap());
    let gateway = start(config).await;
    let of = |user: &str, generation| {
        let mut options = gateway.options("laptop");
        options.token = user.to_owned();
        options.generation = generation;
        options
    };
    let ada = Client::connect(&of("ada", 1)).await.unwrap();
    let bob = Client::connect(&of("bob", 2)).await.unwrap();
    let again = Client::connect(&of("ada", 3)).await.unwrap();
    let end = soon(ada.link.closed()).await;
    assert!(matches!(end, LinkEnd::Superseded { .. }), "{end:?}");
    // An older one than hers, and newer than his own.
    let newer = Client::connect(&of("bob", 2)).await.unwrap();
    let end = soon(bob.link.closed()).await;
    assert!(matches!(end, LinkEnd::Superseded { .. }), "{end:?}");
    drop((again, newer));
    gateway.stop().await;
}
