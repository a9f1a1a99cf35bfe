//! The messages between the two processes until one has become the command. Both are the same program, so there are no
//! versions; even so, no input makes the reader panic.

use std::ffi::OsString;
use std::path::PathBuf;

/// The parent's one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// Only try whether it can be done.
    pub(crate) probe: bool,
    /// The parent's process id; another parent means that it has died.
    pub(crate) parent: u32,
    pub(crate) hosts: Vec<u8>,
    pub(crate) argv: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    /// The soft limit of open files to run the command with.
    pub(crate) open_files: Option<u64>,
}

/// A step that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    /// What it was about: a mount's target, a command's file.
    pub(crate) path: PathBuf,
    /// The system's error number; 0 where it was none of the system's.
    pub(crate) errno: i32,
}

/// The child's messages: at most one [`Report::Prepared`] (the hosts file's descriptor travels with it), then one of
/// the others. The end of the stream after [`Report::Prepared`] means that the command runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    Prepared,
    Failed(Failure),
}

macro_rules! steps {
    ($($name:ident = $text:literal,)*) => {
        /// What the child does, in the order in which it does it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Step { $($name,)* }

        impl Step {
            const ALL: &[Step] = &[$(Step::$name,)*];

            /// The step as a verb.
            pub(crate) fn text(self) -> &'static str {
                match self { $(Step::$name => $text,)* }
            }
        }
    };
}

steps! {
    Receive = "receive the request",
    OpenHosts = "open",
    NoHosts = "find",
    UnshareUser = "create a user namespace",
    SetGroups = "give up setgroups in the user namespace",
    MapUser = "map the user id",
    MapGroup = "map the group id",
    UnshareMount = "create a mount namespace",
    DeathSignal = "tie the command's life to this process",
    Orphaned = "go on after the parent's death",
    Propagation = "keep mounts inside",
    Tmpfs = "mount a tmpfs on",
    Write = "write the private copy of",
    Bind = "mount over",
    Detach = "detach the tmpfs from",
    ReadOnly = "make read-only",
    Mask = "mount an empty folder over",
    HandOver = "hand over the private hosts file",
    Stdin = "take over the standard input",
    OpenFiles = "set the limit of open files",
    NotFound = "find the command",
    NotExecutable = "run",
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 8];
        out.push(u8::from(self.probe));
        out.extend_from_slice(&self.parent.to_le_bytes());
        put(&mut out, &self.hosts);
        put_all(&mut out, self.argv.iter());
        put_all(&mut out, self.env.iter().flat_map(|(name, value)| [name, value]));
        out.push(u8::from(self.open_files.is_some()));
        if let Some(limit) = self.open_files {
            out.extend_from_slice(&limit.to_le_bytes());
        }
        let length = (out.len() - 8) as u64;
        out[..8].copy_from_slice(&length.to_le_bytes());
        out
    }

    /// Reads what follows the eight bytes of length.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Request> {
        let mut rest = bytes;
        let probe = take::<1>(&mut rest)? == [1];
        let parent = u32::from_le_bytes(take(&mut rest)?);
        let hosts = take_bytes(&mut rest)?.to_vec();
        let argv = take_all(&mut rest)?;
        let mut flat = take_all(&mut rest)?.into_iter();
        let mut env = Vec::new();
        while let Some(name) = flat.next() {
            env.push((name, flat.next()?));
        }
        let open_files = match take(&mut rest)? {
            [0] => None,
            [1] => Some(u64::from_le_bytes(take(&mut rest)?)),
            _ => return None,
        };
        rest.is_empty().then_some(Request {
            probe,
            parent,
            hosts,
            argv,
            env,
            open_files,
        })
    }
}

impl Report {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Report::Prepared => vec![PREPARED],
            Report::Failed(failure) => {
                let mut out = vec![FAILED, failure.step as u8];
                out.extend_from_slice(&failure.errno.to_le_bytes());
                put(&mut out, failure.path.as_os_str().as_encoded_bytes());
                out
            }
        }
    }

    /// Reads all that the child has said after [`PREPARED`]; `None` if it was cut short.
    pub(crate) fn decode_failure(bytes: &[u8]) -> Option<Failure> {
        let mut rest = bytes;
        let [tag, step] = take(&mut rest)?;
        let errno = i32::from_le_bytes(take(&mut rest)?);
        let path = PathBuf::from(os_string(take_bytes(&mut rest)?)?);
        let step = *Step::ALL.get(usize::from(step))?;
        (tag == FAILED && rest.is_empty()).then_some(Failure { step, path, errno })
    }
}

pub(crate) const PREPARED: u8 = b'P';
const FAILED: u8 = b'F';

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_all<'a>(out: &mut Vec<u8>, items: impl Iterator<Item = &'a OsString>) {
    let items: Vec<_> = items.collect();
    out.extend_from_slice(&(items.len() as u64).to_le_bytes());
    for item in items {
        put(out, item.as_encoded_bytes());
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(u64::from_le_bytes(take(rest)?)).ok()?;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn take_all(rest: &mut &[u8]) -> Option<Vec<OsString>> {
    let count = u64::from_le_bytes(take(rest)?);
    (0..count).map(|_| os_string(take_bytes(rest)?)).collect()
}

#[cfg(unix)]
fn os_string(bytes: &[u8]) -> Option<OsString> {
    Some(std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec()))
}

#[cfg(not(unix))]
fn os_string(bytes: &[u8]) -> Option<OsString> {
    String::from_utf8(bytes.to_vec()).ok().map(OsString::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = OsString> {
        "\\PC{0,12}".prop_map(OsString::from)
    }

    proptest! {
        #[test]
        fn a_request_arrives_as_it_was_sent(
            probe: bool,
            parent: u32,
            hosts in proptest::collection::vec(any::<u8>(), 0..300),
            argv in proptest::collection::vec(text(), 0..5),
            env in proptest::collection::vec((text(), text()), 0..5),
            open_files: Option<u64>,
        ) {
            let request = Request { probe, parent, hosts, argv, env, open_files };
            let bytes = request.encode();
            prop_assert_eq!(u64::from_le_bytes(*bytes.first_chunk().unwrap()), bytes.len() as u64 - 8);
            for end in 8..bytes.len() {
                prop_assert_eq!(Request::decode(&bytes[8..end]), None);
            }
            prop_assert_eq!(Request::decode(&bytes[8..]), Some(request));
        }

        #[test]
        fn foreign_bytes_are_refused_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(request) = Request::decode(&bytes) {
                prop_assert_eq!(&request.encode()[9..], &bytes[1..]);
            }
            if let Some(failure) = Report::decode_failure(&bytes) {
                prop_assert_eq!(Report::Failed(failure).encode(), bytes);
            }
        }
    }

    #[test]
    fn what_is_said_with_the_hosts_file_is_no_failure() {
        assert_eq!(Report::Prepared.encode(), [PREPARED]);
        assert_eq!(Report::decode_failure(&[PREPARED]), None);
    }

    #[test]
    fn steps_read_on_after_the_word_cannot() {
        for step in Step::ALL {
            assert!(
                step.text().starts_with(|c: char| c.is_ascii_lowercase()),
                "{step:?}"
            );
        }
    }

    #[test]
    fn every_step_arrives_as_it_was_sent() {
        for &step in Step::ALL {
            let failure = Failure {
                step,
                path: "/etc/hosts".into(),
                errno: 30,
            };
            assert_eq!(
                Report::decode_failure(&Report::Failed(failure.clone()).encode()),
                Some(failure)
            );
        }
    }
}
