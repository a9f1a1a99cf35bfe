//! A session of `devbox up`, and connections of a program in the node's network to what it publishes.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use devbox_tests::kube::{Namespace, Node};
use devbox_tests::{Caller, Process, Result, Scene, Signal, hosts, wait};
use serde_json::{Value, json};

use crate::user;

pub(crate) const CALLER: Caller = Caller::Ordinary;
pub(crate) const REDIS: u16 = 6379;

/// How long after what caused it something may take that happens at once, on a machine that is busy.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(3);

/// What was measured and has no bound, or one that is far off.
#[expect(
    clippy::print_stdout,
    reason = "`cargo test -- --nocapture` shows it to whoever wants it"
)]
pub(crate) fn figure(text: &str) {
    println!("{text}");
}

pub(crate) struct Session<'a> {
    scene: &'a Scene,
    namespace: &'a Namespace,
    kubeconfig: &'a Path,
    hosts: PathBuf,
    pub(crate) up: Process,
}

impl<'a> Session<'a> {
    /// A session of this namespace that is ready.
    pub(crate) fn start(
        scene: &'a Scene,
        namespace: &'a Namespace,
        kubeconfig: &'a Path,
        more: &[&str],
    ) -> Result<Self> {
        let hosts = scene.hosts_file(CALLER)?;
        let shown = hosts.display().to_string();
        let words = [&["up", "--hosts-file", &shown, "-n", namespace.name()], more].concat();
        Self::with(scene, namespace, kubeconfig, hosts, &words)
    }

    /// A session of what a configuration file says that is ready. Its programs are in the network of the namespace's node.
    pub(crate) fn of_config(
        scene: &'a Scene,
        namespace: &'a Namespace,
        kubeconfig: &'a Path,
        config: &Path,
    ) -> Result<Self> {
        let hosts = scene.hosts_file(CALLER)?;
        let (shown, config) = (hosts.display().to_string(), config.display().to_string());
        let words = ["up", "--hosts-file", &shown, "--config", &config];
        Self::with(scene, namespace, kubeconfig, hosts, &words)
    }

    fn with(
        scene: &'a Scene,
        namespace: &'a Namespace,
        kubeconfig: &'a Path,
        hosts: PathBuf,
        words: &[&str],
    ) -> Result<Self> {
        let up = user::devbox(scene, namespace, kubeconfig, words)?
            .by(CALLER)
            .start()?;
        up.wait_for_line("a session that is ready", 8 * wait::SOON, |line| line == "ready")?;
        Ok(Self {
            scene,
            namespace,
            kubeconfig,
            hosts,
            up,
        })
    }

    pub(crate) fn of(&self, name: &str) -> Option<IpAddr> {
        hosts::lookup(&self.hosts, name)
    }

    /// Waits until these two names lead to the same address.
    pub(crate) fn same(&self, one: &str, other: &str) -> Result {
        wait::until(
            &format!("{one} at the address of {other}"),
            2 * wait::SOON,
            || (self.of(one)? == self.of(other)?).then_some(()),
        )?;
        Ok(())
    }

    pub(crate) fn at(&self, name: &str, address: IpAddr) -> Result {
        wait::until(&format!("{name} at {address}"), 2 * wait::SOON, || {
            (self.of(name)? == address).then_some(())
        })?;
        Ok(())
    }

    pub(crate) fn there(&self, name: &str) -> Result {
        wait::until(&format!("the name {name}"), 2 * wait::SOON, || self.of(name))?;
        Ok(())
    }

    pub(crate) fn gone(&self, name: &str) -> Result {
        wait::until(&format!("the end of {name}"), 2 * wait::SOON, || {
            self.of(name).is_none().then_some(())
        })?;
        Ok(())
    }

    pub(crate) fn status(&self) -> Result<Value> {
        self.status_of("test")
    }

