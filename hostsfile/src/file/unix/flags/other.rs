//! The flags are seen here, but not cleared.

use std::fs::File;
use std::io;

pub(in crate::file) enum Saved {}

pub(in crate::file) fn immutable(file: &File) -> Option<(&'static str, &'static str)> {
    #[cfg(any(target_os = "macos", target_os = "freebsd"))]
    {
        #[cfg(target_os = "freebsd")]
        use std::os::freebsd::fs::MetadataExt;
        #[cfg(target_os = "macos")]
        use std::os::macos::fs::MetadataExt;
        // UF_IMMUTABLE, UF_APPEND, SF_IMMUTABLE, SF_APPEND of chflags(2).
        let flags = file.metadata().ok()?.st_flags();
        if flags & 0x0000_0002 != 0 {
            return Some(("uchg", "chflags nouchg"));
        }
        if flags & 0x0002_0000 != 0 {
            return Some(("schg", "chflags noschg"));
        }
        if flags & 0x0004_0004 != 0 {
            return Some(("append only", "chflags nouappnd,nosappnd"));
        }
    }
    let _unknown_here = file;
    None
}

pub(in crate::file) fn clear_immutable(_file: &File) -> io::Result<Option<Saved>> {
    Ok(None)
}

pub(in crate::file) fn restore(_file: &File, saved: Saved) {
    match saved {}
}
