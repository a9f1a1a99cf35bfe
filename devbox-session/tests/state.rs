//! The state machine against a small model of a machine: whatever happens in whatever order, names stand only where
//! something listens, unchanged services keep their listeners, and the end leaves nothing.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use devbox_helper_client::{Endpoint, HelperError};
use devbox_provider::ConnectError;
use devbox_session::sink::{PublishError, Published, Records};
use devbox_session::{
    BindFault, Event, Identity, LeaseChange, LinkState, NamesPolicy, PortState, ProviderId, ProviderSettings,
    ServiceKey, ServiceOptions, SessionState, Settings, Step, StopReason, Traffic,
};
use ipalloc::{Allocator, Pool, Timestamp};
use proptest::prelude::*;
use service_catalog::{Catalog, Label, Port, Service, ServiceId, Update};

const ONLY: ProviderId = ProviderId(0);
const SECOND: ProviderId = ProviderId(1);

fn settings(environments: &[Option<&str>]) -> Settings {
    let identity = Identity {
        session: "test-1".to_owned(),
        pid: 1,
        helper_pid: None,
        hosts_file: None,
        started_at: 0,
    };
    let providers = environments
        .iter()
        .enumerate()
        .map(|(index, environment)| ProviderSettings {
            name: format!("p{index}"),
            environment: environment.map(|label| label.parse().unwrap()),
        });
    Settings {
        first_tries: 3,
        ..Settings::new(identity, providers.collect(), 7)
    }
}

fn service(name: &str, ports: &[u16]) -> Service {
    let ports = ports
        .iter()
        .map(|port| Port::tcp(NonZeroU16::new(*port).unwrap()))
        .collect();
    Service::new(format!("{name}.backend").parse().unwrap(), ports).unwrap()
}

fn catalog_of(environment: &str, services: impl IntoIterator<Item = Service>) -> Catalog {
    Catalog::new(environment.parse().unwrap(), services).unwrap()
}

fn catalog(services: impl IntoIterator<Item = Service>) -> Catalog {
    catalog_of("staging", services)
}

fn unreachable() -> ConnectError {
    ConnectError::Unreachable {
        far_side: "ws://127.0.0.1:1".to_owned(),
        reason: "refused".to_owned(),
    }
}

fn refused() -> ConnectError {
    ConnectError::CredentialRefused {
        far_side: "g".to_owned(),
        file: None,
        message: "no".to_owned(),
    }
}

/// A machine that does what the steps say, and sees to it that they come in a good order.
struct Machine {
    state: SessionState,
    now: Instant,
    listening: BTreeMap<Endpoint, ServiceKey>,
    /// How often each listener was opened.
    opened: BTreeMap<Endpoint, usize>,
    names: Records,
    writes: usize,
    in_use: BTreeSet<Endpoint>,
    /// Ports that a program holds on every address.
    held: BTreeSet<u16>,
    denied: BTreeSet<u16>,
    /// How many listeners there may be.
    descriptors: usize,
    publishing_fails: bool,
    /// What a connect to each provider gives; without one it succeeds.
    failures: BTreeMap<ProviderId, ConnectError>,
    /// The providers that answered.
    linked: BTreeSet<ProviderId>,
    /// The links that were checked.
    checked: Vec<ProviderId>,
    /// The environment that may be dialed at each provider.
    admitted: BTreeMap<ProviderId, Label>,
    claimed: BTreeSet<Label>,
    asked_for: Vec<Option<Label>>,
    portless: BTreeSet<IpAddr>,
    stopping: bool,
    events: Vec<Event>,
}

impl Machine {
    fn with(settings: Settings, pool: Pool) -> Self {
        let now = Instant::now();
        Self {
            state: SessionState::new(settings, Allocator::new(pool), vec!["hosts".to_owned()], now),
            now,
            listening: BTreeMap::new(),
            opened: BTreeMap::new(),
            names: Records::default(),
            writes: 0,
            in_use: BTreeSet::new(),
            held: BTreeSet::new(),
            denied: BTreeSet::new(),
            descriptors: usize::MAX,
            publishing_fails: false,
            failures: BTreeMap::new(),
            linked: BTreeSet::new(),
            checked: Vec::new(),
            admitted: BTreeMap::new(),
            claimed: BTreeSet::new(),
            asked_for: Vec::new(),
            portless: BTreeSet::new(),
            stopping: false,
            events: Vec::new(),
        }
    }

    fn of(environments: &[Option<&str>]) -> Self {
        Self::with(
            settings(environments),
            Pool::new(["127.77.0.0/16".parse().unwrap()]).unwrap(),
        )
    }

    fn new() -> Self {
        Self::of(&[None])
    }

    /// Performs steps until there are none.
    fn settle(&mut self) {
        for _ in 0..20_000 {
            let step = self.state.poll_step(self.now);
            while let Some(event) = self.state.poll_event() {
                self.events.push(event);
            }
            let Some(step) = step else { return };
            self.perform(step);
        }
        panic!("the steps do not end");
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::Connect {
                provider,
                environment,
            } => {
                self.asked_for.push(environment);
                self.admitted.remove(&provider);
                match self.failures.get(&provider) {
                    None => {
                        self.linked.insert(provider);
                        self.state.handle_connected(provider, self.now);
                    }
                    Some(error) => self
                        .state
                        .handle_connect_failed(provider, error.clone(), self.now),
                }
            }
            Step::Check { provider } => self.checked.push(provider),
            Step::Disconnect { provider } => {
                self.linked.remove(&provider);
                self.admitted.remove(&provider);
            }
            Step::Admit {
                provider,
                environment,
            } => {
                self.admitted.insert(provider, environment);
            }
            Step::Claim { environment } => {
                self.claimed.insert(environment.clone());
                self.state.handle_claimed(&environment);
            }
            Step::Unclaim { environment } => assert!(self.claimed.remove(&environment)),
            Step::Bind {
                service,
                address,
                endpoints,
                all_or_none,
            } => {
                assert!(!self.stopping, "nothing is opened while stopping");
                assert!(
                    self.claimed.contains(&service.environment),
                    "the claim comes first"
                );
                let mut results: Vec<_> = Vec::new();
                for (endpoint, _) in &endpoints {
                    assert_eq!(endpoint.address, address);
                    results.push((*endpoint, self.bind(endpoint, results.len())));
                }
                let failed = results
                    .iter()
                    .any(|(_, result)| matches!(result, Err(BindFault::InUse { .. })));
                for (endpoint, result) in &results {
                    if result.is_ok() && !(all_or_none && failed) {
                        assert!(
                            self.listening.insert(*endpoint, service.clone()).is_none(),
                            "{endpoint} is opened twice"
                        );
                        *self.opened.entry(*endpoint).or_default() += 1;
                    }
                }
                self.state.handle_bound(&service, address, all_or_none, results);
            }
            Step::Retarget {
                endpoint, service, ..
            } => {
                let owner = self.listening.get_mut(&endpoint);
                *owner.expect("only what listens is given to another") = service;
            }
            Step::Publish { sink, records } => {
                for record in records.iter() {
                    let listens = |address: &IpAddr| self.listening.keys().any(|at| at.address == *address);
                    assert!(
                        record
                            .addresses
                            .iter()
                            .all(|address| listens(address) || self.portless.contains(address)),
                        "a name leads only to where something listens"
                    );
                }
                self.writes += 1;
                let result = if self.publishing_fails {
                    Err(PublishError::Helper(HelperError::PermissionDenied {
                        file: "h".into(),
                        message: "no".to_owned(),
                    }))
                } else {
                    self.names = records.clone();
                    Ok(Published::default())
                };
                self.state.handle_published(sink, records, result, self.now);
            }
            Step::Close { endpoints, .. } => {
                for at in &endpoints {
                    self.listening.remove(at).expect("only what listens is closed");
                    let named = self
                        .names
                        .iter()
                        .any(|record| record.addresses.contains(&at.address));
                    let others = self.listening.keys().any(|other| other.address == at.address);
                    assert!(
                        !named || others || self.publishing_fails,
                        "names go before listeners"
                    );
                }
                self.state.handle_closed(&endpoints);
            }
            Step::Release => {
                assert!(self.listening.is_empty(), "listeners go before the helper");
                self.names = Records::default();
                self.state.handle_released(Ok(()));
            }
        }
    }

    fn bind(&self, at: &Endpoint, before: usize) -> Result<(), BindFault> {
        if self.in_use.contains(at) || self.held.contains(&at.port) {
            return Err(BindFault::InUse {
                endpoint: *at,
                holder: None,
            });
        }
        if self.denied.contains(&at.port) {
            return Err(BindFault::Denied {
                port: at.port,
                first_free: 1024,
            });
        }
        if self.listening.len() + before >= self.descriptors {
            return Err(BindFault::OutOfDescriptors);
        }
        Ok(())
    }

    fn told(&mut self, provider: ProviderId, update: Update) {
        self.state
            .handle_update(provider, update, self.now, Timestamp::from_secs(1));
    }

    fn update(&mut self, update: Update) {
        self.told(ONLY, update);
        self.settle();
    }

    fn lose_link(&mut self, provider: ProviderId) {
        self.linked.remove(&provider);
        self.admitted.remove(&provider);
        self.state.handle_link_lost(provider, "cut".to_owned(), self.now);
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.state.stop(StopReason::Requested {
            by: "test".to_owned(),
        });
        self.settle();
    }

    fn report(&self) -> devbox_session::StatusReport {
        self.state.report(|_| Traffic::default())
    }

    fn address(&self, name: &str) -> Option<IpAddr> {
        let id: ServiceId = format!("{name}.backend").parse().unwrap();
        let services = self.report().services;
        let found = services.into_iter().find(|service| service.service == id)?;
        found.addresses.first().copied()
    }

    fn endpoint(&self, name: &str, port: u16) -> Endpoint {
        Endpoint::tcp(SocketAddr::new(self.address(name).unwrap(), port))
    }

    /// Every name and where it leads.
    fn names(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let names = self.names.iter().flat_map(|record| {
            let addresses = &record.addresses;
            record
                .names
                .iter()
                .map(|name| (name.to_string(), addresses.clone()))
        });
        names.collect()
    }
}

