//! The words of the handshake, for both sides: `docs/protocol.md`, sections 1 and 8.

/// What stands in a tunnel's path before the session's name. What stands before this is where the gateway is mounted.
pub const TUNNEL_PATH: &str = "/kube/devbox/tunnel/client/";

/// The WebSocket subprotocol of the tunnel, with its version.
pub const SUBPROTOCOL: &str = "devbox-tunnel.1";

/// The request's header with the token, where something on the way to the gateway wants `Authorization` for itself. A gateway looks here
/// first.
pub const TOKEN: &str = "Devbox-Token";

/// The request's header with the environment that is wanted.
pub const ENVIRONMENT: &str = "Devbox-Environment";

/// The request's header with what the client wants of what the gateway has, in the words of the gateway's kind: for one in a Kubernetes
/// cluster the namespaces. Without it the client takes all that it is given.
pub const SCOPE: &str = "Devbox-Scope";

/// The request's header with the connection's generation.
pub const GENERATION: &str = "Devbox-Generation";

/// The request's header, with the value `1`, of a client that takes its link up again on this connection: it displaces nobody. Without it
/// the request is for a new link.
pub const RESUME: &str = "Devbox-Resume";

/// The header on each answer of a gateway to a tunnel request that it understood: one line for a person.
pub const MESSAGE: &str = "Devbox-Message";

/// The target of the stream on which a client gives the gateway a catalog of its own.
///
/// It can be no service's target: those contain more slashes.
pub const PUSH_STREAM: &str = "catalog/push";

/// The longest name of a session, in bytes.
pub const MAX_SESSION_BYTES: usize = 128;

/// Whether a text can be a session's name: 1 to [`MAX_SESSION_BYTES`] of `A-Z a-z 0-9 - . _ ~`, which can be part of a
/// path as they are.
#[must_use]
pub fn is_session(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (1..=MAX_SESSION_BYTES).contains(&text.len()) && text.bytes().all(allowed)
}
