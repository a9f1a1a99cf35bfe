//! What the end of a session means for the command: its exit code, what to say, and the ways out.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use devbox_engine::{Error, StopReason};
use devbox_helper_client::HelperError;
use devbox_provider::ConnectError;
use devbox_session::sink::{PublishError, hosts_entries};

use crate::failure::{Failure, code, quoted};
use crate::ways_out;

/// The exit code of a session's end.
pub(crate) fn verdict(reason: StopReason) -> Result<ExitCode, Failure> {
    match failure_of(reason) {
        None => Ok(ExitCode::SUCCESS),
        Some(failure) => Err(failure),
    }
}

/// `None` for an end that was asked for.
fn failure_of(reason: StopReason) -> Option<Failure> {
    Some(match reason {
        StopReason::Requested { .. } => return None,
        StopReason::Displaced { by } => Failure::new(
            code::DISPLACED,
            format!("displaced by {by}, for the same environment and hosts file"),
        ),
        StopReason::Superseded { provider, message } => {
            let told = Failure::new(
                code::DISPLACED,
                format!("{provider}: a newer connection of this session took over"),
            );
            if message.is_empty() {
                told
            } else {
                told.help(message)
            }
        }
        StopReason::Refused(error) => refused(&error),
        StopReason::Unreachable { last, tries, waited } => {
            let tried = match tries {
                1 => "tried once".to_owned(),
                tries => format!("tried {tries} times in {:.1} s", waited.as_secs_f64()),
            };
            let told = Failure::new(code::UNAVAILABLE, format!("{last} ({tried})"));
            told.help("is it running, and is this its address?")
        }
        StopReason::Names { error, records, .. } => match &error {
            PublishError::Helper(HelperError::Locked { file, waited }) => Failure::new(
                code::UNAVAILABLE,
                format!(
                    "{} stays locked by another program (tried 4 times in {:.1} s)",
                    file.display(),
                    waited.as_secs_f64()
                ),
            )
            .help("try again when it is done, or leave the file alone with --no-hosts"),
            PublishError::Helper(refused) => ways_out::of_session(
                Failure::new(code::FAILED, error.to_string()),
                refused,
                &hosts_entries(&records),
            ),
            PublishError::TimedOut { .. } => Failure::new(code::UNAVAILABLE, error.to_string())
                .help("try again, or leave the hosts file alone with --no-hosts"),
            error => Failure::new(code::FAILED, error.to_string())
                .help("`devbox up --no-hosts` runs without the hosts file"),
        },
        StopReason::HelperLost { hosts_file } => {
            let needs_root = hosts_file.as_deref().is_some_and(|file| !may_write(file));
            helper_lost(hosts_file.as_deref(), needs_root)
        }
        StopReason::NotUndone {
            error: PublishError::Helper(error),
        } => ways_out::of_cleanup(&error),
        reason => Failure::new(code::FAILED, reason.to_string()),
    })
}

fn helper_lost(hosts_file: Option<&Path>, needs_root: bool) -> Failure {
    let told = Failure::new(code::FAILED, "the helper process ended, so this session ends too");
    match hosts_file {
        Some(file) => told.help(format!(
            "its block is still in the hosts file; this removes it: {}devbox cleanup --hosts-file {}",
            if needs_root { "sudo " } else { "" },
            file.display()
        )),
        None => told,
    }
}

fn may_write(file: &Path) -> bool {
    File::options().write(true).open(file).is_ok()
}