    /// The status of the session of this environment, where it is not called by its context.
    pub(crate) fn status_of(&self, environment: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.status_as(environment, &["--json"])?)?)
    }

    /// The status, in the form that these options ask for.
    pub(crate) fn status_as(&self, environment: &str, form: &[&str]) -> Result<String> {
        let words = [&["status", "--env", environment], form].concat();
        let status = user::devbox(self.scene, self.namespace, self.kubeconfig, &words)?.by(CALLER);
        Ok(status.run(wait::SOON)?.expect_success()?.output())
    }

    /// The only provider, as the status has it.
    pub(crate) fn provider(&self) -> Result<Value> {
        Ok(self.status()?["providers"][0].take())
    }

    /// A service of the namespace, as the status has it; null where it has none.
    pub(crate) fn service(&self, name: &str) -> Result<Value> {
        let id = format!("{name}.{}", self.namespace.name());
        let mut status = self.status()?;
        let services = status["services"].as_array_mut().context("no services")?;
        let found = services.iter_mut().find(|service| service["service"] == id);
        Ok(found.map(Value::take).unwrap_or_default())
    }

    /// Whether the status has a remark on the way in that contains this.
    pub(crate) fn remarks(&self, part: &str) -> Result<bool> {
        let provider = self.provider()?;
        let mut remarks = provider["remarks"].as_array().into_iter().flatten();
        Ok(remarks.any(|remark| remark.as_str().is_some_and(|remark| remark.contains(part))))
    }

    /// Why a service cannot answer, as the status has it.
    pub(crate) fn not_ready(&self, name: &str) -> Result<String> {
        let service = self.service(name)?;
        let reason = service["readiness"]["not_ready"]["reason"].as_str();
        let reason = reason.with_context(|| format!("{name} is ready: {service}"))?;
        Ok(reason.to_owned())
    }

    /// Waits until the notes about the catalog are these, and no others.
    pub(crate) fn notes(&self, wanted: &[String]) -> Result {
        let found = || {
            let status = self.status().ok()?;
            let notes = status["providers"][0]["notes"].as_array().cloned();
            Some(notes.unwrap_or_default())
        };
        let as_wanted = wait::until("the notes", 2 * wait::SOON, || {
            (found()? == *wanted).then_some(())
        });
        as_wanted.with_context(|| format!("{:?} instead of {wanted:?}", found()))?;
        Ok(())
    }

    /// Connects to a service as a program in the node's network does.
    pub(crate) fn connect(&self, name: &str, port: u16) -> Result<TcpStream> {
        let address = self.of(name).with_context(|| format!("no address of {name}"))?;
        let stream = self
            .namespace
            .node()
            .inside(|| Ok(TcpStream::connect((address, port))?))?;
        stream.set_read_timeout(Some(4 * wait::SOON))?;
        Ok(stream)
    }

    /// What a new connection comes to instead of an answer, and how long that took.
    pub(crate) fn refused(&self, name: &str, port: u16) -> Result<(std::io::Error, Duration)> {
        let began = Instant::now();
        let mut connection = Redis(self.connect(name, port)?);
        match connection.ask("PING") {
            Ok(answer) => anyhow::bail!("{name} answers {answer:?}"),
            Err(error) => Ok((error, began.elapsed())),
        }
    }

    pub(crate) fn end(mut self) -> Result<()> {
        self.up.signal(Signal::TERM)?;
        self.up.wait(2 * wait::SOON)?;
        Ok(())
    }
}

/// A connection to Redis.
pub(crate) struct Redis(pub(crate) TcpStream);

/// A connection that somebody reads from, and when and how it ended.
pub(crate) struct Held(JoinHandle<(io::Result<usize>, Instant)>);

impl Held {
    /// Waits for the end, which must come within a short time after `cause`.
    fn end(self, cause: Instant, what: &str) -> Result<io::Result<usize>> {
        let ended = self.0.join().map_err(|_| anyhow::anyhow!("the reader failed"))?;
        let (outcome, at) = ended;
        let after = at.saturating_duration_since(cause);
        ensure!(after < AT_ONCE, "{what}: {outcome:?} after {after:?}");
        figure(&format!("{what}: {outcome:?} after {after:?}"));
        Ok(outcome)
    }

