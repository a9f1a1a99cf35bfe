//! A Kubernetes node, and namespaces on it.
//!
//! `cargo xtask kube-test` starts the node (`tests/kube/node`) and names its folder in `DEVBOX_KUBE`; `cargo xtask kube up` starts
//! one that stays. Its programs, its services and its pods are on a network of their own, which [`Node::command`] runs programs in.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::{Caller, Invocation, Scene, Skip, wait};

/// The image with PostgreSQL, Redis, nginx and dnsmasq.
pub const SERVICES_IMAGE: &str = "devbox.test/services:1";
/// The gateway's image.
pub const GATEWAY_IMAGE: &str = "devbox.test/gateway:1";
/// How long pods may take to become ready on a busy machine.
pub const ROLLOUT: Duration = Duration::from_secs(120);

/// A running node.
#[derive(Debug, Clone)]
pub struct Node {
    folder: PathBuf,
}

impl Node {
    /// The node that `DEVBOX_KUBE` names.
    ///
    /// # Errors
    /// [`Skip`] if it names none.
    pub fn find() -> crate::Result<Node> {
        let Some(folder) = std::env::var_os("DEVBOX_KUBE") else {
            return Err(Skip::new("there is no Kubernetes node (cargo xtask kube-test)").into());
        };
        let folder = PathBuf::from(folder);
        let folder = folder
            .canonicalize()
            .with_context(|| format!("DEVBOX_KUBE names {}", folder.display()))?;
        Ok(Node { folder })
    }

    /// A node that a test itself has started there with [`script`](Node::script).
    pub fn at(folder: &Path) -> Node {
        Node {
            folder: folder.to_owned(),
        }
    }

    /// The script that starts and ends nodes.
    pub fn script() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("kube").join("node")
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its first process: its end is the end of all programs and pods of the node.
    ///
    /// # Errors
    /// If it does not run.
    pub fn first_process(&self) -> crate::Result<u32> {
        let file = self.folder.join("first-process");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let pid = text
            .split(' ')
            .next()
            .context("the first process was not written down")?;
        Ok(pid.parse()?)
    }

    /// Its network namespace.
    ///
    /// # Errors
    /// If it does not run.
    pub fn network(&self) -> crate::Result<PathBuf> {
        Ok(format!("/proc/{}/ns/net", self.first_process()?).into())
    }

