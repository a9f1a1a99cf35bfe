//! `devbox gateway serve`, and what installs it in a cluster.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use catalog_file::{CatalogFile, DialPolicy};
use catalog_kube::gateway::manifests::Installation;
use catalog_kube::gateway::{Reviews, SharedSessions};
use catalog_kube::{Cluster, ClusterOptions};
use devbox_gateway::{
    Admission, DeskOptions, Gateway, GatewayConfig, KubeAdmission, PushAdmission, Replicas, TlsFiles, Token,
    TokenAdmission, TokenCheck, TokenSource,
};
use tokio_util::sync::CancellationToken;

use crate::args::{ManifestsArgs, ServeArgs};
use crate::failure::{Failure, code};
use crate::sys::Signals;
use crate::{print, runtime};

/// Serves until a signal.
pub(crate) fn serve(args: &ServeArgs) -> Result<ExitCode, Failure> {
    runtime::run_on_threads(args.threads, args.verbose, async {
        // Before anybody can connect: from then on a signal ends it gracefully.
        let mut signals = Signals::new().map_err(Failure::because)?;
        let mut config = match &args.catalog {
            _ if args.kubernetes => kubernetes(args).await?,
            Some(catalog) => {
                let catalog = CatalogFile::open(catalog).await.map_err(Failure::because)?;
                let admission = TokenAdmission::open(tokens(args)?, Arc::new(catalog)).await;
                config(admission, args)?
            }
            None => config(PushAdmission::open(tokens(args)?, dial_policy(args)).await, args)?,
        };
        config.insecure = args.insecure;
        config.resume = (!args.no_resume).then(|| {
            let mut options = DeskOptions::default();
            options.window = Duration::from_secs(args.resume_window.into());
            options
        });
        config.successor.clone_from(&args.successor);
        config.exit_when_idle = args.exit_when_idle;
        config.quic = args.quic;
        config.status = args.status_listen;
        config.limits.drain = args.drain;
        config.limits.max_clients = args.max_clients.get();
        config.limits.max_streams_per_client = args.max_streams_per_client.get();
        config.limits.max_half_open = args.max_half_open.get();
        config.limits.max_half_open_per_address = args.max_half_open_per_address.get();
        config.tls = match (&args.tls_cert, &args.tls_key) {
            (Some(certificate), Some(key)) => {
                let mut files = TlsFiles::new(certificate, key);
                files.client_ca.clone_from(&args.tls_client_ca);
                files.client_certificate_optional = args.tls_client_optional;
                Some(files)
            }
            _ => None,
        };
        let scheme = if config.tls.is_some() { "wss" } else { "ws" };
        let gateway = Gateway::bind(config).await.map_err(|error| match error {
            devbox_gateway::Error::InsecureListen { .. } => Failure::new(
                code::FAILED,
                format!("{} can be reached from other machines, and tokens would be sent there in the clear", args.listen),
            )
            .help("give a certificate with --tls-cert FILE --tls-key FILE, listen on 127.0.0.1, or say --insecure"),
            error => Failure::because(error),
        })?;
        print::out(&format!("listening on {scheme}://{}\n", gateway.local_addr()));
        if let Some(address) = gateway.quic_addr() {
            print::out(&format!("listening on quic://{address}\n"));
        }
        if let Some(address) = gateway.status_addr() {
            print::out(&format!("status on http://{address}\n"));
        }
        let cancel = CancellationToken::new();
        let serving = gateway.run(cancel.clone());
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return ended.map(|()| ExitCode::SUCCESS).map_err(Failure::because),
            _ = signals.next() => cancel.cancel(),
        }
        tokio::select! {
            ended = &mut serving => ended.map(|()| ExitCode::SUCCESS).map_err(Failure::because),
            // A second signal does not wait for connections to end.
            _ = signals.next() => Ok(ExitCode::SUCCESS),
        }
    })
}

/// Prints what installs a gateway. No cluster is asked.
pub(crate) fn manifests(args: &ManifestsArgs) -> ExitCode {
    let installation = Installation {
        namespace: args.namespace.clone(),
        image: args.image.clone(),
        ingress: args.ingress.clone(),
        serves: args.serve.clone(),
        token_secret: args.token_secret.clone(),
    };
    print::out(&installation.to_yaml());
    ExitCode::SUCCESS
}

/// Lets in whom the cluster around this program knows.
async fn kubernetes(args: &ServeArgs) -> Result<GatewayConfig, Failure> {
    let cluster = Cluster::open(&ClusterOptions::default())
        .await
        .map_err(Failure::because)?;
    let tokens = if args.token_file.is_some() || args.token_env.is_some() {
        let tokens = TokenCheck::open(tokens(args)?).await;
        Some(tokens.map_err(Failure::because)?)
    } else {
        None
    };
    let reviews = Reviews::new(cluster, &args.audience);
    let sessions = args
        .replica
        .as_ref()
        .map(|replica| SharedSessions::start(&reviews, replica));
    let admission = KubeAdmission::new(reviews, tokens);
    let mut config = GatewayConfig::new(admission, args.listen);
    config.replicas = sessions.map(|sessions| Arc::new(sessions) as Arc<dyn Replicas>);
    Ok(config)
}

fn config(
    admission: Result<impl Admission, devbox_gateway::Error>,
    args: &ServeArgs,
) -> Result<GatewayConfig, Failure> {
    let admission = admission.map_err(Failure::because)?;
    Ok(GatewayConfig::new(admission, args.listen))
}

/// Where the tokens are that clients may show. The parser sees to it that one of the two is named.
fn tokens(args: &ServeArgs) -> Result<TokenSource, Failure> {
    let variable = match (&args.token_file, &args.token_env) {
        (Some(file), _) => return Ok(TokenSource::File(file.clone())),
        (None, variable) => variable.as_deref().unwrap_or_default(),
    };
    let text = std::env::var(variable)
        .map_err(|error| Failure::new(code::FAILED, format!("no token in ${variable}: {error}")))?;
    Token::new(text.trim())
        .map(TokenSource::Fixed)
        .map_err(|error| Failure::new(code::FAILED, format!("${variable}: {error}")))
}

fn dial_policy(args: &ServeArgs) -> DialPolicy {
    let mut policy = DialPolicy::default();
    if !args.dial.is_empty() {
        policy.networks.clone_from(&args.dial);
    }
    policy
}
