//! `cargo xtask kube up`, `kube down`, `kube-test`: a real Kubernetes node, and the tests that need one.
//!
//! The node is `tests/kube/node`; here is built what it runs, once, below `target/kube`: Kubernetes' own programs from the Go modules
//! that `tests/kube/go.mod` pins, an image with other people's services, and the gateway's image.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::check;
use crate::command::{find_program, program_in_root, root, succeed, target_dir};
use crate::image;
use crate::oci::{self, Image};
use crate::programs::{self, FOR_KUBE};
use crate::say::say;
use crate::steps::{Done, Steps};
use crate::sys::is_root;

/// The Kubernetes release in `tests/kube/go.mod`, which its programs report as their own.
const RELEASE: &str = "v1.34.4";

/// The oldest Go that knows a module's `tool` lines.
const OLDEST_GO: (u32, u32) = (1, 24);

/// What a node that cannot be had is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoNode {
    /// A failure, where a node was asked for.
    Fails,
    /// A reason to skip its tests, in a run of everything: a machine without the Go modules or the kernel's features at hand says nothing
    /// about the change that is tested.
    Skips,
}

/// What becomes of the steps where a node is lacking something.
fn without_node(lacking: String, no_node: NoNode) -> Result<Done> {
    match no_node {
        NoNode::Fails => bail!("{lacking}"),
        NoNode::Skips => Ok(Done::Skipped(lacking)),
    }
}

/// The steps of `kube-test`. Where a node cannot run, they fail or are skipped, with the reason.
pub(crate) fn steps(steps: &mut Steps, may_install: bool, filters: &[String], no_node: NoNode) {
    let lacking = match lacking(may_install) {
        Ok(lacking) => lacking,
        Err(error) => Some(format!("{error:#}")),
    };
    let mut why: Option<String> = None;
    let mut step = |steps: &mut Steps, name: &str, work: &mut dyn FnMut(&mut Vec<String>) -> Result<Done>| {
        steps.step(name, |skips| {
            if let Some(why) = &why {
                return Ok(Done::Skipped(why.clone()));
            }
            let done = work(skips);
            match &done {
                Err(_) => why = Some("an earlier step failed".into()),
                Ok(Done::Skipped(reason)) => why = Some(reason.clone()),
                Ok(Done::Passed(_)) => {}
            }
            done
        });
    };
    let had = |had: Result<String>| match had {
        Err(error) if no_node == NoNode::Skips => Ok(Done::Skipped(format!("no node can be had: {error:#}"))),
        had => had.map(Done::Passed),
    };
    step(steps, "kube", &mut |skips| match &lacking {
        Some(lacking) => without_node(lacking.clone(), no_node),
        None => had(programs().inspect(|_| {
            // Without it, the rest is tested.
            if let Err(error) = issuer() {
                skips.push(format!("the OpenID Connect issuer cannot be built: {error:#}"));
            }
        })),
    });
    step(steps, "kube images", &mut |_| {
        had(images().map(|()| String::new()))
    });
    step(steps, "image", &mut |_| gateway_image().map(Done::Passed));
    let mut node = None;
    step(steps, "kube node", &mut |_| {
        had(Held::start().map(|held| {
            node = Some(held);
            String::new()
        }))
    });
    step(steps, "kube tests", &mut |skips| {
        let node = node.take().context("the node is held")?;
        let tested = check::kube_tests(&node.folder, filters, skips);
        node.end()?;
        tested
    });
}

/// Builds what is needed, starts a node, runs the tests that need one, and ends it.
pub(crate) fn test(may_install: bool, filters: &[String]) -> Result<ExitCode> {
    let mut all = Steps::default();
    all.step("build", |_| check::build());
    steps(&mut all, may_install, filters, NoNode::Fails);
    Ok(all.summary())
}

/// A node for a bench, with all that it needs built; none where `DEVBOX_KUBE` names one that runs.
pub(crate) fn for_bench() -> Result<Option<Held>> {
    if std::env::var_os("DEVBOX_KUBE").is_some() {
        return Ok(None);
    }
    if let Some(why) = lacking(true)? {
        bail!("{why}");
    }
    programs()?;
    images()?;
    gateway_image()?;
    Held::start().map(Some)
}

