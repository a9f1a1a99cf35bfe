//! Swift on Linux: Debian's, in a folder of its own, and the life of a session in it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::command::{find_program, program_in_root, root, succeed, target_dir};
use crate::steps::Done;

/// The first Debian that has Swift.
const SUITE: &str = "trixie";

const PACKAGES: [&str; 2] = ["bindings/swift", "examples/swift/fetch"];

fn folder() -> PathBuf {
    target_dir().join("bindings").join("swift")
}

fn has_swift(folder: &Path) -> bool {
    folder.join("usr/bin/swift-build").exists()
}

/// Makes a Debian with Swift below the target folder. It takes root, debootstrap and a gigabyte.
pub(super) fn install() -> Result<Done> {
    let folder = folder();
    if has_swift(&folder) {
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
    if !has_swift(&folder) {
        let how = "`cargo xtask bindings --test --swift` installs it";
        return Ok(Done::Skipped(format!("there is no Swift; {how}")));
    }
    let place = copied(super::Profile::Dev)?;
    let scratch = place.join("scratch");
    fs::copy(super::devbox(), place.join("devbox"))?;
    for part in PACKAGES {
        let build = format!("cd /devbox/{part} && HOME=/tmp DEVBOX_LIBRARY=/devbox swift build");
        succeed(&mut inside(&folder, &build))?;
    }
    let service = hello()?;
    let gateway = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let (gateway, service) = (gateway.port(), service.port());
    let scenario = "/devbox/bindings/swift/.build/debug/devbox-scenario /devbox/devbox /devbox/scratch";
    let said = succeed(&mut inside(
        &folder,
        &format!("timeout 120 {scenario} {gateway} {service}"),
    ))?;
    example(&folder, &scratch, service)?;
    Ok(Done::Passed(said.trim().to_owned()))
}

/// What calls and callbacks cost, with the library and the program as they are shipped; nothing where there is no Swift.
pub(super) fn costs() -> Result<Option<String>> {
    let folder = folder();
    if !has_swift(&folder) {
        return Ok(None);
    }
    copied(super::Profile::Release)?;
    let build = "cd /devbox/bindings/swift && HOME=/tmp DEVBOX_LIBRARY=/devbox swift build -c release";
    succeed(&mut inside(&folder, build))?;
    let costs = "timeout 120 /devbox/bindings/swift/.build/release/devbox-costs /devbox/scratch";
    succeed(&mut inside(&folder, costs)).map(Some)
}

/// Copies the packages, as they lie beside each other in the repository, and the library; beside them an empty folder `scratch`.
fn copied(profile: super::Profile) -> Result<PathBuf> {
    let place = folder().join("devbox");
    for part in PACKAGES {
        let package = place.join(part);
        for sources in ["Sources", "Tests"].map(|name| package.join(name)) {
            if sources.exists() {
                fs::remove_dir_all(sources)?;
            }
        }
        copy_folder(&root().join(part), &package)?;
    }
    let scratch = place.join("scratch");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir(&scratch)?;
    fs::copy(super::library(profile), place.join("libdevbox_ffi.so"))?;
    Ok(place)
}

/// Runs the example app against a gateway.
fn example(folder: &Path, scratch: &Path, service: u16) -> Result<()> {
    let catalog = scratch.join("catalog.yaml");
    let token = scratch.join("token");
    let ports = format!("[{{port: {service}, target: \"127.0.0.1:{service}\"}}]");
    let services = format!("services:\n  - {{name: web, namespace: backend, ports: {ports}}}\n");
    fs::write(&catalog, format!("environment: dev\n{services}"))?;
    fs::write(&token, "a-token-for-the-tests-0123456789\n")?;
    let mut serve = program_in_root(super::devbox());
    serve.args(["gateway", "serve", "--listen", "127.0.0.1:0"]);
    serve
        .arg("--catalog")
        .arg(&catalog)
        .arg("--token-file")
        .arg(&token);
    let mut gateway = Killed(serve.stdout(Stdio::piped()).spawn()?);
    let said = gateway
        .0
        .stdout
        .as_mut()
        .context("its standard output is a pipe")?;
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line)?;
    let url = line.trim().strip_prefix("listening on ");
    let url = url.with_context(|| format!("the gateway says {line:?}"))?;
    let session = format!(
        "providers: [{{kind: gateway, name: g, url: '{url}', token_file: /devbox/scratch/token}}]\npool: 127.79.56.0/24\n"
    );
    fs::write(scratch.join("session.yaml"), session)?;
    let fetch = "/devbox/examples/swift/fetch/.build/debug/devbox-fetch /devbox/scratch/session.yaml";
    let page = succeed(&mut inside(
        folder,
        &format!("timeout 120 {fetch} web.backend {service}"),
    ))?;
    if page.trim() != "hello from web" {
        bail!("the example fetched {page:?}");
    }
    Ok(())
}

/// A process that ends with its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // One that has ended by itself is reaped all the same.
        self.0.kill().ok();
        self.0.wait().ok();
    }
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