    /// Runs `work` in its network: the sockets that it makes belong there, and so do those of the threads that it starts.
    ///
    /// # Errors
    /// Those of `work`; if the node does not run.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> crate::Result<T> + Send) -> crate::Result<T> {
        crate::networks::inside(&self.network()?, work)
    }

    /// Its address there, at which the API server listens too.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn address(&self) -> crate::Result<Ipv4Addr> {
        Ok(fs::read_to_string(self.folder.join("address"))?.trim().parse()?)
    }

    /// The kubeconfig of a user who may do anything.
    pub fn admin(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// One of Kubernetes' programs, such as kubectl.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join("..").join("bin").join(name)
    }

    /// A program to run in the node's network, with the admin's kubeconfig.
    ///
    /// # Errors
    /// If the node does not run.
    pub fn command<'a, I, S>(&self, scene: &'a Scene, argv: I) -> crate::Result<Invocation<'a>>
    where
        I: IntoIterator<Item = S>,
        S: Into<std::ffi::OsString>,
    {
        Ok(self.enter(scene.command(argv))?.env("KUBECONFIG", self.admin()))
    }

    /// The same program, in the node's network.
    ///
    /// # Errors
    /// If the node does not run.
    pub fn enter<'a>(&self, command: Invocation<'a>) -> crate::Result<Invocation<'a>> {
        Ok(command.in_network(self.network()?))
    }

    /// Runs kubectl as the admin to its end, and returns what it printed.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn kubectl<I, S>(&self, arguments: I) -> crate::Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        self.kubectl_with(arguments, "")
    }

    fn kubectl_with<I, S>(&self, arguments: I, input: &str) -> crate::Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let mut command = Command::new("nsenter");
        let mut network = std::ffi::OsString::from("--net=");
        network.push(self.network()?);
        command.arg(network).arg(self.program("kubectl"));
        command.arg("--kubeconfig").arg(self.admin()).args(arguments);
        let (reader, mut writer) = std::io::pipe()?;
        let child = command
            .stdin(reader)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("nsenter")?;
        // The command holds the pipe's read end: without it, a kubectl that reads nothing would leave us writing for ever.
        let shown = format!("{command:?}");
        drop(command);
        let input = input.to_owned();
        let writing = std::thread::spawn(move || std::io::Write::write_all(&mut writer, input.as_bytes()));
        let output = child.wait_with_output()?;
        // If it did not read everything, it says why.
        writing.join().map(Result::ok).ok();
        if !output.status.success() {
            bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// An empty namespace, which is removed with all that is in it when it is dropped.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn namespace(&self) -> crate::Result<Namespace> {
        let name = format!("t{:08x}", fastrand::u32(..));
        self.kubectl(["create", "namespace", &name])?;
        Ok(Namespace {
            node: self.clone(),
            name,
        })
    }

    /// A namespace with the services of `tests/kube/services.yaml`, all ready.
    ///
    /// # Errors
    /// If they do not become ready.
    pub fn services(&self) -> crate::Result<Namespace> {
        let namespace = self.namespace()?;
        namespace.apply(include_str!("../kube/services.yaml"))?;
        for workload in [
            "statefulset/db",
            "deployment/cache",
            "deployment/web",
            "deployment/dns",
        ] {
            namespace.rollout(workload)?;
        }
        for (service, pods) in [("db", 2), ("cache", 1), ("web", 2), ("dns", 1)] {
            namespace.published(service, pods)?;
        }
        Ok(namespace)
    }

    /// Starts the DNS server of the pods (`tests/kube/cluster-dns.yaml`), unless it runs, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn cluster_dns(&self) -> crate::Result {
        let services = fs::read_to_string(self.folder.join("services"))?;
        let address = format!("{}.10", services.trim());
        let text = include_str!("../kube/cluster-dns.yaml").replace("ADDRESS", &address);
        self.apply(&text)?;
        let wanted = ["rollout", "status", "deployment/cluster-dns", "--timeout=120s"];
        self.kubectl([&["--namespace=kube-system"], &wanted[..]].concat())?;
        Ok(())
    }

    /// Creates or changes what these manifests describe, each in the namespace that it names. `NODE` in them is the node's address.
    ///
    /// # Errors
    /// If the API server refuses one.
    pub fn apply(&self, manifests: &str) -> crate::Result {
        self.apply_with(manifests, &[])
    }

    fn apply_with(&self, manifests: &str, more: &[&str]) -> crate::Result {
        let manifests = manifests.replace("NODE", &self.address()?.to_string());
        let arguments = [&["apply", "--filename=-"], more].concat();
        self.kubectl_with(arguments, &manifests)?;
        Ok(())
    }

    /// The process id, on this machine, of a program in a pod.
    ///
    /// # Errors
    /// If it does not run.
    pub fn process_in(&self, namespace: &str, pod: &str, program: &str) -> crate::Result<u32> {
        let place = format!("--namespace={namespace}");
        let uid = self.kubectl(["get", "pod", pod, &place, "--output=jsonpath={.metadata.uid}"])?;
        let is_its = |process: &PathBuf| {
            let read = |file: &str| fs::read_to_string(process.join(file)).unwrap_or_default();
            read("comm").trim_end() == program && read("cgroup").contains(&uid)
        };
        let mut processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
        let found = processes
            .find(is_its)
            .with_context(|| format!("no {program} runs in {pod}"))?;
        let pid = found.file_name().and_then(|name| name.to_str());
        Ok(pid.context("no process id")?.parse()?)
    }

    /// Kills one of the node's programs, such as `kube-apiserver`.
    ///
    /// # Errors
    /// If it does not run.
    pub fn stop(&self, program: &str) -> crate::Result {
        self.tell("stop", program)
    }

    /// Starts it again. The API server takes seconds until it answers: [`wait_until_served`](Node::wait_until_served).
    ///
    /// # Errors
    /// If the node does not run.
    pub fn start(&self, program: &str) -> crate::Result {
        self.tell("start", program)
    }

    /// Waits until the API server answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait_until_served(&self) -> crate::Result {
        wait::until_ok("the API server", ROLLOUT, || {
            self.kubectl(["get", "--raw", "/readyz"])
        })?;
        Ok(())
    }

    fn tell(&self, verb: &str, program: &str) -> crate::Result {
        let output = Command::new(Node::script())
            .arg(verb)
            .arg(&self.folder)
            .arg(program)
            .output()?;
        if !output.status.success() {
            bail!(
                "{verb} {program}: {}",
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(())
    }

    /// The process id, on this machine, of one of the node's programs: what /proc has of its CPU time and memory is for benches.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid_of(&self, program: &str) -> crate::Result<u32> {
        let there = fs::read_to_string(self.folder.join("run").join(program))?;
        let node = fs::read_link(format!("/proc/{}/ns/pid", self.first_process()?))?;
        for entry in fs::read_dir("/proc")? {
            let entry = entry?.path();
            // It may have ended, or be no process.
            let (Ok(space), Ok(status)) = (
                fs::read_link(entry.join("ns/pid")),
                fs::read_to_string(entry.join("status")),
            ) else {
                continue;
            };
            // pid_namespaces(7): its number in each namespace, ours first.
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let numbers: Vec<&str> = numbers.unwrap_or_default().split_ascii_whitespace().collect();
            if let [here, .., inside] = numbers[..]
                && space == node
                && inside == there.trim()
            {
                return Ok(here.parse()?);
            }
        }
        bail!("{program} does not run")
    }
}

