//! The objects of an installed gateway, in YAML for `kubectl apply -f -`.

use service_catalog::Label;

use super::direct::ExternalNames;
use crate::pod::{PORT, released_image};

/// Where a gateway is looked for that serves more than one namespace.
pub const NAMESPACE: &str = super::installed::HOME;

/// What an installation is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Where it runs.
    pub namespace: Label,
    /// Its image. Default: the released one of this version.
    pub image: Option<String>,
    /// The host name of an Ingress for `wss://HOST`. Default: none, and clients come through the API server.
    pub ingress: Option<Host>,
    /// The namespaces that it may watch. Default: all.
    pub serves: Vec<Label>,
    /// Whether it follows what an `ExternalName` stands for.
    pub external_names: ExternalNames,
    /// A Secret in its namespace with static tokens: its key [`TOKENS_KEY`] is a file as
    /// `devbox gateway serve --token-file` reads it. Default: none, and only tokens of the cluster let clients in.
    pub token_secret: Option<ObjectName>,
}

/// The key under which a Secret has static tokens.
pub const TOKENS_KEY: &str = "tokens.yaml";

/// The name of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName(String);

impl std::str::FromStr for ObjectName {
    type Err = NoObjectName;

    /// RFC 1123 subdomains, as for a Secret.
    fn from_str(text: &str) -> Result<Self, NoObjectName> {
        let label = |label: &str| {
            let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
        };
        if text.len() <= 253 && text.split('.').all(label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NoObjectName {
                text: text.to_owned(),
            })
        }
    }
}

/// A text that is no name of an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a valid name of a Secret: expected lower-case letters, digits, `-` and `.`", text.escape_debug())]
pub struct NoObjectName {
    text: String,
}

/// A host's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(String);

impl std::str::FromStr for Host {
    type Err = NoHost;

    fn from_str(text: &str) -> Result<Self, NoHost> {
        let labels = |text: &str| text.split('.').all(|label| label.parse::<Label>().is_ok());
        if text.len() <= 253 && labels(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NoHost {
                text: text.to_owned(),
            })
        }
    }
}

/// A text that is no host's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no name of a host: expected one such as gateway.example.com, without a scheme", text.escape_debug())]
pub struct NoHost {
    text: String,
}

impl Installation {
    /// The objects, one document each.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let image = self.image.clone().unwrap_or_else(released_image);
        let mut documents = [ACCOUNT, REVIEWS, SESSIONS, CATALOG].map(str::to_owned).to_vec();
        if self.serves.is_empty() {
            documents.push(EVERYWHERE.to_owned());
        }
        for namespace in &self.serves {
            documents.push(IN_ONE.replace("@SERVED@", namespace.as_str()));
        }
        documents.extend([DEPLOYMENT, SERVICE, DISRUPTION, NETWORK].map(str::to_owned));
        if let Some(Host(host)) = &self.ingress {
            documents.push(INGRESS.replace("@HOST@", host));
        }
        let yaml: Vec<_> = documents.iter().map(|document| document.trim_start()).collect();
        let [mut argument, mut mount, mut volume] = [const { String::new() }; 3];
        if let Some(ObjectName(secret)) = &self.token_secret {
            argument = format!("            - --token-file={TOKENS_FOLDER}/{TOKENS_KEY}\n");
            mount = format!(
                "          volumeMounts:\n            - {{name: tokens, mountPath: {TOKENS_FOLDER}, readOnly: true}}\n"
            );
            let secret = serde_json::Value::from(secret.as_str());
            volume = format!(
                "      volumes:\n        - name: tokens\n          secret: {{secretName: {secret}}}\n"
            );
        }
        let external_names = match self.external_names {
            ExternalNames::Refused => "",
            ExternalNames::Followed => "            - --external-names\n",
        };
        yaml.join("---\n")
            .replace("@EXTERNAL_NAMES@\n", external_names)
            .replace("@TOKEN_FILE@\n", &argument)
            .replace("@TOKEN_MOUNT@\n", &mount)
            .replace("@TOKEN_VOLUME@\n", &volume)
            .replace("@NAMESPACE@", self.namespace.as_str())
            .replace("@PORT@", &PORT.to_string())
            .replace("@STATUS_PORT@", &STATUS_PORT.to_string())
            // Quoted as JSON has it, which is YAML.
            .replace("@IMAGE@", &serde_json::Value::from(image).to_string())
    }
}

/// Where its probes and its metrics are.
const STATUS_PORT: u16 = 7071;

/// Where the static tokens are in its pods. As a folder, and not as a file of it, they follow the Secret.
const TOKENS_FOLDER: &str = "/etc/devbox/tokens";

