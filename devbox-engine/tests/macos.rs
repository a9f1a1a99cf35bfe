//! A session on a Mac, as far as that can be had on another system: the real engine, asking a real installed helper in another process,
//! which does all that it does on macOS but for running the programs. Those command lines it writes down.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use devbox_engine::{Config, Engine, Helper, ProviderConfig, Publish};
use devbox_helper::Service;
use netif::bsd::Rehearsal;

use support::ask;

const ORIGINAL: &[u8] = b"127.0.0.1 localhost\n10.1.2.3 mine.example";
/// Addresses that no other test has.
const POOL: &str = "127.79.20.0/24";

/// A Mac with an installed helper.
struct Mac {
    dir: tempfile::TempDir,
}

impl Mac {
    fn new() -> Self {
        let mac = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::write(mac.path("hosts"), ORIGINAL).unwrap();
        let me = fs::metadata(mac.dir.path()).unwrap().uid();
        let policy = format!("users = [{me}]\npools = [\"{POOL}\"]\n");
        fs::write(mac.path("policy"), policy).unwrap();
        mac
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the helper, in a process of its own, and waits until it serves.
    fn start_helper(&self) -> Server {
        let mut command = Command::new(std::env::current_exe().unwrap());
        // One test at a time runs on the first thread, which is the one that the helper wants.
        command.args([
            "--exact",
            "helper_of_a_mac",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ]);
        let child = command
            .env("MAC", self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let mut server = Server(child.unwrap());
        let start = Instant::now();
        while devbox_helper_client::Client::connect(self.path("socket")).is_err() {
            assert_eq!(server.0.try_wait().unwrap(), None, "the helper has ended");
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "the helper does not serve"
            );
            std::thread::yield_now();
        }
        server
    }

    /// `devbox up` with a catalog of one echo service, `NAME.backend`.
    async fn up(&self, name: &str, port: u16) -> Engine {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let catalog = self.path("catalog.yaml");
        let text = format!(
            "environment: staging\nservices:\n  - name: {name}\n    namespace: backend\n    \
             ports: [{{port: {port}, target: \"{target}\"}}]\n"
        );
        fs::write(&catalog, text).unwrap();
        let pools = vec![POOL.parse().unwrap()];
        let helper = Helper::installed(&self.path("socket"), &pools, None).unwrap();
        let config = Config {
            pools,
            publish: Publish::HostsFile(self.path("hosts")),
            helper: Some(helper),
            ..Config::new([ProviderConfig::direct("here", catalog)])
        };
        devbox_engine::start(config).await.unwrap()
    }

    /// Waits until exactly these programs were run.
    async fn has_run(&self, wanted: &[String]) {
        let start = Instant::now();
        loop {
            let script = fs::read_to_string(self.path("script")).unwrap_or_default();
            let lines: Vec<&str> = script.lines().collect();
            if lines == wanted {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(30) && lines.len() <= wanted.len(),
                "{lines:#?} rather than {wanted:#?}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

struct Server(Child);

impl Server {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only when it has ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
#[ignore = "it is the helper of the other tests"]
fn helper_of_a_mac() {
    let Some(dir) = std::env::var_os("MAC").map(PathBuf::from) else {
        return; // run by hand, with no test at the other end
    };
    let mut service = Service::default();
    service.socket = Some(dir.join("socket"));
    service.policy_file = dir.join("policy");
    service.hosts_file = dir.join("hosts");
    service.state_dir = dir.join("state");
    service.log = devbox_helper::LogTo::Nowhere;
    let system = Rehearsal::to(&dir.join("script")).unwrap();
    let owner = netif::Owner::new("devbox").unwrap();
    service.backend = Box::new(netif::bsd::macos(owner, system, &dir.join("resolver")));
    service.run().unwrap();
}

#[tokio::test]
async fn a_session_on_a_mac_runs_one_command_for_each_address_and_one_to_undo_it() {
    let mac = Mac::new();
    let mut helper = mac.start_helper();
    let engine = mac.up("echo", 4100).await;
    let status = engine.ready().await.unwrap();
    let address = status.services[0].addresses[0];
    let alias = format!("/sbin/ifconfig lo0 inet {address} netmask 255.255.255.255 alias");
    let undone = format!("/sbin/ifconfig lo0 inet {address} -alias");
    let mut wanted = vec![alias.clone()];
    mac.has_run(&wanted).await;
    let hosts = fs::read_to_string(mac.path("hosts")).unwrap();
    assert!(hosts.contains(&address.to_string()), "{hosts}");
    assert_eq!(ask(address, 4100).await, "hello");

    // What a helper left that was killed is undone by the next one before it serves; the session asks for it again.
    helper.kill();
    helper = mac.start_helper();
    wanted.extend([undone.clone(), alias]);
    mac.has_run(&wanted).await;
    assert_eq!(ask(address, 4100).await, "hello");

    engine.stop("the test").await;
    engine.wait().await.unwrap();
    drop(engine);
    wanted.push(undone);
    mac.has_run(&wanted).await;
    assert_eq!(fs::read(mac.path("hosts")).unwrap(), ORIGINAL);
    assert!(!mac.path("resolver").exists(), "nobody wanted a resolver rule");
    drop(helper);
}
