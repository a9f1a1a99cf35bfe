//! What one caller may ask for. Whoever starts the helper sets the policy; it cannot be changed over the channel.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use ipnet::IpNet;

use devbox_helper_client::{Endpoint, HelperError};

use crate::error::Error;

/// What one caller may ask for.
///
/// ```
/// use devbox_helper::Policy;
///
/// let mut policy = Policy::new("/etc/hosts")?;
/// policy.pools.push("127.77.0.0/16".parse()?);
/// assert_eq!(Policy::from_args(policy.to_args())?, policy);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// The one file that is edited: an absolute path.
    pub hosts_file: PathBuf,
    /// The pools in which every address of a block or a listener must lie. Each pool must itself lie in loopback or private
    /// space.
    pub pools: Vec<IpNet>,
    /// The unprivileged user for whom a privileged helper works, as under `sudo`. Any file but the system's own hosts file is
    /// then edited with this user's permissions only.
    pub caller: Option<Caller>,
    /// Whether edits by hand ([`devbox_helper_client::Request::EditHosts`]) are allowed: any block, any address, never undone.
    /// `false` for a session's helper.
    pub allow_user_edits: bool,
    /// Whether names may be taken from other living sessions ([`devbox_helper_client::Request::TakeHosts`]).
    pub allow_take: bool,
    /// Whether the process keeps a helper rather than being one: it starts a helper when its caller
    /// ([`devbox_helper_client::Keeper`]) asks for one, and another one where that was killed. For a caller that gives up the
    /// rights to start one itself. Unix only.
    pub keep: bool,
}

/// A user without the helper's privileges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

impl Policy {
    /// A policy that allows blocks in this file and, until pools are added, no address. A relative path is resolved against the
    /// working directory, and `..` is resolved as well.
    ///
    /// # Errors
    /// [`Error::Path`] when the path is empty or its `..` cannot be resolved.
    pub fn new(hosts_file: impl AsRef<Path>) -> Result<Self, Error> {
        let given = hosts_file.as_ref();
        let bad = || Error::Path {
            file: given.to_owned(),
        };
        let mut file = std::path::absolute(given).map_err(|_| bad())?;
        if has_parent(&file) {
            let name = file.file_name().ok_or_else(bad)?.to_owned();
            let parent = file.parent().ok_or_else(bad)?;
            file = parent.canonicalize().map_err(|_| bad())?.join(name);
        }
        Ok(Self {
            hosts_file: file,
            pools: Vec::new(),
            caller: None,
            allow_user_edits: false,
            allow_take: false,
            keep: false,
        })
    }

