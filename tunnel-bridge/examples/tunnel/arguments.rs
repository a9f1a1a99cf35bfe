//! The command line.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

pub(crate) const HELP: &str = "\
Carries TCP connections over one link to a server, which connects each to a target.

tunnel server --listen ADDRESS --to HOST:PORT [--carrier CARRIER] [--certificates FOLDER] [--resume]
tunnel client --listen ADDRESS --server URL [--certificates FOLDER] [--resume]
tunnel direct --listen ADDRESS --to HOST:PORT

  --listen ADDRESS       where to listen, such as 127.0.0.1:9001
  --to HOST:PORT         where connections go
  --server URL           the server: CARRIER://HOST:PORT, or HOST:PORT with --carrier
  --carrier CARRIER      what connections travel over (default: ws)
                           ws    a link over WebSocket
                           wss   a link over WebSocket over TLS
                           raw   a link over HTTP's upgrade to devbox-tunnel/1
                           tls   a link over TLS
                           mtls  no link: a mutual TLS connection for each
                           quic  a link over QUIC, whose port is UDP's
  --certificates FOLDER  for wss, tls, mtls and quic: where the server writes certificates
                         for this run, and where the client, started afterwards, finds them
  --resume               at both, and not with mtls or quic: connections go on when the
                         link is cut and made again
  --help                 this text

The server connects to its own target, whatever a client asks for, and lets in whoever connects.
The client connects again when the link is lost; without --resume, what was open then is reset.
";

/// What connections travel over between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ws,
    Wss,
    Raw,
    Tls,
    Mtls,
    Quic,
}

impl Kind {
    const ALL: [Kind; 6] = [Kind::Ws, Kind::Wss, Kind::Raw, Kind::Tls, Kind::Mtls, Kind::Quic];

    pub(crate) fn needs_certificates(self) -> bool {
        !matches!(self, Kind::Ws | Kind::Raw)
    }

    /// Why there is no link to take up again, if so.
    fn no_resume(self) -> Option<&'static str> {
        match self {
            Kind::Ws | Kind::Wss | Kind::Raw | Kind::Tls => None,
            Kind::Mtls => Some("each connection has one of its own, which ends with it"),
            Kind::Quic => Some("QUIC itself goes on when the client's address changes"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Ws => "ws",
            Kind::Wss => "wss",
            Kind::Raw => "raw",
            Kind::Tls => "tls",
            Kind::Mtls => "mtls",
            Kind::Quic => "quic",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let known = Kind::ALL.into_iter().find(|kind| kind.to_string() == text);
        known.ok_or_else(|| {
            let all = Kind::ALL.map(|kind| kind.to_string()).join(", ");
            format!("there is no carrier '{text}'; there are {all}")
        })
    }
}

#[derive(Debug)]
pub(crate) enum Command {
    Server(ServerOptions),
    Client(ClientOptions),
    Direct { listen: SocketAddr, to: String },
}

#[derive(Debug)]
pub(crate) struct ServerOptions {
    pub(crate) listen: SocketAddr,
    pub(crate) to: String,
    pub(crate) carrier: Choice,
}

#[derive(Debug, Clone)]
pub(crate) struct ClientOptions {
    pub(crate) listen: SocketAddr,
    /// Host and port.
    pub(crate) server: String,
    pub(crate) carrier: Choice,
}

/// Which carrier, and what it needs.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) kind: Kind,
    /// Whether the link outlives its connection.
    pub(crate) resume: bool,
    /// Empty for carriers that need none.
    pub(crate) certificates: PathBuf,
}

#[derive(Debug)]
pub(crate) enum Wrong {
    Help,
    Usage(String),
}

impl From<String> for Wrong {
    fn from(why: String) -> Wrong {
        Wrong::Usage(why)
    }
}

pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Command, Wrong> {
    let verb = words
        .next()
        .ok_or_else(|| "expected server, client or direct".to_owned())?;
    let mut given = Given::default();
    let may_have: &[&str] = match verb.as_str() {
        "server" => &["--listen", "--to", "--carrier", "--certificates"],
        "client" => &["--listen", "--server", "--carrier", "--certificates"],
        "direct" => &["--listen", "--to"],
        "help" | "--help" | "-h" => return Err(Wrong::Help),
        other => return Err(format!("expected server, client or direct, not '{other}'").into()),
    };
    while let Some(word) = words.next() {
        if word == "--help" || word == "-h" {
            return Err(Wrong::Help);
        }
        if word == "--resume" && verb != "direct" {
            given.resume = true;
            continue;
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        if !may_have.contains(&name.as_str()) {
            let all = may_have.join(", ");
            return Err(format!("'tunnel {verb}' takes no '{name}', only {all}").into());
        }
        let value = value
            .or_else(|| words.next())
            .ok_or_else(|| format!("{name} needs a value"))?;
        given.set(&name, value)?;
    }
    let listen = given.listen.take().ok_or_else(|| missing(&verb, "--listen"))?;
    Ok(match verb.as_str() {
        "server" => Command::Server(ServerOptions {
            listen,
            to: given.to.take().ok_or_else(|| missing(&verb, "--to"))?,
            carrier: given.carrier(None)?,
        }),
        "client" => {
            let url = given.server.take().ok_or_else(|| missing(&verb, "--server"))?;
            let (scheme, server) = match url.split_once("://") {
                Some((scheme, rest)) => (Some(scheme.parse()?), rest.trim_end_matches('/').to_owned()),
                None => (None, url),
            };
            host_and_port("--server", &server)?;
            Command::Client(ClientOptions {
                listen,
                server,
                carrier: given.carrier(scheme)?,
            })
        }
        _ => Command::Direct {
            listen,
            to: given.to.take().ok_or_else(|| missing(&verb, "--to"))?,
        },
    })
}

#[derive(Default)]
struct Given {
    listen: Option<SocketAddr>,
    to: Option<String>,
    server: Option<String>,
    kind: Option<Kind>,
    certificates: Option<PathBuf>,
    resume: bool,
}

impl Given {
    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        let again = match name {
            "--listen" => {
                let address = value.parse().map_err(|_| {
                    format!("--listen {value}: expected an IP address and a port, such as 127.0.0.1:9001")
                })?;
                self.listen.replace(address).is_some()
            }
            "--to" => {
                host_and_port(name, &value)?;
                self.to.replace(value).is_some()
            }
            "--server" => self.server.replace(value).is_some(),
            "--carrier" => self.kind.replace(value.parse()?).is_some(),
            _ => self.certificates.replace(value.into()).is_some(),
        };
        if again {
            return Err(format!("{name} was given twice"));
        }
        Ok(())
    }

    fn carrier(&mut self, scheme: Option<Kind>) -> Result<Choice, String> {
        let kind = match (scheme, self.kind) {
            (Some(scheme), Some(kind)) if scheme != kind => {
                return Err(format!("--server says {scheme} and --carrier says {kind}"));
            }
            (scheme, kind) => scheme.or(kind).unwrap_or(Kind::Ws),
        };
        let certificates = match self.certificates.take() {
            None if kind.needs_certificates() => {
                return Err(format!("{kind} needs --certificates FOLDER"));
            }
            Some(_) if !kind.needs_certificates() => {
                return Err(format!("{kind} uses no certificates"));
            }
            folder => folder.unwrap_or_default(),
        };
        if self.resume
            && let Some(why) = kind.no_resume()
        {
            return Err(format!("there is no --resume with {kind}: {why}"));
        }
        Ok(Choice {
            kind,
            resume: self.resume,
            certificates,
        })
    }
}

fn host_and_port(name: &str, text: &str) -> Result<(), String> {
    let valid = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
    if valid {
        Ok(())
    } else {
        Err(format!(
            "{name} {text}: expected a host and a port, such as 127.0.0.1:5432"
        ))
    }
}

fn missing(verb: &str, name: &str) -> String {
    format!("'tunnel {verb}' needs {name}")
}
