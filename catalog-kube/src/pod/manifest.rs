//! The objects of a gateway pod, as they are sent to the API server.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, Pod, PodSecurityContext, PodSpec,
    PodTemplateSpec, ResourceRequirements, SeccompProfile, Secret, SecretKeySelector, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use sha2::{Digest as _, Sha256};

/// Where the gateway listens in its pod. Above 1023, as it has no privileges.
pub(crate) const PORT: NonZeroU16 = NonZeroU16::new(7070).unwrap();

/// The key of the Secret under which the token is.
pub(crate) const TOKEN_KEY: &str = "token";

/// After so many seconds the Job ends a pod that no session has reached: one of a session that is gone, whose gateway never started.
const DEADLINE_SECONDS: i64 = 150;

/// How long a gateway stays without a client.
const IDLE: &str = "2m";

/// "Nobody" of images that have no list of users.
const USER: i64 = 65532;

const GATEWAY_LABEL: &str = "devbox.dev/gateway";
const TOKEN_VARIABLE: &str = "DEVBOX_GATEWAY_TOKEN";

/// The image of a gateway of this version.
pub(crate) fn released_image() -> String {
    format!("ghcr.io/devbox-rs/gateway:{}", env!("CARGO_PKG_VERSION"))
}

/// The name of a user's gateway. It is the same in each of their sessions, so that they find each other's, and another one for each
/// image.
pub(crate) fn job_name(user: &str, image: &str) -> String {
    let digest = Sha256::new_with_prefix(user)
        .chain_update([0])
        .chain_update(image)
        .finalize();
    format!("devbox-gateway-{}", hex(digest.get(..5).unwrap_or_default()))
}

