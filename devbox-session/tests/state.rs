//! The state machine against a small model of a machine: whatever happens in whatever order, names stand only where
//! something listens, unchanged services keep their listeners, and the end leaves nothing.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use devbox_helper_client::{HelperError, HostsEntry, HostsReport};
use devbox_session::{
    BindFault, ConnectFailure, Event, Identity, NamesPolicy, PortState, SessionState, Settings, Step,
    StopReason,
};
use ipalloc::{Allocator, Pool, Timestamp};
use proptest::prelude::*;
use service_catalog::{Catalog, Port, Service, ServiceId, Update};

fn settings() -> Settings {
    Settings {
        identity: Identity {
            session: "test-1".to_owned(),
            pid: 1,
            helper_pid: None,
            hosts_file: None,
            gateway: "ws://127.0.0.1:1".to_owned(),
            started_at: 0,
        },
        environment: None,
        names: NamesPolicy::default(),
        write_hosts: true,
        first_tries: 3,
        backoff: (Duration::from_millis(100), Duration::from_secs(5)),
        drain: Duration::from_secs(3),
        seed: 7,
    }
}

fn service(name: &str, ports: &[u16]) -> Service {
    let ports = ports
        .iter()
        .map(|port| Port::tcp(NonZeroU16::new(*port).unwrap()))
        .collect();
    Service::new(format!("{name}.backend").parse().unwrap(), ports).unwrap()
}

fn catalog(services: impl IntoIterator<Item = Service>) -> Catalog {
    Catalog::new("staging".parse().unwrap(), services).unwrap()
}

fn unreachable() -> ConnectFailure {
    ConnectFailure::Unreachable {
        gateway: "ws://127.0.0.1:1".to_owned(),
        reason: "refused".to_owned(),
    }
}

/// A machine that does what the steps say, and sees to it that they come in a good order.
struct Machine {
    state: SessionState,
    now: Instant,
    listening: BTreeMap<SocketAddr, ServiceId>,
    /// How often each listener was opened.
    opened: BTreeMap<SocketAddr, usize>,
    hosts: Vec<HostsEntry>,
    writes: usize,
    in_use: BTreeSet<SocketAddr>,
    /// Ports that a program holds on every address.
    held: BTreeSet<u16>,
    denied: BTreeSet<u16>,
    hosts_fail: bool,
    reachable: bool,
    stopping: bool,
    events: Vec<Event>,
}

impl Machine {
    fn new() -> Self {
        let now = Instant::now();
        let pool = Pool::new(["127.77.0.0/16".parse().unwrap()]).unwrap();
        Self {
            state: SessionState::new(settings(), Allocator::new(pool), now),
            now,
            listening: BTreeMap::new(),
            opened: BTreeMap::new(),
            hosts: Vec::new(),
            writes: 0,
            in_use: BTreeSet::new(),
            held: BTreeSet::new(),
            denied: BTreeSet::new(),
            hosts_fail: false,
            reachable: true,
            stopping: false,
            events: Vec::new(),
        }
    }

