//! `devbox hosts backup` and `restore`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hostsfile::{BackupRules, Diff};
use serde_json::json;

use super::{Hosts, helper_said};
use crate::failure::{Failure, code, quoted};
use crate::{print, sys};

impl Hosts<'_> {
    pub(super) fn back_up(&self, to: Option<&Path>) -> Result<ExitCode, Failure> {
        let folder = self.backup_folder(to)?;
        if self.args.dry_run {
            if self.args.output.is_json() {
                print::json(&json!({ "file": self.path, "folder": folder, "created": false }));
            } else {
                print::out(&format!(
                    "would copy {} to {}\n",
                    self.path.display(),
                    folder.display()
                ));
            }
            return Ok(ExitCode::SUCCESS);
        }
        // The folder is the user's, and so is what is in it.
        let caller = sys::caller().map_err(Failure::because)?;
        let made = sys::as_caller(&caller, || {
            std::fs::create_dir_all(&folder).map_err(Failure::because)?;
            self.file
                .back_up(&BackupRules::in_directory(&folder))
                .map_err(|error| self.told(error))
        });
        let backup = made.map_err(Failure::because)??;
        if self.args.output.is_json() {
            print::json(&json!({ "file": self.path, "backup": backup.path, "created": backup.created }));
        } else {
            print::out(&format!("{}\n", backup.path.display()));
        }
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn restore(&self, copy: Option<&Path>, from: Option<&Path>) -> Result<ExitCode, Failure> {
        let copy = match copy {
            Some(copy) => copy.to_owned(),
            None => self.newest_backup(from)?,
        };
        self.file.check_backup(&copy).map_err(|error| {
            let by_hand = format!("cp {} {}", quoted(&copy), quoted(&self.path));
            self.told(error).help(format!("to restore it anyway: {by_hand}"))
        })?;
        let content = std::fs::read(&copy)
            .map_err(|e| Failure::new(code::FAILED, format!("cannot read {}: {e}", copy.display())))?;
        let diff = Diff::between(self.read()?.render(), &content);
        if self.args.dry_run {
            self.show_diff(&diff);
            return Ok(ExitCode::SUCCESS);
        }
        if self.is_system {
            let report = self
                .helper()?
                .restore_hosts(content)
                .map_err(|error| match error {
                    devbox_helper_client::Error::Helper(error) => {
                        let by_hand = format!("sudo cp {} {}", quoted(&copy), quoted(&self.path));
                        helper_said(&error, &by_hand)
                    }
                    error => Failure::because(error),
                })?;
            self.done(report.changed, report.in_place, &[]);
        } else {
            let outcome = self.file.replace(&content).map_err(|error| self.told(error))?;
            self.done(outcome.changed, outcome.method == hostsfile::Method::InPlace, &[]);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// A folder of the user's, for each hosts file one of its own.
    fn backup_folder(&self, given: Option<&Path>) -> Result<PathBuf, Failure> {
        match given {
            Some(folder) => Ok(folder.to_owned()),
            None => Ok(state_folder()?.join("backups").join(folder_name(&self.path))),
        }
    }

    /// The newest backup.
    fn newest_backup(&self, from: Option<&Path>) -> Result<PathBuf, Failure> {
        let folder = self.backup_folder(from)?;
        let newest = |folder: &Path| {
            let all = self.file.backups(&BackupRules::in_directory(folder)).ok();
            all.and_then(|mut all| all.pop())
        };
        if let Some(found) = newest(&folder) {
            return Ok(found);
        }
        // Where they were kept before each file had a folder of its own.
        if from.is_none()
            && let Some(found) = newest(&state_folder()?.join("hosts").join(former_folder_name(&self.path)))
        {
            print::note(&format!(
                "note: {} does not record which file it is a copy of",
                found.display()
            ));
            return Ok(found);
        }
        let none = format!("there is no backup in {}", folder.display());
        Err(Failure::new(code::FAILED, none))
    }
}

fn state_folder() -> Result<PathBuf, Failure> {
    let caller = sys::caller().map_err(Failure::because)?;
    caller.state_folder().ok_or_else(|| {
        Failure::new(code::FAILED, "there is no home folder to keep backups in")
            .help("name a folder with --to FOLDER or --from FOLDER")
    })
}

/// A name for the folder of a hosts file's backups. No two paths have the same one: `-` stands for `/` alone.
fn folder_name(path: &Path) -> String {
    let mut name = String::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' if name.is_empty() => {}
            b'/' => name.push('-'),
            b'.' | b'_' => name.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => name.push(char::from(*byte)),
            byte => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name
}

fn former_folder_name(path: &Path) -> String {
    let name: String = path
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    name.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hosts_file_has_a_folder_of_its_own() {
        let paths = [
            "/etc/hosts",
            "/x/a/hosts",
            "/x-a/hosts",
            "/x%2Da/hosts",
            "/x a/hosts",
            "/é/hosts",
        ];
        let names: std::collections::BTreeSet<_> =
            paths.iter().map(|path| folder_name(path.as_ref())).collect();
        assert_eq!(names.len(), paths.len(), "{names:?}");
        assert!(names.contains("etc-hosts"));
        assert!(names.iter().all(|name| !name.contains('/')));
    }
}
