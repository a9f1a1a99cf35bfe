//! What is in the cluster: two pods with our service, and services that lead to them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use devbox_tests::kube::{Namespace, Node};
use devbox_tests::{Scene, wait};

use crate::road::service::ARGUMENT;

/// A service that answers.
pub(crate) const ECHO_SERVICE: &str = "echo";
/// One whose port nobody listens on.
pub(crate) const REFUSED_SERVICE: &str = "refused";
pub(crate) const PORT: u16 = 9000;
pub(crate) const REFUSED_PORT: u16 = 9001;

/// A thousand services have their endpoints after some seconds.
const ENDPOINTS: Duration = Duration::from_secs(120);

/// A gateway is gone some seconds after its last session.
const GATEWAY_GONE: Duration = Duration::from_secs(60);

/// A namespace with our service in it.
pub(crate) struct Cluster {
    namespace: Namespace,
    pods: Vec<(String, String)>,
}

/// A service that came later.
pub(crate) struct Added {
    pub(crate) name: String,
    /// Since when its endpoint is ready.
    pub(crate) ready: Instant,
}

impl Cluster {
    pub(crate) fn new(scene: &Scene, node: &Node) -> Result<Self> {
        let namespace = node.namespace()?;
        // The pods' image has no program of ours: this one, which the node's file system has as well.
        let program = scene.folder().join(format!("service-{}", scene.unique()));
        std::fs::copy(std::env::current_exe()?, &program)?;
        namespace.apply(&format!(
            r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: echo}}}}
  template:
    metadata: {{labels: {{app: echo}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: echo
          image: devbox.test/services:1
          imagePullPolicy: Never
          command: [/service, {ARGUMENT}, "{PORT}"]
          readinessProbe: {{tcpSocket: {{port: {PORT}}}, periodSeconds: 1}}
          volumeMounts: [{{name: program, mountPath: /service, readOnly: true}}]
      volumes: [{{name: program, hostPath: {{path: {program}, type: File}}}}]
"#,
            program = program.display()
        ))?;
        namespace.rollout("deployment/echo")?;
        let mut pods = Vec::new();
        for pod in namespace.pods("app=echo")? {
            let address = namespace.address_of(&pod)?;
            pods.push((pod, address.to_string()));
        }
        let cluster = Cluster { namespace, pods };
        cluster.create(&[(ECHO_SERVICE, PORT), (REFUSED_SERVICE, REFUSED_PORT)])?;
        Ok(cluster)
    }

    pub(crate) fn node(&self) -> &Node {
        self.namespace.node()
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub(crate) fn pod(&self) -> Result<&str> {
        Ok(&self.pods.first().context("no pod")?.0)
    }

    pub(crate) fn pod_address(&self) -> Result<SocketAddr> {
        let (_, address) = self.pods.first().context("no pod")?;
        Ok((address.parse::<std::net::Ipv4Addr>()?, PORT).into())
    }

    /// Adds so many ordinary services, which the two pods serve; their names.
    pub(crate) fn add_services(&self, count: usize) -> Result<Vec<String>> {
        let names: Vec<String> = (0..count).map(|number| format!("service-{number}")).collect();
        let mut text = String::new();
        for name in &names {
            writeln!(
                text,
                "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
                 spec: {{selector: {{app: echo}}, ports: [{{name: tcp, port: {PORT}}}]}}}}"
            )?;
        }
        self.namespace.apply(&text)?;
        let with_endpoints = [
            "get",
            "endpointslices",
            "--selector=endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io",
            "--output=name",
        ];
        wait::until("the endpoints of all services", ENDPOINTS, || {
            let slices = self.namespace.kubectl(&with_endpoints).ok()?;
            (slices.lines().count() == count).then_some(())
        })?;
        Ok(names)
    }

    pub(crate) fn add_service(&self, name: &str) -> Result<Added> {
        self.create(&[(name, PORT)])?;
        Ok(Added {
            name: name.to_owned(),
            ready: Instant::now(),
        })
    }

    pub(crate) fn wait_until_no_gateway(&self) -> Result<()> {
        wait::until("the end of the gateway pod", GATEWAY_GONE, || {
            let pods = [
                "get",
                "pods",
                "--selector=app.kubernetes.io/name=devbox-gateway",
                "--output=name",
            ];
            self.namespace.kubectl(&pods).ok()?.is_empty().then_some(())
        })
    }

    /// Services without an address in the cluster, with slices written by hand: the moment at which they are ready is known.
    fn create(&self, services: &[(&str, u16)]) -> Result<()> {
        let mut text = String::new();
        for (name, port) in services {
            write!(
                text,
                "---\n\
                 {{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: None, ports: [{{name: tcp, port: {port}}}]}}}}\n\
                 ---\n\
                 {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
                 metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}, \
                 ports: [{{name: tcp, port: {port}, protocol: TCP}}], endpoints: ["
            )?;
            for (pod, address) in &self.pods {
                let namespace = self.namespace.name();
                write!(
                    text,
                    "{{addresses: [{address}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {pod}, namespace: {namespace}}}}},"
                )?;
            }
            text.push_str("]}\n");
        }
        self.namespace.apply(&text)
    }
}
