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
