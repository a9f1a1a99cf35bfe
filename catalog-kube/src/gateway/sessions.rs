//! Which replica of an installed gateway has a session: a Lease for each, with the generation of its connection.
//!
//! A replica writes the Lease of a session that it lets in. The others watch the Leases, and let go of a session that another one has with
//! a newer connection. Nobody waits for a Lease: while the API server is away clients are let in all the same, and who is the newer one is
//! found out when it is back.

mod claims;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions, WatchEvent, WatchParams};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::claims::{ClaimId, Claims, Done, Held, Name, Step};
use super::own::LEASES;
use super::review::Reviews;
use crate::watch::POLL;
use crate::{Cluster, Error};

/// The label of the Leases, by which they are found.
const LABEL: &str = "devbox.dev/session";

/// The annotation that holds the generation: a Lease has no field for a number of 64 bits.
const GENERATION: &str = "devbox.dev/generation";

/// Requests at a time.
const AT_ONCE: usize = 16;

/// A watch ends by itself after so long, and goes on from where it was.
const WATCH_SECONDS: u32 = 60;

/// An answer is waited for so long.
const SILENCE: Duration = Duration::from_secs(15);

/// Between attempts to list the Leases.
const AGAIN: Duration = Duration::from_secs(1);

/// After so many failures in a row somebody should look.
const WORTH_A_WARNING: u32 = 10;

/// The pod that a replica of a gateway runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaPod {
    /// Its name.
    pub name: String,
    /// Its uid: its Leases go with it.
    pub uid: String,
}

/// A text that names no pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` names no pod: expected its name and its uid, as in gateway-1/0f6a", text.escape_debug())]
pub struct NoReplicaPod {
    text: String,
}

impl std::str::FromStr for ReplicaPod {
    type Err = NoReplicaPod;

    /// `NAME/UID`.
    fn from_str(text: &str) -> Result<Self, NoReplicaPod> {
        let graphic = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        text.split_once('/')
            .filter(|(name, uid)| [*name, *uid].into_iter().all(graphic) && !uid.contains('/'))
            .map(|(name, uid)| Self {
                name: name.to_owned(),
                uid: uid.to_owned(),
            })
            .ok_or_else(|| NoReplicaPod {
                text: text.to_owned(),
            })
    }
}

/// The sessions of all replicas of a gateway, as one of them knows them. The Leases are those of the namespace that the replica runs in.
pub struct SharedSessions {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    /// Locked for a look and a change only, never across an await.
    sessions: Mutex<Sessions>,
    /// There may be something to do.
    changed: Notify,
}

struct Sessions {
    claims: Claims,
    told: HashMap<ClaimId, watch::Sender<bool>>,
}

/// A session of this replica. It is given up when this is dropped.
pub struct SessionClaim {
    shared: Arc<Shared>,
    name: Name,
    id: ClaimId,
    displaced: watch::Receiver<bool>,
}

impl SharedSessions {
    /// Follows the Leases of the namespace that a gateway with these reviews runs in, until it is dropped.
    #[must_use]
    pub fn start(reviews: &Reviews, replica: &ReplicaPod) -> Self {
        let shared = Arc::new(Shared {
            sessions: Mutex::new(Sessions {
                claims: Claims::new(replica.name.as_str()),
                told: HashMap::new(),
            }),
            changed: Notify::new(),
        });
        let leases = Leases::new(reviews.cluster().clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(Arc::clone(&shared), leases.clone()));
        tasks.spawn(act(Arc::clone(&shared), leases, replica.clone()));
        Self {
            shared,
            _tasks: tasks,
        }
    }

    /// The generation of a session's connection at another replica, as far as is known.
    #[must_use]
    pub fn elsewhere(&self, session: &str) -> Option<u64> {
        self.shared.lock().claims.elsewhere(&name_of(session))
    }

    /// This replica has the session, with a connection of this generation.
    #[must_use]
    pub fn claim(&self, session: &str, generation: u64) -> SessionClaim {
        let name = name_of(session);
        let (told, displaced) = watch::channel(false);
        let id = {
            let mut sessions = self.shared.lock();
            let id = sessions.claims.claim(Arc::clone(&name), generation);
            sessions.told.insert(id, told);
            id
        };
        self.shared.changed.notify_one();
        SessionClaim {
            shared: Arc::clone(&self.shared),
            name,
            id,
            displaced,
        }
    }
}

impl fmt::Debug for SharedSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSessions").finish_non_exhaustive()
    }
}

impl SessionClaim {
    /// Resolves when another replica has the session with a newer connection.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn displaced(&self) {
        let mut displaced = self.displaced.clone();
        if displaced.wait_for(|displaced| *displaced).await.is_err() {
            // Nobody says it any more: a newer claim of this replica took its place.
            std::future::pending::<()>().await;
        }
    }

    /// The session's link goes on over a connection of this generation.
    pub fn renew(&self, generation: u64) {
        self.shared.lock().claims.renew(&self.name, self.id, generation);
        self.shared.changed.notify_one();
    }
}

