//! Where names go: the system's hosts file through the helper, or a private one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use devbox_helper_client::{HostsBlock, HostsReport};
use devbox_session::sink::{HeldNames, NameSink, PublishError, Published, Records, TakenName, hosts_entries};
use tokio::sync::watch;

use crate::engine::TAG_PREFIX;
use crate::file_watch::FileWatch;
use crate::helper::Helper;
use crate::host::helper_error;
use crate::hosts::{self, Rendered};
use crate::notice::{Notice, Notices};

/// The findings about a hosts file which mean that resolvers do not read all of it. The others are for `devbox hosts lint`:
/// reported at each start, they would bury these.
const UNREAD: [&str; 12] = [
    "utf-16",
    "byte-order-mark",
    "not-read",
    "long-line",
    "file-rejected",
    "many-names",
    "leading-blank",
    "carriage-return",
    "no-final-newline",
    "not-ldh",
    "zone-ignored",
    "nul",
];

/// A block in a hosts file, written by the helper.
pub(crate) struct HelperHosts {
    pub(crate) helper: Helper,
    pub(crate) file: PathBuf,
    pub(crate) tag: String,
    /// What other programs do to the file.
    pub(crate) watch: Arc<FileWatch>,
    /// Whether it takes names that other sessions hold.
    pub(crate) take: bool,
    pub(crate) notices: Notices,
}

#[async_trait]
impl NameSink for HelperHosts {
    fn describe(&self) -> String {
        self.file.display().to_string()
    }

    async fn publish(&self, records: Records) -> Result<Published, PublishError> {
        let entries = hosts_entries(&records);
        let helper = &self.helper;
        let tag = self.tag.clone();
        let written = match (entries.is_empty(), self.take) {
            (true, _) => helper.clear_hosts().await,
            (false, false) => helper.set_hosts(HostsBlock { tag, entries }).await,
            (false, true) => helper.take_hosts(HostsBlock { tag, entries }).await,
        };
        let report = written.map_err(helper_error)?;
        for block in &report.removed {
            self.notices.add(Notice::Swept {
                file: report.file.clone(),
                tag: block.tag.clone(),
            });
        }
        let names: usize = records.iter().map(|record| record.names.len()).sum();
        let held: usize = report.held.iter().map(|held| held.names.len()).sum();
        let is_there = names > held + report.conflicts.len() + report.omitted;
        let begin = format!("# BEGIN {}", self.tag);
        self.watch.remember(is_there.then_some(begin.as_str())).await;
        Ok(published(report))
    }

    async fn disturbed(&self) {
        self.watch.disturbed().await;
    }
}

/// What a session is told of a write of its block.
pub(crate) fn published(report: HostsReport) -> Published {
    let warnings = report
        .diagnostics
        .iter()
        .filter(|found| UNREAD.contains(&found.kind.as_str()))
        .map(|found| {
            let line = found.line.map_or_else(String::new, |line| format!(":{line}"));
            format!("{}{line}: {}", report.file.display(), found.message)
        })
        .collect();
    let taken = report.conflicts.into_iter().map(|conflict| TakenName {
        name: conflict.name,
        line: conflict.line,
    });
    let held = report.held.into_iter().map(|held| HeldNames {
        session: held.tag.strip_prefix(TAG_PREFIX).unwrap_or(&held.tag).to_owned(),
        helper_pid: held.helper_pid,
        names: held.names,
    });
    Published {
        changed: report.changed,
        taken: taken.collect(),
        held: held.collect(),
        warnings,
    }
}

/// A hosts file for one process tree; whoever runs the processes puts it where they see it.
pub(crate) struct PrivateSink {
    /// What the names are added to.
    pub(crate) base: Arc<[u8]>,
    pub(crate) content: watch::Sender<Vec<u8>>,
}

impl PrivateSink {
    pub(crate) fn new(base: Vec<u8>) -> (Self, PrivateHosts) {
        let (content, contents) = watch::channel(base.clone());
        let sink = Self {
            base: base.into(),
            content,
        };
        (sink, PrivateHosts(contents))
    }
}

