//! A folder of resolver rules, one file for each suffix: macOS's `/etc/resolver`.

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::aliases::{Place, Rules};
use crate::observed::SeenResolver;
use crate::render::resolver_file::{mark, text};
use crate::{Owner, ResolverRule, Suffix};

/// Longest file that is read; ours have a few lines.
const MAX_BYTES: u64 = 64 * 1024;

/// The folder.
#[derive(Debug)]
pub(crate) struct ResolverFiles {
    folder: PathBuf,
}

impl ResolverFiles {
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// A suffix has no slash and does not begin with a dot.
    fn file(&self, suffix: &Suffix) -> PathBuf {
        self.folder.join(suffix.as_str())
    }
}

impl Rules for ResolverFiles {
    fn ports(&self) -> bool {
        true
    }

    fn read(&mut self, owner: &Owner, suffix: &Suffix) -> io::Result<Place> {
        Ok(match read(&self.file(suffix))? {
            None => Place::Empty,
            Some(text) => Place::Written {
                ours: text.starts_with(&mark(owner)),
                text,
            },
        })
    }

    /// A reader sees nothing or the whole file: it is written beside it, and then given its name.
    fn write(&mut self, owner: &Owner, suffix: &Suffix, rule: &ResolverRule) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        // mDNSResponder reads every file there, but none whose name begins with a dot.
        let beside = self.folder.join(format!(".{suffix}.{owner}"));
        let mut file = fs::File::create(&beside)?;
        file.write_all(text(owner, rule).as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, self.file(suffix))
    }

    fn remove(&mut self, owner: &Owner, suffix: &Suffix) -> io::Result<()> {
        if matches!(self.read(owner, suffix)?, Place::Written { ours: true, .. }) {
            fs::remove_file(self.file(suffix))?;
        }
        Ok(())
    }

    fn list(&mut self, owner: &Owner) -> io::Result<Vec<SeenResolver>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut rules = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let Some(Ok(suffix)) = path.file_name().and_then(|name| name.to_str()).map(Suffix::new) else {
                continue;
            };
            let Some(text) = read(&path)? else { continue };
            rules.push(SeenResolver {
                suffix: suffix.to_string(),
                servers: servers(&text),
                place: path.display().to_string(),
                ours: text.starts_with(&mark(owner)),
            });
        }
        rules.sort();
        Ok(rules)
    }

    fn is(&self, owner: &Owner, _: &Suffix, rule: &ResolverRule, written: &str) -> bool {
        written == text(owner, rule)
    }
}

fn read(file: &Path) -> io::Result<Option<String>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    match fs::File::open(file) {
        Ok(file) => file.take(MAX_BYTES).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// resolver(5): `nameserver` lines, and perhaps one `port` for all of them.
fn servers(text: &str) -> Vec<SocketAddr> {
    let values = |word: &'static str| {
        text.lines().filter_map(move |line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(word)).then(|| words.next()).flatten()
        })
    };
    let port = values("port").find_map(|port| port.parse().ok()).unwrap_or(53);
    let addresses = values("nameserver").filter_map(|address| address.parse::<IpAddr>().ok());
    addresses.map(|address| SocketAddr::new(address, port)).collect()
}
