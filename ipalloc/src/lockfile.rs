//! `devbox.lock`: which key has which address, for a team to commit.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use crate::{Error, Key};

/// The lines of a lock file: keys and their addresses. No two keys have the same address.
///
/// ```text
/// # devbox.lock 1: addresses that stay. Written by `devbox ip lock`; commit this file.
/// dev/backend/orders = 127.77.3.4
/// dev/backend/postgres = 127.77.19.201
/// ```
///
/// One line a key, sorted by key, so that lines that two people add merge by themselves where they do not touch, and are a conflict for git
/// where they do. What is left of a conflict, a key or an address that stands twice: each is a [`LockFault`] with its lines, and the file
/// is refused as a whole. Blank lines and lines that begin with `#` are passed over (and are not written again); CRLF and a byte order mark do no harm.
///
/// ```
/// use ipalloc::{Key, LockFile};
///
/// let lock: LockFile = "# devbox.lock 1\nb = 127.77.0.2\na = 127.77.0.1\n".parse()?;
/// assert_eq!(lock.get(&Key::new("a")?), Some("127.77.0.1".parse().unwrap()));
/// assert!(lock.to_string().ends_with("a = 127.77.0.1\nb = 127.77.0.2\n"));
///
/// let error = "a = 127.77.0.1\nb = 127.77.0.1\n".parse::<LockFile>().unwrap_err();
/// assert_eq!(error.to_string(), "line 2: 127.77.0.1 is given to b, and in line 1 to a");
/// # Ok::<(), ipalloc::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockFile {
    by_key: BTreeMap<Key, IpAddr>,
    by_address: BTreeMap<IpAddr, Key>,
}

/// Something wrong with a line of a lock file. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockFault {
    /// The mark of a merge conflict that nobody solved.
    ConflictMarker {
        /// Its line.
        line: usize,
    },
    /// No comment and not `key = address`.
    BadLine {
        /// The line.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A key stands twice.
    DuplicateKey {
        /// The second line.
        line: usize,
        /// The first line.
        first: usize,
        /// The key.
        key: Key,
        /// The addresses of the first and the second line.
        addresses: [IpAddr; 2],
    },
    /// An address is given twice.
    DuplicateAddress {
        /// The second line.
        line: usize,
        /// The first line.
        first: usize,
        /// The address.
        address: IpAddr,
        /// The keys of the first and the second line.
        keys: [Key; 2],
    },
    /// The file was written by a newer version.
    Newer {
        /// Its line.
        line: usize,
        /// Its version.
        version: u64,
    },
}

impl fmt::Display for LockFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConflictMarker { line } => write!(f, "line {line}: a merge conflict is not solved"),
            Self::BadLine { line, why } => write!(f, "line {line}: {why}"),
            Self::DuplicateKey {
                line,
                first,
                key,
                addresses: [one, other],
            } if one == other => {
                write!(f, "line {line}: {key} stands in line {first} already")
            }
            Self::DuplicateKey {
                line,
                first,
                key,
                addresses: [one, other],
            } => {
                write!(
                    f,
                    "line {line}: {key} is given {other}, and in line {first} {one}"
                )
            }
            Self::DuplicateAddress {
                line,
                first,
                address,
                keys: [one, other],
            } => {
                write!(
                    f,
                    "line {line}: {address} is given to {other}, and in line {first} to {one}"
                )
            }
            Self::Newer { line, version } => {
                write!(
                    f,
                    "line {line}: the file has version {version}, and this program reads version {VERSION}"
                )
            }
        }
    }
}

/// The faults of a lock file as one message.
pub(crate) fn describe(path: Option<&Path>, faults: &[LockFault]) -> String {
    let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
    match path {
        Some(path) => format!("{}: {}", path.display(), faults.join("; ")),
        None => faults.join("; "),
    }
}

const VERSION: u64 = 1;
const TITLE: &str = "# devbox.lock ";

