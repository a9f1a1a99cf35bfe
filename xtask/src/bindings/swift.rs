//! Swift on Linux: Debian's, in a folder of its own, and the life of a session in it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};

use crate::command::{find_program, program_in_root, root, succeed, target_dir};
use crate::steps::Done;

/// The first Debian that has Swift.
const SUITE: &str = "trixie";

fn folder() -> PathBuf {
    target_dir().join("bindings").join("swift")
}

/// Makes a Debian with Swift below the target folder. It takes root, debootstrap and a gigabyte.
pub(super) fn install() -> Result<Done> {
    let folder = folder();
    if folder.join("usr/bin/swift-build").exists() {
        return Ok(Done::passed());
    }
    let Some(debootstrap) = find_program("debootstrap") else {
        return Ok(Done::Skipped("debootstrap is not installed".to_owned()));
    };
    fs::create_dir_all(&folder)?;
    let mut make = program_in_root(debootstrap);
    succeed(make.args(["--variant=minbase", SUITE]).arg(&folder))?;
    fs::copy("/etc/resolv.conf", folder.join("etc/resolv.conf"))?;
    let install =
        "apt-get -qq update && apt-get -qq install --yes --no-install-recommends swiftlang libc6-dev g++";
    succeed(&mut inside(
        &folder,
        &format!("DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND; {install}"),
    ))?;
    Ok(Done::passed())
}

/// Builds the package, and runs the life of a session against a real gateway.
pub(super) fn scenario() -> Result<Done> {
    let folder = folder();
    if !folder.join("usr/bin/swift-build").exists() {
        let how = "`cargo xtask bindings --test --swift` installs it";
        return Ok(Done::Skipped(format!("there is no Swift; {how}")));
    }
    let place = folder.join("devbox");
    let package = place.join("swift");
    if package.exists() {
        fs::remove_dir_all(package.join("Sources"))?;
        fs::remove_dir_all(package.join("Tests"))?;
    }
    copy_folder(&root().join("bindings/swift"), &package)?;
    let scratch = place.join("scratch");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir(&scratch)?;
    fs::copy(super::library(), place.join("libdevbox_ffi.so"))?;
    fs::copy(super::devbox(), place.join("devbox"))?;
    succeed(&mut inside(
        &folder,
        "cd /devbox/swift && HOME=/tmp DEVBOX_LIBRARY=/devbox swift build",
    ))?;
    let service = hello()?;
    let gateway = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let (gateway, service) = (gateway.port(), service.port());
    let scenario = "/devbox/swift/.build/debug/devbox-scenario /devbox/devbox /devbox/scratch";
    let said = succeed(&mut inside(
        &folder,
        &format!("timeout 120 {scenario} {gateway} {service}"),
    ))?;
    Ok(Done::Passed(said.trim().to_owned()))
}

/// A shell in the folder, with mounts that end with it: `$ORIGIN` of Swift's programs needs /proc.
fn inside(folder: &Path, line: &str) -> Command {
    let mut command = program_in_root("unshare");
    let mounts =
        "mount -t proc proc \"$1/proc\" && mount --bind /dev \"$1/dev\" && exec chroot \"$1\" sh -c \"$2\"";
    command
        .args(["--mount", "sh", "-c", mounts, "sh"])
        .arg(folder)
        .arg(line);
    command
}

/// A service that says hello, for as long as this process lives.
fn hello() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok_and(|length| length > 0) {
                let answer =
                    b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\nConnection: close\r\n\r\nhello from web";
                // Whoever does not take the answer says so.
                stream.write_all(answer).ok();
            }
        }
    });
    Ok(address)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        // What a build left.
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
