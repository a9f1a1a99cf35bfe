//! The tokens where they are kept: in a file of the kubeconfig, which is the user's own.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{Kubeconfig, NamedAuthInfo};
use serde_json::Value;
use tokio::time::Instant;

use super::{OidcError, Settings};
use crate::{ClusterOptions, kubeconfig};

/// Longer than a renewal takes.
const LONGEST_TURN: Duration = Duration::from_secs(30);
/// How often a lock is tried.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A user of a kubeconfig.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    options: ClusterOptions,
}

impl Saved {
    /// The user of the context that these options name.
    pub(crate) fn new(options: &ClusterOptions, context: &str) -> Self {
        Self {
            options: ClusterOptions {
                context: Some(context.to_owned()),
                ..options.clone()
            },
        }
    }

    /// Waits until no other session renews a token of this kubeconfig, and keeps the others waiting until it is dropped. Nobody waits where
    /// the file cannot be locked, and for somebody who holds it for long.
    pub(super) async fn turn(&self) -> Option<File> {
        // Windows' locks would keep kubectl from reading the file as well.
        if std::env::consts::FAMILY != "unix" {
            return None;
        }
        let saved = self.clone();
        let opened = tokio::task::spawn_blocking(move || File::open(saved.find().ok()?.0).ok());
        let file = opened.await.ok().flatten()?;
        let deadline = Instant::now() + LONGEST_TURN;
        while let Err(TryLockError::WouldBlock) = file.try_lock() {
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Some(file)
    }

    /// The settings as they are there.
    pub(super) async fn read(&self) -> Result<Settings, OidcError> {
        let saved = self.clone();
        let read = tokio::task::spawn_blocking(move || saved.find());
        let (_, settings) = read.await.map_err(|_| OidcError::Ending)??;
        Ok(settings)
    }

    /// Writes the tokens of `new` in place of those of `old`, and changes nothing else of the file. Where that cannot be done, why.
    pub(super) async fn write(&self, old: &Settings, new: &Settings) -> Result<(), String> {
        let (saved, old, new) = (self.clone(), old.clone(), new.clone());
        let written = tokio::task::spawn_blocking(move || {
            let (path, _) = saved.find().map_err(|error| error.to_string())?;
            replace(&path, &old, &new).map_err(|reason| format!("{}: {reason}", path.display()))
        });
        written.await.map_err(|error| error.to_string())?
    }

    /// What the user is called.
    fn user(&self) -> Result<String, String> {
        // Its errors quote the file, and with it a token.
        let merged = kubeconfig::read(&self.options).map_err(|_| "it cannot be read".to_owned())?;
        let context = self.options.context.as_deref().unwrap_or_default();
        let user = merged.and_then(|merged| kubeconfig::user_of(&merged, context));
        user.ok_or_else(|| format!("the context `{context}` no longer names a user"))
    }

    /// The file that defines the user, and their settings.
    fn find(&self) -> Result<(PathBuf, Settings), OidcError> {
        let unusable = |reason: String| OidcError::Kubeconfig { reason };
        let user = self.user().map_err(unusable)?;
        let files = kubeconfig::files(&self.options).map_err(|_| unusable("it cannot be read".to_owned()))?;
        // As they are merged: the first file that has a user is the one that counts.
        let found = files.into_iter().find_map(|(path, kubeconfig)| {
            let user = user_of(&kubeconfig, &user)?;
            Some((path, user.auth_info.as_ref().and_then(Settings::of)))
        });
        match found {
            Some((path, Some(settings))) => Ok((path, settings)),
            _ => Err(unusable(format!(
                "the user `{user}` no longer has the auth-provider `oidc`"
            ))),
        }
    }
}

fn user_of<'a>(kubeconfig: &'a Kubeconfig, user: &str) -> Option<&'a NamedAuthInfo> {
    kubeconfig.auth_infos.iter().find(|named| named.name == user)
}

/// Replaces the tokens in the text of a file: comments and order stay as they are.
///
/// The file itself is written, as kubectl does it, so that its owner, its rights and the links to it stay; but with one write, and never cut
/// before that: killed at any moment, the old text or the new one is there, or the new one with empty lines behind it.
fn replace(path: &Path, old: &Settings, new: &Settings) -> Result<(), String> {
    let open = || OpenOptions::new().read(true).write(true).open(path);
    let mut file = open().map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    let replaced = replaced(&text, old, new).ok_or("its tokens cannot be replaced in its text")?;
    let mut bytes = replaced.clone().into_bytes();
    bytes.resize(replaced.len().max(text.len()), b'\n');
    let mut write = || -> io::Result<()> {
        file.rewind()?;
        file.write_all(&bytes)?;
        file.set_len(u64::try_from(replaced.len()).unwrap_or(u64::MAX))?;
        file.sync_all()
    };
    write().map_err(|error| error.to_string())
}

