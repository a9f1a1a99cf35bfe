//! The name resolution policy table, which the DNS client reads from the registry.

use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use wait_timeout::ChildExt as _;
use windows_registry::{Key, LOCAL_MACHINE, Type};

use crate::aliases::{Place, Rules};
use crate::observed::SeenResolver;
use crate::render::nrpt::{self, Value};
use crate::{Owner, ResolverRule, Suffix};

/// `ERROR_FILE_NOT_FOUND`, as the registry's calls tell it.
const NOT_FOUND: u32 = 0x8007_0002;

/// How long the DNS client may take to hear that its rules have changed. The helper serves nobody else meanwhile.
const HEARING: Duration = Duration::from_secs(10);

/// The rules that are this machine's own.
#[derive(Debug)]
pub(super) struct Policies {
    /// Below `HKEY_LOCAL_MACHINE`.
    root: &'static str,
}

impl Policies {
    pub(super) fn new() -> Self {
        Self { root: nrpt::LOCAL }
    }

    pub(super) fn are_a_group_policys(&self) -> bool {
        let theirs = LOCAL_MACHINE.open(nrpt::GROUP_POLICY);
        theirs.is_ok_and(|theirs| theirs.keys().is_ok_and(|mut keys| keys.next().is_some()))
    }

    /// The names of all rules with their keys.
    fn all(&self) -> io::Result<Vec<(String, Key)>> {
        let Some(root) = found(LOCAL_MACHINE.open(self.root))? else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for name in root.keys()? {
            // One that has gone meanwhile is none.
            if let Some(key) = found(root.open(&name))? {
                all.push((name, key));
            }
        }
        Ok(all)
    }
}

impl Rules for Policies {
    fn ports(&self) -> bool {
        false
    }

    fn read(&mut self, owner: &Owner, suffix: &Suffix) -> io::Result<Place> {
        let ours = nrpt::key(owner, suffix);
        let mut place = Place::Empty;
        for (name, key) in self.all()? {
            if name == ours {
                return Ok(Place::Written {
                    ours: true,
                    text: nrpt::text(&values(&key)?),
                });
            }
            let suffixes = list(&key, nrpt::NAME).unwrap_or_default();
            let is_for = |written: &String| {
                written
                    .trim_start_matches('.')
                    .eq_ignore_ascii_case(suffix.as_str())
            };
            if suffixes.iter().any(is_for) {
                place = Place::Written {
                    ours: false,
                    text: nrpt::text(&values(&key)?),
                };
            }
        }
        Ok(place)
    }

    fn write(&mut self, owner: &Owner, suffix: &Suffix, rule: &ResolverRule) -> io::Result<()> {
        let key = LOCAL_MACHINE.create(format!(r"{}\{}", self.root, nrpt::key(owner, suffix)))?;
        for (name, value) in nrpt::values(owner, suffix, rule) {
            match value {
                Value::Number(number) => key.set_u32(name, number)?,
                Value::Text(text) => key.set_string(name, text)?,
                Value::List(list) => {
                    let list: Vec<&str> = list.iter().map(String::as_str).collect();
                    key.set_multi_string(name, &list)?;
                }
            }
        }
        read_again()
    }

    fn remove(&mut self, owner: &Owner, suffix: &Suffix) -> io::Result<()> {
        let Some(root) = found(LOCAL_MACHINE.options().read().write().open(self.root))? else {
            return Ok(());
        };
        found(root.remove_tree(nrpt::key(owner, suffix)))?;
        read_again()
    }

    fn list(&mut self, owner: &Owner) -> io::Result<Vec<SeenResolver>> {
        let mut rules = Vec::new();
        for (name, key) in self.all()? {
            let servers = nrpt::servers(&key.get_string(nrpt::SERVERS).unwrap_or_default());
            for suffix in list(&key, nrpt::NAME).unwrap_or_default() {
                rules.push(SeenResolver {
                    suffix: suffix.trim_matches('.').to_owned(),
                    servers: servers.clone(),
                    place: format!(r"HKLM\{}\{name}", self.root),
                    ours: name.starts_with(&nrpt::prefix(owner)),
                });
            }
        }
        rules.sort();
        Ok(rules)
    }

    fn is(&self, owner: &Owner, suffix: &Suffix, rule: &ResolverRule, written: &str) -> bool {
        written == nrpt::text(&nrpt::values(owner, suffix, rule))
    }
}

/// A key's values, as far as rules have such.
fn values(key: &Key) -> io::Result<Vec<(&'static str, Value)>> {
    let mut values = Vec::new();
    for name in nrpt::NAMES {
        let Some(ty) = found(key.get_type(name))? else {
            continue;
        };
        values.push((
            name,
            match ty {
                Type::U32 => Value::Number(key.get_u32(name)?),
                Type::MultiString => Value::List(list(key, name)?),
                _ => Value::Text(key.get_string(name)?),
            },
        ));
    }
    Ok(values)
}

/// The registry gives the ends of a list as empty texts.
fn list(key: &Key, name: &str) -> io::Result<Vec<String>> {
    let mut list = key.get_multi_string(name)?;
    list.retain(|text| !text.is_empty());
    Ok(list)
}

fn found<T>(result: windows_registry::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code().0.cast_unsigned() == NOT_FOUND => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The DNS client reads its rules when it starts and when it is told to. One that does not run needs not be told, and is the only
/// one that cannot be.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] where it does not take notice.
fn read_again() -> io::Result<()> {
    let telling = Command::new(r"C:\Windows\System32\sc.exe")
        .args(nrpt::READ_AGAIN)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut telling) = telling else {
        return Ok(());
    };
    if telling.wait_timeout(HEARING)?.is_some() {
        return Ok(());
    }
    telling.kill()?;
    let message = format!(
        "the DNS client does not take notice of its rules: sc.exe {} took more than {} s",
        nrpt::READ_AGAIN.join(" "),
        HEARING.as_secs()
    );
    Err(io::Error::new(io::ErrorKind::TimedOut, message))
}
