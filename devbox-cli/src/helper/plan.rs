//! What an installation of the helper consists of, as data: files and the commands around them.

mod windows;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use devbox_helper_client::{SOCKET, SOCKET_APPLE};

/// Where the installed program is.
pub(super) const PROGRAM: &str = "/usr/local/libexec/devbox-helper";

/// What starts services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Starter {
    Systemd,
    Launchd,
    /// Windows' service control manager.
    Manager,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// Whether one that is there already stays.
    pub(super) keep: bool,
}

/// Everything that is installed besides the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The installed program.
    pub(super) program: &'static str,
    /// Run before the files are there: one of another version that runs makes way where it cannot be replaced while it does. What is
    /// not there cannot be stopped, so a failure is not told.
    pub(super) before: Vec<Vec<&'static str>>,
    pub(super) files: Vec<File>,
    /// Run once the files are there; a failure is told.
    pub(super) start: Vec<Vec<&'static str>>,
    /// Run before the files go, the last one undoes what a helper left that was killed; what is not running cannot be stopped, so that is not
    /// told.
    pub(super) stop: Vec<Vec<&'static str>>,
    /// Run after the files have gone.
    pub(super) forget: Vec<Vec<&'static str>>,
    /// Folders that go with the installation, with all that is in them.
    pub(super) folders: Vec<PathBuf>,
}

/// The user is one as a policy names them.
pub(super) fn plan(starter: Starter, user: &str) -> Plan {
    let file = |path: &str, text: String| File {
        path: path.into(),
        text,
        keep: false,
    };
    let policy = File {
        keep: true,
        ..file("/etc/devbox/policy.toml", devbox_helper::default_policy(user))
    };
    let mut folders = vec!["/var/lib/devbox".into(), "/etc/devbox".into()];
    match starter {
        Starter::Manager => windows::plan(user),
        Starter::Systemd => {
            folders.push("/run/devbox".into());
            Plan {
                program: PROGRAM,
                before: Vec::new(),
                files: vec![
                    policy,
                    file("/etc/systemd/system/devbox-helper.socket", socket_unit()),
                    file("/etc/systemd/system/devbox-helper.service", service_unit()),
                    file("/etc/systemd/system/devbox-helper-sweep.service", sweep_unit()),
                ],
                start: vec![
                    vec!["systemctl", "daemon-reload"],
                    vec!["systemctl", "enable", "--now", "devbox-helper.socket"],
                    vec!["systemctl", "enable", "devbox-helper-sweep.service"],
                    // One of another version that runs makes way; its callers connect to the next.
                    vec!["systemctl", "try-restart", "devbox-helper.service"],
                ],
                stop: vec![
                    vec![
                        "systemctl",
                        "disable",
                        "--now",
                        "devbox-helper.socket",
                        "devbox-helper.service",
                        "devbox-helper-sweep.service",
                    ],
                    vec![PROGRAM, "sweep"],
                ],
                forget: vec![vec!["systemctl", "daemon-reload"]],
                folders,
            }
        }
        Starter::Launchd => {
            let bootout = vec!["launchctl", "bootout", "system/dev.devbox.helper"];
            Plan {
                program: PROGRAM,
                before: Vec::new(),
                files: vec![policy, file(PLIST, plist())],
                start: vec![vec!["launchctl", "bootstrap", "system", PLIST]],
                stop: vec![bootout, vec![PROGRAM, "sweep"]],
                // launchd leaves it.
                forget: vec![vec!["rm", "-f", SOCKET_APPLE]],
                folders,
            }
        }
    }
}

impl Plan {
    /// The files and commands, for a person.
    pub(super) fn shown(&self, program: &Path) -> String {
        let mut text = format!("{}: a copy of {}\n", self.program, program.display());
        for file in &self.files {
            let keep = if file.keep { " (unless it is there)" } else { "" };
            // A String takes everything.
            write!(
                text,
                "\n{}{keep}:\n\n{}",
                file.path.display(),
                indented(&file.text)
            )
            .ok();
        }
        text.push('\n');
        for command in &self.start {
            writeln!(text, "{}", command.join(" ")).ok();
        }
        text
    }
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| format!("  {line}").trim_end().to_owned() + "\n")
        .collect()
}

fn socket_unit() -> String {
    format!(
        "[Unit]\n\
         Description=Socket of the devbox helper\n\
         Documentation=https://github.com/devbox-rs/devbox\n\
         \n\
         [Socket]\n\
         ListenStream={SOCKET}\n\
         # Who may ask is for the policy to say, by what the kernel tells of who connects.\n\
         SocketMode=0666\n\
         DirectoryMode=0755\n\
         Accept=no\n\
         \n\
         [Install]\n\
         WantedBy=sockets.target\n"
    )
}

