//! What was asked of the installed helper and what became of it: one datagram for each request, to the system's log.

use std::path::PathBuf;

use crate::peer::Credentials;
use crate::sys;

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogTo {
    /// The event log of Windows, the unified log of macOS, the journal of systemd where there is one, otherwise the syslog.
    System,
    /// A datagram socket that speaks the journal's native protocol.
    Journal(PathBuf),
    /// A datagram socket that speaks syslog.
    Syslog(PathBuf),
    /// Nowhere.
    Nowhere,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) peer: &'a Credentials,
    pub(crate) verb: &'a str,
    /// Why it was refused, or `None` if it was carried out.
    pub(crate) refused: Option<&'a str>,
}

impl LogTo {
    /// Writes an entry. A log that is full or gone stops nobody.
    pub(crate) fn write(&self, entry: &Entry<'_>) {
        match self {
            Self::System => {
                if sys::log(&one_line(&message(entry)), entry.refused.is_some()) {
                    return;
                }
                if !sys::send_datagram(JOURNAL.as_ref(), &journal(entry)) {
                    sys::send_datagram(sys::SYSLOG.as_ref(), &syslog(entry));
                }
            }
            Self::Journal(socket) => {
                sys::send_datagram(socket, &journal(entry));
            }
            Self::Syslog(socket) => {
                sys::send_datagram(socket, &syslog(entry));
            }
            Self::Nowhere => {}
        }
    }
}

/// As systemd-journald reads it (systemd.io/JOURNAL_NATIVE_PROTOCOL): a value with a newline is given with its length.
fn journal(entry: &Entry<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let priority = if entry.refused.is_some() { WARNING } else { INFO };
    let mut field = |name: &str, value: &str| {
        bytes.extend(name.as_bytes());
        if value.contains('\n') {
            bytes.push(b'\n');
            bytes.extend((value.len() as u64).to_le_bytes());
        } else {
            bytes.push(b'=');
        }
        bytes.extend(value.as_bytes());
        bytes.push(b'\n');
    };
    field("MESSAGE", &message(entry));
    field("PRIORITY", &priority.to_string());
    field("SYSLOG_IDENTIFIER", IDENTIFIER);
    field("DEVBOX_VERB", entry.verb);
    field(
        "DEVBOX_OUTCOME",
        if entry.refused.is_some() {
            "refused"
        } else {
            "accepted"
        },
    );
    if let Some(reason) = entry.refused {
        field("DEVBOX_REASON", reason);
    }
    field("DEVBOX_UID", &entry.peer.uid.to_string());
    field("DEVBOX_PID", &entry.peer.pid.to_string());
    if let Some(program) = &entry.peer.program {
        field("DEVBOX_PROGRAM", program);
    }
    bytes
}

/// As syslogd reads it on its local socket (RFC 3164): the time and the host are its own to add.
fn syslog(entry: &Entry<'_>) -> Vec<u8> {
    let severity = if entry.refused.is_some() { WARNING } else { INFO };
    let text = one_line(&message(entry));
    let pid = std::process::id();
    format!("<{}>{IDENTIFIER}[{pid}]: {text}", AUTHPRIV * 8 + severity).into_bytes()
}

/// A log of lines takes a message for as many entries as it has.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn message(entry: &Entry<'_>) -> String {
    let Entry { peer, verb, refused } = entry;
    let program = peer.program.as_deref().unwrap_or("?");
    let head = format!(
        "uid={} pid={} program={program:?} verb={verb}",
        sys::user_text(peer.uid),
        peer.pid
    );
    match refused {
        None => format!("{head} accepted"),
        Some(reason) => format!("{head} refused: {reason}"),
    }
}

const IDENTIFIER: &str = "devbox-helper";
const JOURNAL: &str = "/run/systemd/journal/socket";
const WARNING: u8 = 4;
const INFO: u8 = 6;
/// Security messages that not everybody may read.
const AUTHPRIV: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Credentials {
        Credentials {
            uid: 1000,
            gid: 1000,
            groups: Vec::new(),
            pid: 42,
            program: Some("devbox".into()),
        }
    }

    #[test]
    fn accepted_request_is_fields_for_the_journal() {
        let peer = peer();
        let entry = Entry {
            peer: &peer,
            verb: "bind",
            refused: None,
        };
        let text = String::from_utf8(journal(&entry)).unwrap();
        assert_eq!(
            text,
            "MESSAGE=uid=1000 pid=42 program=\"devbox\" verb=bind accepted\nPRIORITY=6\n\
             SYSLOG_IDENTIFIER=devbox-helper\nDEVBOX_VERB=bind\nDEVBOX_OUTCOME=accepted\nDEVBOX_UID=1000\n\
             DEVBOX_PID=42\nDEVBOX_PROGRAM=devbox\n"
        );
    }

    #[test]
    fn newline_in_a_reason_makes_no_field_and_no_line() {
        let peer = peer();
        let reason = "bad\nDEVBOX_UID=0";
        let entry = Entry {
            peer: &peer,
            verb: "bind",
            refused: Some(reason),
        };
        let bytes = journal(&entry);
        let mut framed = b"DEVBOX_REASON\n".to_vec();
        framed.extend((reason.len() as u64).to_le_bytes());
        framed.extend(reason.as_bytes());
        assert!(bytes.windows(framed.len()).any(|window| window == framed));
        assert!(!syslog(&entry).contains(&b'\n'));
        assert!(syslog(&entry).starts_with(b"<84>devbox-helper["));
    }
}
