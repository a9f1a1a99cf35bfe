//! What one caller may ask for. Whoever starts the helper sets the policy; it cannot be changed over the channel.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use ipnet::IpNet;
use netif::Suffix;

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
    /// Whether interfaces may be made, prefixes of the pools made this machine's own, and listeners bound outside loopback.
    pub network: bool,
    /// Whether resolver rules may be set.
    pub resolver: bool,
    /// The lowest and the highest port of a listener.
    pub ports: (u16, u16),
    /// If given, names of several labels and resolver rules lie below one of these suffixes, or end in a label that is no public
    /// top-level domain.
    pub suffixes: Option<Vec<Suffix>>,
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
        Ok(Self::of(file))
    }

    /// A policy for a file of which nothing is known.
    pub(crate) fn of(hosts_file: PathBuf) -> Self {
        Self {
            hosts_file,
            pools: Vec::new(),
            caller: None,
            allow_user_edits: false,
            allow_take: false,
            network: false,
            resolver: false,
            ports: ALL_PORTS,
            suffixes: None,
            keep: false,
        }
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
        if self.network {
            args.push(NETWORK.into());
        }
        if self.resolver {
            args.push(RESOLVER.into());
        }
        if self.ports != ALL_PORTS {
            args.extend([PORTS.into(), format!("{}-{}", self.ports.0, self.ports.1).into()]);
        }
        for suffix in self.suffixes.iter().flatten() {
            args.extend([SUFFIX.into(), suffix.as_str().into()]);
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
        let mut policy = Self::of(PathBuf::new());
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
            if argument == NETWORK {
                policy.network = true;
                continue;
            }
            if argument == RESOLVER {
                policy.resolver = true;
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
            } else if argument == PORTS {
                let range = value.to_str().and_then(ports);
                policy.ports = range.ok_or_else(|| bad(&argument, "not LOWEST-HIGHEST"))?;
            } else if argument == SUFFIX {
                let suffix = value.to_str().and_then(|text| Suffix::new(text).ok());
                let suffix = suffix.ok_or_else(|| bad(&argument, "not a domain"))?;
                policy.suffixes.get_or_insert_default().push(suffix);
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
        let (lowest, highest) = self.ports;
        let why = if !endpoint.address.is_loopback() && !self.network {
            "it is not on a loopback address".to_owned()
        } else if endpoint.port == 0 {
            "the port is 0".to_owned()
        } else if !(lowest..=highest).contains(&endpoint.port) {
            format!("the ports are {lowest} to {highest}")
        } else {
            return Ok(());
        };
        Err(not_allowed(format!("the listener {endpoint}"), why))
    }

    /// Whether a prefix may be made this machine's own.
    pub(crate) fn check_pool(&self, pool: IpNet) -> Result<(), HelperError> {
        let why = if pool.trunc() != pool {
            "it has bits beyond its prefix length"
        } else if !self.pools.iter().any(|allowed| allowed.contains(&pool)) {
            "it lies outside the caller's pools"
        } else if !self.network && !is_loopback(&pool) {
            NO_INTERFACES
        } else {
            return Ok(());
        };
        Err(not_allowed(format!("the prefix {pool}"), why))
    }

    /// Whether an address may be added: it is the machine's to give, and not the address of a whole network.
    pub(crate) fn check_added(&self, address: IpNet) -> Result<(), HelperError> {
        self.check_address(address.addr())?;
        let is_whole = address.prefix_len() == address.max_prefix_len();
        let why =
            if !is_whole && (address.addr() == address.network() || address.addr() == address.broadcast()) {
                "it is the address of a network, not of a machine in it"
            } else if !self.pools.iter().any(|pool| pool.contains(&address.trunc())) {
                "its network lies outside the caller's pools"
            } else if !self.network && !is_loopback(&address) {
                NO_INTERFACES
            } else {
                return Ok(());
            };
        Err(not_allowed(format!("the address {address}"), why))
    }

    /// Whether this caller may publish the name, which is one already.
    pub(crate) fn check_name(&self, name: &str) -> Result<(), HelperError> {
        if !name.contains('.') {
            return Ok(());
        }
        self.check_ending(name, "the name")
    }

    /// Whether this caller may say who is asked for names below the suffix.
    pub(crate) fn check_suffix(&self, suffix: &Suffix) -> Result<(), HelperError> {
        if !self.resolver {
            let why = "this caller may not set resolver rules: the policy would need `resolver = true`";
            return Err(not_allowed(format!("the suffix {suffix}"), why));
        }
        self.check_ending(suffix.as_str(), "the suffix")
    }

    fn check_ending(&self, name: &str, what: &str) -> Result<(), HelperError> {
        let Some(suffixes) = &self.suffixes else {
            return Ok(());
        };
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_below = |suffix: &Suffix| {
            let rest = name.strip_suffix(suffix.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        if suffixes.iter().any(is_below)
            || (!tld::exist(last) && last != "local")
            || name
                .strip_suffix("cluster.local")
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        {
            return Ok(());
        }
        let why = format!(".{last} is public, and the policy does not list a suffix for it");
        Err(not_allowed(format!("{what} {name}"), why))
    }
}

pub(crate) fn not_allowed(what: impl Into<String>, why: impl Into<String>) -> HelperError {
    HelperError::NotAllowed {
        what: what.into(),
        why: why.into(),
    }
}

fn ports(text: &str) -> Option<(u16, u16)> {
    let (lowest, highest) = text.split_once('-')?;
    let range = (lowest.parse().ok()?, highest.parse().ok()?);
    (range.0 <= range.1).then_some(range)
}

fn is_loopback(net: &IpNet) -> bool {
    net.network().is_loopback() && net.broadcast().is_loopback()
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

pub(crate) const NO_INTERFACES: &str =
    "this caller may not change the network: the policy would need `interfaces = true`";
const HOSTS_FILE: &str = "--hosts-file";
const POOL: &str = "--pool";
const CALLER: &str = "--caller";
const ALLOW_USER_EDITS: &str = "--allow-user-edits";
const ALLOW_TAKE: &str = "--allow-take";
const NETWORK: &str = "--network";
const RESOLVER: &str = "--resolver";
const PORTS: &str = "--ports";
const SUFFIX: &str = "--suffix";
const KEEP: &str = "--keep";
const ALL_PORTS: (u16, u16) = (1, u16::MAX);

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
            network: true,
            resolver: true,
            ports: (80, 1023),
            suffixes: Some(vec![Suffix::new("corp.example").unwrap()]),
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
            vec!["--hosts-file", "/h", "--ports", "80"],
            vec!["--hosts-file", "/h", "--ports", "80-79"],
            vec!["--hosts-file", "/h", "--suffix", "."],
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
    fn public_names_need_a_suffix_of_the_policy() {
        let mut policy = Policy::new("/etc/hosts").unwrap();
        policy.resolver = true;
        policy.check_name("www.bank.com").unwrap();
        policy.suffixes = Some(vec![Suffix::new("dev.example.com").unwrap()]);
        for good in [
            "orders",
            "com",
            "orders.backend",
            "a.svc.cluster.local",
            "web.dev.example.com",
            "x.internal",
        ] {
            policy.check_name(good).unwrap();
        }
        for bad in [
            "www.bank.com",
            "example.com",
            "webdev.example.com",
            "printer.local",
            "notcluster.local",
        ] {
            assert!(policy.check_name(bad).is_err(), "{bad} was taken");
        }
        for bad in ["com", "co.uk", "local", "bank.com"] {
            assert!(
                policy.check_suffix(&Suffix::new(bad).unwrap()).is_err(),
                "{bad} was taken"
            );
        }
        policy
            .check_suffix(&Suffix::new("shop.internal").unwrap())
            .unwrap();
        policy.resolver = false;
        assert!(
            policy
                .check_suffix(&Suffix::new("shop.internal").unwrap())
                .is_err()
        );
    }

    #[test]
    fn networks_and_what_lies_outside_the_pools_are_not_added() {
        let mut policy = Policy::new("/etc/hosts").unwrap();
        policy.pools = vec!["127.77.0.0/16".parse().unwrap(), "10.107.0.0/16".parse().unwrap()];
        let added = |policy: &Policy, text: &str| policy.check_added(text.parse().unwrap());
        let pool = |policy: &Policy, text: &str| policy.check_pool(text.parse().unwrap());
        added(&policy, "127.77.0.1/32").unwrap();
        assert!(added(&policy, "10.107.0.1/32").is_err() && pool(&policy, "10.107.0.0/16").is_err());
        policy.network = true;
        for good in ["10.107.0.1/32", "10.107.3.4/16", "10.107.3.4/24"] {
            added(&policy, good).unwrap();
        }
        for bad in [
            "10.107.0.0/16",
            "10.107.255.255/16",
            "10.107.3.4/8",
            "10.108.0.1/32",
            "127.0.0.1/32",
        ] {
            assert!(added(&policy, bad).is_err(), "{bad} was taken");
        }
        pool(&policy, "10.107.0.0/16").unwrap();
        pool(&policy, "10.107.8.0/24").unwrap();
        for bad in ["10.107.0.1/16", "10.0.0.0/8", "0.0.0.0/0", "192.168.0.0/16"] {
            assert!(pool(&policy, bad).is_err(), "{bad} was taken");
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
