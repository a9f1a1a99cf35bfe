//! Proxies, and which of them a connection goes through.

use std::fmt;
use std::io;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::no_proxy::NoProxy;
use crate::Error;

/// A proxy: HTTP with CONNECT (RFC 9110 §9.3.6) or SOCKS5 (RFC 1928), with a user and a password where it asks for them.
///
/// Neither [`Display`](fmt::Display) nor [`Debug`] shows the credentials.
///
/// ```
/// use tunnel_bridge::dial::Proxy;
///
/// # fn main() -> Result<(), tunnel_bridge::Error> {
/// let proxy = Proxy::parse("socks5h://ada:s3cret@127.0.0.1:1080")?;
/// assert_eq!(format!("{proxy} {proxy:?}"), "socks5h://127.0.0.1:1080 Proxy(socks5h://127.0.0.1:1080)");
/// assert!(Proxy::parse("ftp://127.0.0.1").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub(crate) kind: Kind,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) credentials: Option<Credentials>,
    /// The setting that names it.
    named_by: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    /// The way to the proxy is encrypted as well.
    Https,
    /// Names are resolved here.
    Socks5,
    /// Names are resolved by the proxy.
    Socks5h,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: Vec<u8>,
    pub(crate) password: Vec<u8>,
}

impl Proxy {
    /// Reads a proxy's URL: `http://`, `https://`, `socks5://` (names are resolved here) or `socks5h://` (the proxy
    /// resolves them); without a scheme it is `http://`. The default ports are 80, 443 and 1080. A user and a password
    /// may stand in it, percent-encoded.
    ///
    /// # Errors
    /// [`Error::BadProxy`]; the text is not in the error, as it may have a password in it.
    pub fn parse(text: &str) -> Result<Proxy, Error> {
        Proxy::read(text, None)
    }

    fn read(text: &str, named_by: Option<&'static str>) -> Result<Proxy, Error> {
        let bad = |why| Error::BadProxy {
            setting: named_by,
            why,
        };
        let text = text.trim();
        let whole = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let url: Url = whole.parse().map_err(|_| bad("it is not a URL"))?;
        let (kind, default_port) = match url.scheme() {
            "http" => (Kind::Http, 80),
            "https" if cfg!(feature = "tls") => (Kind::Https, 443),
            "https" => return Err(bad("this build has no TLS")),
            "socks5" => (Kind::Socks5, 1080),
            "socks5h" => (Kind::Socks5h, 1080),
            _ => {
                return Err(bad(
                    "it must begin with http://, https://, socks5:// or socks5h://",
                ));
            }
        };
        let host = match url.host() {
            Some(Host::Domain("")) | None => return Err(bad("it names no host")),
            Some(Host::Domain(name)) => name.to_ascii_lowercase(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
        };
        let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => Some(Credentials {
                user: decoded(user),
                password: decoded(password.unwrap_or_default()),
            }),
        };
        if let Some(Credentials { user, password }) = &credentials {
            match kind {
                // RFC 7617 §2.
                Kind::Http | Kind::Https if user.contains(&b':') => {
                    return Err(bad(
                        "its user contains a colon, which Basic authentication cannot carry",
                    ));
                }
                // RFC 1929 §2.
                Kind::Socks5 | Kind::Socks5h
                    if !(1..=255).contains(&user.len()) || !(1..=255).contains(&password.len()) =>
                {
                    return Err(bad("SOCKS5 takes a user and a password of 1 to 255 bytes each"));
                }
                _ => {}
            }
        }
        Ok(Proxy {
            kind,
            host,
            port: url.port().unwrap_or(default_port),
            credentials,
            named_by,
        })
    }

