//! The node itself: a node, its rights and tokens, and nothing of it that stays.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use devbox_tests::kube::{Namespace, Node};
use devbox_tests::{Caller, Outcome, Result, Scene, Skip, scenario, wait};

/// kubectl as the user of a kubeconfig.
fn as_user(
    scene: &Scene,
    namespace: &Namespace,
    config: &Path,
    arguments: &[&str],
) -> Result<(bool, String)> {
    let kubectl = namespace.node().program("kubectl");
    let done = namespace
        .node()
        .command(scene, [kubectl])?
        .env("KUBECONFIG", config)
        .args(["--namespace", namespace.name()])
        .args(arguments.iter().copied())
        .by(Caller::Ordinary)
        .run(2 * wait::SOON)?;
    Ok((done.exit == devbox_tests::Exit::code(0), done.everything()))
}

#[test]
fn a_user_has_the_rights_that_a_role_gives() -> Outcome {
    scenario(|scene| {
        let node = Node::find()?;
        let (ours, other) = (node.namespace()?, node.namespace()?);
        let rules = r#"[{apiGroups: [""], resources: [services], verbs: [list]}]"#;
        let by_certificate = ours.user(scene, rules, Caller::Ordinary)?;
        let by_token = ours.service_account(scene, rules, Caller::Ordinary)?;
        for config in [by_certificate, by_token] {
            let (allowed, text) = as_user(scene, &ours, &config, &["get", "services"])?;
            ensure!(allowed, "{text}");
            for (namespace, what) in [(&ours, "pods"), (&other, "services")] {
                let (allowed, text) = as_user(scene, namespace, &config, &["get", what])?;
                ensure!(
                    !allowed && text.contains("cannot list resource"),
                    "{what}: {text}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn a_token_is_reviewed_for_its_audience() -> Outcome {
    scenario(|_| {
        let namespace = Node::find()?.namespace()?;
        let token = wait::until_ok("the default service account", wait::SOON, || {
            namespace.token("default", Some("devbox"))
        })?;
        let status = namespace.review(&token, "devbox")?;
        let user = format!("system:serviceaccount:{}:default", namespace.name());
        ensure!(
            status["authenticated"] == true && status["user"]["username"] == user.as_str(),
            "{status}"
        );
        for (token, audience) in [(token.as_str(), "another"), ("not-a-token", "devbox")] {
            let status = namespace.review(token, audience)?;
            ensure!(status["authenticated"] != true, "for {audience}: {status}");
        }
        Ok(())
    })
}

/// Ends what it is about, also when the test fails.
pub(crate) struct Started {
    folder: PathBuf,
}

impl Started {
    /// Another node beside the tests' own, for what would be in their way.
    pub(crate) fn beside(node: &Node, name: &str) -> Result<Self> {
        let [_, _, number, _] = node.address()?.octets();
        Self::numbered(node, name, number)
    }

    /// The same, whose pods and services have addresses of both families.
    pub(crate) fn of_both_families(node: &Node, name: &str) -> Result<Self> {
        if !Path::new("/proc/net/if_inet6").exists() {
            return Err(Skip::new("this kernel has no IPv6").into());
        }
        let [_, _, number, _] = node.address()?.octets();
        Self::with(node, name, number, "ipv6")
    }

    /// The same, with networks of that number: two nodes whose numbers differ can be joined by a cable.
    pub(crate) fn numbered(node: &Node, name: &str, number: u8) -> Result<Self> {
        Self::with(node, name, number, "ipv4")
    }

    fn with(node: &Node, name: &str, number: u8, families: &str) -> Result<Self> {
        let name = format!("{name}-{:08x}", fastrand::u32(..));
        let started = Self {
            folder: node.folder().with_file_name(name),
        };
        let up = Command::new(Node::script())
            .arg("up")
            .arg(&started.folder)
            .env("DEVBOX_KUBE_NUMBER", number.to_string())
            .env("DEVBOX_KUBE_FAMILIES", families)
            .output()?;
        ensure!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        Ok(started)
    }

    pub(crate) fn node(&self) -> Node {
        Node::at(&self.folder)
    }

    pub(crate) fn down(&self) -> Result {
        let done = Command::new(Node::script())
            .arg("down")
            .arg(&self.folder)
            .output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // The test has done it, or has failed already.
        self.down().ok();
    }
}

/// The processes in this process namespace or in one below it.
fn processes_in(space: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let in_it = |process: &PathBuf| fs::read_link(process.join("ns/pid")).is_ok_and(|other| other == space);
    entries.map(|entry| entry.path()).filter(in_it).collect()
}

/// The control groups of this name, in every hierarchy.
fn control_groups(name: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let each = fs::read_dir(top)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let all = each.chain([top.to_owned()]).map(|hierarchy| hierarchy.join(name));
    all.filter(|group| group.exists()).collect()
}

/// What the machine has, without what a node may change for a moment.
fn machine() -> Result<String> {
    let mut told = fs::read_to_string("/proc/self/mounts")?;
    for setting in ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"] {
        told += &fs::read_to_string(Path::new("/proc/sys").join(setting))?;
    }
    for folder in ["/var/lib", "/var/log", "/run", "/etc"] {
        let mut names = fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<Result<Vec<_>>>()?;
        names.sort();
        told += &format!("{folder}: {names:?}\n");
    }
    Ok(told)
}

#[test]
fn a_node_whose_start_is_killed_leaves_nothing_after_down() -> Outcome {
    scenario(|scene| {
        let node = Node::find()?;
        scene.need_root()?;
        let before = machine()?;
        // Beside the node of the tests, since it finds the programs from there.
        let folder = node
            .folder()
            .with_file_name(format!("killed-{:08x}", fastrand::u32(..)));
        let started = Started {
            folder: folder.clone(),
        };
        let mut script = Command::new(Node::script())
            .arg("hold")
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let killed = Node::at(&folder);
        let api_server = wait::until("its API server", 4 * wait::SOON, || {
            killed.pid_of("kube-apiserver").ok()
        })?;
        let space = fs::read_link(format!("/proc/{}/ns/pid", killed.first_process()?))?;
        let groups = fs::read_to_string(folder.join("control-group"))?;
        ensure!(!control_groups(groups.trim()).is_empty() && !processes_in(&space).is_empty());

        script.kill()?;
        script.wait()?;
        ensure!(
            devbox_tests::proc::is_alive(api_server),
            "it has ended with its script"
        );
        started.down()?;

        ensure!(!folder.exists(), "{} is left", folder.display());
        ensure!(
            processes_in(&space).is_empty(),
            "left: {:?}",
            processes_in(&space)
        );
        ensure!(control_groups(groups.trim()).is_empty());
        let after = machine()?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        started.down().context("a second time")
    })
}

#[test]
fn a_node_ends_with_whoever_holds_it() -> Outcome {
    scenario(|scene| {
        let node = Node::find()?;
        scene.need_root()?;
        let folder = node
            .folder()
            .with_file_name(format!("held-{:08x}", fastrand::u32(..)));
        let _started = Started {
            folder: folder.clone(),
        };
        let mut script = Command::new(Node::script())
            .arg("hold")
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = [0; 6];
        let mut output = script.stdout.take().context("a pipe")?;
        std::io::Read::read_exact(&mut output, &mut line)?;
        ensure!(line == *b"ready\n");
        let space = fs::read_link(format!("/proc/{}/ns/pid", Node::at(&folder).first_process()?))?;
        drop(script.stdin.take());
        ensure!(script.wait()?.success());
        ensure!(!folder.exists() && processes_in(&space).is_empty());
        Ok(())
    })
}

#[test]
fn the_api_server_is_away_for_a_while() -> Outcome {
    scenario(|_| {
        let started = Started::beside(&Node::find()?, "away")?;
        let node = started.node();
        let before = node.pid_of("kube-apiserver")?;
        node.stop("kube-apiserver")?;
        ensure!(node.kubectl(["get", "nodes"]).is_err());
        node.start("kube-apiserver")?;
        node.wait_until_served()?;
        ensure!(node.pid_of("kube-apiserver")? != before);
        started.down()
    })
}
