//! What the rules examine: packages and their dependencies as Cargo reports them, and the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, MetadataCommand};

use super::text::Text;
use crate::command::{cargo, root, succeed};

/// Everything that the rules may know.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) packages: Vec<Package>,
    pub(crate) sources: Vec<Source>,
}

/// A package of the workspace.
#[derive(Debug, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Its Cargo.toml, relative to the root.
    pub(crate) manifest: String,
    pub(crate) manifest_text: String,
    /// The dependencies that it names, for any operating system, including build dependencies but not dev-dependencies.
    pub(crate) dependencies: Vec<String>,
    /// Everything that is linked into it with its default features, for any operating system, each with the path to it.
    pub(crate) tree: BTreeMap<String, Vec<String>>,
    /// The root files of its library and programs, relative to the workspace's root.
    pub(crate) roots: Vec<String>,
}

impl Package {
    /// The line of the manifest that names a dependency.
    pub(crate) fn line_of(&self, dependency: &str) -> usize {
        let names = |line: &str| {
            let line = line.trim_start().trim_start_matches('"');
            line.strip_prefix(dependency)
                .is_some_and(|rest| rest.starts_with(['.', ' ', '=', '"']))
        };
        self.manifest_text
            .lines()
            .position(names)
            .map_or(1, |index| index + 1)
    }
}

/// A Rust file.
#[derive(Debug)]
pub(crate) struct Source {
    /// The package it belongs to.
    pub(crate) package: String,
    /// Relative to the root.
    pub(crate) file: String,
    /// Relative to the package.
    pub(crate) inside: String,
    pub(crate) text: Text,
}

impl Source {
    pub(crate) fn new(package: &str, file: &str, inside: &str, text: &str) -> Self {
        Self {
            package: package.into(),
            file: file.into(),
            inside: inside.into(),
            text: Text::new(text),
        }
    }

    /// Whether the file belongs to one of the folders' modules: `src/sys` means `src/sys.rs` and everything under
    /// `src/sys/`.
    pub(crate) fn is_under(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| {
            self.inside
                .strip_prefix(folder)
                .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        })
    }

    /// Whether the file contains nothing but tests, examples or benches.
    pub(crate) fn is_workbench(&self) -> bool {
        ["tests/", "examples/", "benches/"]
            .iter()
            .any(|folder| self.inside.starts_with(folder))
            || self.inside.ends_with("/tests.rs")
            || self.inside.contains("/tests/")
    }
}

/// Runs Cargo and reads the sources.
pub(crate) fn of_workspace() -> Result<Facts> {
    let root = root();
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    let relative = |path: &Path| {
        path.strip_prefix(&root)
            .unwrap_or(path)
            .to_string_lossy()
            .replace('\\', "/")
    };
    let mut facts = Facts::default();
    for package in metadata.workspace_packages() {
        let manifest_path = package.manifest_path.as_std_path();
        let folder = manifest_path.parent().unwrap_or(manifest_path);
        let dependencies: BTreeSet<_> = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != DependencyKind::Development)
            .map(|dependency| dependency.name.clone())
            .collect();
        let roots = package
            .targets
            .iter()
            .filter(|target| target.is_lib() || target.is_bin());
        facts.packages.push(Package {
            name: package.name.to_string(),
            manifest: relative(manifest_path),
            manifest_text: fs::read_to_string(manifest_path)?,
            dependencies: dependencies.into_iter().collect(),
            tree: tree(&package.name)?,
            roots: roots
                .map(|target| relative(target.src_path.as_std_path()))
                .collect(),
        });
        rust_files(folder, &mut |path| {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let inside = path
                .strip_prefix(folder)
                .unwrap_or(path)
                .to_string_lossy()
                .replace('\\', "/");
            facts
                .sources
                .push(Source::new(&package.name, &relative(path), &inside, &text));
            Ok(())
        })?;
    }
    Ok(facts)
}

/// Uses `cargo tree`, not the graph of `cargo metadata`: that one unifies the features of all members, and the helper would
/// seem to link what devbox-cli enables in a crate that both use.
fn tree(package: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut command = cargo();
    command.args([
        "tree",
        "--package",
        package,
        "--edges",
        "normal,no-proc-macro",
        "--target",
        "all",
    ]);
    command.args([
        "--prefix", "depth", "--format", " {p}", "--color", "never", "--quiet",
    ]);
    Ok(parse_tree(&succeed(&mut command)?))
}

/// Parses lines such as `2 mio v1.0.4`: a depth, a name, a version.
fn parse_tree(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    let mut path: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(Ok(depth)), Some(name)) = (words.next().map(str::parse::<usize>), words.next()) else {
            continue;
        };
        path.truncate(depth);
        path.push(name.to_owned());
        if depth > 0 {
            found.entry(name.to_owned()).or_insert_with(|| path.clone());
        }
    }
    found
}

fn rust_files(folder: &Path, each: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                rust_files(&path, each)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_to_a_dependency_is_recorded() {
        let tree = parse_tree(
            "0 a v0.1.0 (/x/a)\n1 b v0.1.0 (/x/b)\n2 tokio v1.0.0\n1 c v0.1.0\n2 tokio v1.0.0 (*)\n",
        );
        assert_eq!(tree["tokio"], ["a", "b", "tokio"]);
        assert_eq!(tree.keys().collect::<Vec<_>>(), ["b", "c", "tokio"]);
    }

    #[test]
    fn a_dependency_is_found_in_the_manifest_by_its_whole_name() {
        let manifest_text = "[dependencies]\ntokio-util.workspace = true\ntokio = \"1\"\n".to_owned();
        let package = Package {
            manifest_text,
            ..Package::default()
        };
        assert_eq!((package.line_of("tokio"), package.line_of("tokio-util")), (3, 2));
    }

    #[test]
    fn the_file_beside_a_folder_belongs_to_it() {
        let at = |inside| Source::new("p", "x", inside, "");
        assert!(at("src/sys.rs").is_under(&["src/sys"]) && at("src/sys/linux.rs").is_under(&["src/sys"]));
        assert!(!at("src/system.rs").is_under(&["src/sys"]));
    }

    #[test]
    fn this_workspace_is_read() {
        let facts = of_workspace().unwrap();
        let package = |name: &str| {
            facts
                .packages
                .iter()
                .find(|package| package.name == name)
                .unwrap()
        };
        let xtask = package("xtask");
        assert!(xtask.dependencies.iter().any(|name| name == "clap"));
        assert!(
            !package("ipalloc")
                .dependencies
                .iter()
                .any(|name| name == "proptest"),
            "a dev-dependency is not linked"
        );
        assert!(xtask.tree.contains_key("clap_builder"));
        assert!(
            facts
                .sources
                .iter()
                .any(|source| source.file == "xtask/src/arch/facts.rs")
        );
    }
}
