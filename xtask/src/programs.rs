//! Other people's programs that the end-to-end tests run: finds out which are missing, and installs them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{find_program, succeed};
use crate::say::say;
use crate::sys::{is_root, make_executable};

/// A program that tests need.
pub(crate) struct Wanted {
    /// How to find out whether it is installed.
    pub(crate) probe: Probe,
    /// The Debian package that contains it.
    pub(crate) package: &'static str,
    /// What is skipped without it.
    pub(crate) for_what: &'static str,
}

/// How to find out whether a program is installed.
pub(crate) enum Probe {
    /// A file of this name is in `PATH` or in an administrator's folder.
    InPath(&'static str),
    /// This file exists.
    File(&'static str),
    /// `folder/*/rest` exists for some `*`.
    Under(&'static str, &'static str),
}

impl Probe {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::InPath(name) => name,
            Self::File(path) | Self::Under(_, path) => path.rsplit('/').next().unwrap_or(path),
        }
    }

    fn found(&self) -> bool {
        match self {
            Self::InPath(name) => find_program(name).is_some(),
            Self::File(path) => Path::new(path).exists(),
            Self::Under(folder, rest) => fs::read_dir(folder)
                .is_ok_and(|entries| entries.flatten().any(|entry| entry.path().join(rest).exists())),
        }
    }
}

const fn wanted(probe: Probe, package: &'static str, for_what: &'static str) -> Wanted {
    Wanted {
        probe,
        package,
        for_what,
    }
}

/// For the end-to-end tests in `tests/`.
pub(crate) const FOR_TESTS: &[Wanted] = &[
    wanted(
        Probe::InPath("curl"),
        "curl",
        "HTTP by name, downloads, status codes",
    ),
    wanted(
        Probe::InPath("dnsmasq"),
        "dnsmasq-base",
        "a DNS server behind the gateway",
    ),
    wanted(Probe::InPath("dig"), "bind9-dnsutils", "DNS queries by name"),
    wanted(Probe::InPath("drill"), "ldnsutils", "drill asks our name server"),
    wanted(
        Probe::InPath("kdig"),
        "knot-dnsutils",
        "kdig asks our name server over TLS",
    ),
    wanted(
        Probe::InPath("unbound"),
        "unbound",
        "unbound's answers beside ours",
    ),
    wanted(
        Probe::InPath("iperf3"),
        "iperf3",
        "datagrams at a rate through the tunnel",
    ),
    wanted(Probe::InPath("git"), "git", "git clone by name"),
    wanted(
        Probe::InPath("nc.openbsd"),
        "netcat-openbsd",
        "half-close (nc -N)",
    ),
    wanted(
        Probe::InPath("musl-gcc"),
        "musl-tools",
        "what musl reads of a hosts file",
    ),
    wanted(Probe::InPath("nginx"), "nginx", "nginx behind the gateway"),
    wanted(
        Probe::InPath("haproxy"),
        "haproxy",
        "a gateway behind a proxy that cuts idle connections",
    ),
    wanted(
        Probe::InPath("tinyproxy"),
        "tinyproxy-bin",
        "a gateway through an HTTP proxy",
    ),
    wanted(
        Probe::InPath("microsocks"),
        "microsocks",
        "a gateway through a SOCKS proxy",
    ),
    wanted(Probe::InPath("openssl"), "openssl", "a gateway with TLS"),
    wanted(
        Probe::Under("/usr/lib/postgresql", "bin/postgres"),
        "postgresql",
        "PostgreSQL behind the gateway",
    ),
    wanted(Probe::InPath("psql"), "postgresql-client", "psql by name"),
    wanted(
        Probe::InPath("redis-server"),
        "redis-server",
        "Redis behind the gateway",
    ),
    wanted(
        Probe::InPath("redis-benchmark"),
        "redis-tools",
        "redis-benchmark by name",
    ),
    wanted(
        Probe::InPath("sshd"),
        "openssh-server",
        "ssh, git and rsync through the tunnel",
    ),
    wanted(
        Probe::InPath("ssh"),
        "openssh-client",
        "ssh, git and rsync through the tunnel",
    ),
    wanted(Probe::InPath("rsync"), "rsync", "rsync over ssh by name"),
    wanted(
        Probe::InPath("sudo"),
        "sudo",
        "under sudo only the helper stays root",
    ),
    wanted(
        Probe::InPath("ip"),
        "iproute2",
        "the tests' own network namespaces",
    ),
    wanted(
        Probe::InPath("musl-gcc"),
        "musl-tools",
        "what musl's resolver reads",
    ),
    wanted(
        Probe::InPath("patch"),
        "patch",
        "patch(1) applies a hosts file's diff",
    ),
    wanted(
        Probe::InPath("python3"),
        "python3",
        "a gateway, and a resolver in a scope, in another language",
    ),
    wanted(
        Probe::InPath("setfattr"),
        "attr",
        "a hosts file keeps its extended attributes",
    ),
    wanted(Probe::InPath("setfacl"), "acl", "a hosts file keeps its ACLs"),
    wanted(Probe::InPath("mandoc"), "mandoc", "the manual pages render"),
    wanted(Probe::InPath("zsh"), "zsh", "completion in zsh"),
    wanted(Probe::InPath("fish"), "fish", "completion in fish"),
    wanted(Probe::InPath("chattr"), "e2fsprogs", "an immutable hosts file"),
];

