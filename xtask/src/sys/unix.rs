use std::fs::{Metadata, Permissions, metadata, set_permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Makes the child the leader of a new process group.
pub(crate) fn own_group(command: &mut Command) {
    command.process_group(0);
}

/// Mode 0755.
pub(crate) fn make_executable(path: &Path) -> io::Result<()> {
    set_permissions(path, Permissions::from_mode(0o755))
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The permissions of a file, and its set-id and sticky bits.
pub(crate) fn mode(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o7777
}

/// A symbolic link to a folder.
pub(crate) fn link(folder: &Path, link: &Path) -> io::Result<()> {
    symlink(folder, link)
}