fn service_unit() -> String {
    format!(
        "[Unit]\n\
         Description=Changes this machine for devbox sessions, and undoes it\n\
         Documentation=https://github.com/devbox-rs/devbox\n\
         Requires=devbox-helper.socket\n\
         After=devbox-helper.socket devbox-helper-sweep.service\n\
         # It is started again however often it is killed: who waits for it would wait in vain.\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=simple\n\
         ExecStart={PROGRAM} serve\n\
         # One that is killed comes back, undoes what is in its journal, and its callers connect again.\n\
         Restart=on-failure\n\
         RestartSec=100ms\n\
         TimeoutStopSec=30s\n\
         # It waits most of the time: one arena, and neither blocks nor stacks are kept for later (glibc's tunables).\n\
         Environment=GLIBC_TUNABLES=glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0:glibc.pthread.stack_cache_size=0\n\
         LimitNOFILE=4096\n\
         MemoryMax=256M\n\
         TasksMax=128\n\
         {SANDBOX}"
    )
}

/// After a start of the machine, when nobody may ask the helper for anything for long.
fn sweep_unit() -> String {
    format!(
        "[Unit]\n\
         Description=Undoes what devbox sessions left at the last end of this machine\n\
         Documentation=https://github.com/devbox-rs/devbox\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart={PROGRAM} sweep\n\
         TimeoutStartSec=30s\n\
         {SANDBOX}\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

fn plist() -> String {
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>dev.devbox.helper</string>
  <key>ProgramArguments</key>
  <array>
    <string>{PROGRAM}</string>
    <string>serve</string>
  </array>
  <key>Sockets</key>
  <dict>
    <key>Listeners</key>
    <dict>
      <key>SockPathName</key>
      <string>{SOCKET_APPLE}</string>
      <key>SockPathMode</key>
      <integer>438</integer>
    </dict>
  </dict>
  <key>KeepAlive</key>
  <dict>
    <key>SuccessfulExit</key>
    <false/>
  </dict>
</dict>
</plist>
"#
    )
}

/// Capabilities: the hosts file of root in its folder (`CAP_DAC_OVERRIDE` where that is another's), ports below 1024, the network.
const SANDBOX: &str = "\
    StateDirectory=devbox\n\
    StateDirectoryMode=0700\n\
    \n\
    CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE\n\
    AmbientCapabilities=\n\
    NoNewPrivileges=yes\n\
    # The hosts file is replaced by another one in its folder.\n\
    ProtectSystem=strict\n\
    ReadWritePaths=/etc\n\
    ProtectHome=yes\n\
    PrivateTmp=yes\n\
    PrivateDevices=no\n\
    DevicePolicy=closed\n\
    DeviceAllow=/dev/net/tun rw\n\
    ProtectProc=default\n\
    ProtectKernelTunables=yes\n\
    ProtectKernelModules=yes\n\
    ProtectKernelLogs=yes\n\
    ProtectControlGroups=yes\n\
    ProtectClock=yes\n\
    ProtectHostname=yes\n\
    RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n\
    RestrictNamespaces=yes\n\
    RestrictRealtime=yes\n\
    RestrictSUIDSGID=yes\n\
    LockPersonality=yes\n\
    MemoryDenyWriteExecute=yes\n\
    SystemCallArchitectures=native\n\
    SystemCallFilter=@system-service\n\
    SystemCallFilter=~@resources @mount @swap @reboot @module @obsolete @cpu-emulation @debug @raw-io\n\
    SystemCallErrorNumber=EPERM\n\
    UMask=0022\n";

const PLIST: &str = "/Library/LaunchDaemons/dev.devbox.helper.plist";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_with_systemd() {
        insta::assert_snapshot!(plan(Starter::Systemd, "1000").shown(Path::new("/opt/devbox-helper")));
    }

    #[test]
    fn what_is_installed_as_a_windows_service() {
        let plan = plan(Starter::Manager, "S-1-5-21-1-2-3-1001");
        let mut text = plan.shown(Path::new(r"C:\devbox-helper.exe"));
        for (what, commands) in [
            ("before", &plan.before),
            ("stop", &plan.stop),
            ("forget", &plan.forget),
        ] {
            for command in commands {
                writeln!(text, "{what}: {}", command.join(" ")).unwrap();
            }
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn what_is_installed_with_launchd() {
        insta::assert_snapshot!(plan(Starter::Launchd, "501").shown(Path::new("/opt/devbox-helper")));
    }
}
