//! How a server that was killed and started again tells the clients of its predecessor that their connections are gone: by
//! stateless resets (RFC 9000 §10.3). A client believes one that carries a token which it got with its connection ID, so the
//! tokens, and the IDs that are worth an answer, are derived from what the server has again after a restart.

use std::sync::Arc;

use quinn::EndpointConfig;
use quinn_proto::HashedConnectionIdGenerator;
use ring::hmac::{HMAC_SHA256, Key, sign};

use crate::tls::Acceptor;

/// The settings of a server's endpoint. They last as long as the server's private key: a client of a server that came back
/// with another key hears nothing and waits until its link is idle for too long.
pub(super) fn endpoint_config(acceptor: &Acceptor) -> EndpointConfig {
    let secret = Key::new(HMAC_SHA256, acceptor.secret());
    let derived = |purpose: &str| sign(&secret, purpose.as_bytes());
    let ids = derived("connection IDs")
        .as_ref()
        .iter()
        .take(8)
        .fold(0, |key, byte| key << 8 | u64::from(*byte));
    let mut config = EndpointConfig::new(Arc::new(Key::new(
        HMAC_SHA256,
        derived("stateless resets").as_ref(),
    )));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config
}