const ACCOUNT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata:
  name: devbox-gateway
  namespace: @NAMESPACE@
  labels: {app.kubernetes.io/name: devbox-gateway}
";

const REVIEWS: &str = "
# Who its clients are and what they may do themselves: the API server says it.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: devbox-gateway-reviews-@NAMESPACE@
  labels: {app.kubernetes.io/name: devbox-gateway}
rules:
  - apiGroups: [authentication.k8s.io]
    resources: [tokenreviews]
    verbs: [create]
  - apiGroups: [authorization.k8s.io]
    resources: [subjectaccessreviews]
    verbs: [create]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: devbox-gateway-reviews-@NAMESPACE@
  labels: {app.kubernetes.io/name: devbox-gateway}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: devbox-gateway-reviews-@NAMESPACE@
subjects:
  - kind: ServiceAccount
    name: devbox-gateway
    namespace: @NAMESPACE@
";

const SESSIONS: &str = "
# Which replica has which session: a Lease for each, here.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: devbox-gateway-sessions
  namespace: @NAMESPACE@
  labels: {app.kubernetes.io/name: devbox-gateway}
rules:
  - apiGroups: [coordination.k8s.io]
    resources: [leases]
    verbs: [list, watch, create, update, delete]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: devbox-gateway-sessions
  namespace: @NAMESPACE@
  labels: {app.kubernetes.io/name: devbox-gateway}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: devbox-gateway-sessions
subjects:
  - kind: ServiceAccount
    name: devbox-gateway
    namespace: @NAMESPACE@
";

const CATALOG: &str = "
# Which services there are, and which pods answer for them.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: devbox-gateway-catalog-@NAMESPACE@
  labels: {app.kubernetes.io/name: devbox-gateway}
rules:
  - apiGroups: ['']
    resources: [services]
    verbs: [list, watch]
  - apiGroups: [discovery.k8s.io]
    resources: [endpointslices]
    verbs: [list, watch]
  # A team's names, pins and order, for clients who may read them themselves.
  - apiGroups: ['']
    resources: [configmaps]
    resourceNames: [devbox]
    verbs: [list, watch]
";

const EVERYWHERE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: devbox-gateway-catalog-@NAMESPACE@
  labels: {app.kubernetes.io/name: devbox-gateway}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: devbox-gateway-catalog-@NAMESPACE@
subjects:
  - kind: ServiceAccount
    name: devbox-gateway
    namespace: @NAMESPACE@
";

const IN_ONE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: devbox-gateway-catalog-@NAMESPACE@
  namespace: @SERVED@
  labels: {app.kubernetes.io/name: devbox-gateway}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: devbox-gateway-catalog-@NAMESPACE@
subjects:
  - kind: ServiceAccount
    name: devbox-gateway
    namespace: @NAMESPACE@
";

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: devbox-gateway
  namespace: @NAMESPACE@
  labels: {app.kubernetes.io/name: devbox-gateway}
spec:
  replicas: 2
  selector:
    matchLabels: {devbox.dev/gateway: installed}
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  template:
    metadata:
      # Clients look for the second label.
      labels: {app.kubernetes.io/name: devbox-gateway, devbox.dev/gateway: installed}
    spec:
      serviceAccountName: devbox-gateway
      enableServiceLinks: false
      # What Pod Security calls restricted.
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        seccompProfile: {type: RuntimeDefault}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {devbox.dev/gateway: installed}
      # More than the pause and the drain together.
      terminationGracePeriodSeconds: 45
      containers:
        - name: gateway
          image: @IMAGE@
          imagePullPolicy: IfNotPresent
          args:
            - --kubernetes
            - --replica=$(POD_NAME)/$(POD_UID)
            - --listen=0.0.0.0:@PORT@
            # What is in front of it has TLS: the API server, or the Ingress.
            - --insecure
            - --status-listen=0.0.0.0:@STATUS_PORT@
            # All clients have the address of whoever passes them on.
            - --max-half-open-per-address=2048
            - --drain=30s
@EXTERNAL_NAMES@
@TOKEN_FILE@
          env:
            - name: POD_NAME
              valueFrom: {fieldRef: {fieldPath: metadata.name}}
            - name: POD_UID
              valueFrom: {fieldRef: {fieldPath: metadata.uid}}
          ports:
            - {name: tunnel, containerPort: @PORT@}
            - {name: status, containerPort: @STATUS_PORT@}
          readinessProbe:
            httpGet: {path: /readyz, port: status}
            periodSeconds: 2
          livenessProbe:
            httpGet: {path: /healthz, port: status}
            periodSeconds: 10
            failureThreshold: 3
          lifecycle:
            # Until nobody sends newcomers here any more.
            preStop:
              sleep: {seconds: 5}
          resources:
            requests: {cpu: 50m, memory: 64Mi}
            limits: {memory: 512Mi}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            runAsNonRoot: true
            capabilities: {drop: [ALL]}
          terminationMessagePolicy: FallbackToLogsOnError