/// The text with the new tokens. None where it would not say the same with these alone exchanged: where they are folded or escaped, or part of
/// something else.
fn replaced(text: &str, old: &Settings, new: &Settings) -> Option<String> {
    let exchanged: Vec<(&str, &str)> = [
        (&old.id_token, &new.id_token),
        (&old.refresh_token, &new.refresh_token),
    ]
    .into_iter()
    // A file without an ID token gets none: whoever reads it renews it anyway.
    .filter_map(|(old, new)| Some((old.as_deref()?, new.as_deref()?)))
    .filter(|(old, new)| old != new)
    .collect();
    let mut there = text.to_owned();
    for (old, new) in &exchanged {
        there = there.contains(old).then(|| there.replace(old, new))?;
    }
    let meant = |text: &str| serde_json::to_value(Kubeconfig::from_yaml(text).ok()?).ok();
    let mut wanted = meant(text)?;
    exchange(&mut wanted, &exchanged);
    (meant(&there)? == wanted).then_some(there)
}

/// Exchanges whole texts in a document.
fn exchange(value: &mut Value, exchanged: &[(&str, &str)]) {
    match value {
        Value::String(text) => {
            if let Some((_, new)) = exchanged.iter().find(|(old, _)| old == text) {
                (*new).clone_into(text);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| exchange(value, exchanged)),
        Value::Object(values) => values.values_mut().for_each(|value| exchange(value, exchanged)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TEXT: &str = "\
# my clusters
users:
- name: ada   # at work
  user:
    auth-provider:
      name: oidc
      config: {client-id: devbox, id-token: a.b.c, refresh-token: \"r-1\"}
- {name: bob, user: {token: a.b}}
contexts: []
clusters: []
";

    fn tokens(id: Option<&str>, refresh: &str) -> Settings {
        Settings {
            client_id: Some("devbox".to_owned()),
            id_token: id.map(str::to_owned),
            refresh_token: Some(refresh.to_owned()),
            ..Settings::default()
        }
    }

    #[test]
    fn the_tokens_are_replaced_and_nothing_else() {
        let (old, new) = (tokens(Some("a.b.c"), "r-1"), tokens(Some("d.e.f"), "r-2"));
        let text = replaced(TEXT, &old, &new).unwrap();
        assert_eq!(text, TEXT.replace("a.b.c", "d.e.f").replace("r-1", "r-2"));
    }

    #[test]
    fn a_file_without_an_id_token_gets_the_refresh_token_alone() {
        let text = TEXT.replace("id-token: a.b.c, ", "");
        let (old, new) = (tokens(None, "r-1"), tokens(Some("d.e.f"), "r-2"));
        assert_eq!(replaced(&text, &old, &new).unwrap(), text.replace("r-1", "r-2"));
    }

    #[test]
    fn a_text_that_would_say_something_else_is_not_written() {
        let old = tokens(Some("a.b.c"), "r-1");
        // The quotes around it would end.
        let new = tokens(Some("d.e.f"), "r\"2");
        assert_eq!(replaced(TEXT, &old, &new), None);
        // Not as it is in the kubeconfig.
        let escaped = TEXT.replace("\"r-1\"", "\"r\\u002d1\"");
        assert_eq!(replaced(&escaped, &old, &tokens(Some("d.e.f"), "r-2")), None);
        // Part of something else, which would change as well.
        let part = TEXT.replace("token: a.b}", "token: r-10}");
        assert_eq!(replaced(&part, &old, &tokens(Some("d.e.f"), "r-2")), None);
    }

    #[test]
    fn a_file_is_written_in_its_place_whatever_the_lengths() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        fs::write(&file, TEXT).unwrap();
        let all = [
            tokens(Some("a.b.c"), "r-1"),
            tokens(Some("a-longer.one.here"), "and-another"),
            tokens(Some("d.e.f"), "r-2"),
        ];
        for pair in all.windows(2) {
            let before = fs::read_to_string(&file).unwrap();
            replace(&file, &pair[0], &pair[1]).unwrap();
            let after = fs::read_to_string(&file).unwrap();
            assert_eq!(after, replaced(&before, &pair[0], &pair[1]).unwrap());
        }
        assert!(replace(&file, &all[0], &all[1]).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
