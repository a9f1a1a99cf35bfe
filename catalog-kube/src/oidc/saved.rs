//! The tokens where they are kept: in a file of the kubeconfig, which is the user's own.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use kube::config::Kubeconfig;

use super::{OidcError, Settings};
use crate::{ClusterOptions, kubeconfig};

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

    /// Waits until no other session renews a token of this kubeconfig, and keeps the others waiting until it is dropped. Where the file
    /// cannot be locked, nobody waits.
    pub(super) async fn turn(&self) -> Option<File> {
        // Windows' locks would keep kubectl from reading the file as well.
        if std::env::consts::FAMILY != "unix" {
            return None;
        }
        let saved = self.clone();
        let locked = tokio::task::spawn_blocking(move || {
            let (path, _) = saved.find().ok()?;
            let file = File::open(path).ok()?;
            file.lock().ok()?;
            Some(file)
        });
        locked.await.ok().flatten()
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
            let user = saved.user()?;
            replace(&path, &user, &old, &new).map_err(|reason| format!("{}: {reason}", path.display()))
        });
        written.await.map_err(|error| error.to_string())?
    }

    /// What the user is called.
    fn user(&self) -> Result<String, String> {
        let merged = kubeconfig::read(&self.options).map_err(|error| error.to_string())?;
        let context = self.options.context.as_deref().unwrap_or_default();
        let user = merged.and_then(|merged| kubeconfig::user_of(&merged, context));
        user.ok_or_else(|| format!("the context `{context}` has no user any more"))
    }

    /// The file that defines the user, and their settings.
    fn find(&self) -> Result<(PathBuf, Settings), OidcError> {
        let no_help = |reason: String| OidcError::Kubeconfig { reason };
        let user = self.user().map_err(no_help)?;
        let files = kubeconfig::files(&self.options).map_err(|error| no_help(error.to_string()))?;
        let mut found = files.into_iter().filter_map(|(path, kubeconfig)| {
            let settings = settings_of(&kubeconfig, &user)?;
            Some((path, settings))
        });
        // As they are merged: the first file that has a user is the one that counts.
        let first = found.next();
        first.ok_or_else(|| no_help(format!("`{user}` has no auth-provider `oidc` any more")))
    }
}

fn settings_of(kubeconfig: &Kubeconfig, user: &str) -> Option<Settings> {
    let named = kubeconfig.auth_infos.iter().find(|named| named.name == user)?;
    Settings::of(named.auth_info.as_ref()?)
}

/// Replaces the tokens in the text of a file: comments and order stay as they are.
fn replace(path: &Path, user: &str, old: &Settings, new: &Settings) -> Result<(), String> {
    // A link stays, and what it leads to is replaced.
    let path = fs::canonicalize(path).map_err(|error| error.to_string())?;
    let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let text = replaced(&text, user, old, new).ok_or("its tokens are not written out in it")?;
    // In a folder of somebody else, or mounted alone, it can only be written as kubectl does.
    swap(&path, &text)
        .or_else(|_| fs::write(&path, &text))
        .map_err(|error| error.to_string())
}

/// Puts a new file in the place of the old one, with its rights: whoever reads it meanwhile finds the old text or the new one.
fn swap(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file()
        .set_permissions(fs::metadata(path)?.permissions())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// The text with the new tokens; none where it does not say them afterwards, as where they are folded or escaped.
fn replaced(text: &str, user: &str, old: &Settings, new: &Settings) -> Option<String> {
    let mut text = text.to_owned();
    for (old, new) in [
        (&old.id_token, &new.id_token),
        (&old.refresh_token, &new.refresh_token),
    ] {
        if let (Some(old), Some(new)) = (old, new) {
            text = text.replace(old.as_str(), new);
        }
    }
    let kubeconfig = Kubeconfig::from_yaml(&text).ok()?;
    let said = settings_of(&kubeconfig, user)?;
    // A file without an ID token gets none: its reader renews it anyway.
    let id_token = old.id_token.as_ref().and(new.id_token.as_ref());
    (said.refresh_token == new.refresh_token && said.id_token.as_ref() == id_token).then_some(text)
}

#[cfg(test)]
mod tests {
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
        let text = replaced(TEXT, "ada", &old, &new).unwrap();
        assert_eq!(text, TEXT.replace("a.b.c", "d.e.f").replace("r-1", "r-2"));
    }

    #[test]
    fn a_file_without_an_id_token_gets_the_refresh_token_alone() {
        let text = TEXT.replace("id-token: a.b.c, ", "");
        let (old, new) = (tokens(None, "r-1"), tokens(Some("d.e.f"), "r-2"));
        assert_eq!(
            replaced(&text, "ada", &old, &new).unwrap(),
            text.replace("r-1", "r-2")
        );
    }

    #[test]
    fn a_text_that_would_say_something_else_is_not_written() {
        let old = tokens(Some("a.b.c"), "r-1");
        // The quotes around it would end.
        let new = tokens(Some("d.e.f"), "r\"2");
        assert_eq!(replaced(TEXT, "ada", &old, &new), None);
        // Not as it is in the kubeconfig.
        let escaped = TEXT.replace("\"r-1\"", "\"r\\u002d1\"");
        assert_eq!(
            replaced(&escaped, "ada", &old, &tokens(Some("d.e.f"), "r-2")),
            None
        );
        assert_eq!(replaced(TEXT, "bob", &old, &new), None);
    }

    #[test]
    fn the_file_is_replaced_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        fs::write(&file, TEXT).unwrap();
        let (old, new) = (tokens(Some("a.b.c"), "r-1"), tokens(Some("d.e.f"), "r-2"));
        replace(&file, "ada", &old, &new).unwrap();
        assert!(fs::read_to_string(&file).unwrap().contains("d.e.f"));
        let again = replace(&file, "ada", &old, &tokens(Some("g.h.i"), "r-3"));
        assert_eq!(again, Err("its tokens are not written out in it".to_owned()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
