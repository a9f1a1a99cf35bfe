//! Who the caller is, and giving up root for them.

use std::ffi::CString;
use std::io;

use nix::unistd::{
    Gid, Uid, User, getgrouplist, getgroups, setegid, seteuid, setgroups, setresgid, setresuid,
};

use super::{Caller, folder_of};

/// Whether this process runs as root now.
pub(crate) fn is_root() -> bool {
    Uid::effective().is_root()
}

/// The calling user. Root without sudo is root.
pub(crate) fn caller() -> io::Result<Caller> {
    let sudo = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if is_root()
        && let (Some(uid), Some(gid)) = (sudo("SUDO_UID"), sudo("SUDO_GID"))
        && uid != 0
    {
        let user = User::from_uid(Uid::from_raw(uid))?;
        let groups = match &user {
            Some(user) => {
                let name = CString::new(user.name.as_str()).map_err(io::Error::other)?;
                getgrouplist(&name, Gid::from_raw(gid))?
                    .into_iter()
                    .map(Gid::as_raw)
                    .collect()
            }
            None => vec![gid],
        };
        return Ok(Caller {
            uid,
            gid,
            groups,
            home: user.map(|user| user.dir).filter(|home| home.is_absolute()),
        });
    }
    own_identity()
}

/// The user of this process, sudo or not.
pub(crate) fn own_identity() -> io::Result<Caller> {
    Ok(Caller {
        uid: Uid::effective().as_raw(),
        gid: Gid::effective().as_raw(),
        groups: getgroups()?.into_iter().map(Gid::as_raw).collect(),
        home: folder_of("HOME"),
    })
}

/// Gives up root for good where sudo gave it: from here on this process is the caller's.
///
/// Only for a process without other threads.
pub(crate) fn drop_to_caller(caller: &Caller) -> io::Result<()> {
    if !is_root() || caller.uid == 0 {
        return Ok(());
    }
    let groups: Vec<_> = caller.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(caller.uid), Gid::from_raw(caller.gid));
    // Groups first: a process that is no longer root may not choose them (setgroups(2)).
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    live_as(caller);
    Ok(())
}

/// What is looked for below the home folder from here on, by this process and by the programs that it starts (a kubeconfig, what
/// credential plug-ins keep), is the caller's: the variable of sudo names root's.
#[expect(
    unsafe_code,
    reason = "variables are the process's, and other programs read them"
)]
fn live_as(caller: &Caller) {
    let Some(home) = &caller.home else { return };
    // SAFETY: no other thread reads variables meanwhile: whoever gives up root has not started any.
    unsafe { std::env::set_var("HOME", home) };
}

/// Does something with the caller's rights where sudo gave this process more, and takes its own back.
///
/// Only for a process without other threads: the ids are changed for the whole process (setresuid(2), C library/kernel
/// differences).
pub(crate) fn as_caller<T>(caller: &Caller, work: impl FnOnce() -> T) -> io::Result<T> {
    if !is_root() || caller.uid == 0 {
        return Ok(work());
    }
    let own: Vec<_> = getgroups()?;
    let groups: Vec<_> = caller.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    setgroups(&groups)?;
    setegid(Gid::from_raw(caller.gid))?;
    seteuid(Uid::from_raw(caller.uid))?;
    let done = work();
    seteuid(Uid::from_raw(0))?;
    setegid(Gid::from_raw(0))?;
    setgroups(&own)?;
    Ok(done)
}
