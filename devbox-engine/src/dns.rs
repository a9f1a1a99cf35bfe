//! The session's DNS server, and whether the system asks it.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use devbox_session::sink::{Behind, NameSink, PublishError, Published, Record, Records};
use ipnet::IpNet;
use nameserver::{Answering, Data, Listening, Name, Responder, Server, ServerError, Zone};
use netif::conflict::Verdict;
use service_catalog::Port;

use crate::config::Dns;
use crate::helper::Helper;
use crate::notice::{Notice, Notices};
use crate::obstacles;
use crate::sys;

/// The names that a DNS server of this process answers.
pub(crate) struct DnsSink {
    registry: nameserver::Registry,
    /// What the registry has.
    published: Mutex<Records>,
    suffix: Name,
    address: SocketAddr,
}

/// A server that answers, with no names yet.
pub(crate) struct Started {
    pub(crate) sink: DnsSink,
    pub(crate) server: Server,
    /// Whether this system asks it for its suffix.
    pub(crate) asked: bool,
}

/// The owner of a session's names in its own server's registry.
const SESSION: &str = "session";

/// Starts the server, and has the system ask it for the suffix where a helper may see to that. Where not, a notice says why, and the server
/// answers whoever asks it.
pub(crate) async fn start(
    wanted: &Dns,
    helper: Option<&Helper>,
    session: &str,
    pools: &[IpNet],
    notices: &Notices,
) -> Result<Started, ServerError> {
    let not_asked = |error: devbox_helper_client::Error| {
        notices.add(Notice::NotAsked {
            suffix: wanted.suffix.to_string(),
            reason: devbox_provider::with_causes(&error),
        });
    };
    let mut rule = None;
    if let Some(helper) = helper.filter(|helper| helper.privileged) {
        // Two rules for the same names would answer by turns.
        let mut in_the_way = obstacles::find(obstacles::intent(&[], Some(&wanted.suffix))).await;
        in_the_way.retain(|conflict| conflict.verdict == Verdict::Blocks);
        if let Some(conflict) = in_the_way.first() {
            notices.add(Notice::NotAsked {
                suffix: wanted.suffix.to_string(),
                reason: conflict.to_string(),
            });
            in_the_way
                .into_iter()
                .map(Notice::Conflict)
                .for_each(|notice| notices.add(notice));
        } else {
            match helper.prepare_rule(session, pools).await {
                Ok(place) => rule = Some((helper, place)),
                Err(error) => not_asked(error),
            }
        }
    }
    let place = rule.as_ref().map(|(_, place)| place.address());
    let (sink, server) = listen(wanted, place, pools).await?;
    let mut asked = false;
    if let Some((helper, place)) = rule {
        // The last one is the rule's, or answers on all of this machine's addresses.
        let port = server.addresses().last().map_or(0, SocketAddr::port);
        let server = SocketAddr::new(place.address(), port);
        match helper.set_rule(place, &wanted.suffix, pools, server).await {
            Ok(()) => asked = true,
            Err(error) => not_asked(error),
        }
    }
    Ok(Started { sink, server, asked })
}

/// Listens where it is wanted, and at the address that a rule of the system names. Where another program has the port, the system chooses
/// one, if that may be.
async fn listen(
    wanted: &Dns,
    place: Option<std::net::IpAddr>,
    pools: &[IpNet],
) -> Result<(DnsSink, Server), ServerError> {
    let place = place.filter(|_| !wanted.listen.ip().is_unspecified());
    let at = |port: u16| {
        let mut addresses = vec![SocketAddr::new(wanted.listen.ip(), port)];
        let rule_port = sys::RULE_PORT.unwrap_or(port);
        addresses.extend(place.map(|address| SocketAddr::new(address, rule_port)));
        addresses
    };
    let started = DnsSink::start(&wanted.suffix, at(wanted.listen.port()), pools).await;
    match started {
        Err(ServerError::Bind { source, .. })
            if source.kind() == io::ErrorKind::AddrInUse && wanted.or_another_port =>
        {
            DnsSink::start(&wanted.suffix, at(0), pools).await
        }
        started => started,
    }
}

impl DnsSink {
    async fn start(
        suffix: &Name,
        listen: Vec<SocketAddr>,
        pools: &[IpNet],
    ) -> Result<(Self, Server), ServerError> {
        let registry = nameserver::Registry::default();
        let settings = Answering {
            zones: vec![Zone::new(suffix.clone())],
            // An address of a pool without a name has none anywhere.
            prefixes: pools.to_vec(),
            ..Answering::default()
        };
        let responder = Responder::new(registry.clone(), settings);
        let first = listen.first().copied();
        let server = Server::start(responder, Listening::on(listen)).await?;
        let address = server.addresses().first().copied().or(first);
        let address = address.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
        let sink = Self {
            registry,
            published: Mutex::default(),
            suffix: suffix.clone(),
            address,
        };
        Ok((sink, server))
    }
}

/// A publication in the making. Its names have the suffix: that is how a system finds what an address leads back to (PTR), and where a
/// service is (SRV). The server answers them without it as well.
struct Put<'a> {
    suffix: &'a Name,
    records: Vec<nameserver::Record>,
    warnings: Vec<String>,
}

