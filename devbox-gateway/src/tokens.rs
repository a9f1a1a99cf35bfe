//! The tokens that a gateway takes, and the file that says so.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use catalog_file::follow::Reading;
use devbox_gateway_client::Token;
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};
use service_catalog::Label;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::Error;

/// The longest tokens file.
pub(crate) const MAX_TOKENS_FILE_BYTES: usize = 1 << 20;

/// A token as it is kept: compared by its digest, so that neither its length nor its beginning shows in the time that
/// takes.
pub(crate) type TokenDigest = [u8; 32];

/// The tokens that are taken.
pub(crate) struct Tokens {
    /// Whether sessions end whose token is not here any more.
    pub(crate) revoke: bool,
    taken: Vec<Arc<Taken>>,
}

/// One of the tokens that are taken.
pub(crate) struct Taken {
    /// The only token of a gateway has none.
    pub(crate) name: Option<Label>,
    pub(crate) digest: TokenDigest,
    /// `None`: all.
    pub(crate) environments: Option<BTreeSet<Label>>,
}

impl Taken {
    pub(crate) fn may_use(&self, environment: &Label) -> bool {
        let environments = self.environments.as_ref();
        environments.is_none_or(|environments| environments.contains(environment))
    }

    /// Whether it is good for a session. Without an environment that is known, only a token for all of them is.
    pub(crate) fn is_good_for(&self, environment: Option<&Label>) -> bool {
        match environment {
            Some(environment) => self.may_use(environment),
            None => self.environments.is_none(),
        }
    }
}

impl Tokens {
    /// A single token for all environments.
    pub(crate) fn one(token: &Token) -> Self {
        let taken = Taken {
            name: None,
            digest: digest(token),
            environments: None,
        };
        Self {
            revoke: false,
            taken: vec![Arc::new(taken)],
        }
    }

    /// What a file says: a token and nothing else, or a list of them in YAML.
    pub(crate) fn read(reading: &Reading, path: &Path) -> Result<Self, Error> {
        let bytes = match reading {
            Reading::Content(bytes) => bytes,
            Reading::TooLarge => {
                let message = format!("it has more than {MAX_TOKENS_FILE_BYTES} bytes");
                return Err(at(path, Location::UNKNOWN, message));
            }
            Reading::Failed { kind, message } => {
                let source = std::io::Error::new(*kind, message.clone());
                let path = path.to_owned();
                return Err(devbox_gateway_client::Error::ReadToken { path, source }.into());
            }
        };
        let text = std::str::from_utf8(bytes).unwrap_or("\u{fffd}");
        let trimmed = text.trim();
        if trimmed.contains(|c: char| c.is_ascii_whitespace()) {
            return parse(text, path);
        }
        let token = Token::new(trimmed).map_err(|error| match error {
            devbox_gateway_client::Error::BadToken { why, .. } => {
                let path = Some(path.to_owned());
                devbox_gateway_client::Error::BadToken { path, why }
            }
            other => other,
        })?;
        if !is_plain_word(trimmed) {
            return Err(Error::TokensFile {
                path: path.to_owned(),
                line: 1,
                column: 1,
                message: NEITHER.to_owned(),
            });
        }
        Ok(Self::one(&token))
    }

    /// The entry of a token that a client shows.
    pub(crate) fn find(&self, shown: &Token) -> Option<&Arc<Taken>> {
        self.find_digest(&digest(shown))
    }

    /// The entry of a token that was shown earlier.
    pub(crate) fn find_digest(&self, digest: &TokenDigest) -> Option<&Arc<Taken>> {
        let mut found = None;
        // All of them, whichever it is.
        for taken in &self.taken {
            if bool::from(taken.digest.ct_eq(digest)) {
                found = Some(taken);
            }
        }
        found
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("revoke", &self.revoke)
            .field("taken", &self.taken.len())
            .finish()
    }
}

fn digest(token: &Token) -> TokenDigest {
    Sha256::digest(token.expose().as_bytes()).into()
}

/// How the beginning of a list may look when the rest of it is missing: it must not count as a token that everybody can
/// guess.
const LIST_BEGINNINGS: [&str; 6] = ["tokens:", "revoke:", "{", "[", "#", "---"];

const NEITHER: &str = "this looks like YAML without a list of tokens; write either a token and nothing else, or `tokens:` and a list (a token that looks like this goes into the list, in quotes)";