fn refused(error: &ConnectError) -> Failure {
    let told = Failure::new(code::FAILED, error.to_string());
    match error {
        // Only tokens of gateways are in files that devbox was given.
        ConnectError::CredentialRefused { file: None, .. } => {
            told.help("log in to it again, or have the credential renewed")
        }
        ConnectError::CredentialRefused { .. } => {
            told.help("name another one with --token-file FILE (--gateway-token-file FILE for a cluster's), or token_file: in devbox.yaml")
        }
        ConnectError::Certificate { .. } => told
            .help("a certificate of your own authority is accepted with --tls-ca FILE (PEM)")
            .help("a self-signed one must not be an authority: openssl req -x509 -addext basicConstraints=critical,CA:FALSE …"),
        ConnectError::UnknownEnvironment { .. } => {
            told.help("choose another with --env NAME, or leave it out to take the one that is served")
        }
        _ => told,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Stopped(reason) => {
                let text = reason.to_string();
                failure_of(reason).unwrap_or_else(|| Self::new(code::FAILED, text))
            }
            Error::GatewayUrl { .. } => Self::because(error)
                .help("it looks like ws://HOST:PORT, or wss://HOST:PORT or quic://HOST:PORT with TLS"),
            Error::InsecureGateway { .. } => Self::because(error).help("use wss://, or say --insecure"),
            Error::NotOverQuic { setting, .. } => Self::because(error).help(format!(
                "use wss://, or leave `{setting}` out (--{setting}, or {setting}: in devbox.yaml)"
            )),
            Error::Kubernetes(error) => Self::from(*error),
            Error::Token(_) => {
                Self::because(error).help("the file holds the gateway's token and nothing else")
            }
            Error::Addresses(ipalloc::Error::LockFile { .. }) => {
                Self::because(error).help("`devbox ip lock` writes a new one once its conflicts are settled")
            }
            Error::StillEnding { .. } => Self::new(code::UNAVAILABLE, error.to_string()),
            error => Self::because(error),
        }
    }
}