    /// The helper's command line for this policy, after the hidden first argument.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args = vec![HOSTS_FILE.into(), self.hosts_file.clone().into_os_string()];
        for pool in &self.pools {
            args.extend([POOL.into(), pool.to_string().into()]);
        }
        if let Some(caller) = &self.caller {
            let ids = [caller.uid, caller.gid]
                .into_iter()
                .chain(caller.groups.iter().copied());
            let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
            args.extend([CALLER.into(), ids.join(",").into()]);
        }
        if self.allow_user_edits {
            args.push(ALLOW_USER_EDITS.into());
        }
        if self.allow_take {
            args.push(ALLOW_TAKE.into());
        }
        if self.keep {
            args.push(KEEP.into());
        }
        args
    }

    /// Reads what [`Policy::to_args`] wrote.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Path`], [`Error::Pool`]: nothing is ignored.
    pub fn from_args<I: IntoIterator<Item: Into<OsString>>>(args: I) -> Result<Self, Error> {
        let mut args = args.into_iter().map(Into::into);
        let mut policy = Self {
            hosts_file: PathBuf::new(),
            pools: Vec::new(),
            caller: None,
            allow_user_edits: false,
            allow_take: false,
            keep: false,
        };
        while let Some(argument) = args.next() {
            if argument == ALLOW_USER_EDITS {
                policy.allow_user_edits = true;
                continue;
            }
            if argument == ALLOW_TAKE {
                policy.allow_take = true;
                continue;
            }
            if argument == KEEP {
                policy.keep = true;
                continue;
            }
            let value = args
                .next()
                .ok_or_else(|| bad(&argument, "unknown, or without a value"))?;
            if argument == HOSTS_FILE {
                policy.hosts_file = value.into();
            } else if argument == POOL {
                let pool = value.to_str().and_then(|text| text.parse().ok());
                policy
                    .pools
                    .push(pool.ok_or_else(|| bad(&argument, "not an address and a prefix length"))?);
            } else if argument == CALLER {
                policy.caller = Some(caller(&value).ok_or_else(|| bad(&argument, "not UID,GID[,GID…]"))?);
            } else {
                return Err(bad(&argument, "unknown"));
            }
        }
        policy.check()?;
        Ok(policy)
    }

    /// Checks that a helper may serve this policy.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Pool`].
    pub fn check(&self) -> Result<(), Error> {
        if !self.hosts_file.is_absolute() || has_parent(&self.hosts_file) {
            return Err(Error::Path {
                file: self.hosts_file.clone(),
            });
        }
        for pool in &self.pools {
            if pool.trunc() != *pool {
                return Err(Error::Pool {
                    pool: *pool,
                    why: "it has bits beyond its prefix length",
                });
            }
            if !private_space().any(|space| space.contains(pool)) {
                return Err(Error::Pool {
                    pool: *pool,
                    why: "it lies outside loopback and private space",
                });
            }
        }
        Ok(())
    }

    /// Whether a name may resolve to this address.
    pub(crate) fn check_address(&self, address: IpAddr) -> Result<(), HelperError> {
        let why = if !self.pools.iter().any(|pool| pool.contains(&address)) {
            "it lies outside the session's pools"
        } else if everybodys_loopback().contains(&address) || address.is_unspecified() {
            "the machine itself uses it"
        } else {
            return Ok(());
        };
        Err(not_allowed(format!("the address {address}"), why))
    }

    /// Whether the caller may have a listener there.
    pub(crate) fn check_listener(&self, endpoint: Endpoint) -> Result<(), HelperError> {
        self.check_address(endpoint.address)?;
        let why = if !endpoint.address.is_loopback() {
            "it is not on a loopback address"
        } else if endpoint.port == 0 {
            "the port is 0"
        } else {
            return Ok(());
        };
        Err(not_allowed(format!("the listener {endpoint}"), why))
    }
}

pub(crate) fn not_allowed(what: impl Into<String>, why: impl Into<String>) -> HelperError {
    HelperError::NotAllowed {
        what: what.into(),
        why: why.into(),
    }
}

