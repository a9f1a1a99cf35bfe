//! Checks that the libraries that stand alone can be published: runs `cargo package` on each, which also builds the package.

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand};

use crate::arch;
use crate::command::{cargo, output, root, target_dir};
use crate::steps::Done;

/// Packages every leaf library and builds the package. A warning is a failure, such as the one about a missing description.
pub(crate) fn leaves_can_be_published() -> Result<Done> {
    let leaves = leaf_libraries(&metadata()?);
    let mut command = cargo();
    command
        .args(["package", "--locked", "--allow-dirty"])
        .args(leaves.iter().flat_map(|name| ["--package", name]))
        // A folder of its own, so that these builds and those of the other steps do not invalidate each other.
        .env("CARGO_TARGET_DIR", target_dir().join("package-check"));
    let (status, text) = output(&mut command)?;
    if !status.success() || text.contains("warning:") {
        bail!("{}", text.trim_end());
    }
    Ok(Done::Passed(leaves.join(", ")))
}

fn metadata() -> Result<Metadata> {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata")
}

/// The libraries that depend on no other crate of ours. Cargo can verify the others only once those are published.
fn leaf_libraries(metadata: &Metadata) -> Vec<String> {
    let mut names: Vec<_> = metadata
        .workspace_packages()
        .into_iter()
        .filter(|package| arch::is_library(&package.name))
        .filter(|package| {
            package
                .dependencies
                .iter()
                .all(|dependency| dependency.path.is_none())
        })
        .map(|package| package.name.to_string())
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_libraries_without_dependencies_of_ours() {
        let leaves = leaf_libraries(&metadata().unwrap());
        let has = |name: &str| leaves.iter().any(|leaf| leaf == name);
        for name in [
            "hostsfile",
            "ipalloc",
            "nameserver",
            "service-catalog",
            "tunnel-proto",
        ] {
            assert!(has(name), "{name} in {leaves:?}");
        }
        for name in [
            "tunnel-bridge",
            "devbox-helper",
            "devbox-cli",
            "devbox-tests",
            "xtask",
        ] {
            assert!(!has(name), "{name} in {leaves:?}");
        }
    }

    #[test]
    fn leaves_may_be_published_and_programs_may_not() {
        let metadata = metadata().unwrap();
        let leaves = leaf_libraries(&metadata);
        for package in metadata.workspace_packages() {
            let private = package.publish.as_ref().is_some_and(Vec::is_empty);
            if leaves.iter().any(|leaf| *leaf == package.name.as_str()) {
                assert!(
                    !private,
                    "{} is a leaf library with `publish = false`",
                    package.name
                );
            } else if !arch::is_library(&package.name) {
                assert!(private, "{} lacks `publish = false`", package.name);
            }
        }
    }
}