impl Drop for SessionClaim {
    fn drop(&mut self) {
        {
            let mut sessions = self.shared.lock();
            sessions.claims.release(&self.name, self.id);
            sessions.told.remove(&self.id);
        }
        self.shared.changed.notify_one();
    }
}

impl fmt::Debug for SessionClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionClaim")
            .field("lease", &self.name)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Sessions> {
        // Nothing panics half-way through a change.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the claims what has happened, and whoever is displaced by it that they are.
    fn handle<T>(&self, happened: impl FnOnce(&mut Claims) -> T) -> T {
        let mut sessions = self.lock();
        let outcome = happened(&mut sessions.claims);
        while let Some(id) = sessions.claims.poll_displaced() {
            if let Some(told) = sessions.told.remove(&id) {
                told.send_replace(true);
            }
        }
        outcome
    }
}

/// A name that says nothing about the session, whatever it is called.
fn name_of(session: &str) -> Name {
    let digest = Sha256::digest(session);
    let hex = digest.iter().take(20).map(|byte| format!("{byte:02x}"));
    format!("devbox-session-{}", hex.collect::<String>()).into()
}

/// The Leases, as this gateway may use them. What it may not do is told by the [`Cluster`].
#[derive(Clone)]
struct Leases {
    cluster: Cluster,
    api: Api<Lease>,
}

impl Leases {
    fn new(cluster: Cluster) -> Self {
        let api = Api::namespaced(cluster.client().clone(), cluster.default_namespace());
        Self { cluster, api }
    }

    /// What came of a request.
    fn answered<T>(&self, verb: &str, answer: kube::Result<T>) -> Result<T, Error> {
        let namespace = Some(self.cluster.default_namespace());
        match answer {
            Ok(done) => {
                self.cluster.lacking().handle_done(verb, LEASES, namespace);
                Ok(done)
            }
            Err(error) => Err(self.cluster.failed(error, verb, LEASES, namespace)),
        }
    }
}

/// Tells what Leases there are and what becomes of them.
async fn follow(shared: Arc<Shared>, leases: Leases) {
    let mut failures = 0_u32;
    loop {
        let of_sessions = ListParams::default().labels(LABEL);
        let listed = timeout(SILENCE, leases.api.list(&of_sessions)).await;
        let listed = listed.map(|answer| leases.answered("list", answer));
        let mut version = match listed {
            Ok(Ok(list)) => {
                let version = list.metadata.resource_version.unwrap_or_default();
                let held = list.items.iter().filter_map(held).collect();
                shared.handle(|claims| claims.handle_list(number(&version), held));
                shared.changed.notify_one();
                failures = 0;
                version
            }
            Ok(Err(Error::Forbidden(_))) => {
                sleep(POLL).await;
                continue;
            }
            failed => {
                let because = match &failed {
                    Ok(Err(error)) => devbox_provider::with_causes(error),
                    _ => "no answer".to_owned(),
                };
                failures = failures.saturating_add(1);
                if failures == WORTH_A_WARNING {
                    tracing::warn!(because, "sessions at other replicas are not known");
                } else {
                    tracing::debug!(because, "the leases cannot be listed");
                }
                sleep(AGAIN).await;
                continue;
            }
        };
        let again = loop {
            if let Some(again) = watch_on(&shared, &leases, &mut version).await {
                break again;
            }
        };
        sleep(again).await;
    }
}

/// Watches for a while. Where it cannot go on from `version`, when to list again.
async fn watch_on(shared: &Shared, leases: &Leases, version: &mut String) -> Option<Duration> {
    let lost = Some(AGAIN / 4);
    let params = WatchParams {
        label_selector: Some(LABEL.to_owned()),
        timeout: Some(WATCH_SECONDS),
        bookmarks: true,
        ..WatchParams::default()
    };
    let Ok(watched) = timeout(SILENCE, leases.api.watch(&params, version)).await else {
        return lost;
    };
    let stream = match leases.answered("watch", watched) {
        Ok(stream) => stream,
        Err(Error::Forbidden(_)) => return Some(POLL),
        Err(_) => return lost,
    };
    let mut events = stream.boxed();
    let limit = Duration::from_secs(WATCH_SECONDS.into()) + SILENCE;
    loop {
        match timeout(limit, events.next()).await {
            Err(_) | Ok(None) => return None,
            Ok(Some(Err(_) | Ok(WatchEvent::Error(_)))) => return lost,
            Ok(Some(Ok(WatchEvent::Bookmark(mark)))) => *version = mark.metadata.resource_version,
            Ok(Some(Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease)))) => {
                move_on(version, &lease);
                if let Some((name, held)) = held(&lease) {
                    shared.handle(|claims| claims.handle_seen(name, held));
                }
            }
            Ok(Some(Ok(WatchEvent::Deleted(lease)))) => {
                move_on(version, &lease);
                let name = lease.metadata.name.unwrap_or_default().into();
                shared.handle(|claims| claims.handle_gone(&name, number(version)));
            }
        }
        shared.changed.notify_one();
    }
}

fn move_on(version: &mut String, lease: &Lease) {
    if let Some(of_lease) = &lease.metadata.resource_version {
        version.clone_from(of_lease);
    }
}