fn has_parent(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

fn caller(value: &OsStr) -> Option<Caller> {
    let mut ids = value.to_str()?.split(',').map(|id| id.parse::<u32>().ok());
    let (uid, gid) = (ids.next()??, ids.next()??);
    Some(Caller {
        uid,
        gid,
        groups: ids.collect::<Option<_>>()?,
    })
}

fn bad(argument: &OsStr, message: &str) -> Error {
    Error::Argument {
        argument: argument.to_string_lossy().into_owned(),
        message: message.into(),
    }
}

/// Loopback (RFC 1122 §3.2.1.3), private use (RFC 1918), shared (RFC 6598), unique local (RFC 4193).
fn private_space() -> impl Iterator<Item = IpNet> {
    [
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "fc00::/7",
    ]
    .iter()
    .filter_map(|space| space.parse().ok())
}

/// The part of loopback that other software uses: 127.0.0.1 itself, the resolvers at .53 and .54, Debian's 127.0.1.1.
fn everybodys_loopback() -> IpNet {
    IpNet::new_assert(IpAddr::from([127, 0, 0, 0]), 23)
}

const HOSTS_FILE: &str = "--hosts-file";
const POOL: &str = "--pool";
const CALLER: &str = "--caller";
const ALLOW_USER_EDITS: &str = "--allow-user-edits";
const ALLOW_TAKE: &str = "--allow-take";
const KEEP: &str = "--keep";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_say_the_whole_policy() {
        let policy = Policy {
            hosts_file: "/tmp/hosts".into(),
            pools: vec!["127.77.0.0/16".parse().unwrap(), "fd00:77::/64".parse().unwrap()],
            caller: Some(Caller {
                uid: 1000,
                gid: 1001,
                groups: vec![27, 1002],
            }),
            allow_user_edits: true,
            allow_take: true,
            keep: true,
        };
        assert_eq!(Policy::from_args(policy.to_args()).unwrap(), policy);
    }

    #[test]
    fn arguments_that_say_something_else_are_refused() {
        for args in [
            vec!["--hosts-file"],
            vec!["--hosts-file", "hosts"],
            vec!["--hosts-file", "/etc/../etc/hosts"],
            vec![],
            vec!["--hosts-file", "/h", "--verbose"],
            vec!["--hosts-file", "/h", "--verbose", "x"],
            vec!["--hosts-file", "/h", "--caller", "1000"],
            vec!["--hosts-file", "/h", "--caller", "1000,x"],
            vec!["--hosts-file", "/h", "--caller", "-1,0"],
            vec!["--hosts-file", "/h", "--pool", "127.77.0.0"],
            vec!["--hosts-file", "/h", "--pool", "127.77.0.0/33"],
            vec!["--hosts-file", "/h", "--pool", "127.77.0.1/16"],
            vec!["--hosts-file", "/h", "--pool", "8.8.8.0/24"],
            vec!["--hosts-file", "/h", "--pool", "0.0.0.0/0"],
            vec!["--hosts-file", "/h", "--pool", "126.0.0.0/7"],
            vec!["--hosts-file", "/h", "--pool", "::/0"],
            vec!["--hosts-file", "/h", "--pool", "2001:db8::/64"],
        ] {
            assert!(Policy::from_args(args.clone()).is_err(), "{args:?} was taken");
        }
    }

    #[test]
    fn relative_path_is_resolved_by_who_makes_the_policy() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(Policy::new("hosts").unwrap().hosts_file, here.join("hosts"));
        let up = here.canonicalize().unwrap().parent().unwrap().join("hosts");
        assert_eq!(Policy::new("../hosts").unwrap().hosts_file, up);
    }

    #[test]
    fn addresses_outside_the_pools_are_refused() {
        let mut policy = Policy::new("/etc/hosts").unwrap();
        policy.pools = vec!["127.0.0.0/8".parse().unwrap(), "fd00:77::/64".parse().unwrap()];
        for good in ["127.77.0.2", "127.1.1.1", "fd00:77::1"] {
            policy.check_address(good.parse().unwrap()).unwrap();
        }
        for bad in [
            "127.0.0.1",
            "127.0.0.53",
            "127.0.1.1",
            "0.0.0.0",
            "8.8.8.8",
            "10.0.0.1",
            "::1",
            "::",
            "fd00:78::1",
        ] {
            assert!(
                policy.check_address(bad.parse().unwrap()).is_err(),
                "{bad} was taken"
            );
        }
    }

    #[test]
    fn listeners_elsewhere_are_refused() {
        let mut policy = Policy::new("/etc/hosts").unwrap();
        policy.pools = vec!["127.77.0.0/16".parse().unwrap(), "10.107.0.0/16".parse().unwrap()];
        let check = |endpoint: Endpoint| policy.check_listener(endpoint);
        check(Endpoint::tcp("127.77.3.4:80".parse().unwrap())).unwrap();
        for bad in [
            "127.77.3.4:0",
            "10.107.0.2:80",
            "0.0.0.0:80",
            "127.0.0.1:80",
            "[::1]:80",
            "192.168.1.1:22",
        ] {
            let bad = bad.parse().unwrap();
            for endpoint in [Endpoint::tcp(bad), Endpoint::udp(bad)] {
                assert!(check(endpoint).is_err(), "{endpoint} was taken");
            }
        }
    }
}
