//! Where a gateway that leaves sends its clients, and whether they go.

use url::Url;

/// The gateway that `named` is, if a client of `gateway` may show it its token. It may where both speak TLS, as what named the other
/// one has proved who it is and has the token already; where the way is open to others, only on the same host.
pub(crate) fn allowed(gateway: &Url, named: &str) -> Result<Url, &'static str> {
    let successor: Url = named.parse().map_err(|_| "it is no URL")?;
    if !matches!(successor.scheme(), "ws" | "wss" | "quic") {
        return Err("its URL begins with none of ws://, wss:// and quic://");
    }
    if !successor.username().is_empty() || successor.password().is_some() || successor.host().is_none() {
        return Err("its URL has a user's name, or no host");
    }
    let has_tls = |url: &Url| matches!(url.scheme(), "wss" | "quic");
    let (from, to) = (has_tls(gateway), has_tls(&successor));
    if from && !to {
        return Err("it has no TLS, and this gateway has");
    }
    if !from && gateway.host() != successor.host() {
        return Err("it is another host, and this gateway has no TLS");
    }
    Ok(successor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes(gateway: &str, named: &str) -> bool {
        allowed(&gateway.parse().unwrap(), named).is_ok()
    }

    #[test]
    fn a_token_goes_to_no_host_that_nobody_vouches_for() {
        assert!(goes("wss://a.example/", "wss://b.example/mounted"));
        assert!(!goes("wss://a.example/", "ws://a.example/"));
        assert!(goes("quic://a.example/", "wss://b.example/"));
        assert!(goes("wss://a.example/", "quic://b.example/"));
        assert!(!goes("quic://a.example/", "ws://a.example/"));
        assert!(!goes("ws://a.example/", "quic://b.example/"));
        assert!(goes("ws://127.0.0.1:1/", "ws://127.0.0.1:2/"));
        assert!(goes("ws://a.example/", "wss://a.example/"));
        assert!(!goes("ws://a.example/", "ws://b.example/"));
        assert!(!goes("ws://a.example/", "wss://b.example/"));
        for nonsense in [
            "",
            "b.example",
            "https://b.example/",
            "wss://",
            "wss://user:secret@b.example/",
            "file:///etc/passwd",
        ] {
            assert!(!goes("wss://a.example/", nonsense), "{nonsense}");
        }
    }
}