    /// The environment variable that named it, if one did.
    #[must_use]
    pub fn named_by(&self) -> Option<&'static str> {
        self.named_by
    }

    /// As messages name it: with the setting that can be changed.
    pub(crate) fn told(&self) -> String {
        match self.named_by {
            Some(setting) => format!("{self} (from {setting})"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Https => "https",
            Kind::Socks5 => "socks5",
            Kind::Socks5h => "socks5h",
        };
        write!(f, "{scheme}://{}", authority(&self.host, self.port))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// Host and port as they stand in a URL.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Which proxy a connection goes through, if any.
///
/// The default is none. There is an example in the [module's documentation](crate::dial).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    plain: Choice,
    tls: Choice,
    except: Except,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Choice {
    #[default]
    None,
    Proxy(Proxy),
    /// A variable that cannot be used: an error once a connection would need it.
    Bad {
        setting: &'static str,
        why: &'static str,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Except {
    Nothing,
    /// The list, and this machine.
    Listed(NoProxy),
}

impl Default for Except {
    fn default() -> Except {
        Except::Listed(NoProxy::default())
    }
}

impl Proxies {
    /// No proxy for anything.
    #[must_use]
    pub fn none() -> Proxies {
        Proxies::default()
    }

    /// This proxy for everything: what was named on purpose has no exceptions.
    #[must_use]
    pub fn always(proxy: Proxy) -> Proxies {
        Proxies {
            plain: Choice::Proxy(proxy.clone()),
            tls: Choice::Proxy(proxy),
            except: Except::Nothing,
        }
    }

    /// What the environment says. `lookup` gives the value of a variable, such as `|name| std::env::var(name).ok()`.
    ///
    /// `https_proxy` is for TLS, `http_proxy` for everything else, `all_proxy` for whichever of them is not set; the name
    /// in capitals counts where the other one is not set, and an empty value counts as not set. `HTTP_PROXY` in capitals
    /// is left out where `REQUEST_METHOD` is set: there a web server has made it of a stranger's header (CVE-2016-5385).
    ///
    /// `no_proxy` lists what is reached directly, as `--noproxy` does in curl(1): domains with all below them, addresses,
    /// networks (`10.0.0.0/8`), each with a port (`:443`) if only that is meant, and `*` for everything. This machine
    /// itself (`localhost`, 127.0.0.0/8, `::1`) is always reached directly.
    ///
    /// Nothing is wrong with a variable that cannot be used until a connection needs it.
    #[must_use]
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Proxies {
        let set = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let is_cgi = set("REQUEST_METHOD").is_some();
        let choose = |names: &[&'static str]| {
            let named = names.iter().find_map(|name| {
                let is_strangers = *name == "HTTP_PROXY" && is_cgi;
                let value = set(name).filter(|_| !is_strangers)?;
                Some((*name, value))
            });
            match named {
                None => Choice::None,
                Some((setting, value)) => match Proxy::read(&value, Some(setting)) {
                    Ok(proxy) => Choice::Proxy(proxy),
                    Err(Error::BadProxy { why, .. }) => Choice::Bad { setting, why },
                    // `read` has no other error.
                    Err(_) => Choice::Bad {
                        setting,
                        why: "it cannot be used",
                    },
                },
            }
        };
        let except = set("no_proxy").or_else(|| set("NO_PROXY")).unwrap_or_default();
        Proxies {
            plain: choose(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            tls: choose(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            except: Except::Listed(NoProxy::parse(&except)),
        }
    }

    /// Bytes that are the same for equal values and differ for others, credentials included: for a digest that tells
    /// configurations apart, and nothing else.
    #[must_use]
    pub fn identity(&self) -> Vec<u8> {
        let mut bytes = format!("{self:?}").into_bytes();
        for choice in [&self.plain, &self.tls] {
            if let Choice::Proxy(Proxy {
                credentials: Some(Credentials { user, password }),
                ..
            }) = choice
            {
                for text in [user, password] {
                    bytes.extend_from_slice(&text.len().to_be_bytes());
                    bytes.extend_from_slice(text);
                }
            }
        }
        bytes
    }

    /// The proxy for a connection to `host`, a name or an address without brackets, with TLS or without; `None` where it
    /// is reached directly.
    ///
    /// # Errors
    /// [`Error::BadProxy`] where the environment names one that cannot be used.
    pub fn choose(&self, tls: bool, host: &str, port: u16) -> Result<Option<&Proxy>, Error> {
        let direct = match &self.except {
            Except::Nothing => false,
            Except::Listed(list) => is_this_machine(host) || list.has(host, port),
        };
        match if tls { &self.tls } else { &self.plain } {
            _ if direct => Ok(None),
            Choice::None => Ok(None),
            Choice::Proxy(proxy) => Ok(Some(proxy)),
            Choice::Bad { setting, why } => Err(Error::BadProxy {
                setting: Some(setting),
                why,
            }),
        }
    }
}

fn is_this_machine(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => {
            let name = host.trim_end_matches('.').to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// Why a connection could not be made through a proxy. Each message says which proxy, and which variable named it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The proxy itself cannot be reached, or hung up before it answered.
    #[error("cannot reach the proxy {proxy}")]
    Unreachable {
        /// The proxy, without credentials.
        proxy: String,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS handshake with an `https://` proxy failed.
    #[error("TLS with the proxy {proxy} failed: {message}")]
    Tls {
        /// The proxy, without credentials.
        proxy: String,
        /// What is wrong.
        message: String,
    },
    /// It wants to know who asks, and no credentials were given, others than these, or of a kind that is not known here.
    #[error(
        "the proxy {proxy} {}{}",
        if *.given { "does not take the user and password in its URL" } else { "asks for a user and a password" },
        if .schemes.is_empty() { String::new() } else { format!(" (it offers {schemes})") },
    )]
    NeedsCredentials {
        /// The proxy, without credentials.
        proxy: String,
        /// Whether credentials were given.
        given: bool,
        /// How it would let somebody in, such as `Basic, Negotiate`; may be empty.
        schemes: String,
    },
    /// An HTTP proxy does not connect to the target.
    #[error("the proxy {proxy} refused to connect to {target}: {status}{}", crate::link::colon(.reason))]
    Refused {
        /// The proxy, without credentials.
        proxy: String,
        /// Host and port.
        target: String,
        /// The status, such as 403.
        status: u16,
        /// What it said.
        reason: String,
    },
    /// A SOCKS proxy does not connect to the target.
    #[error("the proxy {proxy} did not connect to {target}: {reply}")]
    Socks {
        /// The proxy, without credentials.
        proxy: String,
        /// Host and port.
        target: String,
        /// Why.
        reply: SocksReply,
    },
    /// What answers is no proxy of its kind.
    #[error("{proxy} does not answer as such a proxy: {message}")]
    NotAProxy {
        /// The proxy, without credentials.
        proxy: String,
        /// What was seen.
        message: String,
    },
    /// The target's name is not found here, and the proxy is asked for addresses (`socks5://`).
    #[error("cannot resolve {host} for the proxy {proxy}; with socks5h:// the proxy resolves it")]
    Resolve {
        /// The proxy, without credentials.
        proxy: String,
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
}

/// Why a SOCKS5 proxy did not connect (RFC 1928 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SocksReply {
    /// 1, and whatever has no meaning of its own.
    #[error("general failure")]
    General,
    /// 2
    #[error("its rules do not allow it")]
    NotAllowed,
    /// 3
    #[error("the network is unreachable")]
    NetworkUnreachable,
    /// 4
    #[error("the host is unreachable")]
    HostUnreachable,
    /// 5
    #[error("the connection was refused")]
    Refused,
    /// 6
    #[error("no answer in time")]
    TtlExpired,
    /// 7
    #[error("it knows no CONNECT")]
    CommandNotSupported,
    /// 8
    #[error("it does not take this type of address")]
    AddressNotSupported,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_env(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn chosen(variables: &[(&str, &str)], tls: bool, host: &str) -> String {
        match proxies(variables).choose(tls, host, 443) {
            Ok(None) => "-".to_owned(),
            Ok(Some(proxy)) => proxy.told(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn which_variable_counts() {
        let all = ("ALL_PROXY", "socks5://s:1");
        for (variables, plain, tls) in [
            (&[][..], "-", "-"),
            (&[("http_proxy", "a:1")], "http://a:1 (from http_proxy)", "-"),
            (
                &[("https_proxy", "http://b:2")],
                "-",
                "http://b:2 (from https_proxy)",
            ),
            (
                &[("HTTP_PROXY", "http://a"), ("http_proxy", "http://c:3")],
                "http://c:3 (from http_proxy)",
                "-",
            ),
            (
                &[("HTTP_PROXY", "http://a")],
                "http://a:80 (from HTTP_PROXY)",
                "-",
            ),
            (&[("HTTP_PROXY", "http://a"), ("REQUEST_METHOD", "GET")], "-", "-"),
            (
                &[all, ("HTTPS_PROXY", "https://b")],
                "socks5://s:1 (from ALL_PROXY)",
                "https://b:443 (from HTTPS_PROXY)",
            ),
            (
                &[all, ("https_proxy", " ")],
                "socks5://s:1 (from ALL_PROXY)",
                "socks5://s:1 (from ALL_PROXY)",
            ),
            (&[("http_proxy", "a:1"), ("no_proxy", "*")], "-", "-"),
            (
                &[
                    ("http_proxy", "a:1"),
                    ("no_proxy", "other.example"),
                    ("NO_PROXY", "*"),
                ],
                "http://a:1 (from http_proxy)",
                "-",
            ),
        ] {
            assert_eq!(chosen(variables, false, "g.example"), plain, "{variables:?}");
            assert_eq!(chosen(variables, true, "g.example"), tls, "{variables:?}");
        }
    }

    #[test]
    fn this_machine_is_reached_directly_unless_the_proxy_was_named_on_purpose() {
        for host in [
            "localhost",
            "a.localhost.",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
        ] {
            assert_eq!(chosen(&[("ALL_PROXY", "http://a")], true, host), "-", "{host}");
            let named = Proxies::always(Proxy::parse("http://a").unwrap());
            assert!(named.choose(true, host, 1).unwrap().is_some(), "{host}");
        }
    }

    #[test]
    fn a_variable_that_cannot_be_used_is_told_once_it_is_needed() {
        let bad = [("https_proxy", "ftp://me:hunter2@x")];
        assert_eq!(chosen(&bad, false, "g.example"), "-");
        assert_eq!(chosen(&bad, true, "localhost"), "-");
        let told = chosen(&bad, true, "g.example");
        assert!(
            told.contains("https_proxy") && told.contains("socks5h://"),
            "{told}"
        );
        assert!(!told.contains("hunter2"), "{told}");
    }

    #[test]
    fn a_proxy_is_read_from_its_url() {
        let read = |text: &str| Proxy::parse(text).map(|proxy| proxy.to_string());
        assert_eq!(read("proxy.example:3128").unwrap(), "http://proxy.example:3128");
        assert_eq!(read("http://[::1]:8080/").unwrap(), "http://[::1]:8080");
        assert_eq!(
            read("SOCKS5H://Proxy.Example").unwrap(),
            "socks5h://proxy.example:1080"
        );
        let proxy = Proxy::parse("http://a%40b:p%3Aq@x").unwrap();
        let credentials = proxy.credentials.unwrap();
        assert_eq!(
            (&credentials.user[..], &credentials.password[..]),
            (&b"a@b"[..], &b"p:q"[..])
        );
        for bad in [
            "",
            "socks4://x",
            "http://",
            "http://a%3Ab:c@x",
            "socks5://u@x",
            "socks5://:p@x",
            "http://x:99999",
        ] {
            assert!(
                matches!(Proxy::parse(bad), Err(Error::BadProxy { .. })),
                "{bad:?}"
            );
        }
    }
}
