//! What a language's binding calls, called from Rust: a session over a catalog file, its events, its failures.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use devbox_ffi::{
    CallbackError, Cancellation, DevboxError, DirectProvider, Event, EventListener, Limits, Names, Provider,
    Session, SessionConfig, StopReason,
};
use tempfile::NamedTempFile;

/// A catalog with one service, `web.backend`, and the port it has on this machine.
fn catalog() -> (NamedTempFile, u16) {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = service.local_addr().unwrap();
    let port = target.port();
    let mut file = NamedTempFile::new().unwrap();
    writeln!(file, "environment: dev\nservices:").unwrap();
    writeln!(
        file,
        "  - {{name: web, namespace: backend, ports: [{{port: {port}, target: \"{target}\"}}]}}"
    )
    .unwrap();
    (file, port)
}

fn config(catalog: &NamedTempFile, pool: &str) -> SessionConfig {
    SessionConfig {
        providers: vec![Provider::Direct(DirectProvider {
            name: "local".to_owned(),
            catalog: catalog.path().display().to_string(),
            environment: None,
        })],
        names: Names::default(),
        pool: vec![pool.to_owned()],
        publish: None,
        claim: false,
        take_names: false,
        lock_file: None,
        state_dir: None,
        share: false,
        limits: Limits::default(),
        dns: None,
        services: HashMap::new(),
    }
}

/// Any executor does: a foreign language brings its own.
fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn a_session_starts_resolves_and_stops_without_a_runtime_of_the_caller() {
    let (catalog, port) = catalog();
    let session = wait(Session::start(config(&catalog, "127.79.21.0/24"), None)).unwrap();
    let status = wait(session.ready(None)).unwrap();
    assert_eq!(status.services[0].service, "web.backend");
    assert_eq!(status.services[0].ports[0].port, port);
    assert_eq!(session.resolve("WEB.backend.svc."), status.services[0].addresses);
    assert_eq!(session.resolve("nobody.backend"), Vec::<String>::new());
    assert_eq!(session.id(), status.session);
    wait(session.stop("the test".to_owned())).unwrap();
    let by = "the test".to_owned();
    assert_eq!(wait(session.wait(None)).unwrap(), StopReason::Requested { by });
    assert_eq!(wait(session.status()).unwrap(), None);
}

#[test]
fn the_same_in_yaml() {
    let (catalog, _) = catalog();
    let yaml = format!(
        "providers: [{{kind: direct, name: local, catalog: {}}}]\npool: [127.79.22.0/24]\nnames: {{active: backend}}\n",
        catalog.path().display()
    );
    let session = wait(Session::start_yaml(yaml, None)).unwrap();
    wait(session.ready(None)).unwrap();
    assert_eq!(session.resolve("web").len(), 1);
}

#[test]
fn an_unknown_key_is_an_error_with_its_place() {
    let error = devbox_ffi::parse_config("providers: []\nspeed: 3\n").unwrap_err();
    assert!(
        matches!(error, DevboxError::ConfigText { line: Some(2), .. }),
        "{error:?}"
    );
    let yaml = "providers: [{kind: gateway, name: g, url: 'ws://127.0.0.1:1', tokn: x}]";
    assert!(matches!(
        devbox_ffi::parse_config(yaml),
        Err(DevboxError::ConfigText { .. })
    ));
}

#[test]
fn failures_have_a_variant_and_fields() {
    let (catalog, _) = catalog();
    let start = |config| wait(Session::start(config, None)).unwrap_err();
    let mut twice = config(&catalog, "127.79.23.0/24");
    twice.providers.push(twice.providers[0].clone());
    let name = "local".to_owned();
    assert_eq!(start(twice), DevboxError::DuplicateProvider { name });
    let wrong = start(config(&catalog, "127.79"));
    assert!(
        matches!(&wrong, DevboxError::Config { key, value, .. } if key == "pool" && value == "127.79"),
        "{wrong:?}"
    );
    let mut missing = config(&catalog, "127.79.23.0/24");
    missing.providers = vec![Provider::Direct(DirectProvider {
        name: "local".to_owned(),
        catalog: "/nowhere/catalog.yaml".to_owned(),
        environment: None,
    })];
    assert!(matches!(start(missing), DevboxError::Catalog { .. }));
}