    /// Performs steps until there are none.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let Some(step) = self.state.poll_step(self.now) else {
                while let Some(event) = self.state.poll_event() {
                    self.events.push(event);
                }
                return;
            };
            self.perform(step);
        }
        panic!("the steps do not end");
    }

    fn perform(&mut self, step: Step) {
        let today = Timestamp::from_secs(1);
        match step {
            Step::Connect if self.reachable => self.state.handle_connected(self.now),
            Step::Connect => self.state.handle_connect_failed(unreachable(), self.now),
            Step::Claim { .. } => self.state.handle_claimed(),
            Step::Open {
                service,
                address,
                ports,
                all_or_none,
            } => {
                assert!(!self.stopping, "nothing is opened while stopping");
                let mut results: Vec<_> = ports
                    .iter()
                    .map(|(port, _)| (*port, self.bind(SocketAddr::new(address, port.get()))))
                    .collect();
                let failed = results
                    .iter()
                    .any(|(_, result)| matches!(result, Err(BindFault::InUse { .. })));
                for (port, result) in &mut results {
                    let at = SocketAddr::new(address, port.get());
                    if result.is_ok() && !(all_or_none && failed) {
                        assert!(
                            self.listening.insert(at, service.clone()).is_none(),
                            "{at} is opened twice"
                        );
                        *self.opened.entry(at).or_default() += 1;
                    }
                }
                self.state.handle_opened(&service, address, results, today);
            }
            Step::WriteHosts { entries } => {
                for entry in &entries {
                    let listens = self.listening.keys().any(|at| at.ip() == entry.address);
                    assert!(listens, "a name stands only where something listens");
                }
                self.writes += 1;
                if self.hosts_fail {
                    let error = HelperError::PermissionDenied {
                        file: PathBuf::from("h"),
                        message: "no".to_owned(),
                    };
                    return self.state.handle_hosts_written(entries, Err(error), self.now);
                }
                self.hosts.clone_from(&entries);
                let report = HostsReport {
                    file: PathBuf::from("h"),
                    changed: true,
                    in_place: false,
                    diagnostics: Vec::new(),
                    omitted: 0,
                    conflicts: Vec::new(),
                };
                self.state.handle_hosts_written(entries, Ok(report), self.now);
            }
            Step::Close { listeners, .. } => {
                for at in &listeners {
                    self.listening.remove(at).expect("only what listens is closed");
                    let named = self.hosts.iter().any(|entry| entry.address == at.ip());
                    let others = self.listening.keys().any(|other| other.ip() == at.ip());
                    assert!(!named || others || self.hosts_fail, "names go before listeners");
                }
                self.state.handle_closed(&listeners);
            }
            Step::Release => {
                assert!(self.listening.is_empty(), "listeners go before the helper");
                self.hosts.clear();
                self.state.handle_released(Ok(()));
            }
        }
    }

    fn bind(&self, at: SocketAddr) -> Result<(), BindFault> {
        if self.in_use.contains(&at) || self.held.contains(&at.port()) {
            return Err(BindFault::InUse {
                address: at,
                holder: None,
            });
        }
        if self.denied.contains(&at.port()) {
            return Err(BindFault::Denied {
                port: at.port(),
                first_free: 1024,
            });
        }
        Ok(())
    }

    fn update(&mut self, update: Update) {
        self.state.handle_update(update, Timestamp::from_secs(1));
        self.settle();
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.state.stop(StopReason::Requested {
            by: "test".to_owned(),
        });
        self.settle();
    }

    fn address(&self, name: &str) -> Option<IpAddr> {
        let id: ServiceId = format!("{name}.backend").parse().unwrap();
        self.state
            .report()
            .services
            .into_iter()
            .find(|service| service.service == id)?
            .address
    }
}

fn ready(services: impl IntoIterator<Item = Service>) -> Machine {
    let mut machine = Machine::new();
    machine.settle();
    machine.update(Update::Snapshot(catalog(services)));
    machine
}

#[test]
fn a_batch_costs_one_write_of_the_hosts_file() {
    let machine = ready((0..100).map(|n| service(&format!("s{n}"), &[80, 443])));
    assert_eq!(machine.listening.len(), 200);
    assert_eq!(machine.hosts.len(), 100);
    assert_eq!(machine.writes, 1);
    assert!(matches!(machine.events.as_slice(), [Event::Ready { .. }]));
}

#[test]
fn an_unchanged_service_keeps_its_listener_over_updates_and_reconnects() {
    let mut machine = ready([service("orders", &[5432]), service("web", &[80])]);
    let orders = SocketAddr::new(machine.address("orders").unwrap(), 5432);
    machine.update(Update::Changed {
        upserted: vec![service("web", &[80, 443]), service("new", &[1])],
        removed: Vec::new(),
    });
    machine.state.handle_link_lost("cut".to_owned(), machine.now);
    machine.settle();
    machine.update(Update::Snapshot(catalog([service("orders", &[5432])])));
    assert_eq!(machine.listening.keys().collect::<Vec<_>>(), [&orders]);
    assert_eq!(machine.opened.get(&orders), Some(&1));
}

#[test]
fn a_service_that_leaves_and_comes_back_at_once_keeps_its_listener() {
    let mut machine = ready([service("orders", &[5432])]);
    let orders = SocketAddr::new(machine.address("orders").unwrap(), 5432);
    let away = Update::Changed {
        upserted: Vec::new(),
        removed: vec!["orders.backend".parse().unwrap()],
    };
    machine.state.handle_update(away, Timestamp::from_secs(1));
    machine.update(Update::Changed {
        upserted: vec![service("orders", &[5432])],
        removed: Vec::new(),
    });
    assert_eq!(machine.opened.get(&orders), Some(&1));
    assert_eq!(machine.hosts.len(), 1);
}

#[test]
fn an_address_in_use_gives_way_to_the_next_candidate() {
    let first = ready([service("orders", &[80, 5432])]).address("orders").unwrap();
    let mut machine = Machine::new();
    machine.in_use.insert(SocketAddr::new(first, 5432));
    machine.settle();
    machine.update(Update::Snapshot(catalog([service("orders", &[80, 5432])])));
    let second = machine.address("orders").unwrap();
    assert_ne!(first, second);
    assert_eq!(machine.listening.len(), 2, "both ports share the other address");
}

