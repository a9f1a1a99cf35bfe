//! `/proc` (proc(5)).

use std::fs;
use std::io;
use std::sync::OnceLock;

use super::Started;

/// Ticks since boot: field 22 of `/proc/<pid>/stat`. A zombie counts as ended.
pub(crate) fn started(pid: u32) -> io::Result<Started> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => {
            parse(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/<pid>/stat"))
        }
        // With the mount option hidepid=2, living processes of other users are invisible.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !exists(pid) => Ok(Started::Never),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Started::Lives(None)),
        // ESRCH: it exited between open and read.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            Ok(Started::Never)
        }
        Err(error) => Err(error),
    }
}

/// The first part of the random boot id.
pub(crate) fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        match id.get(..8) {
            Some(part) if part.bytes().all(|b| b.is_ascii_hexdigit()) => part.to_owned(),
            _ => "0".to_owned(),
        }
    })
}

/// The name in parentheses may contain anything, even parentheses; the fields are counted from the last one.
fn parse(stat: &str) -> Option<Started> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" | "x" => Some(Started::Never),
        _ => fields
            .nth(18)?
            .parse()
            .ok()
            .map(|start| Started::Lives(Some(start))),
    }
}

fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_with_parentheses_and_blanks_is_passed_over() {
        let tail = "1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 99";
        assert_eq!(
            parse(&format!("42 (a) S 9 (b)) S 1 {tail}")),
            Some(Started::Lives(Some(777)))
        );
        assert_eq!(parse(&format!("42 (sh) Z 1 {tail}")), Some(Started::Never));
        for odd in ["", "42", "42 (sh)", "42 (sh) S 1 2 3"] {
            assert_eq!(parse(odd), None, "{odd:?}");
        }
    }
}