fn ready(services: impl IntoIterator<Item = Service>) -> Machine {
    let mut machine = Machine::new();
    machine.settle();
    machine.update(Update::Snapshot(catalog(services)));
    machine
}

#[test]
fn a_batch_costs_one_publication_of_the_names() {
    let machine = ready((0..100).map(|n| service(&format!("s{n}"), &[80, 443])));
    assert_eq!(machine.listening.len(), 200);
    assert_eq!(machine.names.len(), 100);
    assert_eq!(machine.writes, 1);
    assert!(matches!(machine.events.as_slice(), [Event::Ready { .. }]));
}

#[test]
fn an_unchanged_service_keeps_its_listener_over_updates_and_reconnects() {
    let mut machine = ready([service("orders", &[5432]), service("web", &[80])]);
    let orders = machine.endpoint("orders", 5432);
    machine.update(Update::Changed {
        upserted: vec![service("web", &[80, 443]), service("new", &[1])],
        removed: Vec::new(),
    });
    machine.lose_link(ONLY);
    machine.now += Duration::from_secs(1);
    machine.settle();
    machine.update(Update::Snapshot(catalog([service("orders", &[5432])])));
    assert_eq!(machine.listening.keys().collect::<Vec<_>>(), [&orders]);
    assert_eq!(machine.opened.get(&orders), Some(&1));
}

#[test]
fn a_service_that_leaves_and_comes_back_at_once_keeps_its_listener() {
    let mut machine = ready([service("orders", &[5432])]);
    let orders = machine.endpoint("orders", 5432);
    machine.told(
        ONLY,
        Update::Changed {
            upserted: Vec::new(),
            removed: vec!["orders.backend".parse().unwrap()],
        },
    );
    machine.update(Update::Changed {
        upserted: vec![service("orders", &[5432])],
        removed: Vec::new(),
    });
    assert_eq!(machine.opened.get(&orders), Some(&1));
    assert_eq!(machine.names.len(), 1);
}

#[test]
fn an_address_in_use_gives_way_to_the_next_candidate() {
    let first = ready([service("orders", &[80, 5432])]).endpoint("orders", 5432);
    let mut machine = Machine::new();
    machine.in_use.insert(first);
    machine.settle();
    machine.update(Update::Snapshot(catalog([service("orders", &[80, 5432])])));
    assert_ne!(machine.address("orders"), Some(first.address));
    assert_eq!(machine.listening.len(), 2, "both ports share the other address");
}

#[test]
fn a_port_held_on_every_address_degrades_its_port_alone() {
    let mut machine = Machine::new();
    machine.settle();
    machine.told(ONLY, Update::Snapshot(catalog([service("orders", &[80, 5432])])));
    while let Some(step) = machine.state.poll_step(machine.now) {
        if let Step::Bind { address, .. } = &step {
            machine
                .in_use
                .insert(Endpoint::tcp(SocketAddr::new(*address, 5432)));
        }
        machine.perform(step);
    }
    let report = machine.report();
    let states: Vec<_> = report.services[0]
        .ports
        .iter()
        .map(|port| port.state.clone())
        .collect();
    assert_eq!(states[0], PortState::Listening);
    assert!(matches!(&states[1], PortState::Degraded(reason) if reason.contains("in use")));
    assert_eq!(machine.names.len(), 1);
}

