//! File flags that prevent even root from changing a file.

pub(super) use self::imp::*;

/// Flags against changes.
#[cfg(target_os = "linux")]
mod imp {
    use std::fs::File;
    use std::io;

    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

    pub(in crate::file) type Saved = IFlags;

    pub(in crate::file) fn immutable(file: &File) -> Option<(&'static str, &'static str)> {
        let flags = ioctl_getflags(file).ok()?;
        if flags.contains(IFlags::IMMUTABLE) {
            Some(("immutable", "chattr -i"))
        } else if flags.contains(IFlags::APPEND) {
            Some(("append only", "chattr -a"))
        } else {
            None
        }
    }

    pub(in crate::file) fn clear_immutable(file: &File) -> io::Result<Option<Saved>> {
        let Ok(flags) = ioctl_getflags(file) else {
            return Ok(None);
        };
        let against = IFlags::IMMUTABLE | IFlags::APPEND;
        if !flags.intersects(against) {
            return Ok(None);
        }
        ioctl_setflags(file, flags.difference(against))?;
        Ok(Some(flags))
    }

    pub(in crate::file) fn restore(file: &File, flags: Saved) {
        // The change itself is done, and failing to set the flag again is no reason to undo it.
        let _restored = ioctl_setflags(file, flags);
    }
}

/// Flags against changes: seen, but not cleared.
#[cfg(not(target_os = "linux"))]
mod imp {
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
}
