//! Which process a block belongs to, as its BEGIN line says it: `owner=<pid>.<start time>.<boot>`.
//!
//! A pid alone is reused by other processes. Together with the start time it is unique until a reboot where that time counts
//! from boot (ticks on Linux), and the boot id tells reboots apart. Elsewhere start times count from a fixed date, and the boot
//! part is `0`. A helper with several callers adds the number of the claim: `<pid>.<start time>.<boot>.<claim>`.

use std::io;

use crate::peer;

/// This process.
///
/// # Errors
/// When the system does not tell when this process started, as without `/proc`.
pub fn current() -> io::Result<String> {
    let pid = std::process::id();
    match peer::started(pid)? {
        peer::Started::Lives(Some(start)) => Ok(format!("{pid}.{start}.{}", peer::boot())),
        peer::Started::Lives(None) => Ok(format!("{pid}.0.{}", peer::boot())),
        peer::Started::Never => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "this process is not visible",
        )),
    }
}

/// Whether the process that a block names is alive. Also `true` if that cannot be determined, and for owners in a foreign
/// format, whose blocks are not ours to remove.
///
/// ```
/// let me = devbox_helper::owner::current()?;
/// assert!(devbox_helper::owner::is_alive(&me));
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn is_alive(owner: &str) -> bool {
    let Some(owner) = Owner::parse(owner) else {
        return true;
    };
    if owner.boot != peer::boot() {
        return false;
    }
    match peer::started(owner.pid) {
        Ok(peer::Started::Lives(Some(start))) => start == owner.start,
        Ok(peer::Started::Never) => false,
        Ok(peer::Started::Lives(None)) | Err(_) => true,
    }
}

/// The pid in an owner of our own format.
#[must_use]
pub fn pid(owner: &str) -> Option<u32> {
    Owner::parse(owner).map(|owner| owner.pid)
}

/// The boot in an owner of our own format.
pub(crate) fn boot_of(owner: &str) -> Option<&str> {
    Owner::parse(owner).map(|owner| owner.boot)
}

/// Which run of the machine this is.
pub(crate) fn boot() -> &'static str {
    peer::boot()
}

struct Owner<'a> {
    pid: u32,
    start: u64,
    boot: &'a str,
}

impl<'a> Owner<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('.');
        let owner = Self {
            pid: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
            boot: parts.next()?,
        };
        let claim = parts.next().is_none_or(|claim| claim.parse::<u64>().is_ok());
        let whole = claim && parts.next().is_none() && owner.pid != 0 && !owner.boot.is_empty();
        whole.then_some(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_under_its_own_token_only() {
        let me = current().unwrap();
        assert!(is_alive(&me), "{me}");
        assert_eq!(pid(&me), Some(std::process::id()));
        assert!(
            me.len() <= 64 && me.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'),
            "{me}"
        );
        assert!(is_alive(&format!("{me}.7")), "a claim lives as its process");
        let mut parts: Vec<&str> = me.split('.').collect();
        parts[1] = "1";
        assert!(
            !is_alive(&parts.join(".")),
            "another start time is another process"
        );
        let parts: Vec<&str> = me.split('.').collect();
        assert!(
            !is_alive(&format!("{}.{}.another", parts[0], parts[1])),
            "another boot is another process"
        );
    }

    #[test]
    fn ended_process_is_dead_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let peer::Started::Lives(Some(start)) = peer::started(child.id()).unwrap() else {
            panic!("a child has a start time");
        };
        let token = format!("{}.{start}.{}", child.id(), peer::boot());
        assert!(is_alive(&token));
        child.kill().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while is_alive(&token) {
            assert!(std::time::Instant::now() < deadline, "a zombie counts as alive");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!is_alive(&token));
    }

    #[test]
    fn what_is_not_our_form_is_left_alone() {
        for foreign in [
            "",
            "x",
            "1",
            "1.2",
            "1.2.",
            "0.1.b",
            "1.2.3.4.5",
            "1.2.3.x",
            "a.b.c",
            "-1.2.3",
            "99999999999.1.b",
        ] {
            assert!(is_alive(foreign), "{foreign:?}");
        }
    }
}
