//! The ways into the cluster: `devbox up`, and `kubectl port-forward`.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use devbox_tests::hosts::{self, Watch};
use devbox_tests::kube::GATEWAY_IMAGE;
use devbox_tests::{Caller, Process, Scene, Signal, proc};

use super::load;
use super::objects::{Cluster, PORT, REFUSED_PORT};

/// What takes longer than this will not come.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(1);
const AT_ONCE: usize = 16;

const API_SERVER_PORT: u16 = 6443;

/// A session of ours, alone with its hosts file.
pub(crate) struct Up<'a> {
    cluster: &'a Cluster,
    process: Process,
    hosts: PathBuf,
    watch: Watch,
    began: Instant,
}

impl<'a> Up<'a> {
    pub(crate) fn start(scene: &'a Scene, cluster: &'a Cluster, way: &str) -> Result<Self> {
        let hosts = scene.hosts_file(Caller::own())?;
        let watch = Watch::start(&hosts)?;
        let environment = format!("bench-{}", scene.unique());
        let command = cluster.node().enter(
            scene
                .devbox(["up", "-n", cluster.namespace().name(), "--via", way])?
                .args([
                    "--gateway-image",
                    GATEWAY_IMAGE,
                    "--env",
                    &environment,
                    "--hosts-file",
                ])
                .args([hosts.as_os_str()])
                .env("KUBECONFIG", cluster.node().admin()),
        )?;
        let began = Instant::now();
        Ok(Self {
            cluster,
            // A gateway whose session was killed would stay for minutes.
            process: command.start()?.stop_with(Signal::TERM),
            hosts,
            watch,
            began,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn address_of(&self, name: &str) -> Result<SocketAddr> {
        let port = if name == super::objects::REFUSED_SERVICE {
            REFUSED_PORT
        } else {
            PORT
        };
        let address = hosts::lookup(&self.hosts, name).with_context(|| format!("{name} has no address"))?;
        Ok((address, port).into())
    }

    /// Seconds from the start to the first answer of `name`.
    pub(crate) fn first_answer(&self, name: &str) -> Result<f64> {
        self.first_answer_since(name, self.began)
    }

    pub(crate) fn first_answer_since(&self, name: &str, since: Instant) -> Result<f64> {
        let answered = || load::answers(self.address_of(name)?);
        self.cluster.node().inside(|| until_ok(since, answered))
    }

    /// The file has bytes that are no UTF-8 either.
    fn hosts_text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.hosts)?).into_owned())
    }

    /// Seconds from the start until all names are there.
    pub(crate) fn published(&self, names: &[String]) -> Result<f64> {
        let wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        until_ok(self.began, || {
            let text = self.hosts_text()?;
            let found = text.split_ascii_whitespace().filter(|word| wanted.contains(word));
            let found = found.collect::<BTreeSet<_>>().len();
            if found < wanted.len() {
                bail!("{found} of {} names", wanted.len());
            }
            Ok(())
        })
    }

    /// Seconds from the start until each name has answered once.
    pub(crate) fn all_answered(&self, names: &[String]) -> Result<f64> {
        let text = self.hosts_text()?;
        let mut addresses = std::collections::HashMap::new();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            if let Some(Ok(address)) = words.next().map(str::parse::<Ipv4Addr>) {
                addresses.extend(words.map(|name| (name, address)));
            }
        }
        let next = AtomicUsize::new(0);
        let one_thread = || {
            while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                let address = addresses
                    .get(name.as_str())
                    .with_context(|| format!("{name} has no address"))?;
                load::answers((*address, PORT).into()).with_context(|| name.clone())?;
            }
            Ok::<_, anyhow::Error>(())
        };
        self.cluster.node().inside(|| {
            thread::scope(|scope| {
                let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(one_thread)).collect();
                threads
                    .into_iter()
                    .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
            })
        })?;
        Ok(self.began.elapsed().as_secs_f64())
    }

    /// How many connections to the API server it has.
    pub(crate) fn api_connections(&self) -> Result<usize> {
        proc::connections_of(self.pid(), API_SERVER_PORT)
    }

    pub(crate) fn hosts_writes(&self) -> Result<usize> {
        self.watch.changes()
    }
}

/// A port-forward of kubectl's.
pub(crate) struct Kubectl<'a> {
    cluster: &'a Cluster,
    process: Process,
    began: Instant,
}

impl<'a> Kubectl<'a> {
    const ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const LOCAL: u16 = 19_000;
    const LOCAL_REFUSED: u16 = 19_001;

    pub(crate) fn start(scene: &'a Scene, cluster: &'a Cluster) -> Result<Self> {
        let node = cluster.node();
        let command = node.command(scene, [node.program("kubectl")])?.args([
            "--namespace",
            cluster.namespace().name(),
            "port-forward",
            cluster.pod()?,
            &format!("{}:{PORT}", Self::LOCAL),
            &format!("{}:{REFUSED_PORT}", Self::LOCAL_REFUSED),
        ]);
        let began = Instant::now();
        Ok(Self {
            cluster,
            process: command.start()?,
            began,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Self::ADDRESS, Self::LOCAL).into()
    }

    pub(crate) fn refused_address(&self) -> SocketAddr {
        (Self::ADDRESS, Self::LOCAL_REFUSED).into()
    }

    pub(crate) fn first_answer(&self) -> Result<f64> {
        let answered = || load::answers(self.address());
        self.cluster.node().inside(|| until_ok(self.began, answered))
    }
}

/// Seconds from `since` until `attempt` succeeds.
fn until_ok(since: Instant, mut attempt: impl FnMut() -> Result<()>) -> Result<f64> {
    loop {
        match attempt() {
            Ok(()) => return Ok(since.elapsed().as_secs_f64()),
            Err(error) if since.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
