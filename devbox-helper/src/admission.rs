//! Who may ask the installed helper, and for what: a file that only root can write, read anew for each connection.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use netif::Suffix;
use serde::Deserialize;

use crate::error::{Error, with_sources};
use crate::peer::Credentials;
use crate::policy::Policy;
use crate::sys;

/// The file, as its keys say it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    /// Users who may ask, by name or number. Root may.
    #[serde(default)]
    users: Vec<Who>,
    /// Groups whose members may ask, by name or number.
    #[serde(default)]
    groups: Vec<Who>,
    /// Where all addresses lie.
    pools: Vec<IpNet>,
    /// The lowest and the highest port that is bound.
    #[serde(default = "all_ports")]
    ports: (u16, u16),
    /// Whether interfaces may be made and prefixes be made this machine's own.
    #[serde(default)]
    interfaces: bool,
    /// Whether resolver rules may be set.
    #[serde(default)]
    resolver: bool,
    /// Below which public suffixes names and rules may lie. What is not public may be used anyway.
    #[serde(default)]
    suffixes: Vec<Suffix>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Who {
    Number(u32),
    Name(String),
}

impl PolicyFile {
    /// Reads the file, if nobody but its owner can have written it, who is root or the user that the helper runs as.
    ///
    /// # Errors
    /// [`Error::PolicyFile`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bad = |why: String| Error::PolicyFile {
            file: path.to_owned(),
            why,
        };
        let text = sys::read_trusted(path).map_err(|error| bad(error.to_string()))?;
        Self::parse(&text).map_err(bad)
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let (lowest, highest) = file.ports;
        if lowest == 0 || lowest > highest {
            return Err(format!("ports: {lowest} to {highest} are none"));
        }
        file.policy(hostsfile::system_path())
            .check()
            .map_err(|error| with_sources(&error))?;
        Ok(file)
    }

    /// What this peer may ask for, or why nothing.
    pub(crate) fn admit(&self, peer: &Credentials, hosts_file: &Path) -> Result<Policy, String> {
        let is_user = |who: &Who| match who {
            Who::Number(uid) => sys::USERS_ARE_NUMBERS && *uid == peer.uid,
            Who::Name(name) => sys::uid_of(name) == Some(peer.uid),
        };
        let is_group = |who: &Who| {
            let gid = match who {
                Who::Number(gid) => sys::USERS_ARE_NUMBERS.then_some(*gid),
                Who::Name(name) => sys::gid_of(name),
            };
            gid.is_some_and(|gid| gid == peer.gid || peer.groups.contains(&gid))
        };
        if peer.uid == 0 || self.users.iter().any(is_user) || self.groups.iter().any(is_group) {
            return Ok(self.policy(hosts_file.to_owned()));
        }
        Err("the policy lists neither this user nor a group of theirs".to_owned())
    }

    /// Whether a user is listed whom [`own_account`](crate::own_account) names so. They may be admitted as a member of a group as well.
    #[must_use]
    pub fn lists(&self, account: &str) -> bool {
        let uid = account.parse().ok();
        self.users.iter().any(|who| match who {
            Who::Number(number) => sys::USERS_ARE_NUMBERS && Some(*number) == uid,
            Who::Name(name) => name == account || (uid.is_some() && sys::uid_of(name) == uid),
        })
    }

    /// The users and groups that are listed by name.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |who: &Who| match who {
            Who::Name(name) => Some(name.clone()),
            Who::Number(_) => None,
        };
        self.users.iter().chain(&self.groups).filter_map(name).collect()
    }

    fn policy(&self, hosts_file: PathBuf) -> Policy {
        let mut policy = Policy::of(hosts_file);
        policy.pools.clone_from(&self.pools);
        policy.ports = self.ports;
        policy.network = self.interfaces;
        policy.resolver = self.resolver;
        policy.suffixes = Some(self.suffixes.clone());
        // Only from one's own sessions: claims see to that.
        policy.allow_take = true;
        policy
    }
}

/// The policy that an installation begins with, for a user as [`own_account`](crate::own_account) names them.
#[must_use]
pub fn default_policy(user: &str) -> String {
    // An identifier of Windows is a text.
    let user = match user.parse::<u32>() {
        Ok(number) => number.to_string(),
        Err(_) => format!("{user:?}"),
    };
    format!(
        "# Who may ask the devbox helper to change this machine, and for what. Read anew for each connection.\n\
         # It must belong to root, and nobody else may be able to write it.\n\
         \n\
         # Users and groups, by name or number.\n\
         users = [{user}]\n\
         groups = []\n\
         \n\
         # Where all addresses lie: of names, listeners, interfaces.\n\
         pools = [\"127.0.0.0/8\", \"10.107.0.0/16\"]\n\
         \n\
         # The lowest and the highest port that is bound for a session.\n\
         ports = [1, 65535]\n\
         \n\
         # Whether sessions may make interfaces and make prefixes of the pools this machine's own.\n\
         interfaces = true\n\
         \n\
         # Whether sessions may say who is asked for names with some suffix.\n\
         resolver = false\n\
         \n\
         # Public domains below which sessions may have names. What is not public (orders.backend) they may have anyway.\n\
         suffixes = []\n"
    )
}

fn all_ports() -> (u16, u16) {
    (1, u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, groups: &[u32]) -> Credentials {
        Credentials {
            uid,
            gid: uid,
            groups: groups.to_vec(),
            pid: 1,
            program: None,
        }
    }

    #[test]
    fn first_policy_is_one_and_admits_its_user() {
        let file = PolicyFile::parse(&default_policy("1001")).unwrap();
        assert!(file.admit(&peer(0, &[]), Path::new("/etc/hosts")).is_ok());
        assert!(file.admit(&peer(1000, &[]), Path::new("/etc/hosts")).is_err());
    }

    #[test]
    fn users_and_members_of_groups_are_admitted() {
        let text = "users = [1000, 'nobody-of-that-name']\ngroups = [77]\npools = ['127.77.0.0/16']";
        let file = PolicyFile::parse(text).unwrap();
        let admitted = |peer: &Credentials| file.admit(peer, Path::new("/etc/hosts"));
        let policy = admitted(&peer(1000, &[])).unwrap();
        assert!(!policy.network && !policy.resolver && !policy.allow_user_edits);
        assert!(admitted(&peer(1001, &[5, 77])).is_ok());
        assert!(admitted(&peer(77, &[])).is_ok(), "the primary group counts");
        assert!(admitted(&peer(1001, &[5])).is_err());
        assert!(file.lists("nobody-of-that-name") && !file.lists("1001"));
        assert_eq!(file.lists("1000"), sys::USERS_ARE_NUMBERS);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "",
            "users = ['ana']",
            "pools = ['127.77.0.0']",
            "pools = ['8.8.8.0/24']",
            "pools = ['127.77.0.1/16']",
            "pools = ['127.77.0.0/16']\nuser = ['ana']",
            "pools = ['127.77.0.0/16']\nports = [0, 10]",
            "pools = ['127.77.0.0/16']\nports = [10, 1]",
            "pools = ['127.77.0.0/16']\nsuffixes = ['.']",
            "pools = ['127.77.0.0/16']\nusers = [-1]",
        ] {
            assert!(PolicyFile::parse(text).is_err(), "{text:?} was taken");
        }
    }
}
