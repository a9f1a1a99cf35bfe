//! `cargo xtask image`: the gateway's container image, which holds one static program and nothing else, made without Docker.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, find_program, output, program_in_root, succeed, target_dir};
use crate::oci::{self, Image, Packed};
use crate::say::say;
use crate::sys::make_executable;

/// musl's libc, whose resolver is part of a static program; glibc's loads its parts when it runs.
const TARGET: &str = "x86_64-unknown-linux-musl";
const PROFILE: &str = "image";
/// The most that the image may take where it is stored: what a node has to pull.
const MAX_BYTES: usize = 12 * 1024 * 1024;
/// "Nobody" of images that hold no user list.
const USER: u32 = 65532;

/// The name under which the tests' node knows the image.
pub(crate) const REFERENCE: &str = "devbox.test/gateway:1";

/// Builds the image, and says where it is.
pub(crate) fn run(reference: &str, to: Option<&Path>) -> Result<ExitCode> {
    if let Some(why) = lacking()? {
        bail!("{why}");
    }
    let to = to.map_or_else(|| target_dir().join("image").join("gateway.tar"), Path::to_owned);
    let packed = build(reference, &to)?;
    let (size, unpacked) = (packed.layer_bytes, packed.unpacked_bytes);
    say(&format!(
        "{reference} in {}: {size} bytes, {unpacked} unpacked",
        to.display()
    ));
    say(&packed.digest);
    Ok(ExitCode::SUCCESS)
}

/// What is missing for a static program, if anything.
pub(crate) fn lacking() -> Result<Option<String>> {
    if find_program("musl-gcc").is_none() {
        return Ok(Some(
            "musl-gcc (a static program): not installed; apt-get install musl-tools".into(),
        ));
    }
    let libraries = succeed(program_in_root("rustc").args(["--print", "target-libdir", "--target", TARGET]))?;
    if Path::new(libraries.trim()).is_dir() {
        return Ok(None);
    }
    Ok(Some(format!(
        "Rust's standard library for {TARGET}: not installed; rustup target add {TARGET}"
    )))
}

/// Adds what [`lacking`] says is missing of the toolchain, where there is rustup.
pub(crate) fn add_target() -> Result<()> {
    if find_program("rustup").is_some() {
        let (status, text) = output(program_in_root("rustup").args(["target", "add", TARGET]))?;
        if !status.success() {
            bail!("{}", text.trim_end());
        }
    }
    Ok(())
}

/// Builds the program, and writes the image.
pub(crate) fn build(reference: &str, to: &Path) -> Result<Packed> {
    let mut command = cargo();
    command
        .args(["build", "--locked", "--package", "devbox-cli"])
        .args(["--profile", PROFILE, "--target", TARGET])
        .env("CC_x86_64_unknown_linux_musl", "musl-gcc");
    succeed(&mut command)?;
    let folder = target_dir().join("image");
    fs::create_dir_all(&folder)?;
    let packed = pack(
        &target_dir().join(TARGET).join(PROFILE).join("devbox"),
        reference,
        to,
    )?;
    if packed.layer_bytes > MAX_BYTES {
        bail!(
            "the image has {} bytes; at most {MAX_BYTES} are wanted",
            packed.layer_bytes
        );
    }
    Ok(packed)
}

fn pack(program: &Path, reference: &str, to: &Path) -> Result<Packed> {
    let folder = to.parent().context("a file has a folder")?;
    let root = tempfile::tempdir_in(folder).with_context(|| folder.display().to_string())?;
    let inside = root.path().join("devbox");
    fs::copy(program, &inside).with_context(|| program.display().to_string())?;
    make_executable(&inside)?;
    let image = Image {
        reference,
        architecture: "amd64",
        entry_point: &["/devbox", "gateway", "serve"],
        user: USER,
        compressed: true,
    };
    oci::pack(&image, root.path(), to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_of_a_program_is_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        let made = |name: &str| {
            let to = folder.path().join(name);
            let packed = pack(&program, REFERENCE, &to).unwrap();
            (packed, fs::read(to).unwrap())
        };
        assert_eq!(made("one.tar"), made("two.tar"));
    }
}