#[test]
fn a_port_held_on_every_address_degrades_its_port_alone() {
    let mut machine = Machine::new();
    machine.settle();
    machine.state.handle_update(
        Update::Snapshot(catalog([service("orders", &[80, 5432])])),
        Timestamp::from_secs(1),
    );
    while let Some(step) = machine.state.poll_step(machine.now) {
        if let Step::Open { address, .. } = &step {
            machine.in_use.insert(SocketAddr::new(*address, 5432));
        }
        machine.perform(step);
    }
    let report = machine.state.report();
    let states: Vec<_> = report.services[0]
        .ports
        .iter()
        .map(|port| port.state.clone())
        .collect();
    assert_eq!(states[0], PortState::Listening);
    assert!(matches!(&states[1], PortState::Degraded(reason) if reason.contains("in use")));
    assert_eq!(machine.hosts.len(), 1);
}

#[test]
fn a_port_that_was_in_use_is_offered_once_it_is_free() {
    let mut machine = Machine::new();
    machine.settle();
    machine.held.insert(5432);
    machine.update(Update::Snapshot(catalog([service("orders", &[5432])])));
    assert!(machine.listening.is_empty());
    let told = |machine: &Machine| {
        machine
            .events
            .iter()
            .filter(|event| matches!(event, Event::PortDegraded { .. }))
            .count()
    };
    assert_eq!(told(&machine), 1);
    for _ in 0..3 {
        machine.now = machine.state.poll_timeout().expect("it is tried again");
        machine.settle();
    }
    assert_eq!(told(&machine), 1, "said once");
    machine.held.clear();
    machine.now = machine.state.poll_timeout().expect("it is tried again");
    machine.settle();
    assert_eq!(machine.listening.len(), 1);
    assert_eq!(machine.hosts.len(), 1);
    assert_eq!(
        machine.address("orders"),
        ready([service("orders", &[5432])]).address("orders")
    );
    assert!(matches!(machine.events.last(), Some(Event::ServiceUp { .. })));
    assert_eq!(machine.state.poll_timeout(), None);
}

#[test]
fn a_port_that_may_not_be_bound_leaves_the_others_alone() {
    let mut machine = Machine::new();
    machine.denied.insert(80);
    machine.settle();
    machine.update(Update::Snapshot(catalog([
        service("web", &[80]),
        service("orders", &[5432]),
    ])));
    assert_eq!(machine.listening.len(), 1);
    assert_eq!(
        machine.hosts.len(),
        1,
        "a service without a listener gets no name"
    );
    assert!(
        machine
            .events
            .iter()
            .any(|event| matches!(event, Event::PortDegraded { port: 80, .. }))
    );
}

#[test]
fn a_hosts_file_that_cannot_be_edited_ends_the_start_with_what_would_have_been_written() {
    let mut machine = Machine::new();
    machine.hosts_fail = true;
    machine.settle();
    machine.stopping = true;
    machine.state.handle_update(
        Update::Snapshot(catalog([service("web", &[80])])),
        Timestamp::from_secs(1),
    );
    machine.stopping = false;
    machine.settle();
    let Some(StopReason::Hosts { entries, .. }) = machine.state.finished() else {
        panic!("not ended")
    };
    assert_eq!(entries.len(), 1);
    assert!(machine.listening.is_empty());
}

#[test]
fn the_first_connect_gives_up_and_a_later_one_never_does() {
    let mut machine = Machine::new();
    machine.reachable = false;
    for _ in 0..10 {
        machine.settle();
        machine.now += Duration::from_secs(10);
    }
    assert!(matches!(
        machine.state.finished(),
        Some(StopReason::Unreachable { tries: 3, .. })
    ));

    let mut machine = ready([service("web", &[80])]);
    machine.reachable = false;
    machine.state.handle_link_lost("cut".to_owned(), machine.now);
    for _ in 0..100 {
        machine.settle();
        machine.now += Duration::from_secs(10);
    }
    assert_eq!(machine.state.finished(), None);
    assert_eq!(machine.listening.len(), 1, "listeners stay");
    assert_eq!(machine.hosts.len(), 1, "names stay");
}

#[test]
fn pauses_grow_to_the_longest_and_stay_there() {
    let mut machine = ready([service("web", &[80])]);
    machine.reachable = false;
    machine.state.handle_link_lost("cut".to_owned(), machine.now);
    machine.settle();
    for _ in 0..30 {
        let until = machine.state.poll_timeout().expect("a next try");
        assert!(until - machine.now <= Duration::from_secs(5));
        machine.now = until;
        machine.settle();
    }
    let last = machine.state.poll_timeout().unwrap() - machine.now;
    assert!(last >= Duration::from_millis(2_500), "{last:?}");
}