/// The name of the Secret that belongs to one Job. Each Job that is created names its own, so that the Secret of one that was removed
/// a moment ago is never taken for it.
pub(crate) fn secret_name(job: &str, nonce: [u8; 4]) -> String {
    format!("{job}-{}", hex(&nonce))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the pods of a Job are found by.
pub(crate) fn selector(job: &str) -> String {
    format!("{GATEWAY_LABEL}={job}")
}

fn labels(job: &str) -> BTreeMap<String, String> {
    let labels = [
        ("app.kubernetes.io/name", "devbox-gateway"),
        ("app.kubernetes.io/managed-by", "devbox"),
        (GATEWAY_LABEL, job),
    ];
    labels
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The Job whose one pod is the gateway.
pub(crate) fn job(name: &str, secret: &str, image: &str) -> Job {
    let labels = labels(name);
    Job {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            // A gateway that ended has lost its links: the sessions ask for a new one.
            backoff_limit: Some(0),
            ttl_seconds_after_finished: Some(0),
            active_deadline_seconds: Some(DEADLINE_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(secret, image)),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// What Pod Security calls *restricted*, with no rights in the cluster.
fn pod(secret: &str, image: &str) -> PodSpec {
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(5),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        containers: vec![Container {
            name: "gateway".to_owned(),
            image: Some(image.to_owned()),
            image_pull_policy: Some("IfNotPresent".to_owned()),
            // The image's own program is `devbox gateway serve`.
            args: Some(arguments()),
            env: Some(vec![EnvVar {
                name: TOKEN_VARIABLE.to_owned(),
                value_from: Some(EnvVarSource {
                    secret_key_ref: Some(SecretKeySelector {
                        name: secret.to_owned(),
                        key: TOKEN_KEY.to_owned(),
                        optional: None,
                    }),
                    ..EnvVarSource::default()
                }),
                ..EnvVar::default()
            }]),
            ports: Some(vec![ContainerPort {
                name: Some("tunnel".to_owned()),
                container_port: i32::from(PORT.get()),
                protocol: Some("TCP".to_owned()),
                ..ContainerPort::default()
            }]),
            resources: Some(ResourceRequirements {
                requests: Some(quantities([("cpu", "20m"), ("memory", "32Mi")])),
                limits: Some(quantities([("cpu", "1"), ("memory", "256Mi")])),
                claims: None,
            }),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                read_only_root_filesystem: Some(true),
                run_as_non_root: Some(true),
                capabilities: Some(Capabilities {
                    drop: Some(vec!["ALL".to_owned()]),
                    add: None,
                }),
                ..SecurityContext::default()
            }),
            // The last lines of a gateway that fails are its pod's status then.
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        }],
        ..PodSpec::default()
    }
}

fn arguments() -> Vec<String> {
    let listen = format!("0.0.0.0:{PORT}");
    // Plain HTTP: what comes through the API server is not encrypted on its last part, as for everything behind its proxy.
    let arguments = [
        "--listen",
        &listen,
        "--insecure",
        "--token-env",
        TOKEN_VARIABLE,
        "--catalog-from-clients",
        "--exit-when-idle",
        IDLE,
        // One user's sessions do not fill a core, and nothing that one stream needs then waits until another core wakes.
        "--threads",
        "1",
    ];
    arguments.map(str::to_owned).into()
}

fn quantities<const N: usize>(of: [(&str, &str); N]) -> BTreeMap<String, Quantity> {
    of.map(|(what, much)| (what.to_owned(), Quantity(much.to_owned())))
        .into()
}

/// The Secret with a gateway's token, which goes with its Job.
pub(crate) fn secret(name: &str, job: &str, uid: &str, token: &str) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels(job)),
            owner_references: Some(vec![OwnerReference {
                api_version: "batch/v1".to_owned(),
                kind: "Job".to_owned(),
                name: job.to_owned(),
                uid: uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        string_data: Some([(TOKEN_KEY.to_owned(), token.to_owned())].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// The Secret that a Job's pod takes its token from.
pub(crate) fn secret_of(job: &Job) -> Option<&str> {
    let template = job.spec.as_ref()?.template.spec.as_ref()?;
    let variables = template.containers.first()?.env.as_deref()?;
    let source = variables
        .iter()
        .find(|variable| variable.name == TOKEN_VARIABLE)?;
    Some(&source.value_from.as_ref()?.secret_key_ref.as_ref()?.name)
}

/// Whether a Job has ended, or is being removed.
pub(crate) fn is_over(job: &Job) -> bool {
    let status = job.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let ended = conditions.iter().any(|condition| {
        condition.status == "True"
            && ["Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"]
                .contains(&condition.type_.as_str())
    });
    // Counted before the conditions say so.
    let pod_ended = status.succeeded.unwrap_or(0) + status.failed.unwrap_or(0) > 0;
    job.metadata.deletion_timestamp.is_some() || ended || pod_ended
}

/// Whether a pod is one of the Job with this uid.
pub(crate) fn owns(uid: &str, pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|owner| owner.uid == uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job() {
        let job = job(
            "devbox-gateway-0123456789",
            "devbox-gateway-0123456789-abcdef01",
            "example/gateway:1",
        );
        insta::assert_snapshot!(serde_json::to_string_pretty(&job).unwrap());
        assert_eq!(secret_of(&job), Some("devbox-gateway-0123456789-abcdef01"));
        assert!(!is_over(&job));
    }

    #[test]
    fn the_secret() {
        let secret = secret(
            "devbox-gateway-0123456789-abcdef01",
            "devbox-gateway-0123456789",
            "1-2-3",
            "t0ken",
        );
        insta::assert_snapshot!(serde_json::to_string_pretty(&secret).unwrap());
    }

    #[test]
    fn a_users_gateway_has_one_name_for_each_image() {
        let name = job_name("alice", "gateway:1");
        assert_eq!(name, job_name("alice", "gateway:1"));
        assert_ne!(name, job_name("bob", "gateway:1"));
        assert_ne!(name, job_name("alice", "gateway:2"));
        assert!(
            name.len() <= 63
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
            "{name}"
        );
    }

    #[test]
    fn a_job_whose_pod_has_ended_is_over() {
        for status in [
            r#"{"succeeded": 1}"#,
            r#"{"failed": 1}"#,
            r#"{"conditions": [{"type": "Failed", "status": "True"}]}"#,
        ] {
            let mut job = job("a", "b", "c");
            job.status = Some(serde_json::from_str(status).unwrap());
            assert!(is_over(&job), "{status}");
        }
    }
}