/// Whether one word is a token and nothing else: to YAML it is a plain scalar, and it does not begin or end as a list
/// does.
fn is_plain_word(word: &str) -> bool {
    let begins_a_list = LIST_BEGINNINGS
        .iter()
        .any(|beginning| word.starts_with(beginning));
    let is_scalar = || serde_saphyr::from_str::<String>(word).is_ok_and(|scalar| scalar == word);
    !begins_a_list && !word.ends_with(':') && is_scalar()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensFile {
    #[serde(default)]
    revoke: bool,
    tokens: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Spanned<String>,
    token: Option<Spanned<String>>,
    sha256: Option<Spanned<String>>,
    environments: Option<Spanned<Vec<Spanned<String>>>>,
}

fn parse(text: &str, path: &Path) -> Result<Tokens, Error> {
    let file: TokensFile = serde_saphyr::from_str(text).map_err(|error| {
        let place = error.location().unwrap_or(Location::UNKNOWN);
        at(path, place, message_of(error.without_snippet()))
    })?;
    let mut tokens = Tokens {
        revoke: file.revoke,
        taken: Vec::new(),
    };
    let (mut names, mut digests) = (BTreeSet::new(), BTreeSet::new());
    for entry in file.tokens {
        let (place, name_place) = (entry.referenced, entry.value.name.referenced);
        let taken = entry.value.check(place, path)?;
        if !names.insert(taken.name.clone()) {
            return Err(at(path, name_place, "this name is there twice"));
        }
        if !digests.insert(taken.digest) {
            return Err(at(path, place, "this token is there twice"));
        }
        tokens.taken.push(Arc::new(taken));
    }
    Ok(tokens)
}

impl Entry {
    fn check(self, place: Location, path: &Path) -> Result<Taken, Error> {
        let digest = match (self.token, self.sha256) {
            (Some(token), None) => {
                let checked = Token::new(&token.value);
                digest(&checked.map_err(|error| at(path, token.referenced, error.to_string()))?)
            }
            (None, Some(hex)) => parse_hex(&hex.value)
                .ok_or_else(|| at(path, hex.referenced, "`sha256` is not 64 hexadecimal digits"))?,
            _ => return Err(at(path, place, "it needs either `token` or `sha256`")),
        };
        let label = |text: &Spanned<String>| -> Result<Label, Error> {
            let parsed = text.value.parse();
            parsed.map_err(|error: service_catalog::Error| at(path, text.referenced, error.to_string()))
        };
        let environments = match self.environments {
            None => None,
            Some(list) if list.value.is_empty() => {
                let message = "`environments` is empty; without it the token is good for all of them";
                return Err(at(path, list.referenced, message));
            }
            Some(list) => Some(list.value.iter().map(label).collect::<Result<_, _>>()?),
        };
        Ok(Taken {
            name: Some(label(&self.name)?),
            digest,
            environments,
        })
    }
}

fn parse_hex(text: &str) -> Option<TokenDigest> {
    let digits = |c: u8| {
        char::from(c)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let bytes = text.as_bytes();
    if bytes.len() != 2 * size_of::<TokenDigest>() {
        return None;
    }
    let mut digest = TokenDigest::default();
    for (byte, pair) in digest.iter_mut().zip(bytes.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digits(*high)? << 4 | digits(*low)?;
    }
    Some(digest)
}

/// What is wrong, in words of our own: the reader's may repeat a token.
fn message_of(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as E;
    match error {
        E::SerdeMissingField { field, .. } => format!("missing field `{field}`"),
        E::SerdeUnknownField { expected, .. } => {
            format!("unknown field; here may be {}", expected.join(", "))
        }
        E::DuplicateMappingKey { .. } => "this key is there twice".to_owned(),
        _ => "expected a token and nothing else, or `tokens:` and a list, each with a `name` and a `token` or its `sha256`".to_owned(),
    }
}

fn at(path: &Path, place: Location, message: impl Into<String>) -> Error {
    Error::TokensFile {
        path: path.to_owned(),
        line: place.line(),
        column: place.column(),
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Tokens, Error> {
        Tokens::read(&Reading::Content(text.into()), Path::new("tokens.yaml"))
    }

    fn names(tokens: &Tokens, shown: &str) -> Option<Option<String>> {
        let found = tokens.find(&Token::new(shown).unwrap())?;
        Some(found.name.as_ref().map(ToString::to_string))
    }

    #[test]
    fn a_file_with_one_word_is_one_token() {
        let tokens = read("correct-horse\n").unwrap();
        assert_eq!(names(&tokens, "correct-horse"), Some(None));
        assert_eq!(names(&tokens, "correct-horsf"), None);
        assert_eq!(names(&tokens, "correct"), None);
        assert!(!tokens.revoke);
        assert!(matches!(read("\n"), Err(Error::Token { .. })));
    }

    #[test]
    fn the_beginning_of_a_list_is_no_token() {
        let beginnings = [
            "tokens:",
            "tokens:[]",
            "{tokens:[]}",
            "revoke:true",
            "revoke:",
            "token:",
            "{}",
            "[]",
            "---",
            "...",
            "-",
            "#",
            "#tokens:",
            "\"tokens\":[]",
            "'tokens':",
            "&tokens",
            "*tokens",
            "|",
        ];
        for text in beginnings {
            for text in [text.to_owned(), format!("{text}\n"), format!("\n {text}\r\n\n")] {
                let told = read(&text).expect_err(&text).to_string();
                assert!(
                    told.starts_with("tokens.yaml:1:1: this looks like YAML"),
                    "{text}: {told}"
                );
            }
        }
        // A list of none is one.
        let none = read("tokens: []\n").unwrap();
        assert_eq!(names(&none, "tokens:"), None);
    }

    #[test]
    fn a_token_may_look_like_a_number_or_have_colons_and_brackets_inside() {
        let digits = "1234567890".repeat(7);
        let token = "eyJhbGciOi.J9_-x.Zm9v/+==";
        for word in [
            "123",
            "0x1f",
            "1e400",
            "true",
            "-x",
            "a:b",
            "a{b}[c]#d",
            &digits,
            token,
        ] {
            let tokens = read(&format!("{word}\n")).expect(word);
            assert_eq!(names(&tokens, word), Some(None), "{word}");
        }
    }

    #[test]
    fn a_list_has_names_and_environments_and_digests() {
        // printf abc | sha256sum
        let tokens = read(
            "revoke: true\ntokens:\n  - name: alice\n    token: s3cret\n  - name: ci\n    \
             sha256: BA7816BF8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n    environments: [dev, staging]\n",
        )
        .unwrap();
        assert!(tokens.revoke);
        assert_eq!(names(&tokens, "s3cret"), Some(Some("alice".to_owned())));
        assert_eq!(names(&tokens, "abc"), Some(Some("ci".to_owned())));
        assert_eq!(names(&tokens, "abcd"), None);
        let label = |text: &str| text.parse::<Label>().unwrap();
        let ci = tokens.find(&Token::new("abc").unwrap()).unwrap();
        assert!(ci.may_use(&label("staging")) && !ci.may_use(&label("prod")));
        let alice = tokens.find(&Token::new("s3cret").unwrap()).unwrap();
        assert!(alice.may_use(&label("prod")));
    }

    #[test]
    fn a_mistake_is_told_with_its_place_and_without_the_token() {
        let wrong = [
            ("s3cret s3cret", "1:1: expected a token and nothing else"),
            ("tokens: s3cret\n", "1:9: expected a token and nothing else"),
            ("tokens:\n  - name: a\n    tokn: s3cret\n", "3:5: unknown field"),
            ("tokens:\n  - token: s3cret\n", "2:5: missing field `name`"),
            ("tokens:\n  - name: a\n", "2:5: it needs either"),
            (
                "tokens:\n  - {name: a, token: s3cret, sha256: s3cret}\n",
                "2:5: it needs either",
            ),
            (
                "tokens:\n  - {name: a, token: s3cret s3cret}\n",
                "2:22: not a token",
            ),
            (
                "tokens:\n  - {name: a, sha256: s3cret}\n",
                "2:23: `sha256` is not 64",
            ),
            ("tokens:\n  - {name: A a, token: s3cret}\n", "2:12: "),
            (
                "tokens:\n  - {name: a, token: s3cret, environments: []}\n",
                "2:44: `environments` is empty",
            ),
            (
                "tokens:\n  - {name: a, token: s3cret}\n  - {name: a, token: other}\n",
                "3:12: this name is there twice",
            ),
            (
                "tokens:\n  - {name: a, token: s3cret}\n  - {name: b, token: s3cret}\n",
                "3:5: this token is there twice",
            ),
            ("tokens: [{name: a, token: s3cret\n", ""),
        ];
        for (text, expected) in wrong {
            let told = read(text).expect_err(text).to_string();
            assert!(
                told.starts_with(&format!("tokens.yaml:{expected}")),
                "{text}: {told}"
            );
            assert!(!told.contains("s3cret"), "{told}");
        }
    }
}
