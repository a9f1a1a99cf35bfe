//! What the answers of an API server and a container runtime mean for a connection.

use std::num::NonZeroU16;

use tunnel_bridge::ws::{ConnectError, Response};
use tunnel_bridge::{Refusal, RefusalKind};

use crate::Forbidden;
use crate::road::PodRef;

/// Where a port-forward leads to.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) pod: PodRef,
    pub(super) port: NonZeroU16,
}

impl Place {
    /// What is asked for.
    pub(super) fn path(&self) -> String {
        let PodRef { namespace, name } = &self.pod;
        let port = self.port;
        format!("/api/v1/namespaces/{namespace}/pods/{name}/portforward?ports={port}")
    }

    pub(super) fn refuse(&self, kind: RefusalKind, why: &str) -> Refusal {
        let PodRef { namespace, name } = &self.pod;
        Refusal::new(kind, format!("pod {name}.{namespace} port {}: {why}", self.port))
    }

    /// There is no port-forward.
    pub(super) fn not_opened(&self, error: &ConnectError) -> Refusal {
        let kind = match error {
            ConnectError::Rejected { response, .. } => return self.rejected(response),
            ConnectError::Unreachable { .. } => RefusalKind::Unreachable,
            ConnectError::TimedOut { .. } => RefusalKind::TimedOut,
            ConnectError::ClientCertificate { .. } => RefusalKind::NotAllowed,
            _ => RefusalKind::Internal,
        };
        self.refuse(kind, &devbox_provider::with_causes(error))
    }

    /// The API server, or the kubelet through it, has answered otherwise.
    fn rejected(&self, response: &Response) -> Refusal {
        let message = message_of(&response.text);
        let kind = match response.status {
            401 => RefusalKind::NotAllowed,
            403 => {
                let forbidden = Forbidden {
                    who: crate::Who::You,
                    verb: "get".to_owned(),
                    resource: "pods/portforward".to_owned(),
                    namespace: Some(self.pod.namespace.to_string()),
                };
                let why = format!(
                    "{forbidden} (`get` serves WebSocket clients as this one, `create` SPDY clients)"
                );
                return self.refuse(RefusalKind::NotAllowed, &why);
            }
            404 => RefusalKind::NotFound,
            408 | 504 => RefusalKind::TimedOut,
            429 => RefusalKind::TooMany,
            // A pod without a node, a kubelet that does not answer, a sandbox that is gone.
            400 | 500..=599 => RefusalKind::Unreachable,
            _ => RefusalKind::Internal,
        };
        self.refuse(kind, &format!("{message} (status {})", response.status))
    }

    /// The container runtime could not connect to the port. Its words are all there is to tell why: Go's for an errno, or socat's.
    pub(super) fn not_connected(&self, text: &str) -> Refusal {
        let lower = text.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let kind = if has(&["connection refused"]) {
            RefusalKind::Refused
        } else if has(&["timed out", "timeout", "deadline exceeded"]) {
            RefusalKind::TimedOut
        } else {
            RefusalKind::Unreachable
        };
        self.refuse(kind, text.trim())
    }
}

/// The message in a Status of the API server, of which only the beginning may be here; the whole text where it is none.
fn message_of(text: &str) -> String {
    const FIELD: &str = "\"message\":";
    let Some(at) = text.starts_with('{').then(|| text.find(FIELD)).flatten() else {
        return text.to_owned();
    };
    let value = &text[at + FIELD.len()..];
    match serde_json::Deserializer::from_str(value)
        .into_iter::<String>()
        .next()
    {
        Some(Ok(message)) => message,
        _ => value.trim_start_matches('"').replace("\\\"", "\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            pod: PodRef {
                namespace: "orders".into(),
                name: "db-0".into(),
            },
            port: NonZeroU16::new(5432).unwrap(),
        }
    }

    #[test]
    fn the_runtimes_words_tell_a_refusal_from_a_timeout() {
        let refused = "error forwarding port 5432 to pod 5a, uid : failed to execute portforward in network namespace \"/run/netns/cni-1\": \
            failed to connect to localhost:5432 inside namespace \"5a\", IPv4: dial tcp4 127.0.0.1:5432: connect: connection refused IPv6 \
            dial tcp6: address localhost: no suitable address found ";
        let kind = |text| place().not_connected(text).kind;
        assert_eq!(kind(refused), RefusalKind::Refused);
        assert_eq!(
            kind("dial tcp4 127.0.0.1:5432: i/o timeout"),
            RefusalKind::TimedOut
        );
        assert_eq!(
            kind("failed to find sandbox \"5a\" in store: not found"),
            RefusalKind::Unreachable
        );
    }

    #[test]
    fn a_status_is_told_by_its_message_even_if_it_is_cut() {
        let whole = r#"{"kind":"Status","message":"pods \"db-0\" not found","reason":"NotFound","code":404}"#;
        assert_eq!(message_of(whole), r#"pods "db-0" not found"#);
        let (cut, _) = whole.split_once("nd\",").unwrap();
        assert_eq!(message_of(cut), r#"pods "db-0" not fou"#);
        assert_eq!(message_of("no endpoints"), "no endpoints");
    }
}