/// Starts a node that stays until [`down`].
pub(crate) fn up() -> Result<ExitCode> {
    if let Some(why) = lacking(true)? {
        bail!("{why}");
    }
    say(&"building Kubernetes' programs, unless they are built: minutes the first time");
    programs()?;
    if let Err(error) = issuer() {
        say(&format!("the OpenID Connect issuer cannot be built: {error:#}"));
    }
    images()?;
    gateway_image()?;
    succeed(node("up").arg(folder()))?;
    let script = script();
    let (script, folder) = (script.display(), folder());
    say(&format!(
        "the node is ready; try\n  {script} enter {0} kubectl get nodes\nDEVBOX_KUBE={0} is for cargo test -p devbox-tests --test kube",
        folder.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Ends it, and removes what a killed run left.
pub(crate) fn down() -> Result<ExitCode> {
    succeed(node("down").arg(folder()))?;
    Ok(ExitCode::SUCCESS)
}

/// A node that ends with us, however we end: its script waits for the end of its input, and we hold the pipe.
pub(crate) struct Held {
    child: Child,
    folder: PathBuf,
}

impl Held {
    fn start() -> Result<Self> {
        let folder = folder();
        let mut command = node("hold");
        command.arg(&folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        if line.trim_end() != "ready" {
            let mut told = String::new();
            if let Some(mut errors) = child.stderr.take() {
                errors.read_to_string(&mut told)?;
            }
            child.wait()?;
            bail!("{}", told.trim_end());
        }
        Ok(Self { child, folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        if !status.success() || self.folder.exists() {
            bail!(
                "the node's script ended with {status}, and left {}",
                self.folder.display()
            );
        }
        Ok(())
    }
}

fn kube() -> PathBuf {
    target_dir().join("kube")
}

fn folder() -> PathBuf {
    kube().join("node")
}

fn script() -> PathBuf {
    root().join("tests").join("kube").join("node")
}

fn node(verb: &str) -> Command {
    let mut command = program_in_root(script());
    command.arg(verb);
    command
}

/// Why no node can run here, if none can.
fn lacking(may_install: bool) -> Result<Option<String>> {
    if std::env::consts::OS != "linux" {
        return Ok(Some("a Kubernetes node needs Linux".into()));
    }
    if !is_root() {
        return Ok(Some("only root can start a Kubernetes node".into()));
    }
    if let Some(why) = no_go()? {
        return Ok(Some(why));
    }
    let absent = programs::provide(FOR_KUBE, may_install)?;
    if let Some(first) = absent.into_iter().next() {
        return Ok(Some(first));
    }
    if may_install && image::lacking()?.is_some() {
        image::add_target()?;
    }
    image::lacking()
}

fn no_go() -> Result<Option<String>> {
    const WANTED: &str = "Go 1.24 or newer, which builds the Kubernetes node";
    if find_program("go").is_none() {
        return Ok(Some(format!("{WANTED}: not installed; https://go.dev/dl")));
    }
    let text = succeed(program_in_root("go").args(["env", "GOVERSION"]))?;
    Ok((version(&text) < Some(OLDEST_GO)).then(|| format!("{WANTED}: only {} is installed", text.trim())))
}

/// `go1.26.8` is 1.26.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().strip_prefix("go")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Builds Kubernetes' programs, unless those of this go.mod are there.
fn programs() -> Result<String> {
    let sources = root().join("tests").join("kube");
    let pinned = fs::read_to_string(sources.join("go.mod"))? + &fs::read_to_string(sources.join("go.sum"))?;
    let bin = kube().join("bin");
    // Written last, so that it is there only beside a whole set.
    let built = bin.join("built-from");
    if fs::read_to_string(&built).is_ok_and(|text| text == pinned) {
        return Ok("built before".into());
    }
    fs::create_dir_all(&bin)?;
    let version = format!("-s -w -X k8s.io/component-base/version.gitVersion={RELEASE}");
    let go = |packages: &[&str], to: &Path| {
        let mut command = program_in_root("go");
        command.current_dir(&sources).args([
            "build",
            "-mod=readonly",
            "-trimpath",
            "-ldflags",
            &version,
            "-o",
        ]);
        succeed(command.arg(to).args(packages).env("CGO_ENABLED", "0"))
    };
    // All that go.mod names as a tool, and the pods' first process.
    go(&["tool"], &bin)?;
    go(&["./pause"], &bin)?;
    // Its package is called `server`.
    fs::rename(bin.join("server"), bin.join("etcd"))?;
    fs::write(built, pinned)?;
    Ok(format!("Kubernetes {RELEASE}"))
}

/// Builds the OpenID Connect issuer of a test, which Go does in a moment where it was built before.
fn issuer() -> Result<()> {
    let to = kube().join("bin").join("issuer");
    // Where it cannot be built, its test is skipped.
    fs::remove_file(&to).ok();
    let mut command = program_in_root("go");
    command
        .current_dir(root().join("tests").join("kube").join("issuer"))
        .args(["build", "-mod=readonly", "-trimpath", "-o"])
        .arg(to)
        .arg(".");
    succeed(command.env("CGO_ENABLED", "0"))?;
    Ok(())
}

/// Makes the images of the tests' pods, unless they are newer than what they are made from. Of the services' that is the script alone: the
/// programs are this machine's packages, and another version of one says nothing that the tests would want to know. Whoever wants the new
/// ones removes `target/kube/images`.
fn images() -> Result<()> {
    let folder = kube().join("images");
    fs::create_dir_all(&folder)?;
    let pause = folder.join("pause.tar");
    let program = kube().join("bin").join("pause");
    if older(&pause, &program)? {
        let root = tempfile::tempdir_in(kube())?;
        fs::copy(&program, root.path().join("pause"))?;
        pack("devbox.test/pause:1", &["/pause"], root.path(), &pause)?;
    }
    let services = folder.join("services.tar");
    let script = root().join("tests").join("kube").join("services-root");
    if older(&services, &script)? {
        let root = tempfile::tempdir_in(kube())?;
        succeed(program_in_root(script).arg(root.path()))?;
        pack("devbox.test/services:1", &[], root.path(), &services)?;
    }
    Ok(())
}

fn pack(reference: &str, entry_point: &[&str], root: &Path, to: &Path) -> Result<()> {
    let image = Image {
        reference,
        architecture: "amd64",
        entry_point,
        user: 1000,
        // Of Debian's packages, for the node beside it alone.
        compressed: false,
    };
    oci::pack(&image, root, to)?;
    Ok(())
}

fn older(made: &Path, from: &Path) -> Result<bool> {
    let source = fs::metadata(from).with_context(|| from.display().to_string())?;
    Ok(match fs::metadata(made) {
        Ok(metadata) => metadata.modified()? < source.modified()?,
        Err(_) => true,
    })
}

fn gateway_image() -> Result<String> {
    let packed = image::build(image::REFERENCE, &kube().join("images").join("gateway.tar"))?;
    Ok(format!("{} bytes", packed.layer_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_asked_for_and_cannot_be_had_is_a_failure() {
        let why = || "Go: not installed".to_owned();
        assert_eq!(
            without_node(why(), NoNode::Fails)
                .err()
                .map(|error| error.to_string()),
            Some(why())
        );
        let skipped = without_node(why(), NoNode::Skips);
        assert!(matches!(skipped, Ok(Done::Skipped(reason)) if reason == why()));
    }

    #[test]
    fn a_version_of_go_is_compared_by_its_numbers() {
        assert_eq!(version("go1.26.8\n"), Some((1, 26)));
        assert!(version("go1.9") < Some(OLDEST_GO));
        assert!(version("devel") < Some(OLDEST_GO));
        assert!(version("go1.24") >= Some(OLDEST_GO));
    }

    #[test]
    fn the_release_is_the_one_that_is_pinned() {
        let text = fs::read_to_string(root().join("tests").join("kube").join("go.mod")).unwrap();
        let pin = ["k8s.io/kubernetes", RELEASE];
        assert!(text.lines().any(|line| line.split_whitespace().take(2).eq(pin)));
    }
}