impl LockFile {
    /// A lock file without lines.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the bytes of a lock file.
    ///
    /// # Errors
    /// [`Error::LockFile`] with everything that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut lock = Self::new();
        let mut lines = BTreeMap::new();
        let mut faults = Vec::new();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line_no = index + 1;
            match read_line(line) {
                Line::Nothing => {}
                Line::Title(VERSION) => {}
                Line::Title(version) => faults.push(LockFault::Newer {
                    line: line_no,
                    version,
                }),
                Line::ConflictMarker => faults.push(LockFault::ConflictMarker { line: line_no }),
                Line::Bad(why) => faults.push(LockFault::BadLine { line: line_no, why }),
                Line::Lease(key, address) => {
                    let first_of = |key: &Key| lines.get(key).copied().unwrap_or(0);
                    if let Some(before) = lock.get(&key) {
                        let (first, addresses) = (first_of(&key), [before, address]);
                        faults.push(LockFault::DuplicateKey {
                            line: line_no,
                            first,
                            key,
                            addresses,
                        });
                    } else if let Some(other) = lock.holder(address) {
                        let (first, keys) = (first_of(other), [other.clone(), key]);
                        faults.push(LockFault::DuplicateAddress {
                            line: line_no,
                            first,
                            address,
                            keys,
                        });
                    } else {
                        lines.insert(key.clone(), line_no);
                        lock.put(key, address);
                    }
                }
            }
        }
        if faults.is_empty() {
            Ok(lock)
        } else {
            Err(Error::LockFile { path: None, faults })
        }
    }

    /// Reads a lock file. One that is not there has no lines.
    ///
    /// # Errors
    /// [`Error::LockFile`] with everything that is wrong, [`Error::Io`]
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::new()),
            Err(source) => {
                return Err(Error::Io {
                    verb: "read",
                    file: path.display().to_string(),
                    source,
                });
            }
        };
        Self::parse(&bytes).map_err(|error| match error {
            Error::LockFile { faults, .. } => Error::LockFile {
                path: Some(path.to_owned()),
                faults,
            },
            other => other,
        })
    }

    /// Writes the file, whole or not at all: a file beside it is renamed over it. Where `path` is a link, the file that it leads to is written.
    /// Tells whether its bytes are others than before.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn write(&self, path: &Path) -> Result<bool, Error> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let text = self.to_string();
        if fs::read(&path).is_ok_and(|before| before == text.as_bytes()) {
            return Ok(false);
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let beside = path.with_file_name(name);
        let write = || {
            let mut file = fs::File::create(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            if let Ok(before) = fs::metadata(&path) {
                fs::set_permissions(&beside, before.permissions())?;
            }
            fs::rename(&beside, &path)
        };
        write().map(|()| true).map_err(|source| {
            // What could not be written is of no use; why it could not is the news.
            drop(fs::remove_file(&beside));
            Error::Io {
                verb: "write",
                file: path.display().to_string(),
                source,
            }
        })
    }

    /// The address of a key.
    pub fn get(&self, key: &Key) -> Option<IpAddr> {
        self.by_key.get(key).copied()
    }

    /// The key of an address.
    pub fn holder(&self, address: IpAddr) -> Option<&Key> {
        self.by_address.get(&address)
    }

    /// The lines, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, IpAddr)> {
        self.by_key.iter().map(|(key, address)| (key, *address))
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Adds a line. A line that is there already is nothing to do.
    ///
    /// # Errors
    /// [`Error::KeyLive`] where the key has another address, [`Error::AddressTaken`] where another key has the address.
    pub fn insert(&mut self, key: &Key, address: IpAddr) -> Result<(), Error> {
        match (self.get(key), self.holder(address)) {
            (Some(before), _) if before == address => Ok(()),
            (Some(before), _) => Err(Error::KeyLive {
                key: key.clone(),
                address: before,
            }),
            (None, Some(other)) => Err(Error::AddressTaken {
                address,
                key: other.clone(),
            }),
            (None, None) => {
                self.put(key.clone(), address);
                Ok(())
            }
        }
    }

    /// Takes a line out, and tells its address.
    pub fn remove(&mut self, key: &Key) -> Option<IpAddr> {
        let address = self.by_key.remove(key)?;
        self.by_address.remove(&address);
        Some(address)
    }

    /// The lines of both. Files that two machines wrote from one file have a map together, or the lines that contradict each other are named.
    ///
    /// # Errors
    /// As [`insert`](Self::insert), for the first contradiction in the order of the keys.
    pub fn merge(&self, other: &Self) -> Result<Self, Error> {
        let mut merged = self.clone();
        for (key, address) in other.iter() {
            merged.insert(key, address)?;
        }
        Ok(merged)
    }

    fn put(&mut self, key: Key, address: IpAddr) {
        self.by_address.insert(address, key.clone());
        self.by_key.insert(key, address);
    }
}

impl fmt::Display for LockFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{TITLE}{VERSION}: addresses that stay. Written by `devbox ip lock`; commit this file."
        )?;
        self.iter()
            .try_for_each(|(key, address)| writeln!(f, "{key} = {address}"))
    }
}

impl FromStr for LockFile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text.as_bytes())
    }
}

enum Line {
    Nothing,
    Title(u64),
    ConflictMarker,
    Lease(Key, IpAddr),
    Bad(String),
}

fn read_line(line: &[u8]) -> Line {
    // git writes seven of them at the start of a line.
    if [b"<<<<<<<", b"|||||||", b"=======", b">>>>>>>"]
        .iter()
        .any(|marker| line.starts_with(*marker))
    {
        return Line::ConflictMarker;
    }
    let Ok(line) = str::from_utf8(line) else {
        return Line::Bad("is not UTF-8".to_owned());
    };
    let line = line.trim_ascii();
    if let Some(title) = line.strip_prefix(TITLE) {
        let digits = title.bytes().take_while(u8::is_ascii_digit).count();
        let version = title.get(..digits).unwrap_or_default();
        return if version.is_empty() {
            Line::Nothing
        } else {
            Line::Title(version.parse().unwrap_or(u64::MAX))
        };
    }
    if line.is_empty() || line.starts_with('#') {
        return Line::Nothing;
    }
    let Some((key, address)) = line.split_once('=') else {
        return Line::Bad("is not `key = address`".to_owned());
    };
    let key = match Key::new(key.trim_ascii()) {
        Ok(key) => key,
        Err(error) => return Line::Bad(error.to_string()),
    };
    match address.trim_ascii().parse() {
        Ok(address) => Line::Lease(key, address),
        Err(_) => Line::Bad(format!(
            "{:?} is no address",
            address.trim_ascii().chars().take(80).collect::<String>()
        )),
    }
}
