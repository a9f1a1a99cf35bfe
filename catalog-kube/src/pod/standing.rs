//! What a pod's status means for somebody who waits for it.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerState, Pod, PodCondition, PodStatus};

use crate::road::PodRef;

/// How far a gateway pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is on its way.
    Waits {
        /// For what.
        what: String,
    },
    /// It has an address. A gateway answers there as soon as its program runs, which the status says up to a second late.
    Reachable {
        pod: PodRef,
        address: IpAddr,
        running: bool,
    },
    /// It will not come, unless somebody changes something.
    Broken { because: String },
    /// It has ended, or is about to.
    Over,
}

/// What keeps a container from being created until somebody changes something.
const FINAL: [&str; 9] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
];

pub(crate) fn standing(pod: &Pod) -> Standing {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or("Pending");
    if pod.metadata.deletion_timestamp.is_some() || phase == "Succeeded" {
        return Standing::Over;
    }
    let container = status.container_statuses.as_deref().unwrap_or_default().first();
    let state = container
        .and_then(|container| container.state.clone())
        .unwrap_or_default();
    if phase == "Failed" {
        return Standing::Broken {
            because: format!("the gateway pod failed: {}", failure(&status, &state)),
        };
    }
    if let Some(waiting) = &state.waiting
        && let Some(reason) = &waiting.reason
        && FINAL.contains(&reason.as_str())
    {
        let image = container
            .map(|container| container.image.clone())
            .unwrap_or_default();
        return Standing::Broken {
            because: format!(
                "the gateway pod cannot start with the image {image}: {}",
                said(reason, waiting.message.as_deref())
            ),
        };
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let scheduled = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled");
    let running = state.running.is_some();
    let address = status.pod_ip.as_deref().and_then(|address| address.parse().ok());
    match (address, pod_ref(pod)) {
        (Some(address), Some(pod)) => Standing::Reachable {
            pod,
            address,
            running,
        },
        _ => Standing::Waits {
            what: waits_for(&state, scheduled),
        },
    }
}

fn pod_ref(pod: &Pod) -> Option<PodRef> {
    Some(PodRef {
        namespace: pod.metadata.namespace.as_deref()?.into(),
        name: pod.metadata.name.as_deref()?.into(),
    })
}

fn waits_for(state: &ContainerState, scheduled: Option<&PodCondition>) -> String {
    let (what, why) = match (&state.waiting, scheduled) {
        (Some(waiting), _) => {
            let reason = waiting.reason.as_deref();
            let why = reason.map(|reason| said(reason, waiting.message.as_deref()));
            ("its container", why)
        }
        (None, Some(condition)) if condition.status == "True" => ("its container", None),
        // One that has no room at the moment may be given one, or a new one comes (a cluster autoscaler).
        (None, scheduled) => {
            let why = scheduled.and_then(|condition| condition.message.as_deref());
            ("a node", why.map(in_one_line))
        }
    };
    match why {
        Some(why) => format!("{what} ({why})"),
        None => what.to_owned(),
    }
}

fn failure(status: &PodStatus, state: &ContainerState) -> String {
    match &state.terminated {
        Some(ended) => {
            let reason = ended.reason.as_deref().unwrap_or("Error");
            let message = ended
                .message
                .as_deref()
                .map(str::trim)
                .filter(|message| !message.is_empty());
            format!("{} (exit code {})", said(reason, message), ended.exit_code)
        }
        None => said(
            status.reason.as_deref().unwrap_or("Failed"),
            status.message.as_deref(),
        ),
    }
}

/// A reason, and what was said about it, in one line.
fn said(reason: &str, message: Option<&str>) -> String {
    match message {
        Some(message) => format!("{reason}: {}", in_one_line(message)),
        None => reason.to_owned(),
    }
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(status: &Value) -> Standing {
        let pod = json!({"metadata": {"namespace": "orders", "name": "gw"}, "status": status});
        standing(&serde_json::from_value(pod).unwrap())
    }

    fn broken(status: &Value) -> String {
        match of(status) {
            Standing::Broken { because } => because,
            other => panic!("not broken: {other:?}"),
        }
    }

    fn container(state: &Value) -> Value {
        json!([{"name": "gateway", "image": "x:1", "imageID": "", "ready": false, "restartCount": 0, "state": state}])
    }

    #[test]
    fn a_pod_is_reachable_from_its_address_on() {
        assert_eq!(
            of(&json!({"phase": "Pending"})),
            Standing::Waits {
                what: "a node".to_owned()
            }
        );
        let creating = container(&json!({"waiting": {"reason": "ContainerCreating"}}));
        assert_eq!(
            of(&json!({"phase": "Pending", "containerStatuses": creating})),
            Standing::Waits {
                what: "its container (ContainerCreating)".to_owned()
            }
        );
        let pod = PodRef {
            namespace: "orders".into(),
            name: "gw".into(),
        };
        for (state, running) in [
            (json!({"waiting": {"reason": "ContainerCreating"}}), false),
            (json!({"running": {}}), true),
        ] {
            let status =
                json!({"phase": "Pending", "podIP": "10.1.2.3", "containerStatuses": container(&state)});
            let address = "10.1.2.3".parse().unwrap();
            assert_eq!(
                of(&status),
                Standing::Reachable {
                    pod: pod.clone(),
                    address,
                    running
                }
            );
        }
    }

    #[test]
    fn a_node_may_still_come() {
        let condition = |status: &str, message: Value| json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": status, "reason": "Unschedulable", "message": message}]});
        for (status, what) in [
            (
                condition("False", json!("0/1 nodes are available:\n1 Insufficient cpu.")),
                "a node (0/1 nodes are available: 1 Insufficient cpu.)",
            ),
            (condition("False", Value::Null), "a node"),
            (condition("True", Value::Null), "its container"),
        ] {
            let what = what.to_owned();
            assert_eq!(of(&status), Standing::Waits { what });
        }
    }

    #[test]
    fn what_will_not_come_says_why() {
        let pull = container(&json!({"waiting": {"reason": "ErrImagePull", "message": "not\n found"}}));
        assert_eq!(
            broken(&json!({"phase": "Pending", "podIP": "10.1.2.3", "containerStatuses": pull})),
            "the gateway pod cannot start with the image x:1: ErrImagePull: not found"
        );
        let ended = container(
            &json!({"terminated": {"exitCode": 2, "reason": "Error", "message": "no such flag\n"}}),
        );
        assert_eq!(
            broken(&json!({"phase": "Failed", "containerStatuses": ended})),
            "the gateway pod failed: Error: no such flag (exit code 2)"
        );
        assert_eq!(
            broken(&json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"})),
            "the gateway pod failed: Evicted: low on memory"
        );
    }

    #[test]
    fn a_pod_that_has_ended_or_is_deleted_is_over() {
        assert_eq!(of(&json!({"phase": "Succeeded"})), Standing::Over);
        let deleted = json!({"metadata": {"name": "gw", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"phase": "Running", "podIP": "10.1.2.3"}});
        assert_eq!(
            standing(&serde_json::from_value(deleted).unwrap()),
            Standing::Over
        );
    }
}