/// For a virtual machine with a distribution's kernel.
pub(crate) const FOR_VM: &[Wanted] = &[
    wanted(
        Probe::InPath("qemu-system-x86_64"),
        "qemu-system-x86",
        "a virtual machine",
    ),
    wanted(Probe::InPath("cpio"), "cpio", "a virtual machine"),
    wanted(Probe::InPath("busybox"), "busybox-static", "a virtual machine"),
    wanted(Probe::InPath("ip"), "iproute2", "a virtual machine"),
];

/// For the disk of a virtual machine that has a distribution's systemd.
pub(crate) const FOR_VM_DISK: &[Wanted] = &[
    wanted(
        Probe::InPath("debootstrap"),
        "debootstrap",
        "a machine with systemd",
    ),
    wanted(Probe::InPath("mkfs.ext4"), "e2fsprogs", "a machine with systemd"),
    wanted(Probe::InPath("strip"), "binutils", "a machine with systemd"),
];

/// For the Kubernetes node, and for the services in its pods.
pub(crate) const FOR_KUBE: &[Wanted] = &[
    wanted(Probe::InPath("containerd"), "containerd", "a Kubernetes node"),
    wanted(Probe::InPath("runc"), "runc", "a Kubernetes node"),
    wanted(
        Probe::File("/usr/lib/cni/bridge"),
        "containernetworking-plugins",
        "a Kubernetes node",
    ),
    wanted(Probe::InPath("nft"), "nftables", "a Kubernetes node"),
    wanted(Probe::InPath("conntrack"), "conntrack", "a Kubernetes node"),
    wanted(Probe::InPath("ip"), "iproute2", "a Kubernetes node"),
    wanted(Probe::InPath("openssl"), "openssl", "a Kubernetes node"),
    wanted(Probe::InPath("curl"), "curl", "a Kubernetes node"),
    wanted(Probe::InPath("musl-gcc"), "musl-tools", "the gateway's image"),
    wanted(
        Probe::Under("/usr/lib/postgresql", "bin/postgres"),
        "postgresql",
        "PostgreSQL in a pod",
    ),
    wanted(Probe::InPath("redis-server"), "redis-server", "Redis in a pod"),
    wanted(Probe::InPath("redis-cli"), "redis-tools", "Redis in a pod"),
    wanted(Probe::InPath("nginx"), "nginx", "nginx in pods"),
    wanted(Probe::InPath("dnsmasq"), "dnsmasq-base", "a DNS server in a pod"),
];

/// For `cargo xtask cross`.
pub(crate) const FOR_CROSS: &[Wanted] = &[
    wanted(
        Probe::File("/usr/bin/rustc"),
        "rustc-web",
        "the workspace for Windows and macOS",
    ),
    wanted(
        Probe::File("/usr/bin/cargo"),
        "cargo-web",
        "the workspace for Windows and macOS",
    ),
    wanted(
        Probe::File("/usr/lib/rustlib/src/rust/library/std/Cargo.toml"),
        "rust-web-src",
        "std from source",
    ),
    wanted(
        Probe::InPath("x86_64-w64-mingw32-gcc"),
        "gcc-mingw-w64-x86-64",
        "linking for Windows",
    ),
    wanted(Probe::InPath("wine"), "wine", "running Windows programs"),
    wanted(
        Probe::File("/usr/lib/wine/wine64"),
        "wine64",
        "running Windows programs",
    ),
];

