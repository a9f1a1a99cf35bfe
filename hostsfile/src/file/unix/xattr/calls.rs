use std::ffi::CString;
use std::fs::File;
use std::io;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

/// Gives `to` exactly the attributes of `from`.
pub(in crate::file) fn copy(from: &File, to: &File) -> io::Result<()> {
    let (wanted, there) = (names(from)?, names(to)?);
    for name in &wanted {
        let value = value(from, name)?;
        if there.contains(name) && self::value(to, name)? == value {
            continue;
        }
        fsetxattr(to, name.as_c_str(), &value, XattrFlags::empty())?;
    }
    // Removes a default ACL of the directory, for example. Labels under security. are managed by the system.
    for name in there
        .iter()
        .filter(|n| !wanted.contains(n) && !n.to_bytes().starts_with(b"security."))
    {
        fremovexattr(to, name.as_c_str())?;
    }
    Ok(())
}

fn names(file: &File) -> io::Result<Vec<CString>> {
    let list = match read(|buffer| flistxattr(file, buffer)) {
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        list => list?,
    };
    let names = list.split(|b| *b == 0).filter(|n| !n.is_empty());
    Ok(names.filter_map(|n| CString::new(n).ok()).collect())
}

fn value(file: &File, name: &CString) -> io::Result<Vec<u8>> {
    Ok(read(|buffer| fgetxattr(file, name.as_c_str(), buffer))?)
}

/// Calls with a buffer that grows until it is large enough; the kernel's limit is 64 KiB.
fn read(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Err(Errno::RANGE) if buffer.len() < MAX_BYTES => buffer.resize(buffer.len() * 4, 0),
            Err(e) => return Err(e),
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    }
}

const MAX_BYTES: usize = 1024 * 1024;
