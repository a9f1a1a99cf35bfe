//! A client's request to switch, and the check of its answer.

use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Protocol;
use crate::http::Head;

/// What is asked for: which protocols, and with which headers.
pub(super) struct Offer {
    raw: Option<String>,
    /// The key and the subprotocol.
    web_socket: Option<(String, String)>,
}

impl Offer {
    pub(super) fn new(raw: bool, web_socket: bool, subprotocol: &str) -> Offer {
        Offer {
            raw: raw.then(|| super::raw_protocol(subprotocol)),
            web_socket: web_socket.then(|| (generate_key(), subprotocol.to_owned())),
        }
    }

    /// The protocols, the preferred one first (RFC 9110 §7.8), and what belongs to them.
    pub(super) fn headers(&self) -> String {
        let web_socket = self.web_socket.as_ref().map(|_| "websocket");
        let protocols: Vec<_> = self.raw.as_deref().into_iter().chain(web_socket).collect();
        let mut headers = format!("Connection: Upgrade\r\nUpgrade: {}\r\n", protocols.join(", "));
        if let Some((key, subprotocol)) = &self.web_socket {
            headers.push_str(&format!(
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
                 Sec-WebSocket-Protocol: {subprotocol}\r\n"
            ));
        }
        headers
    }

    pub(super) fn is_of_both(&self) -> bool {
        self.raw.is_some() && self.web_socket.is_some()
    }

    /// What the server has switched to with a 101.
    pub(super) fn switched_to(&self, head: &Head) -> Result<Protocol, &'static str> {
        if !head.lists("connection", "upgrade") {
            return Err("its answer 101 has no Connection: Upgrade");
        }
        if let Some(raw) = &self.raw
            && head.lists("upgrade", raw)
        {
            return Ok(Protocol::Raw);
        }
        // RFC 6455 §4.1.
        match &self.web_socket {
            Some((key, subprotocol)) if head.lists("upgrade", "websocket") => {
                if head.header("sec-websocket-accept") != Some(derive_accept_key(key.as_bytes()).as_str()) {
                    Err("its Sec-WebSocket-Accept does not fit the request")
                } else if head.header("sec-websocket-extensions").is_some() {
                    Err("it chose an extension that was not offered")
                } else if head.header("sec-websocket-protocol") != Some(subprotocol) {
                    Err("it did not choose the subprotocol")
                } else {
                    Ok(Protocol::WebSocket)
                }
            }
            _ => Err("it switched to a protocol that was not offered"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(headers: &[(&str, &str)]) -> Head {
        Head {
            status: 101,
            reason: String::new(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            rest: Vec::new(),
        }
    }

    #[test]
    fn both_are_offered_in_one_request_and_the_answer_decides() {
        let mut offer = Offer::new(true, true, "devbox-tunnel.1");
        offer.web_socket = Some((
            "dGhlIHNhbXBsZSBub25jZQ==".to_owned(),
            "devbox-tunnel.1".to_owned(),
        ));
        let asked = offer.headers();
        assert!(
            asked.contains("Upgrade: devbox-tunnel/1, websocket\r\n"),
            "{asked}"
        );
        let connection = ("connection", "keep-alive, upgrade");
        let raw = answer(&[connection, ("upgrade", "devbox-tunnel/1")]);
        assert_eq!(offer.switched_to(&raw), Ok(Protocol::Raw));
        // The key and its answer of RFC 6455 §1.3.
        let full = [
            connection,
            ("upgrade", "WebSocket"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("sec-websocket-protocol", "devbox-tunnel.1"),
        ];
        assert_eq!(offer.switched_to(&answer(&full)), Ok(Protocol::WebSocket));
        for wrong in [
            &[connection][..],
            &[("upgrade", "devbox-tunnel/1")],
            &[connection, ("upgrade", "devbox-tunnel/2")],
            &[connection, ("upgrade", "h2c")],
            &full[..2],
            &full[..3],
            &[
                full[0],
                full[1],
                full[2],
                full[3],
                ("sec-websocket-extensions", "permessage-deflate"),
            ],
        ] {
            assert!(offer.switched_to(&answer(wrong)).is_err(), "{wrong:?}");
        }
        // What was not asked for is not taken.
        assert!(
            Offer::new(false, true, "devbox-tunnel.1")
                .switched_to(&raw)
                .is_err()
        );
        assert!(
            Offer::new(true, false, "devbox-tunnel.1")
                .switched_to(&answer(&full))
                .is_err()
        );
    }
}