/// The programs on the list that are not installed.
pub(crate) fn missing(list: &[Wanted]) -> Vec<&Wanted> {
    list.iter().filter(|wanted| !wanted.probe.found()).collect()
}

/// Why we cannot install packages, if we cannot.
pub(crate) fn no_installing() -> Option<&'static str> {
    if !is_root() {
        return Some("not root");
    }
    if find_program("apt-get").is_none() {
        return Some("there is no apt-get");
    }
    None
}

/// Says that it installs Debian packages, and installs them without starting their services.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    say(&format!(
        "installing Debian packages that the tests need: {}",
        packages.join(" ")
    ));
    let _policy = PolicyRcD::deny(Path::new("/usr/sbin/policy-rc.d"))?;
    if let Err(first) = apt_get(&[&["install", "--yes", "--no-install-recommends"], packages].concat()) {
        // A fresh machine has no package lists, and an old one's lists name packages that are gone.
        apt_get(&["update"]).with_context(|| format!("{first:#}"))?;
        apt_get(&[&["install", "--yes", "--no-install-recommends"], packages].concat())?;
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .arg("--quiet")
        .args(["--option", "DPkg::Lock::Timeout=120"])
        .args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    succeed(&mut command)?;
    Ok(())
}

/// Keeps package scripts from starting services while it lives: invoke-rc.d(8) asks this file. Leaves an existing policy alone.
struct PolicyRcD {
    ours: Option<PathBuf>,
}

impl PolicyRcD {
    fn deny(path: &Path) -> Result<Self> {
        if path.symlink_metadata().is_ok() {
            return Ok(Self { ours: None });
        }
        let mut file =
            fs::File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
        let policy = Self {
            ours: Some(path.to_owned()),
        };
        file.write_all(b"#!/bin/sh\n# During one installation: start no services.\nexit 101\n")?;
        make_executable(path)?;
        Ok(policy)
    }
}

impl Drop for PolicyRcD {
    fn drop(&mut self) {
        if let Some(path) = &self.ours
            && let Err(error) = fs::remove_file(path)
        {
            say(&format!("cannot remove {}: {error}", path.display()));
        }
    }
}

/// Installs the missing programs on a list if allowed to. Returns those that are still missing, each with the reason.
pub(crate) fn provide(list: &[Wanted], may_install: bool) -> Result<Vec<String>> {
    let absent = missing(list);
    if absent.is_empty() {
        return Ok(Vec::new());
    }
    let why = if !may_install {
        Some("--no-install".to_owned())
    } else if let Some(why) = no_installing() {
        Some(why.to_owned())
    } else {
        let mut packages: Vec<_> = absent.iter().map(|wanted| wanted.package).collect();
        packages.dedup();
        install(&packages).err().map(|error| format!("{error:#}"))
    };
    let still = missing(list);
    if let Some(why) = &why
        && still.is_empty()
    {
        bail!("apt-get failed although every program is installed: {why}");
    }
    let why = why.unwrap_or_else(|| "the package does not contain it".to_owned());
    let reason = why.lines().last().unwrap_or(&why);
    Ok(still
        .iter()
        .map(|wanted| {
            let Wanted {
                probe,
                package,
                for_what,
            } = wanted;
            format!(
                "{} ({for_what}): not installed, {reason}; apt-get install {package}",
                probe.name()
            )
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_policy_is_removed_on_drop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy-rc.d");
        let guard = PolicyRcD::deny(&path).unwrap();
        assert_eq!(Command::new(&path).status().unwrap().code(), Some(101));
        drop(guard);
        assert!(!path.exists());
    }

    #[test]
    fn an_existing_policy_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy-rc.d");
        fs::write(&path, "theirs").unwrap();
        drop(PolicyRcD::deny(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    }

    #[test]
    fn no_install_installs_nothing() {
        let list = [wanted(
            Probe::InPath("no-such-program-as-this"),
            "no-such-package",
            "this test",
        )];
        let left = provide(&list, false).unwrap();
        assert_eq!(left.len(), 1);
        assert!(
            left[0].contains("--no-install") && left[0].contains("apt-get install no-such-package"),
            "{}",
            left[0]
        );
    }

    #[test]
    fn an_installed_program_is_not_missing() {
        assert!(
            provide(&[wanted(Probe::InPath("sh"), "dash", "this test")], false)
                .unwrap()
                .is_empty()
        );
    }
}
