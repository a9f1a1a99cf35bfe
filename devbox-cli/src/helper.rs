//! The helper: the installed one, or this program again, with a hidden first argument.

pub(crate) mod installed;
mod plan;

use std::ffi::OsString;
use std::io;
use std::path::Path;

use devbox_engine::{Error, Helper, HelperConfig, Restart, system_hosts_file};
use devbox_helper::Policy;
use devbox_helper_client::Error as ClientError;
use ipnet::IpNet;

use crate::failure::Failure;
use crate::print;
use crate::sys::{self, Caller};

/// The hidden first argument.
pub(crate) const ARGUMENT: &str = "__helper";

/// The helper's command line for a policy.
pub(crate) fn arguments(policy: &Policy) -> impl Iterator<Item = OsString> {
    std::iter::once(ARGUMENT.into()).chain(policy.to_args())
}

/// Connects to the installed helper, if there is one that serves this user and edits this file.
pub(crate) fn connect(hosts_file: &Path, pools: &[IpNet], caller: &Caller) -> Option<Helper> {
    let socket = installed::socket();
    if hosts_file != system_hosts_file().ok()? {
        return None;
    }
    let claim_file = caller.state_folder().map(|folder| folder.join("claim"));
    match Helper::installed(&socket, pools, claim_file.as_deref()) {
        Ok(helper) => Some(helper),
        // None is installed.
        Err(Error::Helper(ClientError::Connect { source, .. }))
            if source.kind() == io::ErrorKind::NotFound =>
        {
            None
        }
        Err(error) => {
            let why = anyhow::Error::from(error);
            print::note(&format!("note: the installed helper is not used: {why:#}"));
            None
        }
    }
}

/// What a helper may be asked to do to a hosts file for a caller.
pub(crate) fn policy(hosts_file: &Path, caller: &Caller) -> Result<Policy, Failure> {
    let mut policy = Policy::new(hosts_file).map_err(Failure::because)?;
    if sys::is_root() && caller.uid != 0 {
        policy.caller = Some(devbox_helper::Caller {
            uid: caller.uid,
            gid: caller.gid,
            groups: caller.groups.clone(),
        });
    }
    Ok(policy)
}

/// What a session wants of its helper.
pub(crate) struct Wanted<'a> {
    /// The file that it edits.
    pub(crate) hosts_file: &'a Path,
    /// Where addresses lie.
    pub(crate) pools: &'a [IpNet],
    /// Whether it edits the file with rights that this process is about to give up.
    pub(crate) privileged: bool,
    /// Whether it may take names from other sessions.
    pub(crate) take_names: bool,
    /// Whether it is to have the system ask the session's DNS server.
    pub(crate) resolver: bool,
    /// Whether it logs to this process's standard error.
    pub(crate) verbose: bool,
}

impl<'a> Wanted<'a> {
    /// One that edits this file with the caller's rights.
    pub(crate) fn of(hosts_file: &'a Path) -> Self {
        Self {
            hosts_file,
            pools: &[],
            privileged: false,
            take_names: false,
            resolver: false,
            verbose: false,
        }
    }
}

/// Starts a session's helper with the rights that this process has now. To be called before any thread exists.
pub(crate) fn start(wanted: &Wanted<'_>, caller: &Caller) -> Result<Helper, Failure> {
    let mut policy = policy(wanted.hosts_file, caller)?;
    policy.pools = wanted.pools.to_vec();
    // Only root can change the network, and loopback needs no change.
    let open_pools: Vec<IpNet> = wanted
        .pools
        .iter()
        .filter(|pool| wanted.privileged && sys::must_be_opened(pool))
        .copied()
        .collect();
    policy.resolver = wanted.privileged && wanted.resolver;
    // A rule belongs to an interface on Linux.
    policy.network = policy.resolver || !open_pools.is_empty();
    policy.allow_take = wanted.take_names;
    // Under sudo this process is about to give up the rights to start another helper.
    policy.keep = policy.caller.is_some();
    policy.check().map_err(Failure::because)?;
    let program = std::env::current_exe().map_err(Failure::because)?;
    let mut config = HelperConfig::new(program, arguments(&policy));
    config.privileged = wanted.privileged;
    config.open_pools = open_pools;
    config.restart = if policy.keep {
        Restart::ByKeeper
    } else {
        Restart::Here
    };
    config.verbose = wanted.verbose;
    Helper::start(&config).map_err(Failure::because)
}