#[test]
fn a_cancelled_call_ends_and_the_session_goes_on() {
    let (catalog, _) = catalog();
    let session = wait(Session::start(config(&catalog, "127.79.24.0/24"), None)).unwrap();
    let cancellation = Cancellation::new();
    let cancel = Arc::clone(&cancellation);
    let waiting = std::thread::spawn({
        let session = Arc::clone(&session);
        move || wait(session.wait(Some(cancellation))).err()
    });
    cancel.cancel();
    assert_eq!(waiting.join().unwrap(), Some(DevboxError::Cancelled));
    assert!(wait(session.ready(None)).unwrap().ready);
}

/// Throws, blocks and re-enters, and tells what it was told.
struct Difficult {
    told: Sender<Option<Event>>,
    session: Mutex<Option<Arc<Session>>>,
}

impl EventListener for Difficult {
    fn on_event(&self, event: Event) -> Result<(), CallbackError> {
        if let Some(session) = self.session.lock().unwrap().as_ref() {
            wait(session.status()).unwrap();
        }
        self.told.send(Some(event)).ok();
        Err(CallbackError::Thrown {
            reason: "it throws always".to_owned(),
        })
    }

    fn on_end(&self) -> Result<(), CallbackError> {
        self.told.send(None).ok();
        Ok(())
    }
}

#[test]
fn a_listener_that_throws_and_calls_the_session_gets_every_event_and_the_end() {
    let (catalog, _) = catalog();
    let session = wait(Session::start(config(&catalog, "127.79.25.0/24"), None)).unwrap();
    let (told, heard) = channel();
    let listener = Difficult {
        told,
        session: Mutex::new(Some(Arc::clone(&session))),
    };
    let subscription = session.subscribe(Arc::new(listener)).unwrap();
    let next = || heard.recv_timeout(Duration::from_secs(20)).unwrap();
    while !matches!(next().unwrap(), Event::Ready { .. }) {}
    wait(session.abort("the test".to_owned())).unwrap();
    let mut stopping = false;
    while let Some(event) = next() {
        stopping |= matches!(event, Event::Stopping { .. });
    }
    assert!(stopping);
    drop(subscription);
}

#[test]
fn a_closed_stream_ends_and_a_second_reader_gets_the_rest() {
    let (catalog, _) = catalog();
    let session = wait(Session::start(config(&catalog, "127.79.26.0/24"), None)).unwrap();
    let first = session.events();
    // What is said before, about names that a rule keeps from services, is told to the first reader as well.
    while !matches!(wait(first.next()).unwrap(), Event::Ready { .. }) {}
    let second = session.events();
    first.cancel();
    assert_eq!(wait(first.next()), None);
    wait(session.stop("the test".to_owned())).unwrap();
    assert!(matches!(wait(second.next()), Some(Event::Stopping { .. })));
    while wait(second.next()).is_some() {}
    assert_eq!(wait(second.next()), None);
}

#[test]
fn the_session_ends_when_its_last_reference_is_dropped_on_any_thread() {
    let (catalog, port) = catalog();
    let session = wait(Session::start(config(&catalog, "127.79.27.0/24"), None)).unwrap();
    let address = wait(session.ready(None)).unwrap().services[0].addresses[0].clone();
    let events = session.events();
    std::thread::spawn(move || drop(session)).join().unwrap();
    while wait(events.next()).is_some() {}
    assert!(
        std::net::TcpStream::connect((address, port)).is_err(),
        "it still listens"
    );
}