@TOKEN_MOUNT@
@TOKEN_VOLUME@
";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata:
  name: devbox-gateway
  namespace: @NAMESPACE@
  labels: {app.kubernetes.io/name: devbox-gateway}
  annotations: {devbox.dev/ignore: 'true'}
spec:
  selector: {devbox.dev/gateway: installed}
  ports:
    - {name: tunnel, port: @PORT@, targetPort: tunnel}
";

const DISRUPTION: &str = "
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: devbox-gateway
  namespace: @NAMESPACE@
  labels: {app.kubernetes.io/name: devbox-gateway}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {devbox.dev/gateway: installed}
";

const NETWORK: &str = "
# It reaches pods of any namespace, and not the metadata of the machine that it runs on.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: devbox-gateway
  namespace: @NAMESPACE@
  labels: {app.kubernetes.io/name: devbox-gateway}
spec:
  podSelector:
    matchLabels: {devbox.dev/gateway: installed}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports:
        - {port: tunnel, protocol: TCP}
        - {port: status, protocol: TCP}
  egress:
    - to:
        - ipBlock: {cidr: 0.0.0.0/0, except: [169.254.169.254/32]}
        - ipBlock: {cidr: '::/0', except: ['fd00:ec2::254/128']}
";

const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: devbox-gateway
  namespace: @NAMESPACE@
  labels: {app.kubernetes.io/name: devbox-gateway}
  annotations:
    # A session's connections go to one replica as long as it is there: a link is taken up again where it was. Other controllers have a
    # word of their own for it.
    nginx.ingress.kubernetes.io/upstream-hash-by: $uri
    nginx.ingress.kubernetes.io/proxy-read-timeout: '3600'
    nginx.ingress.kubernetes.io/proxy-send-timeout: '3600'