/// Does what is to be done.
async fn act(shared: Arc<Shared>, leases: Leases, replica: ReplicaPod) {
    let mut requests = JoinSet::new();
    loop {
        while requests.len() < AT_ONCE {
            let now = Instant::now().into_std();
            let Some(step) = shared.handle(|claims| claims.poll_step(now)) else {
                break;
            };
            requests.spawn(request(leases.clone(), replica.clone(), step));
        }
        let due = shared.lock().claims.poll_timeout();
        tokio::select! {
            Some(done) = requests.join_next(), if !requests.is_empty() => match done {
                Ok((name, done)) => {
                    let now = Instant::now().into_std();
                    shared.handle(|claims| claims.handle_done(&name, done, now));
                }
                Err(error) => tracing::error!(%error, "a request for a lease failed"),
            },
            () = shared.changed.notified() => {}
            () = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}

async fn request(leases: Leases, replica: ReplicaPod, step: Step) -> (Name, Done) {
    match step {
        Step::Write {
            name,
            generation,
            over,
        } => {
            let lease = lease(&name, &replica, generation, over);
            let params = PostParams::default();
            let (verb, written) = match over {
                None => (
                    "create",
                    timeout(SILENCE, leases.api.create(&params, &lease)).await,
                ),
                Some(_) => {
                    let replaced = leases.api.replace(&name, &params, &lease);
                    ("update", timeout(SILENCE, replaced).await)
                }
            };
            let done = match written.map(|answer| leases.answered(verb, answer)) {
                Ok(Ok(lease)) => held(&lease).map_or(Done::Conflict, |(_, held)| Done::Written(held)),
                Ok(Err(error)) => not_done(&error),
                Err(_) => Done::Failed,
            };
            (name, done)
        }
        Step::Delete { name, version } => {
            let params = DeleteParams {
                // Only as it was seen: another replica may have written it since.
                preconditions: Some(Preconditions {
                    resource_version: Some(version.to_string()),
                    uid: None,
                }),
                ..DeleteParams::default()
            };
            let deleted = timeout(SILENCE, leases.api.delete(&name, &params)).await;
            let done = match deleted.map(|answer| leases.answered("delete", answer)) {
                Ok(Ok(_)) => Done::Deleted,
                Ok(Err(error)) => not_done(&error),
                Err(_) => Done::Failed,
            };
            (name, done)
        }
    }
}

fn not_done(error: &Error) -> Done {
    match error {
        // It is there already, it is gone already, or it is another one than was seen.
        Error::Api { code: 404 | 409, .. } => Done::Conflict,
        error => {
            tracing::debug!(error = %devbox_provider::with_causes(error), "a lease is not written");
            Done::Failed
        }
    }
}

fn lease(name: &Name, replica: &ReplicaPod, generation: u64, over: Option<u64>) -> Lease {
    let labels = [
        ("app.kubernetes.io/name", "devbox-gateway"),
        // Its value says nothing: that it is there does.
        (LABEL, "true"),
    ];
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            labels: Some(
                labels
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            annotations: Some(BTreeMap::from([(GENERATION.to_owned(), generation.to_string())])),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: replica.name.clone(),
                uid: replica.uid.clone(),
                ..OwnerReference::default()
            }]),
            resource_version: over.map(|version| version.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(replica.name.clone()),
            ..LeaseSpec::default()
        }),
    }
}

fn held(lease: &Lease) -> Option<(Name, Held)> {
    let metadata = &lease.metadata;
    let generation = metadata.annotations.as_ref()?.get(GENERATION)?;
    let held = Held {
        holder: lease.spec.as_ref()?.holder_identity.as_deref()?.into(),
        generation: generation.parse().ok()?,
        version: number(metadata.resource_version.as_deref()?),
    };
    Some((metadata.name.as_deref()?.into(), held))
}

/// Versions of one kind of object are numbers that grow (Kubernetes API concepts, "Resource versions").
fn number(version: &str) -> u64 {
    version.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_says_what_was_written_into_it() {
        let pod: ReplicaPod = "devbox-gateway-1/0f6a".parse().unwrap();
        let name = name_of("laptop-1\0ada");
        let mut written = lease(&name, &pod, u64::MAX, Some(7));
        assert_eq!(written.metadata.resource_version.as_deref(), Some("7"));
        written.metadata.resource_version = Some("8".to_owned());
        let (of, held) = held(&written).unwrap();
        assert_eq!(of, name);
        assert_eq!(
            (&*held.holder, held.generation, held.version),
            ("devbox-gateway-1", u64::MAX, 8)
        );
    }

    #[test]
    fn its_name_is_one_of_an_object_and_tells_sessions_apart() {
        let names = ["laptop-1\0ada", "laptop-1\0bob", "laptop-2\0ada", ""].map(name_of);
        assert!(names.iter().all(|name| name.len() <= 63));
        assert!(names.iter().all(|name| {
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        }));
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    }

    #[test]
    fn a_pod_is_its_name_and_its_uid() {
        for no in ["", "/", "a", "a/", "/b", "a/b/c", "a /b", "$(POD_NAME)"] {
            no.parse::<ReplicaPod>().unwrap_err();
        }
    }
}