impl From<catalog_kube::Error> for Failure {
    fn from(error: catalog_kube::Error) -> Self {
        use catalog_kube::Error as Kube;
        let code = match &error {
            Kube::Unreachable { .. } => code::UNAVAILABLE,
            _ => code::FAILED,
        };
        let told = Self::new(code, devbox_provider::with_causes(&error));
        match error {
            Kube::NoCluster { .. } => told
                .help("name one with --kubeconfig FILE or $KUBECONFIG, which sudo keeps with --preserve-env=KUBECONFIG;")
                .help("a gateway needs none: --gateway wss://HOST:PORT --token-file FILE"),
            Kube::NoContext { .. } | Kube::UnknownContext { .. } => {
                told.help("name one with --context NAME, or context: in devbox.yaml; `kubectl config get-contexts` lists them")
            }
            Kube::Unauthorized { cluster, .. } => told.help(format!(
                "log in to it again; `kubectl --context {} auth whoami` says when that has helped",
                quoted(Path::new(&cluster))
            )),
            Kube::UnknownNamespaces { .. } => told.help("`kubectl get namespaces` lists them"),
            _ => told,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use devbox_session::sink::Record;
    use devbox_session::{ProviderId, ServiceKey};

    use super::*;

    fn told(reason: StopReason) -> String {
        failure_of(reason).unwrap().to_string()
    }

    fn names(error: PublishError) -> StopReason {
        let of = ServiceKey {
            provider: ProviderId(0),
            environment: "dev".parse().unwrap(),
            service: "orders.backend".parse().unwrap(),
        };
        let record = Record {
            names: vec!["orders.backend".into(), "orders.backend.svc".into()],
            addresses: vec!["127.77.45.67".parse().unwrap()],
            behind: None,
        };
        StopReason::Names {
            sink: "/etc/hosts".to_owned(),
            error,
            records: [(of, record)].into_iter().collect(),
        }
    }

    #[test]
    fn an_end_that_was_asked_for_is_no_failure() {
        let by = "SIGINT".to_owned();
        assert!(verdict(StopReason::Requested { by }).is_ok());
    }

    #[test]
    fn sessions_that_took_over() {
        let displaced = StopReason::Displaced {
            by: "session dev-1a2b3c4d (pid 4242)".to_owned(),
        };
        let superseded = StopReason::Superseded {
            provider: "gateway".to_owned(),
            message: "generation 7 is connected".to_owned(),
        };
        insta::assert_snapshot!([displaced, superseded].map(told).join("\n"));
    }

    #[test]
    fn a_session_that_made_way_exits_with_3() {
        let superseded = StopReason::Superseded {
            provider: "gateway".to_owned(),
            message: String::new(),
        };
        assert_eq!(failure_of(superseded).unwrap().code(), code::DISPLACED);
    }

    #[test]
    fn far_sides_that_cannot_be_used() {
        let far_side = || "wss://gateway.example/".to_owned();
        let unreachable = |tries| StopReason::Unreachable {
            last: ConnectError::Unreachable {
                far_side: far_side(),
                reason: "connection refused".to_owned(),
            },
            tries,
            waited: Duration::from_millis(1234),
        };
        let refused = [
            ConnectError::CredentialRefused {
                far_side: far_side(),
                file: Some("/home/ada/token".into()),
                message: "unknown token".to_owned(),
            },
            ConnectError::Certificate {
                far_side: far_side(),
                message: "unknown issuer".to_owned(),
            },
            ConnectError::UnknownEnvironment {
                far_side: far_side(),
                message: "it serves the environment `dev`, not `elsewhere`".to_owned(),
            },
        ];
        let reasons = [unreachable(1), unreachable(4)]
            .into_iter()
            .chain(refused.map(StopReason::Refused));
        insta::assert_snapshot!(reasons.map(told).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn names_that_cannot_be_published() {
        let file = || "/etc/hosts".into();
        let helper = [
            HelperError::Locked {
                file: file(),
                waited: Duration::from_secs(2),
            },
            HelperError::Damaged {
                file: file(),
                line: 7,
                message: "the block devbox-dev has no end".to_owned(),
            },
            HelperError::ReadOnly {
                file: file(),
                message: "it is on a read-only file system".to_owned(),
            },
            HelperError::PermissionDenied {
                file: "/no/such/folder/hosts".into(),
                message: "/no/such/folder/hosts: permission denied".to_owned(),
            },
        ];
        let late = PublishError::TimedOut {
            what: "the helper".to_owned(),
            after: Duration::from_secs(10),
        };
        let errors = helper.map(PublishError::from).into_iter().chain([late]);
        let texts: Vec<_> = errors.map(|error| told(names(error))).collect();
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn a_helper_that_is_gone() {
        let file = Some(Path::new("/etc/hosts"));
        let ends = [(file, false), (file, true), (None, false)];
        let texts = ends.map(|(file, needs_root)| helper_lost(file, needs_root).to_string());
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn what_could_not_be_undone() {
        let file = || "/etc/hosts".into();
        let errors = [
            HelperError::LinesLeft {
                file: file(),
                lines: vec![7, 9],
            },
            HelperError::PermissionDenied {
                file: file(),
                message: "no permission to replace /etc/hosts".to_owned(),
            },
        ];
        let reasons = errors.map(|error| StopReason::NotUndone { error: error.into() });
        insta::assert_snapshot!(reasons.map(told).join("\n"));
    }

    #[test]
    fn clusters_that_cannot_be_used() {
        use catalog_kube::Error as Kube;
        use catalog_kube::access::UnknownNamespace;

        let known = || vec!["minikube".to_owned(), "staging".to_owned()];
        let errors = [
            Kube::NoCluster {
                looked_at: vec!["/home/ada/.kube/config".into()],
            },
            Kube::NoContext { known: known() },
            Kube::UnknownContext {
                context: "stagign".to_owned(),
                similar: Some("staging".to_owned()),
                known: known(),
            },
            Kube::UnknownContext {
                context: "elsewhere".to_owned(),
                similar: None,
                known: known(),
            },
            Kube::UnknownNamespaces {
                cluster: "staging".to_owned(),
                unknown: vec![UnknownNamespace {
                    name: "ordesr".to_owned(),
                    similar: Some("orders".to_owned()),
                }],
            },
            Kube::Unauthorized {
                cluster: "staging".to_owned(),
                message: "the token has expired".to_owned(),
            },
        ];
        let texts = errors.map(|error| Failure::from(Error::Kubernetes(Box::new(error))).to_string());
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn configurations_that_cannot_be_used() {
        let errors = [
            Error::InsecureGateway {
                url: "ws://gateway.example".parse().unwrap(),
                proxy: None,
            },
            Error::InsecureGateway {
                url: "ws://127.0.0.1:7700".parse().unwrap(),
                proxy: Some("http://proxy.example:3128".to_owned()),
            },
            Error::NotOverQuic {
                url: "quic://gateway.example".parse().unwrap(),
                setting: "carrier",
            },
            Error::GatewayUrl {
                url: "http://gateway.example".parse().unwrap(),
            },
            Error::StillEnding {
                session: "dev-1a2b3c4d".to_owned(),
                pid: 4242,
                after: Duration::from_secs(20),
            },
        ];
        let texts = errors.map(|error| Failure::from(error).to_string());
        insta::assert_snapshot!(texts.join("\n"));
    }
}
