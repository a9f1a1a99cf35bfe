//! The Job and the Secret of a gateway pod: whoever comes first creates them, and everybody else finds them.

use std::time::Duration;

use devbox_gateway_client::Token;
use devbox_provider::{ConnectError, with_causes};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{NotUp, PodOptions, manifest};
use crate::{Cluster, Error};

/// How often a Job that has ended is looked at until it is gone.
const GONE_YET: Duration = Duration::from_millis(100);

/// A user's gateway: its Job, and its token.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) job: String,
    uid: String,
    pub(crate) token: Token,
}

impl Ours {
    /// Whether a pod is the one of this Job, and not of a former one of its name.
    pub(crate) fn owns(&self, pod: &Pod) -> bool {
        manifest::owns(&self.uid, pod)
    }
}

fn jobs(cluster: &Cluster, options: &PodOptions) -> Api<Job> {
    Api::namespaced(cluster.client().clone(), &options.namespace)
}

/// Finds the user's gateway, or creates it.
pub(crate) async fn ensure(
    cluster: &Cluster,
    options: &PodOptions,
    deadline: Instant,
) -> Result<Ours, NotUp> {
    let user = user(cluster).await.unwrap_or_else(|| options.session.clone());
    let image = options.image.clone().unwrap_or_else(manifest::released_image);
    let name = manifest::job_name(&user, &image);
    let jobs = jobs(cluster, options);
    let failed = |verb| move |error| not_up(cluster, error, verb, "jobs", &options.namespace);
    let job = loop {
        let secret = manifest::secret_name(&name, random()?);
        let wanted = manifest::job(&name, &secret, &image);
        match jobs.create(&PostParams::default(), &wanted).await {
            Ok(job) => break job,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(failed("create")(error)),
        }
        match jobs.get_opt(&name).await.map_err(failed("get"))? {
            Some(job) if manifest::is_over(&job) => {
                if job.metadata.deletion_timestamp.is_none() {
                    delete(&jobs, &name, job.metadata.uid.clone()).await;
                }
                if Instant::now() >= deadline {
                    return Err(NotUp::step_down(format!(
                        "the Job {name} has ended and is not removed"
                    )));
                }
                sleep(GONE_YET).await;
            }
            Some(job) => break job,
            None => {}
        }
    };
    let uid = job.metadata.uid.clone().unwrap_or_default();
    let named = manifest::secret_of(&job).map(str::to_owned);
    let secret = named
        .ok_or_else(|| NotUp::step_down(format!("the Job {name} is not one of ours: it names no Secret")))?;
    let secret_of_job = Known {
        secret: &secret,
        job: &name,
        uid: &uid,
    };
    match token(cluster, options, &secret_of_job).await {
        Ok(token) => Ok(Ours {
            job: name,
            uid,
            token,
        }),
        Err(error) => {
            // A pod without its Secret never starts.
            delete(&jobs, &name, Some(uid)).await;
            Err(error)
        }
    }
}

/// Whom the API server takes the user for. `None` where it does not say.
async fn user(cluster: &Cluster) -> Option<String> {
    let reviews: Api<SelfSubjectReview> = Api::all(cluster.client().clone());
    let review = reviews
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await;
    match review {
        Ok(review) => {
            let user = review.status?.user_info?;
            Some(format!("{}\0{}", user.username?, user.uid.unwrap_or_default()))
        }
        Err(error) => {
            tracing::debug!(error = %with_causes(&error), "sessions of this user do not share a gateway pod");
            None
        }
    }
}

struct Known<'a> {
    secret: &'a str,
    job: &'a str,
    uid: &'a str,
}

/// The gateway's token: that of the first session to create the Secret.
async fn token(cluster: &Cluster, options: &PodOptions, of: &Known<'_>) -> Result<Token, NotUp> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client().clone(), &options.namespace);
    let failed = |verb| move |error| not_up(cluster, error, verb, "secrets", &options.namespace);
    let fresh = manifest::hex(&random::<32>()?);
    let wanted = manifest::secret(of.secret, of.job, of.uid, &fresh);
    let text = match secrets.create(&PostParams::default(), &wanted).await {
        Ok(_) => fresh,
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let secret = secrets.get(of.secret).await.map_err(failed("get"))?;
            let bytes = secret.data.and_then(|mut data| data.remove(manifest::TOKEN_KEY));
            String::from_utf8(bytes.map(|bytes| bytes.0).unwrap_or_default()).unwrap_or_default()
        }
        Err(error) => return Err(failed("create")(error)),
    };
    Token::new(&text).map_err(|error| NotUp::step_down(format!("the Secret {}: {error}", of.secret)))
}