spec:
  rules:
    - host: @HOST@
      http:
        paths:
          - path: /kube/devbox/tunnel/client/
            pathType: Prefix
            backend:
              service: {name: devbox-gateway, port: {name: tunnel}}
  tls:
    - hosts: [@HOST@]
      secretName: devbox-gateway-tls
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::{apps, core, networking, policy, rbac};
    use serde::{Serialize, de::DeserializeOwned};
    use serde_json::{Value, json};

    use super::*;
    use crate::gateway::own::{OWN, OwnRight};

    fn installation(ingress: Option<&str>, serves: &[&str]) -> Installation {
        Installation {
            namespace: "devbox".parse().unwrap(),
            image: Some("example/gateway:1".to_owned()),
            ingress: ingress.map(|host| host.parse().unwrap()),
            serves: serves.iter().map(|name| name.parse().unwrap()).collect(),
            external_names: ExternalNames::Refused,
            token_secret: None,
        }
    }

    fn deployment(installation: &Installation) -> Value {
        let documents: Vec<Value> = serde_saphyr::from_multiple(&installation.to_yaml()).unwrap();
        let mut documents = documents.into_iter();
        documents
            .find(|document| document["kind"] == "Deployment")
            .unwrap()
    }

    #[test]
    fn the_objects() {
        insta::assert_snapshot!(installation(Some("devbox.example.com"), &[]).to_yaml());
    }

    /// What is read as a type and written again is what was there: no key is one that the type does not know.
    fn is<T: Serialize + DeserializeOwned>(document: &Value) {
        let typed: T = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(serde_json::to_value(typed).unwrap(), *document);
    }

    #[test]
    fn every_object_is_what_its_kind_says_and_nothing_else() {
        let yaml = installation(Some("devbox.example.com"), &["orders", "shop"]).to_yaml();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&yaml).unwrap();
        let mut kinds = Vec::new();
        for document in &documents {
            let kind = document["kind"].as_str().unwrap();
            kinds.push(kind);
            match kind {
                "ServiceAccount" => is::<core::v1::ServiceAccount>(document),
                "ClusterRole" => is::<rbac::v1::ClusterRole>(document),
                "ClusterRoleBinding" => is::<rbac::v1::ClusterRoleBinding>(document),
                "Role" => is::<rbac::v1::Role>(document),
                "RoleBinding" => is::<rbac::v1::RoleBinding>(document),
                "Deployment" => is::<apps::v1::Deployment>(document),
                "Service" => is::<core::v1::Service>(document),
                "PodDisruptionBudget" => is::<policy::v1::PodDisruptionBudget>(document),
                "NetworkPolicy" => is::<networking::v1::NetworkPolicy>(document),
                "Ingress" => is::<networking::v1::Ingress>(document),
                other => panic!("{other}"),
            }
        }
        // One for each namespace, and one for the sessions.
        assert_eq!(kinds.iter().filter(|kind| **kind == "RoleBinding").count(), 3);
        assert!(!yaml.contains('@'), "a place that was not filled in");
        assert!(!installation(None, &[]).to_yaml().contains("Ingress\n"));
    }

    #[test]
    fn the_roles_grant_what_the_table_of_the_gateways_rights_has_and_nothing_else() {
        let documents: Vec<Value> = serde_saphyr::from_multiple(&installation(None, &[]).to_yaml()).unwrap();
        let strings = |value: &Value| -> Vec<String> {
            let items = value.as_array().into_iter().flatten();
            items.map(|item| item.as_str().unwrap().to_owned()).collect()
        };
        let rules = documents
            .iter()
            .filter_map(|document| document["rules"].as_array());
        let granted: BTreeSet<_> = rules
            .flatten()
            .flat_map(|rule| {
                let verbs = strings(&rule["verbs"]);
                let all = strings(&rule["resources"]).into_iter();
                all.flat_map(move |resource| {
                    verbs
                        .clone()
                        .into_iter()
                        .map(move |verb| (resource.clone(), verb))
                })
            })
            .collect();
        let of_right = |right: &'static OwnRight| {
            let verbs = right.verbs.iter();
            verbs.map(|(verb, _)| (right.resource.to_owned(), (*verb).to_owned()))
        };
        assert_eq!(granted, OWN.iter().flat_map(of_right).collect());
    }

    #[test]
    fn external_names_are_followed_where_that_is_asked_for() {
        let arguments = |external_names| {
            let mut installation = installation(None, &[]);
            installation.external_names = external_names;
            let documents: Vec<Value> = serde_saphyr::from_multiple(&installation.to_yaml()).unwrap();
            let deployment = documents.iter().find(|document| document["kind"] == "Deployment");
            let container = &deployment.unwrap()["spec"]["template"]["spec"]["containers"][0];
            container["args"].as_array().unwrap().clone()
        };
        let (without, with) = (
            arguments(ExternalNames::Refused),
            arguments(ExternalNames::Followed),
        );
        assert_eq!(with[..without.len()], without);
        assert_eq!(with[without.len()..], ["--external-names"]);
    }

    #[test]
    fn a_host_is_a_name_and_no_url() {
        for no in ["", "https://a.example", "a.example/x", "a..b", "a b", "*.example"] {
            assert!(no.parse::<Host>().is_err(), "{no}");
        }
        assert!("gateway.example.com".parse::<Host>().is_ok());
    }

    #[test]
    fn whatever_the_image_is_called_it_stays_one_value() {
        let mut odd = installation(None, &[]);
        odd.image = Some("a\"\n  privileged: true # ' :".to_owned());
        let container = &deployment(&odd)["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"].as_str(), odd.image.as_deref());
        assert!(container.get("privileged").is_none());
    }

    #[test]
    fn a_secret_with_static_tokens_is_a_file_of_its_pods_and_nothing_else_changes() {
        let without = installation(None, &[]);
        let mut with = without.clone();
        // YAML would read it as a number.
        with.token_secret = Some("1e3".parse().unwrap());
        assert!(!with.to_yaml().contains('@'));
        let mut deployment_with = deployment(&with);
        is::<apps::v1::Deployment>(&deployment_with);
        let pod = &mut deployment_with["spec"]["template"]["spec"];
        let volume = pod.as_object_mut().unwrap().remove("volumes").unwrap();
        let container = pod["containers"][0].as_object_mut().unwrap();
        let mount = container.remove("volumeMounts").unwrap();
        let argument = container["args"].as_array_mut().unwrap().pop().unwrap();
        assert_eq!(
            volume,
            json!([{"name": "tokens", "secret": {"secretName": "1e3"}}])
        );
        assert_eq!(
            mount,
            json!([{"name": "tokens", "mountPath": TOKENS_FOLDER, "readOnly": true}])
        );
        assert_eq!(argument, format!("--token-file={TOKENS_FOLDER}/{TOKENS_KEY}"));
        assert_eq!(deployment_with, deployment(&without));
        for no in ["", "A", "a b", "a/b", "a..b", "-a", "a-", "a: b"] {
            no.parse::<ObjectName>().unwrap_err();
        }
        "ci.tokens-2".parse::<ObjectName>().unwrap();
    }
}