#[test]
fn a_refused_token_is_not_tried_again() {
    let mut machine = Machine::new();
    let Some(Step::Connect) = machine.state.poll_step(machine.now) else {
        panic!("connect comes first")
    };
    let refused = ConnectFailure::TokenRefused {
        gateway: "g".to_owned(),
        file: None,
        message: "no".to_owned(),
    };
    machine.state.handle_connect_failed(refused.clone(), machine.now);
    machine.settle();
    assert_eq!(machine.state.finished(), Some(&StopReason::Refused(refused)));
}

/// Something that may happen.
#[derive(Debug, Clone)]
enum Happening {
    Snapshot(BTreeMap<u8, BTreeSet<u16>>),
    Change {
        upserted: BTreeMap<u8, BTreeSet<u16>>,
        removed: BTreeSet<u8>,
    },
    LinkLost,
    Unreachable(bool),
    Wait(u16),
    Take(u8, u16),
    /// One step only, so that the next thing happens in the middle.
    Step,
    Settle,
}

fn ports() -> impl Strategy<Value = BTreeSet<u16>> {
    proptest::collection::btree_set(prop_oneof![Just(80_u16), Just(443), Just(5432)], 1..3)
}

fn happening() -> impl Strategy<Value = Happening> {
    let services = || proptest::collection::btree_map(0_u8..6, ports(), 0..5);
    prop_oneof![
        2 => services().prop_map(Happening::Snapshot),
        4 => (services(), proptest::collection::btree_set(0_u8..6, 0..3))
            .prop_map(|(upserted, removed)| Happening::Change { upserted, removed }),
        1 => Just(Happening::LinkLost),
        1 => any::<bool>().prop_map(Happening::Unreachable),
        1 => (0_u16..10_000).prop_map(Happening::Wait),
        1 => (0_u8..6, Just(80_u16)).prop_map(|(service, port)| Happening::Take(service, port)),
        6 => Just(Happening::Step),
        3 => Just(Happening::Settle),
    ]
}

fn services(wanted: &BTreeMap<u8, BTreeSet<u16>>) -> Vec<Service> {
    wanted
        .iter()
        .map(|(n, ports)| service(&format!("s{n}"), &ports.iter().copied().collect::<Vec<_>>()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_names_follow_listeners_and_the_end_leaves_nothing(
        happenings in proptest::collection::vec(happening(), 0..60),
    ) {
        let mut machine = Machine::new();
        machine.settle();
        machine.update(Update::Snapshot(catalog([])));
        let mut wanted = catalog([]);
        for happening in happenings {
            match happening {
                Happening::Snapshot(all) => {
                    let update = Update::Snapshot(catalog(services(&all)));
                    wanted.apply(&update);
                    machine.state.handle_update(update, Timestamp::from_secs(1));
                }
                Happening::Change { upserted, removed } => {
                    let removed: Vec<ServiceId> = removed
                        .iter()
                        .filter(|n| !upserted.contains_key(n))
                        .map(|n| format!("s{n}.backend").parse().unwrap())
                        .collect();
                    let update = Update::Changed { upserted: services(&upserted), removed };
                    wanted.apply(&update);
                    machine.state.handle_update(update, Timestamp::from_secs(1));
                }
                Happening::LinkLost => machine.state.handle_link_lost("cut".to_owned(), machine.now),
                Happening::Unreachable(reachable) => machine.reachable = reachable,
                Happening::Wait(millis) => machine.now += Duration::from_millis(u64::from(millis)),
                Happening::Take(n, port) => {
                    if let Some(address) = machine.address(&format!("s{n}")) {
                        let at = SocketAddr::new(address, port);
                        if !machine.listening.contains_key(&at) {
                            machine.in_use.insert(at);
                        }
                    }
                }
                Happening::Step => {
                    if let Some(step) = machine.state.poll_step(machine.now) {
                        machine.perform(step);
                    }
                }
                Happening::Settle => machine.settle(),
            }
        }
        machine.settle();
        let report = machine.state.report();
        prop_assert_eq!(
            report.services.iter().map(|service| &service.service).collect::<Vec<_>>(),
            wanted.services.keys().collect::<Vec<_>>()
        );
        let mut listening = 0;
        for service in &report.services {
            for port in &service.ports {
                prop_assert_ne!(&port.state, &PortState::Opening);
                if port.state == PortState::Listening {
                    listening += 1;
                    let at = SocketAddr::new(service.address.unwrap(), port.port);
                    prop_assert_eq!(machine.listening.get(&at), Some(&service.service));
                }
            }
        }
        prop_assert_eq!(machine.listening.len(), listening, "nothing listens that is not wanted");
        let named = report.services.iter().filter(|service| !service.names.is_empty()).count();
        prop_assert_eq!(machine.hosts.len(), named);
        machine.stop();
        let ended = matches!(machine.state.finished(), Some(StopReason::Requested { .. }));
        prop_assert!(ended);
        prop_assert!(machine.listening.is_empty());
        prop_assert!(machine.hosts.is_empty());
    }
}