#[test]
fn a_port_that_was_in_use_is_offered_once_it_is_free() {
    let mut machine = Machine::new();
    machine.settle();
    machine.held.insert(5432);
    machine.update(Update::Snapshot(catalog([service("orders", &[5432])])));
    assert!(machine.listening.is_empty());
    let told = |machine: &Machine| {
        let degraded = machine
            .events
            .iter()
            .filter(|event| matches!(event, Event::PortDegraded { .. }));
        degraded.count()
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
    assert_eq!(machine.names.len(), 1);
    assert_eq!(
        machine.address("orders"),
        ready([service("orders", &[5432])]).address("orders")
    );
    assert!(matches!(machine.events.last(), Some(Event::ServiceUp { .. })));
    assert_eq!(machine.state.poll_timeout(), None);
}

#[test]
fn ports_that_may_not_be_bound_are_told_in_one_line_and_leave_the_others_alone() {
    let mut machine = Machine::new();
    machine.denied.extend([25, 80, 443]);
    machine.settle();
    let services = || {
        [
            service("web", &[80, 443]),
            service("orders", &[5432]),
            service("shop", &[443]),
            service("admin", &[443, 8443]),
        ]
    };
    machine.update(Update::Snapshot(catalog(services())));
    assert_eq!(machine.listening.len(), 2);
    assert_eq!(
        machine.names.len(),
        2,
        "a service without a listener gets no name"
    );
    let told = |machine: &Machine| {
        let told = machine.events.iter().filter_map(|event| match event {
            Event::LowPorts {
                services,
                ports,
                examples,
                first_free: 1024,
                lowest,
            } => {
                let examples = examples.iter().map(|low| format!("{}:{}", low.service, low.port));
                let examples: Vec<_> = examples.collect();
                Some(format!("{services} {ports} {lowest} {}", examples.join(" ")))
            }
            Event::PortDegraded { .. } => panic!("not one by one"),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    let first = "3 4 80 admin.backend:443 shop.backend:443 web.backend:80";
    assert_eq!(told(&machine), [first]);
    let before_ready = |event: &Event| matches!(event, Event::LowPorts { .. } | Event::Ready { .. });
    let order = machine.events.iter().find(|event| before_ready(event));
    assert!(matches!(order, Some(Event::LowPorts { .. })), "{order:?}");
    for _ in 0..3 {
        machine.now = machine.state.poll_timeout().unwrap();
        machine.settle();
    }
    assert_eq!(told(&machine), [first], "said once");
    let more = services().into_iter().chain([service("mail", &[25])]);
    machine.update(Update::Snapshot(catalog(more)));
    assert_eq!(
        told(&machine),
        [first, "1 1 25 mail.backend:25"],
        "the value of the newest line is enough for all"
    );
    machine.denied.clear();
    machine.now = machine.state.poll_timeout().unwrap();
    machine.settle();
    assert_eq!(machine.listening.len(), 7);
    assert_eq!(told(&machine).len(), 2);
}

#[test]
fn names_that_cannot_be_published_end_the_start_with_what_would_have_been_published() {
    let mut machine = Machine::new();
    machine.publishing_fails = true;
    machine.settle();
    machine.update(Update::Snapshot(catalog([service("web", &[80])])));
    let Some(StopReason::Names { records, .. }) = machine.state.finished() else {
        panic!("not ended")
    };
    assert_eq!(records.len(), 1);
    assert!(machine.listening.is_empty());
}

#[test]
fn names_that_cannot_be_published_later_are_tried_again_and_said_once() {
    let mut machine = ready([service("web", &[80])]);
    machine.publishing_fails = true;
    machine.update(Update::Changed {
        upserted: vec![service("new", &[81])],
        removed: Vec::new(),
    });
    for _ in 0..5 {
        machine.now = machine.state.poll_timeout().expect("it is tried again");
        machine.settle();
    }
    machine.publishing_fails = false;
    machine.now = machine.state.poll_timeout().expect("it is tried again");
    machine.settle();
    assert_eq!(machine.names.len(), 2);
    let said = |wanted: fn(&Event) -> bool| machine.events.iter().filter(|event| wanted(event)).count();
    assert_eq!(said(|event| matches!(event, Event::NamesFailed { .. })), 1);
    assert_eq!(said(|event| matches!(event, Event::NamesRestored { .. })), 1);
}

#[test]
fn the_first_connect_gives_up_and_a_later_one_never_does() {
    let mut machine = Machine::new();
    machine.failures.insert(ONLY, unreachable());
    for _ in 0..10 {
        machine.settle();
        machine.now += Duration::from_secs(10);
    }
    assert!(matches!(
        machine.state.finished(),
        Some(StopReason::Unreachable { tries: 3, .. })
    ));

    let mut machine = ready([service("web", &[80])]);
    machine.failures.insert(ONLY, unreachable());
    machine.lose_link(ONLY);
    for _ in 0..100 {
        machine.settle();
        machine.now += Duration::from_secs(10);
    }
    assert_eq!(machine.state.finished(), None);
    assert_eq!(machine.listening.len(), 1, "listeners stay");
    assert_eq!(machine.names.len(), 1, "names stay");
}

#[test]
fn a_refused_token_is_not_tried_again() {
    let mut machine = Machine::new();
    machine.failures.insert(ONLY, refused());
    machine.settle();
    assert_eq!(machine.state.finished(), Some(&StopReason::Refused(refused())));
    assert_eq!(machine.asked_for.len(), 1);
}

#[test]
fn superseded_ends_the_session_and_never_reconnects() {
    let superseded = ConnectError::Superseded {
        far_side: "g".to_owned(),
        message: "generation 9".to_owned(),
    };
    let mut at_connect = Machine::new();
    at_connect.failures.insert(ONLY, superseded);
    at_connect.settle();
    let mut later = ready([service("web", &[80])]);
    later.state.handle_superseded(ONLY, "generation 9".to_owned());
    later.settle();
    for mut machine in [at_connect, later] {
        assert!(matches!(
            machine.state.finished(),
            Some(StopReason::Superseded { .. })
        ));
        machine.now += Duration::from_secs(3600);
        machine.settle();
        assert_eq!(machine.asked_for.len(), 1);
        assert!(machine.names.is_empty() && machine.listening.is_empty());
    }
}

#[test]
fn nothing_is_dialed_before_the_catalog_shows_the_sessions_environment() {
    let mut machine = Machine::new();
    machine.settle();
    assert!(machine.admitted.is_empty(), "a link alone is not enough");
    machine.update(Update::Snapshot(catalog([service("web", &[80])])));
    assert_eq!(machine.admitted[&ONLY].as_str(), "staging");

    // The far side was restarted as another environment, with the same token.
    machine.lose_link(ONLY);
    for _ in 0..5 {
        machine.now += Duration::from_secs(10);
        machine.settle();
        machine.update(Update::Snapshot(catalog_of(
            "dev",
            [service("web", &[80]), service("new", &[81])],
        )));
        assert!(
            machine.admitted.is_empty(),
            "wrong environment is worse than none"
        );
    }
    assert_eq!(
        machine.listening.len(),
        1,
        "listeners stay, and nothing of the other environment is offered"
    );
    assert!(machine.names().contains_key("web.backend"), "names stay");
    assert!(matches!(
        machine.report().providers[0].link,
        LinkState::Waiting { .. }
    ));
    let said = machine
        .events
        .iter()
        .filter(|event| matches!(event, Event::WrongEnvironment { .. }));
    assert_eq!(said.count(), 1);

    machine.now += Duration::from_secs(10);
    machine.settle();
    machine.update(Update::Snapshot(catalog([service("web", &[80])])));
    assert_eq!(machine.admitted[&ONLY].as_str(), "staging", "it is back");
}

#[test]
fn a_first_catalog_of_another_environment_than_asked_for_ends_the_start() {
    let mut machine = Machine::of(&[Some("staging")]);
    machine.settle();
    machine.update(Update::Snapshot(catalog_of("dev", [service("web", &[80])])));
    assert!(matches!(
        machine.state.finished(),
        Some(StopReason::Refused(ConnectError::UnknownEnvironment { .. }))
    ));
    assert!(machine.opened.is_empty() && machine.admitted.is_empty());
}

#[test]
fn a_change_of_a_link_that_is_not_trusted_is_not_taken() {
    let mut machine = ready([service("web", &[80])]);
    machine.lose_link(ONLY);
    machine.now += Duration::from_secs(10);
    machine.settle();
    machine.update(Update::Changed {
        upserted: vec![service("evil", &[80])],
        removed: Vec::new(),
    });
    assert_eq!(machine.address("evil"), None);
}

#[test]
fn a_switch_replaces_one_environment_by_another_in_one_publication() {
    let mut machine = Machine::of(&[Some("staging"), None]);
    machine.settle();
    machine.told(
        ONLY,
        Update::Snapshot(catalog([service("web", &[80]), service("old", &[81])])),
    );
    machine.told(
        SECOND,
        Update::Snapshot(catalog_of("lab", [service("mine", &[90])])),
    );
    machine.settle();
    let mine = machine.endpoint("mine", 90);
    let writes = machine.writes;
    assert!(
        machine
            .state
            .switch_environment(ONLY, "dev".parse().unwrap(), machine.now)
    );
    machine.settle();
    assert!(
        !machine.admitted.contains_key(&ONLY),
        "nothing of either is dialed meanwhile"
    );
    assert_eq!(machine.asked_for.last(), Some(&Some("dev".parse().unwrap())));
    machine.update(Update::Snapshot(catalog_of("dev", [service("web", &[80])])));
    assert_eq!(machine.writes, writes + 1);
    assert_eq!(machine.opened[&mine], 1, "an unchanged listener stays");
    assert_eq!(machine.admitted[&ONLY].as_str(), "dev");
    let environments: Vec<_> = machine.claimed.iter().map(Label::as_str).collect();
    assert_eq!(environments, ["dev", "lab"]);
    assert_eq!(machine.listening.len(), 2);
    assert_eq!(machine.address("old"), None);
    assert!(machine.events.iter().any(
        |event| matches!(event, Event::EnvironmentSwitched { environment, .. } if environment == "dev")
    ));
}

#[test]
fn a_listener_that_both_environments_want_is_kept_and_aimed_anew() {
    // Two addresses for two services in each environment: the second has to take those of the first.
    let pool = Pool::builder()
        .prefix("127.78.0.0/30".parse().unwrap())
        .quarantine(Duration::ZERO)
        .build()
        .unwrap();
    let services = || [service("a", &[80]), service("b", &[80])];
    let mut machine = Machine::with(settings(&[Some("staging")]), pool);
    machine.settle();
    machine.update(Update::Snapshot(catalog(services())));
    assert_eq!(machine.listening.len(), 2);
    machine
        .state
        .switch_environment(ONLY, "dev".parse().unwrap(), machine.now);
    machine.settle();
    machine.update(Update::Snapshot(catalog_of("dev", services())));
    assert_eq!(machine.listening.len(), 2);
    assert!(
        machine.opened.values().all(|times| *times == 1),
        "{:?}",
        machine.opened
    );
    assert!(
        machine
            .listening
            .values()
            .all(|owner| owner.environment.as_str() == "dev")
    );
}

#[test]
fn of_two_providers_with_one_name_the_first_in_the_configuration_has_it() {
    for first_to_answer in [ONLY, SECOND] {
        let mut machine = Machine::of(&[None, None]);
        machine.settle();
        let catalogs = [
            catalog([service("orders", &[5432])]),
            catalog_of("lab", [service("orders", &[5432]), service("mine", &[90])]),
        ];
        let order = [first_to_answer, ProviderId(1 - first_to_answer.0)];
        for provider in order {
            machine.told(provider, Update::Snapshot(catalogs[provider.0].clone()));
            machine.settle();
        }
        let names = machine.names();
        let owner = machine
            .listening
            .iter()
            .find(|(at, _)| names["orders.backend"] == [at.address]);
        assert_eq!(owner.unwrap().1.provider, ONLY);
        assert!(
            names.contains_key("orders.backend.lab"),
            "the qualified name stays: {names:?}"
        );
        assert!(names.contains_key("mine.backend"));
        let report = machine.report();
        assert_eq!(report.clashes[0].name, "orders.backend");
        assert_eq!(report.clashes[0].owner, "orders.backend of p0");
        assert!(
            machine
                .events
                .iter()
                .any(|event| matches!(event, Event::NameClash(_)))
        );
        machine.stop();
        assert!(machine.names.is_empty() && machine.listening.is_empty());
    }
}

#[test]
fn a_session_starts_with_the_providers_that_answer_and_takes_the_others_later() {
    let mut machine = Machine::of(&[None, None]);
    machine.failures.insert(ONLY, unreachable());
    machine.settle();
    machine.told(
        SECOND,
        Update::Snapshot(catalog_of("lab", [service("mine", &[90])])),
    );
    machine.settle();
    let is_ready = |machine: &Machine| {
        machine
            .events
            .iter()
            .any(|event| matches!(event, Event::Ready { .. }))
    };
    assert!(!is_ready(&machine), "the first is still being tried");
    for _ in 0..5 {
        machine.now += Duration::from_secs(10);
        machine.settle();
    }
    assert!(is_ready(&machine));
    assert!(machine.events.iter().any(
        |event| matches!(event, Event::ProviderFailed { provider, retried: true, .. } if provider == "p0")
    ));
    machine.failures.clear();
    machine.now += Duration::from_secs(10);
    machine.settle();
    machine.update(Update::Snapshot(catalog([service("orders", &[5432])])));
    assert_eq!(machine.listening.len(), 2);
    assert!(matches!(machine.events.last(), Some(Event::ServiceUp { .. })));
}

#[test]
fn one_provider_that_is_lost_or_refused_leaves_the_others_alone() {
    let mut machine = Machine::of(&[None, None]);
    machine.settle();
    machine.told(ONLY, Update::Snapshot(catalog([service("orders", &[5432])])));
    machine.told(
        SECOND,
        Update::Snapshot(catalog_of("lab", [service("mine", &[90])])),
    );
    machine.settle();
    machine.failures.insert(ONLY, refused());
    machine.lose_link(ONLY);
    machine.now += Duration::from_secs(60);
    machine.settle();
    assert_eq!(machine.state.finished(), None);
    assert_eq!(machine.admitted.keys().collect::<Vec<_>>(), [&SECOND]);
    assert_eq!(machine.listening.len(), 2);
}

#[test]
fn a_session_none_of_whose_providers_answers_gives_up() {
    let mut machine = Machine::of(&[None, None]);
    machine.failures.insert(ONLY, unreachable());
    machine.failures.insert(SECOND, refused());
    for _ in 0..10 {
        machine.settle();
        machine.now += Duration::from_secs(10);
    }
    assert!(matches!(
        machine.state.finished(),
        Some(StopReason::Unreachable { .. })
    ));
}

#[test]
fn a_catalog_that_was_stale_is_fresh_with_the_next_link_unless_it_says_so_again() {
    let stale = || Update::Health(service_catalog::Health::stale("line 3"));
    let mut machine = ready([service("web", &[80])]);
    machine.update(stale());
    assert!(machine.report().providers[0].stale.is_some());
    machine.lose_link(ONLY);
    machine.now += Duration::from_secs(10);
    machine.settle();
    machine.update(Update::Snapshot(catalog([service("web", &[80])])));
    assert_eq!(machine.report().providers[0].stale, None);
    machine.update(stale());
    assert!(machine.report().providers[0].stale.is_some());
}

#[test]
fn running_out_of_descriptors_is_said_once_with_the_number_and_mends_itself() {
    let mut machine = Machine::new();
    machine.descriptors = 100;
    machine.settle();
    machine.update(Update::Snapshot(catalog(
        (0..1000).map(|n| service(&format!("s{n}"), &[80])),
    )));
    assert_eq!(machine.listening.len(), 100);
    assert_eq!(machine.names.len(), 100, "what could be opened is offered");
    let counted = |machine: &Machine| {
        let told = machine.events.iter().filter_map(|event| match event {
            Event::OutOfDescriptors { services } => Some(*services),
            Event::PortDegraded { .. } => panic!("not one by one"),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(counted(&machine), [900]);
    for _ in 0..3 {
        machine.now = machine.state.poll_timeout().unwrap();
        machine.settle();
    }
    assert_eq!(counted(&machine), [900], "said once");
    machine.descriptors = usize::MAX;
    machine.now = machine.state.poll_timeout().unwrap();
    machine.settle();
    assert_eq!(machine.listening.len(), 1000);
    assert_eq!(machine.names.len(), 1000);
    assert!(machine.events.contains(&Event::DescriptorsAvailable));
}

#[test]
fn reaching_the_limit_of_connections_is_said_once_and_counted() {
    let mut machine = Machine::new();
    let limit = devbox_session::MAX_CONNECTIONS;
    let told = |machine: &mut Machine| {
        let events = std::iter::from_fn(|| machine.state.poll_event());
        events.collect::<Vec<_>>()
    };
    told(&mut machine);
    machine.state.handle_connections(0, limit);
    assert_eq!(told(&mut machine), []);
    machine.state.handle_connections(1, limit);
    assert_eq!(told(&mut machine), [Event::TooManyConnections { limit }]);
    for rejected in 2..100 {
        machine.state.handle_connections(rejected, limit);
        machine.state.handle_connections(rejected, limit - 1);
    }
    assert_eq!(told(&mut machine), [], "said once");
    let report = machine.state.report(|_| Traffic::default());
    assert_eq!(report.rejected.map(|rejected| rejected.connections), Some(99));
    // There was room meanwhile.
    machine.state.handle_connections(99, limit / 2);
    machine.state.handle_connections(100, limit);
    assert_eq!(told(&mut machine), [Event::TooManyConnections { limit }]);
}

#[test]
fn aliases_members_and_services_without_ports_have_their_names() {
    let mut orders = service("orders", &[5432]);
    orders.aliases = vec!["db".parse().unwrap()];
    let member: ServiceId = "db-0.postgres.backend".parse().unwrap();
    let member = Service::new(member, vec![Port::tcp(5432.try_into().unwrap())]).unwrap();
    let alias = Service::alias("shop.backend".parse().unwrap(), "orders.backend".parse().unwrap());
    let dangling = Service::alias("lost.backend".parse().unwrap(), "nobody.backend".parse().unwrap());
    let mut machine = Machine::new();
    machine.settle();
    machine.told(
        ONLY,
        Update::Snapshot(catalog([orders, member, alias, dangling, service("bare", &[])])),
    );
    machine.portless.extend(machine.address("bare"));
    machine.settle();
    let names = machine.names();
    let orders = vec![machine.address("orders").unwrap()];
    for name in [
        "orders.backend",
        "db.backend",
        "shop.backend",
        "shop.backend.svc.cluster.local",
    ] {
        assert_eq!(names.get(name), Some(&orders), "{name}");
    }
    assert!(names.contains_key("db-0.postgres.backend") && !names.contains_key("lost.backend"));
    assert_eq!(names["bare.backend"], [machine.address("bare").unwrap()]);
}

#[test]
fn changes_that_do_not_end_keep_no_listener_open_and_cost_a_quarter_of_the_time() {
    let mut machine = ready((0..10).map(|n| service(&format!("s{n}"), &[80])));
    let took = Duration::from_millis(50);
    let begun = machine.now;
    let mut closed = Vec::new();
    for round in 0..100 {
        // One goes or comes back while the names are on their way, again and again.
        let other = service(&format!("s{}", round % 5), &[80]);
        let change = |there: bool| Update::Changed {
            upserted: there.then(|| other.clone()).into_iter().collect(),
            removed: (!there).then(|| other.id.clone()).into_iter().collect(),
        };
        let published = loop {
            match machine.state.poll_step(machine.now) {
                Some(Step::Publish { sink, records }) => break Some((sink, records)),
                Some(step) => {
                    if let Step::Close { endpoints, .. } = &step {
                        closed.extend(endpoints.iter().copied());
                    }
                    machine.perform(step);
                }
                None => break None,
            }
        };
        machine.told(ONLY, change(round / 5 % 2 == 1));
        if let Some((sink, records)) = published {
            machine.now += took;
            machine.writes += 1;
            machine.names = records.clone();
            machine
                .state
                .handle_published(sink, records, Ok(Published::default()), machine.now);
        } else if let Some(at) = machine.state.poll_timeout() {
            machine.now = machine.now.max(at);
        }
    }
    let passed = (machine.now - begun).as_secs_f64();
    let writing = (machine.writes - 1) as f64 * took.as_secs_f64();
    assert!(closed.len() > 10, "{} were closed", closed.len());
    assert!(writing / passed < 0.26, "{writing} of {passed} s");
}

#[test]
fn addresses_worth_keeping_are_told_however_many_there_are() {
    let mut machine = ready((0..5000).map(|n| service(&format!("s{n}"), &[80])));
    let leased = |changes: &[LeaseChange]| {
        let leased = changes
            .iter()
            .filter(|change| matches!(change, LeaseChange::Leased { .. }));
        leased.count()
    };
    let changes = machine.state.take_lease_changes();
    assert_eq!((changes.len(), leased(&changes)), (5000, 5000));
    machine.update(Update::Snapshot(catalog([])));
    let changes = machine.state.take_lease_changes();
    assert_eq!((changes.len(), leased(&changes)), (5000, 0));
}

#[test]
fn a_stop_while_a_step_hangs_is_taken_at_once_and_a_second_one_waits_for_nothing() {
    let mut machine = ready([service("web", &[80])]);
    machine.told(
        ONLY,
        Update::Changed {
            upserted: vec![service("new", &[81])],
            removed: Vec::new(),
        },
    );
    let mut hanging = VecDeque::new();
    while let Some(step) = machine.state.poll_step(machine.now) {
        match step {
            Step::Publish { .. } => hanging.push_back(step),
            step => machine.perform(step),
        }
    }
    assert_eq!(hanging.len(), 1);
    machine.stop();
    assert!(machine.report().stopping && machine.state.finished().is_none());
    assert_eq!(machine.listening.len(), 2, "names go first");
    // The names that could not be withdrawn are the helper's to undo.
    machine.publishing_fails = true;
    machine.stop();
    assert!(machine.listening.is_empty());
    assert!(matches!(
        machine.state.finished(),
        Some(StopReason::Requested { .. })
    ));
}

#[test]
fn no_timer_is_due_while_what_it_is_for_is_under_way() {
    let mut machine = ready([service("web", &[80])]);
    machine.publishing_fails = true;
    machine.update(Update::Changed {
        upserted: vec![service("new", &[81])],
        removed: Vec::new(),
    });
    machine.now = machine.state.poll_timeout().expect("it is tried again");
    let Some(Step::Publish { .. }) = machine.state.poll_step(machine.now) else {
        panic!("it is published again")
    };
    machine.now += Duration::from_secs(1);
    assert_eq!(
        machine.state.poll_timeout(),
        None,
        "a timer in the past is a busy loop"
    );
}

#[test]
fn slow_rounds_of_binding_do_not_keep_the_names_from_being_published() {
    let mut machine = Machine::new();
    machine.settle();
    let services = [service("a", &[80]), service("b", &[81]), service("good", &[5432])];
    machine.told(ONLY, Update::Snapshot(catalog(services)));
    for _ in 0..200 {
        match machine.state.poll_step(machine.now) {
            // A helper that hangs: each bind of a low port takes its whole time.
            Some(Step::Bind {
                service,
                address,
                endpoints,
                all_or_none,
            }) if endpoints[0].0.port < 1024 => {
                machine.now += Duration::from_secs(10);
                let after = Duration::from_secs(10);
                let timed_out = endpoints.iter().map(|(endpoint, _)| {
                    (
                        *endpoint,
                        Err(BindFault::TimedOut {
                            endpoint: *endpoint,
                            after,
                        }),
                    )
                });
                let results = timed_out.collect();
                machine
                    .state
                    .handle_bound(&service, address, all_or_none, results);
            }
            Some(step) => machine.perform(step),
            None => break,
        }
    }
    assert_eq!(machine.names.len(), 1, "what listens has its name");
    assert!(machine.report().ready);
}

#[test]
fn a_claim_that_was_given_up_while_it_was_under_way_is_not_kept() {
    let mut machine = Machine::of(&[Some("staging")]);
    let Some(Step::Connect { provider, .. }) = machine.state.poll_step(machine.now) else {
        panic!("connect comes first")
    };
    machine.state.handle_connected(provider, machine.now);
    machine.told(ONLY, Update::Snapshot(catalog([service("web", &[80])])));
    let mut claiming = None;
    while let Some(step) = machine.state.poll_step(machine.now) {
        match step {
            Step::Claim { environment } => claiming = Some(environment),
            step => machine.perform(step),
        }
    }
    let staging = claiming.expect("the environment is claimed");
    machine
        .state
        .switch_environment(ONLY, "dev".parse().unwrap(), machine.now);
    machine.settle();
    machine.update(Update::Snapshot(catalog_of("dev", [service("web", &[80])])));
    machine.claimed.insert(staging.clone());
    machine.state.handle_claimed(&staging);
    machine.settle();
    let claimed: Vec<_> = machine.claimed.iter().map(Label::as_str).collect();
    assert_eq!(claimed, ["dev"]);
}

#[test]
fn a_listener_that_opens_for_an_address_that_was_left_is_closed() {
    let mut machine = ready([service("web", &[8080])]);
    let home = machine.endpoint("web", 8080);
    machine.update(Update::Snapshot(catalog([])));
    machine.in_use.insert(home);
    machine.told(ONLY, Update::Snapshot(catalog([service("web", &[8080])])));
    // The bind of another candidate is under way when the service leaves and comes back, home again.
    let mut late = None;
    while let Some(step) = machine.state.poll_step(machine.now) {
        match step {
            Step::Bind { address, .. } if address != home.address => {
                late = Some(step);
                break;
            }
            step => machine.perform(step),
        }
    }
    machine.told(ONLY, Update::Snapshot(catalog([])));
    machine.told(ONLY, Update::Snapshot(catalog([service("web", &[8080])])));
    machine.in_use.clear();
    machine.perform(late.expect("another candidate is tried"));
    machine.settle();
    assert_eq!(machine.listening.keys().collect::<Vec<_>>(), [&home]);
}

#[test]
fn a_far_side_that_lets_in_and_sends_no_catalog_is_given_up() {
    let mut machine = Machine::new();
    for _ in 0..20 {
        machine.settle();
        if machine.state.finished().is_some() {
            break;
        }
        machine.now = machine
            .state
            .poll_timeout()
            .expect("it is not waited for without end");
    }
    assert!(matches!(
        machine.state.finished(),
        Some(StopReason::Unreachable { tries: 3, .. })
    ));
}

#[test]
fn what_happens_to_a_session_that_is_stopping_is_no_second_request() {
    let mut machine = ready([service("web", &[80])]);
    machine.state.stop(StopReason::Requested {
        by: "test".to_owned(),
    });
    machine.state.handle_superseded(ONLY, "generation 9".to_owned());
    machine.state.handle_helper_lost();
    assert!(!machine.state.is_hurried());
}

/// Something that may happen.
#[derive(Debug, Clone)]
enum Happening {
    Snapshot(usize, BTreeMap<u8, Offer>),
    Change {
        provider: usize,
        upserted: BTreeMap<u8, Offer>,
        removed: BTreeSet<u8>,
    },
    LinkLost(usize),
    Unreachable(usize, bool),
    Switch(usize, bool),
    Wait(u16),
    Take(u8, u16),
    Descriptors(usize),
    /// One step only, so that the next thing happens in the middle.
    Step,
    Settle,
}

/// What a catalog has under one name.
#[derive(Debug, Clone)]
enum Offer {
    Ports {
        ports: BTreeSet<u16>,
        given: BTreeSet<u8>,
        order: Option<u16>,
    },
    OtherName(u8),
}

fn offer() -> impl Strategy<Value = Offer> {
    let ports = proptest::collection::btree_set(prop_oneof![Just(80_u16), Just(443), Just(5432)], 1..3);
    let given = proptest::collection::btree_set(0_u8..3, 0..3);
    let order = proptest::option::weighted(0.3, 0_u16..3);
    prop_oneof![
        4 => (ports, given, order).prop_map(|(ports, given, order)| Offer::Ports { ports, given, order }),
        1 => (0_u8..6).prop_map(Offer::OtherName),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    let services = || proptest::collection::btree_map(0_u8..6, offer(), 0..5);
    prop_oneof![
        2 => (0_usize..2, services()).prop_map(|(provider, all)| Happening::Snapshot(provider, all)),
        4 => (0_usize..2, services(), proptest::collection::btree_set(0_u8..6, 0..3))
            .prop_map(|(provider, upserted, removed)| Happening::Change { provider, upserted, removed }),
        1 => (0_usize..2).prop_map(Happening::LinkLost),
        1 => (0_usize..2, any::<bool>()).prop_map(|(provider, away)| Happening::Unreachable(provider, away)),
        1 => (0_usize..2, any::<bool>()).prop_map(|(provider, to)| Happening::Switch(provider, to)),
        1 => (0_u16..10_000).prop_map(Happening::Wait),
        1 => (0_u8..6, Just(80_u16)).prop_map(|(service, port)| Happening::Take(service, port)),
        1 => (3_usize..30).prop_map(Happening::Descriptors),
        6 => Just(Happening::Step),
        3 => Just(Happening::Settle),
    ]
}

fn services(wanted: &BTreeMap<u8, Offer>) -> Vec<Service> {
    let id = |number: &u8| -> ServiceId { format!("s{number}.backend").parse().unwrap() };
    let wanted = wanted.iter().map(|(number, offer)| match offer {
        Offer::OtherName(of) => Service::alias(id(number), id(of)),
        Offer::Ports { ports, given, order } => Service {
            aliases: given
                .iter()
                .map(|given| format!("g{given}").parse().unwrap())
                .collect(),
            order: *order,
            ..service(&format!("s{number}"), &ports.iter().copied().collect::<Vec<_>>())
        },
    });
    wanted.collect()
}

/// What each provider serves: as the session was last told by a link that it trusts.
struct FarSides {
    environments: [Label; 2],
    wanted: [Catalog; 2],
}

impl FarSides {
    fn tell(&mut self, machine: &mut Machine, provider: usize, update: Update) {
        let report = machine.report();
        let link = &report.providers[provider];
        // A change means something only on a link whose catalog came; a snapshot, on any link that is not given up.
        let heard = match (&update, &link.link) {
            (_, LinkState::Up) => true,
            (Update::Snapshot(_), LinkState::Connecting { .. }) => {
                machine.linked.contains(&ProviderId(provider))
            }
            _ => false,
        };
        let right = match &update {
            Update::Snapshot(catalog) => link
                .environment
                .as_deref()
                .is_none_or(|wanted| wanted == catalog.environment.as_str()),
            _ => true,
        };
        if heard && right {
            self.wanted[provider].apply(&update);
        }
        machine.told(ProviderId(provider), update);
    }

    /// Every name and where it leads, put together from all that is served and what listens for it.
    fn names(&self, machine: &Machine) -> BTreeMap<String, Vec<IpAddr>> {
        let mut wishes = Vec::new();
        for (provider, catalog) in self.wanted.iter().enumerate() {
            for service in catalog.services.values() {
                let target = service.alias_of.as_ref().unwrap_or(&service.id);
                let leads_on = |target: &Service| target.alias_of.is_none();
                if !catalog.services.get(target).is_some_and(leads_on) {
                    continue;
                }
                let key = ServiceKey {
                    provider: ProviderId(provider),
                    environment: catalog.environment.clone(),
                    service: target.clone(),
                };
                let listening = machine.listening.iter().filter(|(_, owner)| **owner == key);
                let addresses: BTreeSet<IpAddr> = listening.map(|(endpoint, _)| endpoint.address).collect();
                if addresses.is_empty() {
                    continue;
                }
                let order = service.order.map_or((1, 0), |order| (0, order));
                let names = |id: &ServiceId| NamesPolicy::default().names(id, &catalog.environment);
                let given = service.aliases.iter().map(|alias| ServiceId {
                    name: alias.clone(),
                    ..service.id.clone()
                });
                let given = given.flat_map(|id| names(&id)).map(|name| (true, name));
                for (given, name) in names(&service.id)
                    .into_iter()
                    .map(|name| (false, name))
                    .chain(given)
                {
                    wishes.push((
                        (given, provider, order, service.id.clone()),
                        name,
                        addresses.clone(),
                    ));
                }
            }
        }
        wishes.sort();
        let mut names = BTreeMap::new();
        for (_, name, addresses) in wishes {
            names
                .entry(name)
                .or_insert_with(|| addresses.into_iter().collect());
        }
        names
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_names_follow_listeners_and_the_end_leaves_nothing(
        happenings in proptest::collection::vec(happening(), 0..80),
    ) {
        let mut machine = Machine::of(&[None, None]);
        let mut far = FarSides {
            environments: ["staging".parse().unwrap(), "lab".parse().unwrap()],
            wanted: [catalog([]), catalog_of("lab", [])],
        };
        machine.settle();
        for provider in 0..2 {
            let empty = far.wanted[provider].clone();
            far.tell(&mut machine, provider, Update::Snapshot(empty));
        }
        machine.settle();
        for happening in happenings {
            let settled = matches!(happening, Happening::Settle);
            match happening {
                Happening::Snapshot(provider, all) => {
                    let catalog = Catalog::new(far.environments[provider].clone(), services(&all)).unwrap();
                    far.tell(&mut machine, provider, Update::Snapshot(catalog));
                }
                Happening::Change { provider, upserted, removed } => {
                    let removed: Vec<ServiceId> = removed
                        .iter()
                        .filter(|n| !upserted.contains_key(n))
                        .map(|n| format!("s{n}.backend").parse().unwrap())
                        .collect();
                    far.tell(&mut machine, provider, Update::Changed { upserted: services(&upserted), removed });
                }
                Happening::LinkLost(provider) => machine.lose_link(ProviderId(provider)),
                Happening::Unreachable(provider, away) => {
                    if away {
                        machine.failures.insert(ProviderId(provider), unreachable());
                    } else {
                        machine.failures.remove(&ProviderId(provider));
                    }
                }
                Happening::Switch(provider, to) => {
                    // Each its own two: two providers of one environment share all names, of which one has none then.
                    let names = [["staging", "dev"], ["lab", "lab-two"]];
                    let environment: Label = names[provider][usize::from(to)].parse().unwrap();
                    far.environments[provider] = environment.clone();
                    machine.state.switch_environment(ProviderId(provider), environment, machine.now);
                }
                Happening::Wait(millis) => machine.now += Duration::from_millis(u64::from(millis)),
                Happening::Take(n, port) => {
                    if let Some(address) = machine.address(&format!("s{n}")) {
                        let at = Endpoint::tcp(SocketAddr::new(address, port));
                        if !machine.listening.contains_key(&at) {
                            machine.in_use.insert(at);
                        }
                    }
                }
                Happening::Descriptors(count) => machine.descriptors = count,
                Happening::Step => {
                    if let Some(step) = machine.state.poll_step(machine.now) {
                        machine.perform(step);
                    }
                }
                Happening::Settle => machine.settle(),
            }
            if settled {
                let report = machine.report();
                for (provider, environment) in &machine.admitted {
                    let expected = report.providers[provider.0].environment.as_deref();
                    prop_assert_eq!(expected, Some(environment.as_str()));
                }
                prop_assert_eq!(machine.names(), far.names(&machine), "as if put together anew");
            }
        }
        machine.settle();
        let report = machine.report();
        let mut listening = 0;
        for service in &report.services {
            for port in &service.ports {
                prop_assert_ne!(&port.state, &PortState::Opening);
                if port.state == PortState::Listening {
                    listening += 1;
                    let at = Endpoint::tcp(SocketAddr::new(service.addresses[0], port.port));
                    let owner = machine.listening.get(&at).expect("it listens");
                    prop_assert_eq!(&owner.service, &service.service);
                    prop_assert_eq!(owner.environment.as_str(), &service.environment);
                }
            }
        }
        for (provider, wanted) in far.wanted.iter().enumerate() {
            let name = format!("p{provider}");
            let has: Vec<_> = report
                .services
                .iter()
                .filter(|service| service.provider == name)
                .map(|service| &service.service)
                .collect();
            prop_assert_eq!(has, wanted.services.keys().collect::<Vec<_>>());
        }
        prop_assert_eq!(machine.listening.len(), listening, "nothing listens that is not wanted");
        prop_assert_eq!(machine.names(), far.names(&machine));
        let named: BTreeSet<_> = machine.names().into_values().flatten().collect();
        let reachable: BTreeSet<_> = machine.listening.keys().map(|at| at.address).collect();
        prop_assert_eq!(named, reachable, "every service that listens has a name, and no other");
        machine.stop();
        let ended = matches!(machine.state.finished(), Some(StopReason::Requested { .. }));
        prop_assert!(ended);
        prop_assert!(machine.listening.is_empty());
        prop_assert!(machine.names.is_empty());
    }
}

/// Lets time pass in small steps, as a driver does.
fn pass(machine: &mut Machine, time: Duration) {
    let end = machine.now + time;
    loop {
        machine.settle();
        match machine.state.poll_timeout() {
            Some(due) if due <= end => machine.now = machine.now.max(due),
            _ => break,
        }
    }
    machine.now = end;
    machine.settle();
}

#[test]
fn after_a_change_of_network_each_link_is_checked_once_for_a_burst() {
    let mut machine = Machine::of(&[None, None]);
    machine.settle();
    machine.told(ProviderId(0), Update::Snapshot(catalog([])));
    machine.told(ProviderId(1), Update::Snapshot(catalog([])));
    for _ in 0..10 {
        machine.state.handle_nudge(machine.now);
        pass(&mut machine, Duration::from_millis(20));
    }
    pass(&mut machine, Duration::from_millis(100));
    assert_eq!(machine.checked, [ProviderId(0), ProviderId(1)]);
    pass(&mut machine, Duration::from_secs(60));
    assert_eq!(machine.checked.len(), 2, "and not again without a reason");
    assert_eq!(machine.asked_for.len(), 2, "nothing was connected anew");
}

#[test]
fn after_a_change_of_network_a_lost_link_is_tried_at_once_and_the_pauses_begin_anew() {
    let mut machine = Machine::new();
    machine.settle();
    machine.update(Update::Snapshot(catalog([])));
    machine.failures.insert(ONLY, unreachable());
    machine.lose_link(ONLY);
    pass(&mut machine, Duration::from_secs(120));
    // The next try is seconds away.
    let tries = machine.asked_for.len();
    machine.state.handle_nudge(machine.now);
    pass(&mut machine, Duration::from_millis(100));
    assert_eq!(machine.asked_for.len(), tries + 1);
    // Pauses of 0.1, 0.2 and 0.4 s again.
    pass(&mut machine, Duration::from_millis(700));
    assert!(
        machine.asked_for.len() >= tries + 4,
        "{}",
        machine.asked_for.len() - tries
    );
    machine.failures.clear();
    machine.state.handle_nudge(machine.now);
    pass(&mut machine, Duration::from_secs(1));
    machine.update(Update::Snapshot(catalog([])));
    assert_eq!(machine.report().providers[0].link, LinkState::Up);
}

#[test]
fn an_interruption_is_shown_at_once_told_after_a_second_and_over_without_a_trace_before() {
    const WINDOW: Duration = Duration::from_secs(60);
    let mut machine = Machine::new();
    machine.settle();
    machine.update(Update::Snapshot(catalog([])));
    machine.events.clear();
    for resumes in 1..=20 {
        machine
            .state
            .handle_link_interrupted(ONLY, machine.now, machine.now + WINDOW);
        assert_eq!(
            machine.report().providers[0].link,
            LinkState::Interrupted { window_ms: 60_000 }
        );
        pass(&mut machine, Duration::from_millis(900));
        machine.state.handle_link_resumed(ONLY, machine.now, resumes);
        pass(&mut machine, Duration::from_millis(900));
    }
    assert_eq!(machine.events, []);
    assert_eq!(machine.report().providers[0].resumed, 20);

    machine
        .state
        .handle_link_interrupted(ONLY, machine.now, machine.now + WINDOW);
    pass(&mut machine, Duration::from_secs(30));
    machine.state.handle_link_resumed(ONLY, machine.now, 21);
    pass(&mut machine, Duration::from_secs(30));
    let provider = machine.report().providers[0].name.clone();
    assert_eq!(
        machine.events,
        [
            Event::LinkInterrupted {
                provider: provider.clone(),
                window: WINDOW
            },
            Event::LinkResumed {
                provider,
                away: Duration::from_secs(30)
            }
        ]
    );
    assert_eq!(machine.asked_for.len(), 1, "it was one link all the while");

    // The window ends: it is lost as any link, since the interruption.
    machine.events.clear();
    machine
        .state
        .handle_link_interrupted(ONLY, machine.now, machine.now + WINDOW);
    pass(&mut machine, WINDOW);
    machine.lose_link(ONLY);
    pass(&mut machine, Duration::from_secs(1));
    machine.update(Update::Snapshot(catalog([])));
    machine.settle();
    assert!(
        matches!(
            machine.events.as_slice(),
            [Event::LinkInterrupted { .. }, Event::LinkLost { .. }, Event::LinkRestored { away, .. }]
                if *away >= WINDOW
        ),
        "{:?}",
        machine.events
    );
}

#[test]
fn links_that_went_on_are_counted_whether_or_not_their_interruption_was_seen() {
    let mut machine = Machine::new();
    machine.settle();
    // Before the catalog, and twice at once.
    machine.state.handle_link_resumed(ONLY, machine.now, 2);
    machine.update(Update::Snapshot(catalog([])));
    machine.events.clear();
    machine.state.handle_link_resumed(ONLY, machine.now, 3);
    machine.state.handle_link_resumed(ONLY, machine.now, 3);
    assert_eq!(machine.report().providers[0].resumed, 3);

    pass(&mut machine, Duration::from_secs(30));
    machine.lose_link(ONLY);
    pass(&mut machine, Duration::from_secs(1));
    machine.update(Update::Snapshot(catalog([])));
    machine.state.handle_link_resumed(ONLY, machine.now, 1);
    assert_eq!(machine.report().providers[0].resumed, 4, "of both links");
}

/// A service with one number by TCP and by UDP.
fn both(name: &str, port: u16) -> Service {
    let number = NonZeroU16::new(port).unwrap();
    let mut udp = Port::tcp(number);
    udp.protocol = service_catalog::Protocol::Udp;
    let ports = vec![Port::tcp(number), udp];
    Service::new(format!("{name}.backend").parse().unwrap(), ports).unwrap()
}

fn udp_state(machine: &Machine) -> PortState {
    let services = machine.report().services;
    let mut ports = services[0].ports.iter();
    let udp = ports.find(|port| port.protocol == devbox_helper_client::Protocol::Udp);
    udp.unwrap().state.clone()
}

#[test]
fn a_udp_port_that_the_link_does_not_carry_is_not_opened_when_its_service_is_tried_again() {
    let mut machine = Machine::with(
        settings(&[None]),
        Pool::new(["127.77.0.1/32".parse().unwrap()]).unwrap(),
    );
    machine.settle();
    machine.state.handle_datagrams(ONLY, false);
    // There is no other address to move to.
    machine.held.insert(53);
    machine.update(Update::Snapshot(catalog([both("dns", 53)])));
    assert!(machine.listening.is_empty());
    machine.held.clear();
    for _ in 0..3 {
        pass(&mut machine, Duration::from_secs(10));
    }
    let open: Vec<_> = machine.listening.keys().map(|at| at.protocol).collect();
    assert_eq!(open, [devbox_helper_client::Protocol::Tcp]);
    let PortState::Degraded(reason) = udp_state(&machine) else {
        panic!("{:?}", udp_state(&machine));
    };
    assert!(reason.contains("carries no UDP"), "{reason}");

    machine.state.handle_datagrams(ONLY, true);
    machine.settle();
    assert_eq!(udp_state(&machine), PortState::Listening);
    assert_eq!(machine.listening.len(), 2);
}

#[test]
fn a_udp_port_that_opens_once_the_link_does_not_carry_it_is_closed() {
    let mut machine = Machine::new();
    machine.settle();
    machine.state.handle_datagrams(ONLY, true);
    machine.told(ONLY, Update::Snapshot(catalog([both("dns", 53)])));
    let mut late = None;
    while let Some(step) = machine.state.poll_step(machine.now) {
        match step {
            Step::Bind { .. } => {
                late = Some(step);
                break;
            }
            step => machine.perform(step),
        }
    }
    machine.state.handle_datagrams(ONLY, false);
    machine.perform(late.expect("its ports are opened"));
    machine.settle();
    let open: Vec<_> = machine.listening.keys().map(|at| at.protocol).collect();
    assert_eq!(open, [devbox_helper_client::Protocol::Tcp]);
    assert!(matches!(udp_state(&machine), PortState::Degraded(_)));
}

#[test]
fn a_service_with_options_that_nobody_provides_is_told_once() {
    let mut settings = settings(&[None]);
    let mistyped: ServiceId = "wbe.backend".parse().unwrap();
    settings
        .listening
        .services
        .insert(mistyped.clone(), ServiceOptions::default());
    let mut machine = Machine::with(settings, Pool::new(["127.77.0.0/16".parse().unwrap()]).unwrap());
    machine.settle();
    machine.update(Update::Snapshot(catalog([service("web", &[80])])));
    let told = machine
        .events
        .iter()
        .filter(|event| matches!(event, Event::UnknownService { .. }));
    let expected = Event::UnknownService {
        service: mistyped,
        similar: Some("web.backend".parse().unwrap()),
    };
    assert_eq!(told.collect::<Vec<_>>(), [&expected]);
}