/// A namespace of a test.
#[derive(Debug)]
pub struct Namespace {
    node: Node,
    name: String,
}

impl Namespace {
    /// Its name, different in each test.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node that it is on.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Runs kubectl in this namespace as the admin, and returns what it printed.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> crate::Result<String> {
        let namespace = format!("--namespace={}", self.name);
        self.node.kubectl([&[namespace.as_str()], arguments].concat())
    }

    /// Creates or changes what these manifests describe. `NODE` in them is the node's address.
    ///
    /// # Errors
    /// If the API server refuses one.
    pub fn apply(&self, manifests: &str) -> crate::Result {
        self.node
            .apply_with(manifests, &[&format!("--namespace={}", self.name)])
    }

    /// Waits until a workload, such as `deployment/web`, is as wanted and ready.
    ///
    /// # Errors
    /// If it is not, with the state of its pods.
    pub fn rollout(&self, workload: &str) -> crate::Result {
        let limit = format!("--timeout={}s", ROLLOUT.as_secs());
        let ready = self.kubectl(&["rollout", "status", workload, &limit]);
        if let Err(error) = ready {
            let pods = self.kubectl(&["describe", "pods"])?;
            return Err(error.context(pods));
        }
        Ok(())
    }

    /// Waits until so many pods of a service are ready in its EndpointSlices, which are written a moment after the pods are.
    ///
    /// # Errors
    /// If they are not, with how many are.
    pub fn published(&self, service: &str, pods: usize) -> crate::Result {
        let selector = format!("--selector=kubernetes.io/service-name={service}");
        let ready = "--output=jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].targetRef.name}";
        wait::until_ok(&format!("the endpoints of {service}"), wait::SOON, || {
            let there = self.kubectl(&["get", "endpointslices", &selector, ready])?;
            // A pod with addresses of both families is in two slices.
            let there: BTreeSet<&str> = there.split_ascii_whitespace().collect();
            ensure!(there.len() >= pods, "{there:?}");
            Ok(())
        })
    }

    /// Replaces the pods of a workload one after the other, and waits for the last.
    ///
    /// # Errors
    /// As [`rollout`](Namespace::rollout).
    pub fn restart(&self, workload: &str) -> crate::Result {
        self.kubectl(&["rollout", "restart", workload])?;
        self.rollout(workload)
    }

    /// The names of the pods with this label, `app=web`, that are not being deleted.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub fn pods(&self, label: &str) -> crate::Result<Vec<String>> {
        let list = self.kubectl(&["get", "pods", "--selector", label, "--output=json"])?;
        let list: Value = serde_json::from_str(&list)?;
        let pods = list["items"].as_array().context("no list")?;
        let staying = pods
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let names = staying.filter_map(|pod| pod["metadata"]["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// The address of a pod.
    ///
    /// # Errors
    /// If it has none.
    pub fn address_of(&self, pod: &str) -> crate::Result<Ipv4Addr> {
        let address = self.kubectl(&["get", "pod", pod, "--output=jsonpath={.status.podIP}"])?;
        address
            .parse()
            .with_context(|| format!("{pod} has no address: {address:?}"))
    }

    /// Kills the pods with this label without a grace period, and does not wait for it.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn kill_pods(&self, label: &str) -> crate::Result {
        let now = ["--grace-period=0", "--force", "--wait=false"];
        self.kubectl(&[&["delete", "pods", "--selector", label], &now[..]].concat())?;
        Ok(())
    }

    /// A user with a client certificate, who has these rights in this namespace and no other. `rules` is a Role's, in JSON or YAML.
    /// Returns the kubeconfig, which `caller` may read.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn user(&self, scene: &Scene, rules: &str, caller: Caller) -> crate::Result<PathBuf> {
        let name = format!("user-{}-{}", self.name, scene.unique());
        let made = Command::new(Node::script().with_file_name("credentials"))
            .arg(self.node.folder())
            .args(["user", &name, "testers"])
            .output()?;
        if !made.status.success() {
            bail!("{}", String::from_utf8_lossy(&made.stderr).trim_end());
        }
        self.grant(&name, &format!("{{kind: User, name: {name}}}"), rules)?;
        let text = fs::read(self.node.folder().join(format!("{name}.kubeconfig")))?;
        scene.write_secret(&format!("{name}.kubeconfig"), text, caller)
    }

    /// A user with a token: a service account with these rights in this namespace and no other. Returns the kubeconfig, which
    /// `caller` may read, and whose token is for the API server.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn service_account(&self, scene: &Scene, rules: &str, caller: Caller) -> crate::Result<PathBuf> {
        let name = format!("account-{}", scene.unique());
        self.kubectl(&["create", "serviceaccount", &name])?;
        self.grant(&name, &format!("{{kind: ServiceAccount, name: {name}}}"), rules)?;
        let token = self.token(&name, None)?;
        let authority = fs::read(self.node.folder().join("pki").join("ca.crt"))?;
        let authority = scene.write("ca.crt", authority)?;
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}:6443", self.node.address()?),
                "certificate-authority": authority,
            }}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name, "namespace": self.name}}],
            "current-context": "test",
        });
        scene.write_secret(&format!("{name}.kubeconfig"), config.to_string(), caller)
    }

    /// A token of a service account, for the API server or for another audience.
    ///
    /// # Errors
    /// If there is no such service account.
    pub fn token(&self, account: &str, audience: Option<&str>) -> crate::Result<String> {
        let audience = audience.map(|audience| format!("--audience={audience}"));
        let arguments = ["create", "token", account]
            .into_iter()
            .chain(audience.as_deref());
        Ok(self
            .kubectl(&arguments.collect::<Vec<_>>())?
            .trim_end()
            .to_owned())
    }

    /// What the API server says of a token for this audience: the status of a TokenReview.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn review(&self, token: &str, audience: &str) -> crate::Result<Value> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        });
        let create = ["create", "--filename=-", "--output=json"];
        let answer = self.node.kubectl_with(create, &review.to_string())?;
        Ok(serde_json::from_str::<Value>(&answer)?["status"].take())
    }

    /// Gives a subject the rights of these rules, in this namespace.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn grant(&self, role: &str, subject: &str, rules: &str) -> crate::Result {
        self.apply(&format!(
            "{{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {{name: {role}}}, rules: {rules}}}\n---\n\
             {{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {{name: {role}}}, \
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {role}}}, subjects: [{subject}]}}\n"
        ))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let deleted = self
            .node
            .kubectl(["delete", "namespace", &self.name, "--wait=false"]);
        // The API server may be away, after a test that failed while it was; the node goes with all of its namespaces.
        deleted.ok();
    }
}