impl<'a> Put<'a> {
    fn new(suffix: &'a Name) -> Self {
        Self {
            suffix,
            records: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn name(&mut self, text: &str) -> Option<Name> {
        match format!("{text}.{}", self.suffix).parse() {
            Ok(name) => Some(name),
            Err(error) => {
                self.warnings
                    .push(format!("the DNS server does not have it: {error}"));
                None
            }
        }
    }

    fn add(&mut self, names: impl Iterator<Item = impl AsRef<str>>, data: Vec<Data>) {
        let names = names.filter_map(|name| self.name(name.as_ref())).collect();
        self.records.push(nameserver::Record { names, data });
    }

    fn record(&mut self, record: &Record) {
        self.addresses(record);
        if let Some(behind) = &record.behind {
            self.services(record, behind);
        }
    }

    fn names(&self) -> impl Iterator<Item = &Name> {
        self.records.iter().flat_map(|record| &record.names)
    }

    /// Where the names are, and which service that is.
    fn addresses(&mut self, record: &Record) {
        let mut data: Vec<_> = record.addresses.iter().copied().map(Data::from).collect();
        if let Some(behind) = &record.behind {
            let about = [
                format!("service={}", behind.service),
                format!("environment={}", behind.environment),
            ];
            // Of labels: a name of the DNS is longer than their text.
            data.extend(Data::txt(about).ok());
        }
        self.add(record.names.iter(), data);
    }

    /// On which ports: by its name those that have one, as Kubernetes has it, and all of them by the service's own.
    fn services(&mut self, record: &Record, behind: &Behind) {
        let canonical = record.names.get(..1).unwrap_or_default();
        let members = if behind.members.is_empty() {
            canonical
        } else {
            &behind.members
        };
        let targets: Vec<_> = members.iter().filter_map(|member| self.name(member)).collect();
        let srv = |port: &Port| {
            let port = port.port.get();
            targets.iter().map(move |target| Data::srv(0, 0, port, target))
        };
        self.add(record.names.iter(), behind.ports.iter().flat_map(srv).collect());
        for port in &behind.ports {
            if let Some(name) = &port.name {
                let names = record.names.iter();
                let names = names.map(|service| format!("_{name}._{}.{service}", port.protocol));
                self.add(names, srv(port).collect());
            }
        }
    }
}

#[async_trait]
impl NameSink for DnsSink {
    fn describe(&self) -> String {
        format!("the DNS server on {}", self.address)
    }

    async fn publish(&self, records: Records) -> Result<Published, PublishError> {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut gone, mut put) = (Put::new(&self.suffix), Put::new(&self.suffix));
        for change in records.changes_since(&published) {
            change.before.into_iter().for_each(|record| gone.record(record));
            change.after.into_iter().for_each(|record| put.record(record));
        }
        let set: HashSet<&Name> = put.names().collect();
        let gone: Vec<Name> = gone.names().filter(|name| !set.contains(name)).cloned().collect();
        let changed = self.registry.update(SESSION, &put.records, &gone) > 0;
        *published = records;
        Ok(Published {
            changed,
            warnings: put.warnings,
            ..Published::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use devbox_session::{ProviderId, ServiceKey};

    use super::*;

    fn wanted(listen: &str) -> Dns {
        Dns {
            listen: listen.parse().unwrap(),
            or_another_port: false,
            suffix: "devbox.test".parse().unwrap(),
        }
    }

    #[tokio::test]
    async fn the_dns_server_answers_what_was_published_last_and_nothing_in_the_end() {
        let (sink, server) = listen(&wanted("127.0.0.1:0"), None, &[]).await.unwrap();
        let rcode = async |name: &str| {
            let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let query = nameserver::query(7, &name.parse().unwrap(), "A").unwrap();
            socket.send_to(&query, server.addresses()[0]).await.unwrap();
            let mut reply = [0; 512];
            socket.recv(&mut reply).await.unwrap();
            reply[3] & 0x0F
        };
        let of = |name: &str| ServiceKey {
            provider: ProviderId(0),
            environment: "dev".parse().unwrap(),
            service: name.parse().unwrap(),
        };
        let record = |name: &str| Record {
            names: vec![name.into()],
            addresses: vec!["127.77.0.2".parse().unwrap()],
            behind: None,
        };
        let records = |name: &str, of: ServiceKey| Records::from_iter([(of, record(name))]);
        let orders = || records("orders.backend", of("orders.backend"));
        assert!(sink.publish(orders()).await.unwrap().changed);
        assert!(!sink.publish(orders()).await.unwrap().changed);
        // A name that another service has from here on, with the same address.
        let moved = records("orders.backend", of("a.backend"));
        sink.publish(moved).await.unwrap();
        assert_eq!(rcode("orders.backend").await, 0);
        sink.publish(records("web.shop", of("orders.backend")))
            .await
            .unwrap();
        assert_eq!(rcode("orders.backend.devbox.test").await, 3);
        assert_eq!(rcode("web.shop.devbox.test").await, 0);
        sink.publish(orders()).await.unwrap();
        assert_eq!(rcode("orders.backend.devbox.test").await, 0);
        assert_eq!(rcode("orders.backend").await, 0);
        sink.publish(Records::default()).await.unwrap();
        assert_eq!(rcode("orders.backend.devbox.test").await, 3);
        server.stop().await;
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_another_one_only_where_that_may_be() {
        let (_, first) = listen(&wanted("127.0.0.1:0"), None, &[]).await.unwrap();
        let taken = first.addresses()[0];
        let strict = wanted(&taken.to_string());
        let refused = listen(&strict, None, &[]).await;
        assert!(matches!(refused, Err(ServerError::Bind { address, .. }) if address == taken));
        let free = Dns {
            or_another_port: true,
            ..strict
        };
        let (sink, second) = listen(&free, None, &[]).await.unwrap();
        assert_ne!(second.addresses()[0], taken);
        assert!(sink.describe().contains(&second.addresses()[0].to_string()));
        second.stop().await;
        first.stop().await;
    }
}