fn random<const N: usize>() -> Result<[u8; N], NotUp> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| NotUp::step_down(format!("the system has no random numbers: {error}")))?;
    Ok(bytes)
}

/// Lifts the deadline of a Job whose gateway was reached: from here on that ends by itself.
pub(crate) async fn keep(cluster: &Cluster, options: &PodOptions, ours: &Ours) -> Result<(), NotUp> {
    let lift = json!({"metadata": {"uid": ours.uid}, "spec": {"activeDeadlineSeconds": null}});
    let jobs = jobs(cluster, options);
    match jobs
        .patch(&ours.job, &PatchParams::default(), &Patch::Merge(lift))
        .await
    {
        Ok(_) => Ok(()),
        // It has ended meanwhile, and perhaps there is another one.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Err(NotUp::Gone),
        Err(error) => Err(not_up(cluster, error, "patch", "jobs", &options.namespace)),
    }
}

/// Whether a Job has ended, or another has taken its name. One of which the API server does not say is taken to be there.
pub(crate) async fn is_gone(cluster: &Cluster, options: &PodOptions, ours: &Ours) -> bool {
    match jobs(cluster, options).get_opt(&ours.job).await {
        Ok(Some(job)) => job.metadata.uid.as_ref() != Some(&ours.uid) || manifest::is_over(&job),
        Ok(None) => true,
        Err(_) => false,
    }
}

/// Removes a gateway that cannot be used. Where that is not allowed, its deadline ends it.
pub(crate) async fn remove(cluster: &Cluster, options: &PodOptions, ours: &Ours) {
    delete(&jobs(cluster, options), &ours.job, Some(ours.uid.clone())).await;
}

async fn delete(jobs: &Api<Job>, name: &str, uid: Option<String>) {
    let how = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions {
            uid,
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    if let Err(error) = jobs.delete(name, &how).await {
        tracing::debug!(error = %with_causes(&error), job = name, "not removed");
    }
}

/// Why a Job's pod could not be created, as the Job's events say: a quota, or Pod Security. `None` where there is no such event or the
/// user may not read it.
pub(crate) async fn why_no_pod(cluster: &Cluster, options: &PodOptions, ours: &Ours) -> Option<String> {
    let events: Api<Event> = Api::namespaced(cluster.client().clone(), &options.namespace);
    let of_job = format!("involvedObject.uid={},reason=FailedCreate", ours.uid);
    let found = events.list(&ListParams::default().fields(&of_job)).await;
    let last = found.ok()?.items.into_iter().next_back()?;
    Some(format!("the gateway pod cannot be created: {}", last.message?))
}

/// Whether the user may `get` this subresource of pods, such as `proxy`, with which they are reached through the API server. `None` where it
/// does not say.
pub(crate) async fn may_get(cluster: &Cluster, namespace: &str, subresource: &str) -> Option<bool> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client().clone());
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_owned()),
                verb: Some("get".to_owned()),
                resource: Some("pods".to_owned()),
                subresource: Some(subresource.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer = reviews.create(&PostParams::default(), &review).await.ok()?;
    Some(answer.status?.allowed)
}

/// What the API server does not allow or take will be the same the next time; otherwise it is asked again. `verb`, `resource` and
/// `namespace` are what was asked for.
fn not_up(cluster: &Cluster, error: kube::Error, verb: &str, resource: &str, namespace: &str) -> NotUp {
    match error {
        kube::Error::Api(status)
            if (400..500).contains(&status.code) && ![401, 408, 409, 429].contains(&status.code) =>
        {
            NotUp::step_down(status.message.clone())
        }
        error => NotUp::Failed(match cluster.failed(error, verb, resource, Some(namespace)) {
            Error::Unauthorized { cluster, message } => ConnectError::CredentialRefused {
                far_side: cluster,
                file: None,
                message,
            },
            Error::Unreachable { cluster, source } => ConnectError::Unreachable {
                far_side: cluster,
                reason: with_causes(&source),
            },
            error => ConnectError::Unavailable {
                far_side: cluster.name().to_owned(),
                message: format!("{verb} {resource}: {}", with_causes(&error)),
            },
        }),
    }
}