#[async_trait]
impl NameSink for PrivateSink {
    fn describe(&self) -> String {
        "the private hosts file".to_owned()
    }

    async fn publish(&self, records: Records) -> Result<Published, PublishError> {
        let base = Arc::clone(&self.base);
        // Milliseconds for 10,000 services: too long for the session's thread.
        let rendered =
            tokio::task::spawn_blocking(move || hosts::render(&base, &hosts_entries(&records))).await;
        let failed = |message: String| PublishError::Other { message };
        let rendered: Rendered = rendered
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(devbox_provider::with_causes(&error)))?;
        let report = rendered.report(Path::new("/etc/hosts"));
        self.content.send_replace(rendered.bytes);
        Ok(published(report))
    }
}

/// The content of a private hosts file, as it is and as it changes.
#[derive(Debug, Clone)]
pub struct PrivateHosts(watch::Receiver<Vec<u8>>);

impl PrivateHosts {
    pub(crate) fn new(contents: watch::Receiver<Vec<u8>>) -> Self {
        Self(contents)
    }

    /// The whole file as it should be now.
    pub fn content(&mut self) -> Vec<u8> {
        self.0.borrow_and_update().clone()
    }

    /// Waits until the content is another than [`content`](PrivateHosts::content) gave; `None` once it stays as it is.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn changed(&mut self) -> Option<Vec<u8>> {
        self.0.changed().await.ok()?;
        Some(self.content())
    }
}

#[cfg(test)]
mod tests {
    use devbox_helper_client::{Conflict, Diagnostic};
    use devbox_session::sink::Record;
    use devbox_session::{ProviderId, ServiceKey};

    use super::*;

    #[test]
    fn only_what_is_not_read_is_a_warning() {
        let diagnostic = |kind: &str| Diagnostic {
            line: Some(3),
            message: format!("it is {kind}"),
            kind: kind.to_owned(),
        };
        let report = HostsReport {
            file: "/etc/hosts".into(),
            changed: true,
            in_place: false,
            diagnostics: vec![diagnostic("long-line"), diagnostic("duplicate")],
            omitted: 0,
            conflicts: vec![Conflict {
                name: "orders.backend".to_owned(),
                line: 7,
                address: "10.0.0.1".parse().unwrap(),
                left_out: true,
            }],
            held: vec![devbox_helper_client::HeldNames {
                tag: "devbox-dev-1a2b3c4d".to_owned(),
                helper_pid: Some(7),
                names: vec!["web.shop".to_owned()],
            }],
            removed: Vec::new(),
        };
        let published = published(report);
        assert_eq!(published.warnings, ["/etc/hosts:3: it is long-line"]);
        assert_eq!(published.taken[0].line, 7);
        assert_eq!(published.held[0].session, "dev-1a2b3c4d");
    }

    #[tokio::test]
    async fn a_private_file_holds_the_base_and_the_names_and_only_the_base_again_in_the_end() {
        let base = b"127.0.0.1 localhost\n10.0.0.1 taken.backend\n".to_vec();
        let (sink, mut hosts) = PrivateSink::new(base.clone());
        assert_eq!(hosts.content(), base);
        let record = |name: &str, address: &str| {
            let of = ServiceKey {
                provider: ProviderId(0),
                environment: "dev".parse().unwrap(),
                service: name.parse().unwrap(),
            };
            let record = Record {
                names: vec![name.into()],
                addresses: vec![address.parse().unwrap()],
                behind: None,
            };
            (of, record)
        };
        let records = [
            record("orders.backend", "127.77.0.2"),
            record("taken.backend", "127.77.0.3"),
        ];
        let published = sink.publish(records.into_iter().collect()).await.unwrap();
        assert_eq!(published.taken[0].name, "taken.backend");
        let text = String::from_utf8(hosts.changed().await.unwrap()).unwrap();
        assert!(text.contains("127.77.0.2 orders.backend"), "{text}");
        assert!(!text.contains("127.77.0.3"), "{text}");
        sink.publish(Records::default()).await.unwrap();
        assert_eq!(hosts.changed().await.unwrap(), base);
        drop(sink);
        assert_eq!(hosts.changed().await, None);
    }
}
