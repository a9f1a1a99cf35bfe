//! Where a session puts its files, and what it says where it cannot.
#![cfg(target_os = "linux")]

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::ensure;
use devbox_tests::peers::Echo;
use devbox_tests::{
    Caller, Gateway, Invocation, Outcome, Process, Result, Scene, Signal, files_below, scenario, wait,
};

const PORT: u16 = 7210;

/// Variables that name no place: missing, empty, or relative to wherever the command happens to run.
const NOWHERE: [&[(&str, Option<&str>)]; 3] = [
    &[("HOME", None)],
    &[("HOME", Some(""))],
    &[
        ("HOME", Some("home")),
        ("XDG_STATE_HOME", Some("state")),
        ("XDG_CONFIG_HOME", Some("config")),
        ("XDG_RUNTIME_DIR", Some("run")),
        ("TMPDIR", Some("tmp")),
    ],
];

#[test]
fn without_a_home_folder_nothing_is_written_into_the_working_directory() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let caller = Caller::Ordinary;
        for variables in NOWHERE {
            let folder = scene.folder_of(&format!("work-{}", scene.unique()), caller)?;
            let in_folder = |verb: &str| -> Result<_> {
                let mut command = gateway.devbox(verb, caller)?.in_folder(&folder);
                for (name, value) in variables {
                    command = match value {
                        Some(value) => command.env(name, *value),
                        None => command.env_remove(name),
                    };
                }
                Ok(command)
            };
            let hosts_file = scene.hosts_file(caller)?;
            let up = in_folder("up")?
                .args(["--hosts-file".into(), hosts_file.into_os_string()])
                .start()?;
            let mut up = up.stop_with(Signal::TERM);
            up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| line == "ready")?;
            up.signal(Signal::TERM)?;
            up.wait(wait::SOON)?;
            ensure!(
                up.errors()
                    .contains("addresses are kept in memory only: there is no home folder"),
                "{}",
                up.errors()
            );
            let plan = in_folder("up")?.args(["--no-hosts", "--dry-run"]);
            plan.run(wait::SOON)?.expect_success()?;
            let left = files_below(&folder);
            ensure!(left.is_empty(), "{variables:?}: {left:?}");
        }
        Ok(())
    })
}

/// A user whom no other test runs as, with a file or nothing in the place where control sockets go as a last resort.
struct Stranger<'a> {
    scene: &'a Scene,
    uid: u32,
    last_resort: PathBuf,
}

impl<'a> Stranger<'a> {
    fn new(scene: &'a Scene) -> Result<Self> {
        scene.need_root()?;
        let uid = fastrand::u32(2_000_000..3_000_000);
        let last_resort = PathBuf::from(format!("/tmp/devbox-{uid}"));
        Ok(Self {
            scene,
            uid,
            last_resort,
        })
    }

    /// A folder of this user's with this mode.
    fn folder(&self, name: &str, mode: u32) -> Result<PathBuf> {
        let folder = self.scene.folder().join(name);
        std::fs::create_dir(&folder)?;
        chown(&folder, Some(self.uid), Some(self.uid))?;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode))?;
        Ok(folder)
    }

    fn devbox(&self, arguments: &[&str], runtime: &Path) -> Result<Invocation<'a>> {
        let program = self.scene.devbox_program()?;
        let words = [
            "setpriv".into(),
            format!("--reuid={}", self.uid).into(),
            format!("--regid={}", self.uid).into(),
            "--clear-groups".into(),
            "--pdeathsig=KILL".into(),
            program.into_os_string(),
        ];
        let command = self.scene.command(words).args(arguments.iter().copied());
        Ok(command.env("XDG_RUNTIME_DIR", runtime).env("TMPDIR", runtime))
    }

    fn up(&self, runtime: &Path) -> Result<Process> {
        let catalog = self.scene.catalog(&[])?;
        let catalog = catalog.path().display().to_string();
        let arguments = ["up", "--no-hosts", "--catalog", &catalog];
        let up = self.devbox(&arguments, runtime)?.start()?.stop_with(Signal::TERM);
        up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| line == "ready")?;
        Ok(up)
    }
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        // A test that failed halfway may have left either.
        std::fs::remove_file(&self.last_resort).ok();
        std::fs::remove_dir(&self.last_resort).ok();
    }
}

#[test]
fn a_session_without_a_control_socket_says_so_once_and_why() -> Outcome {
    scenario(|scene| {
        let stranger = Stranger::new(scene)?;
        let closed = stranger.folder("closed", 0o500)?;
        std::fs::write(&stranger.last_resort, "in the way")?;
        let mut up = stranger.up(&closed)?;
        up.signal(Signal::TERM)?;
        up.wait(wait::SOON)?;
        let told = up.errors();
        ensure!(told.matches("there is no control socket").count() == 1, "{told}");
        let why = format!("{}/devbox: Permission denied", closed.display());
        ensure!(told.contains(&why), "{told}");
        Ok(())
    })
}

#[test]
fn a_folder_for_sockets_that_cannot_be_written_gives_way_to_the_next() -> Outcome {
    scenario(|scene| {
        let stranger = Stranger::new(scene)?;
        let runtime = stranger.folder("runtime", 0o700)?;
        stranger.folder("runtime/devbox", 0o500)?;
        let mut up = stranger.up(&runtime)?;
        ensure!(!up.errors().contains("control socket"), "{}", up.errors());
        let status = stranger.devbox(&["status"], &runtime)?.run(wait::SOON)?;
        status.expect_success()?;
        up.signal(Signal::TERM)?;
        up.wait(wait::SOON)?;
        Ok(())
    })
}