    /// Waits for the end, which must be a reset: one in good order would be made up, as nobody has said it.
    pub(crate) fn expect_reset_at_once(self, cause: Instant, what: &str) -> Result {
        let outcome = self.end(cause, what)?;
        let kind = outcome.as_ref().map_err(io::Error::kind);
        ensure!(kind == Err(io::ErrorKind::ConnectionReset), "{what}: {outcome:?}");
        Ok(())
    }

    /// Waits for the end, which must be in good order.
    pub(crate) fn expect_end_at_once(self, cause: Instant, what: &str) -> Result {
        let outcome = self.end(cause, what)?;
        ensure!(matches!(outcome, Ok(0)), "{what}: {outcome:?}");
        Ok(())
    }
}

impl Redis {
    /// The last line of the answer to a command: bulk strings and arrays of them have their text there.
    pub(crate) fn ask(&mut self, command: &str) -> std::io::Result<String> {
        self.0.write_all(format!("{command}\r\n").as_bytes())?;
        // Nothing comes that was not asked for, so that nothing is left in it.
        let mut reader = BufReader::new(&self.0);
        let mut line = || -> std::io::Result<String> {
            let mut line = String::new();
            match reader.read_line(&mut line)? {
                0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(line.trim_end().to_owned()),
            }
        };
        let mut last = line()?;
        let mut lines = match last.split_at_checked(1) {
            Some(("*", count)) => 2 * count.parse().unwrap_or(0),
            Some(("$", _)) => 1,
            _ => 0,
        };
        while lines > 0 {
            last = line()?;
            lines -= 1;
        }
        Ok(last)
    }

    /// Reads from here on, though nothing was asked.
    pub(crate) fn hold(mut self) -> Held {
        Held(std::thread::spawn(move || {
            (self.0.read(&mut [0]), Instant::now())
        }))
    }

    /// What the pod is called that answers (`redis_pod`).
    pub(crate) fn pod(&mut self) -> Result<String> {
        let name = self.ask("CONFIG GET syslog-ident")?;
        ensure!(!name.starts_with('-'), "{name}");
        Ok(name)
    }
}

/// Services whose pods nobody needs: their names and addresses are what matters.
pub(crate) fn podless(namespace: &Namespace, names: &[&str]) -> Result {
    for name in names {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": "None", "ports": [{"port": 7001}]},
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "", "port": 7001, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": true},
                           "targetRef": {"kind": "Pod", "name": "one"}}],
        });
        namespace.apply(&format!("{slice}\n---\n{service}\n"))?;
    }
    Ok(())
}

/// A namespace with Redis, and nothing else.
pub(crate) fn with_redis(node: &Node) -> Result<Namespace> {
    let namespace = node.namespace()?;
    namespace.apply(&redis_pod("cache", "cache"))?;
    namespace.kubectl(&["expose", "pod/cache", "--port=6379"])?;
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/cache", "--timeout=60s"])?;
    namespace.published("cache", 1)?;
    Ok(namespace)
}

/// A pod with Redis that tells its name, and keeps what is open for a while after it began to end.
pub(crate) fn redis_pod(name: &str, label: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {label}}}}}
spec:
  terminationGracePeriodSeconds: 60
  securityContext: {{runAsNonRoot: true, runAsUser: 1000}}
  containers:
    - name: redis
      image: devbox.test/services:1
      imagePullPolicy: Never
      command: [redis-server, --bind, 0.0.0.0, --protected-mode, 'no', --save, '', --dir, /tmp, --syslog-ident, {name}]
      ports: [{{name: redis, containerPort: 6379}}]
      readinessProbe: {{tcpSocket: {{port: redis}}, periodSeconds: 1}}
      lifecycle: {{preStop: {{exec: {{command: [sleep, '55']}}}}}}
---
"
    )
}
