use std::fmt;

use async_trait::async_trait;

/// What gateways with the same clients tell each other of their sessions, so that a session's newer connection to one of them ends its
/// older one to another.
pub trait Replicas: fmt::Debug + Send + Sync + 'static {
    /// The generation of a session's connection to another of them, as far as is known. An older one is not let in here.
    fn elsewhere(&self, session: &str) -> Option<u64>;

    /// This gateway has the session, with a connection of this generation, until what is returned is dropped. Called under a lock: it must
    /// neither wait nor call back.
    fn claim(&self, session: &str, generation: u64) -> Box<dyn Claim>;
}

/// A session that this gateway has.
#[async_trait]
pub trait Claim: fmt::Debug + Send + Sync {
    /// Resolves when another gateway has the session with a newer connection.
    ///
    /// # Cancel safety
    /// Must be safe: it is asked for again.
    async fn displaced(&self);

    /// The session's link goes on over a connection of this generation. It must neither wait nor call back.
    fn renew(&self, generation: u64);
}
