use async_trait::async_trait;
use catalog_kube::gateway::{SessionClaim, SharedSessions};

use crate::{Claim, Replicas};

impl Replicas for SharedSessions {
    fn elsewhere(&self, session: &str) -> Option<u64> {
        self.elsewhere(session)
    }

    fn claim(&self, session: &str, generation: u64) -> Box<dyn Claim> {
        Box::new(self.claim(session, generation))
    }
}

#[async_trait]
impl Claim for SessionClaim {
    async fn displaced(&self) {
        self.displaced().await;
    }

    fn renew(&self, generation: u64) {
        self.renew(generation);
    }
}
