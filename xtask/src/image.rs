//! `cargo xtask image`: the gateway's container image, which holds one static program and nothing else, made without Docker.
//!
//! The same sources and the same compilers give the same image, wherever they are: what a program says of its sources (panics do) names
//! no folder of the machine that it was built on.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{cargo, find_program, output, program_in_root, root, succeed, target_dir};
use crate::oci::{self, Image, Packed};
use crate::say::say;
use crate::sys::{link, make_executable};

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
    build_at(&Folders::own()?, reference, to)
}

/// Where a program is built: the folders whose names are not to be in it.
#[derive(Debug)]
struct Folders {
    sources: PathBuf,
    /// What cargo builds into: what build scripts write is there.
    target: PathBuf,
    /// Where cargo keeps the sources of dependencies.
    cargo_home: PathBuf,
}

impl Folders {
    fn own() -> Result<Self> {
        let home = || env::home_dir().map(|home| home.join(".cargo"));
        let named = env::var_os("CARGO_HOME").filter(|named| !named.is_empty());
        let cargo_home = named.map(|named| root().join(named)).or_else(home);
        Ok(Self {
            sources: root(),
            target: target_dir(),
            cargo_home: cargo_home.context("there is neither a home folder nor CARGO_HOME")?,
        })
    }

    /// Each folder, and what a program calls it.
    fn called(&self) -> [(&Path, &'static str); 3] {
        // Of several that fit, rustc and the C compiler take the last one; and the target folder is usually among the sources.
        [
            (&*self.cargo_home, "/cargo"),
            (&*self.sources, "/devbox"),
            (&*self.target, "/devbox/target"),
        ]
    }

    /// `cargo build` of a program that names none of them. What somebody sets for their own builds stays in force.
    fn command(&self) -> Result<Command> {
        let mut rust = flags_for_rust();
        let mut c = vec![env::var("CFLAGS_x86_64_unknown_linux_musl").unwrap_or_default()];
        for (folder, called) in self.called() {
            let folder = folder
                .to_str()
                .with_context(|| format!("{} is not UTF-8", folder.display()))?;
            ensure!(
                !folder.contains([' ', '=']),
                "{folder}: a folder with a blank or an equals sign in its name cannot be kept out of the program"
            );
            rust.push(format!("--remap-path-prefix={folder}={called}"));
            c.push(format!("-ffile-prefix-map={folder}={called}"));
        }
        let mut command = cargo();
        command
            .current_dir(&self.sources)
            .args(["build", "--locked", "--package", "devbox-cli"])
            .args(["--profile", PROFILE, "--target", TARGET])
            .env("CARGO_HOME", &self.cargo_home)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CC_x86_64_unknown_linux_musl", "musl-gcc")
            .env("CFLAGS_x86_64_unknown_linux_musl", c.join(" ").trim_start())
            // As configuration they are added to those of configuration files; as variables they would take their place.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .arg("--config")
            .arg(format!(
                "target.{TARGET}.rustflags={}",
                serde_json::to_string(&rust)?
            ));
        Ok(command)
    }
}

/// What the environment has for rustc.
fn flags_for_rust() -> Vec<String> {
    let words = |text: String, between: char| -> Vec<String> {
        let words = text.split(between).filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    match env::var("CARGO_ENCODED_RUSTFLAGS") {
        Ok(encoded) => words(encoded, '\x1f'),
        Err(_) => words(env::var("RUSTFLAGS").unwrap_or_default(), ' '),
    }
}

/// Where a program names one of these folders: what it says there, once each.
fn named(program: &[u8], folders: &Folders) -> BTreeSet<String> {
    let of_a_path = |byte: &u8| byte.is_ascii_graphic() && !b"\"'`:,;()<>".contains(byte);
    let mut found = BTreeSet::new();
    for (folder, _) in folders.called() {
        let mut wanted = folder.as_os_str().as_encoded_bytes().to_vec();
        wanted.push(b'/');
        let places = program.windows(wanted.len()).enumerate();
        for (at, _) in places.filter(|(_, window)| **window == *wanted) {
            // `/src/` is also in `/cargo/registry/src/`.
            let within = at.checked_sub(1).and_then(|before| program.get(before));
            if within.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(byte)) {
                continue;
            }
            let rest = program.get(at..).unwrap_or_default();
            let path: Vec<u8> = rest.iter().copied().take_while(of_a_path).take(200).collect();
            found.insert(String::from_utf8_lossy(&path).into_owned());
        }
    }
    found
}

fn build_at(folders: &Folders, reference: &str, to: &Path) -> Result<Packed> {
    succeed(&mut folders.command()?)?;
    let program = folders.target.join(TARGET).join(PROFILE).join("devbox");
    let bytes = fs::read(&program).with_context(|| program.display().to_string())?;
    let named = named(&bytes, folders);
    ensure!(
        named.is_empty(),
        "the program names folders of this machine, so that it is another one elsewhere:\n  {}",
        named.into_iter().take(8).collect::<Vec<_>>().join("\n  ")
    );
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    let packed = pack(&program, reference, to)?;
    if packed.layer_bytes > MAX_BYTES {
        bail!(
            "the image has {} bytes; at most {MAX_BYTES} are wanted",
            packed.layer_bytes
        );
    }
    Ok(packed)
}

/// Builds the image here, and again from a copy of the sources with another home of cargo's: minutes.
pub(crate) fn same_elsewhere() -> Result<String> {
    let own = Folders::own()?;
    let folder = target_dir().join("image");
    fs::create_dir_all(&folder)?;
    let here = build_at(&own, REFERENCE, &folder.join("here.tar"))?;
    let elsewhere = tempfile::tempdir_in(env::temp_dir())?;
    let other = Folders {
        sources: elsewhere.path().join("sources"),
        target: elsewhere.path().join("built"),
        cargo_home: elsewhere.path().join("home"),
    };
    copy_sources(&other.sources)?;
    fs::create_dir_all(&other.cargo_home)?;
    for shared in ["registry", "git"].map(|name| own.cargo_home.join(name)) {
        if let Some(name) = shared.file_name().filter(|_| shared.exists()) {
            link(&shared, &other.cargo_home.join(name))?;
        }
    }
    let there = build_at(&other, REFERENCE, &folder.join("there.tar"))?;
    ensure!(
        here == there,
        "built here it is {}, and in {} it is {}",
        here.digest,
        elsewhere.path().display(),
        there.digest
    );
    Ok(here.digest)
}

/// The files that git knows or would take, as they are.
fn copy_sources(to: &Path) -> Result<()> {
    let listed = succeed(program_in_root("git").args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "--deduplicate",
    ]))?;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (root().join(name), to.join(name));
        // One that was deleted and is still in the index.
        if !from.is_file() {
            continue;
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(&from, &to).with_context(|| from.display().to_string())?;
    }
    Ok(())
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

    fn folders() -> Folders {
        Folders {
            sources: "/src".into(),
            target: "/src/target".into(),
            cargo_home: "/home/me/.cargo".into(),
        }
    }

    #[test]
    fn a_program_that_names_a_folder_of_the_machine_is_found() {
        let named =
            |program: &str| -> Vec<String> { named(program.as_bytes(), &folders()).into_iter().collect() };
        assert_eq!(
            named("x\0/home/me/.cargo/registry/src/a-1/lib.rs\0/src/main.rs:3 and /src/main.rs"),
            ["/home/me/.cargo/registry/src/a-1/lib.rs", "/src/main.rs"]
        );
        assert!(named("/cargo/registry/src/a-1/src/lib.rs /devbox/main.rs /srcs/x").is_empty());
    }

    #[test]
    fn the_innermost_folder_is_named_last_to_the_compilers() {
        let command = folders().command().unwrap();
        let config = command.get_args().last().unwrap().to_str().unwrap();
        let order = [
            "/home/me/.cargo=/cargo",
            "/src=/devbox",
            "/src/target=/devbox/target",
        ];
        let places = order.map(|part| config.find(&format!("--remap-path-prefix={part}\"")).unwrap());
        assert!(places.is_sorted(), "{config}");
    }

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
