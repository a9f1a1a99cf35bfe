//! A private view of the machine, where `/etc` is a copy and `/run` is nearly empty.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::caller::Caller;
use crate::command::own_mounts_words;
use crate::hosts;
use crate::process::Process;
use crate::scene::Scene;
use crate::skip::need_program;
use crate::wait;

/// A mount namespace in which `/etc` is a copy of the system's, with [`hosts::ORIGINAL`] as its hosts file, and `/run` has only
/// what sshd and a user's runtime folder need. Programs inside use and change `/etc/hosts` under its usual name, even by a
/// rename, and the machine stays as it was. The namespace ends with the last program in it.
#[derive(Debug)]
pub struct Machine {
    holder: Process,
    etc: PathBuf,
}

impl Machine {
    /// Creates one. Only root can, since the copy keeps its owners.
    ///
    /// # Errors
    /// [`crate::Skip`] for anyone else, and if the system allows no mount namespace.
    pub fn start(scene: &Scene) -> crate::Result<Machine> {
        scene.need_root()?;
        let folder = scene.folder().join(format!("machine-{}", scene.unique()));
        std::fs::create_dir(&folder)?;
        let etc = folder.join("etc");
        scene
            .command(["cp", "-a", "/etc"])
            .args([&etc])
            .run(Duration::from_secs(60))?
            .expect_success()?;
        // A new file, since the copied one may have the mode and attributes of a container's hosts file.
        std::fs::remove_file(etc.join("hosts")).ok();
        std::fs::write(etc.join("hosts"), hosts::ORIGINAL)?;
        std::fs::write(
            etc.join("nsswitch.conf"),
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
        )?;
        let script = "mount --bind \"$1\" /etc && mount -t tmpfs none /run && mkdir /run/sshd && \
                      install -d -m 700 -o \"$2\" /run/user/\"$2\" && echo ready && exec sleep infinity";
        let mut words = own_mounts_words()?;
        words.extend(["sh", "-c", script, "sh"].map(OsString::from));
        words.extend([etc.clone().into(), Caller::Ordinary.uid().to_string().into()]);
        let holder = scene.command(words).start()?;
        holder.wait_for_line("its mounts", wait::SOON, |line| line == "ready")?;
        Ok(Machine { holder, etc })
    }

    /// Creates one on which [`Caller::Ordinary`] may call sudo without a password.
    ///
    /// # Errors
    /// As [`start`](Machine::start), and [`crate::Skip`] where sudo is not installed.
    pub fn with_sudo(scene: &Scene) -> crate::Result<Machine> {
        need_program("sudo", "sudo")?;
        let machine = Machine::start(scene)?;
        // With a terminal of its own, as newer versions give it, the session would not be in sudo's process group.
        let rule = format!(
            "Defaults !use_pty\nroot ALL=(ALL:ALL) ALL\n{} ALL=(ALL:ALL) NOPASSWD: ALL\n",
            Caller::Ordinary.name()
        );
        let file = machine.etc().join("sudoers");
        std::fs::remove_file(&file)?;
        std::fs::write(&file, rule)?;
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o440))?;
        // The home that the password file names is what counts under sudo, not the variable.
        let passwords = std::fs::read_to_string(machine.etc().join("passwd"))?;
        let home = scene.home(Caller::Ordinary)?;
        std::fs::write(
            machine.etc().join("passwd"),
            passwords.replace("/nonexistent", &home.display().to_string()),
        )?;
        Ok(machine)
    }

    /// The file that is `/etc/hosts` inside, by a path that works outside.
    pub fn hosts(&self) -> PathBuf {
        self.etc.join("hosts")
    }

    /// The folder that is `/etc` inside.
    pub fn etc(&self) -> &Path {
        &self.etc
    }

    pub(crate) fn enter_words(&self) -> Vec<OsString> {
        let target = self.holder.pid().to_string();
        ["nsenter", "--target", &target, "--mount", "--"]
            .map(OsString::from)
            .to_vec()
    }
}
