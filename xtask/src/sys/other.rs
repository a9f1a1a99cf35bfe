use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::process::Command;

/// Does nothing: there are no process groups.
pub(crate) fn own_group(_command: &mut Command) {}

/// Does nothing: the name makes a file executable.
pub(crate) fn make_executable(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Always false: there is no root.
pub(crate) fn is_root() -> bool {
    false
}

/// What a program or a folder has.
pub(crate) fn mode(_metadata: &Metadata) -> u32 {
    0o755
}

/// Always an error: what needs it runs on Unix.
pub(crate) fn link(_folder: &Path, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
