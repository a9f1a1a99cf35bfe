//! `devbox demo`: everything on one machine, as far as whoever runs it can be shown.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use catalog_file::LiveCatalog;
use devbox_engine::{
    Config, Engine, Helper, ProviderConfig, Publish, StatusReport, StopReason, TokenConfig, default_pools,
    system_hosts_file, without_sessions,
};
use devbox_gateway::{Gateway, GatewayConfig, Token, TokenAdmission, TokenSource, demo_services as demo};
use devbox_session::sink::PublishError;
use process_scope::{Scope, ScopedCommand};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::args::{DemoArgs, Output};
use crate::ends::verdict;
use crate::failure::{Failure, code};
use crate::fetch::{self, Fetched};
use crate::print::{self, Table};
use crate::{helper, run, runtime, sys};

/// For how long the fetches may take together.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the names are made resolvable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// The system's hosts file: every program sees them.
    System,
    /// A private hosts file: the fetching program alone sees them.
    Private,
}

/// Runs it. The calling thread is the only one so far.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode, Failure> {
    let caller = sys::caller().map_err(Failure::because)?;
    let file = system_hosts_file().map_err(Failure::because)?;
    let helper = if sys::is_root() {
        let wanted = helper::Wanted {
            pools: &default_pools(),
            privileged: true,
            verbose: args.verbose > 0,
            ..helper::Wanted::of(&file)
        };
        let helper = helper::start(&wanted, &caller)?;
        Some((file, helper))
    } else {
        None
    };
    sys::drop_to_caller(&caller).map_err(Failure::because)?;
    runtime::run(args.verbose, async {
        let system = helper.is_some();
        match attempt(helper, args.once).await? {
            // This root may not either: the file is bound read-only, for one.
            StopReason::Names {
                error: error @ PublishError::Helper(_),
                ..
            } if system => {
                print::note(&format!(
                    "note: {error}; so the names are given to the fetching program alone"
                ));
                verdict(attempt(None, args.once).await?)
            }
            reason => verdict(reason),
        }
    })
}

/// One demo: with a hosts file and its helper, else with a private hosts file.
async fn attempt(system: Option<(PathBuf, Helper)>, once: bool) -> Result<StopReason, Failure> {
    let (token, gateway, services) = far_side().await?;
    let address = gateway.local_addr();
    let ended = CancellationToken::new();
    let serving = tokio::spawn(gateway.run(ended.clone()));

    let names = match system {
        Some(_) => Names::System,
        None => Names::Private,
    };
    let (publish, helper) = match system {
        Some((file, helper)) => (Publish::HostsFile(file), Some(helper)),
        None => (Publish::Private { base: base()? }, None),
    };
    let url = format!("ws://{address}")
        .parse()
        .context("the gateway's address")?;
    let mut provider = ProviderConfig::gateway("gateway", url, TokenConfig::Secret(token));
    provider.environment = Some("demo".parse().map_err(Failure::because)?);
    let config = Config {
        providers: vec![provider],
        publish,
        helper,
        claim: true,
        ..Config::default()
    };
    // One failure is enough; it ends the demo.
    let (failed, mut failure) = mpsc::channel(1);
    let reason = run::until_end(config, Output::Text, None, |status, engine| {
        let (status, engine, failed) = (status.clone(), engine.clone(), failed.clone());
        tokio::spawn(async move {
            if let Err(failure) = show(&status, names, once, &engine).await {
                drop(failed.try_send(failure));
                engine.stop("the demo failed").await;
            }
        });
        Ok(())
    })
    .await?;
    ended.cancel();
    serving
        .await
        .map_err(Failure::because)?
        .map_err(Failure::because)?;
    drop(services);
    match failure.try_recv() {
        Ok(failure) => Err(failure),
        Err(_) => Ok(reason),
    }
}

/// The system's hosts file without what sessions wrote.
fn base() -> Result<Vec<u8>, Failure> {
    let file = system_hosts_file().map_err(Failure::because)?;
    let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(without_sessions(&bytes))
}

/// The usual port, unless a program holds it on every address: then one 10,000 or 20,000 above.
fn free_port(usual: NonZeroU16) -> NonZeroU16 {
    // An address of the pool that no service of the demo has.
    let nobodys = Ipv4Addr::new(127, 77, 255, 254);
    let candidates = [0, 10_000, 20_000]
        .into_iter()
        .filter_map(|above| usual.checked_add(above));
    let mut free = candidates.filter(|port| std::net::TcpListener::bind((nobodys, port.get())).is_ok());
    free.next().unwrap_or(usual)
}

/// A gateway with two services behind it.
async fn far_side() -> Result<(String, Gateway, demo::DemoServices), Failure> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Failure::new(code::FAILED, error.to_string()))?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let services = demo::start().await.map_err(Failure::because)?;
    let catalog = services
        .catalog(free_port(demo::WEB_PORT), free_port(demo::ECHO_PORT))
        .map_err(Failure::because)?;
    let tokens = TokenSource::Fixed(Token::new(&token).map_err(Failure::because)?);
    let admission = TokenAdmission::open(tokens, Arc::new(LiveCatalog::new(catalog)))
        .await
        .map_err(Failure::because)?;
    let config = GatewayConfig::new(admission, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let gateway = Gateway::bind(config).await.map_err(Failure::because)?;
    Ok((token, gateway, services))
}

/// Fetches from each service and prints what happened.
async fn show(status: &StatusReport, names: Names, once: bool, engine: &Engine) -> Result<(), Failure> {
    let mut table = Table::new(["NAME", "ADDRESS", "PORT", "TARGET", "BYTES", "TIME"]);
    let mut by_address = None;
    let (mut page, mut answer) = (String::new(), String::new());
    for service in &status.services {
        let Some((port, address)) = service.ports.first().zip(service.addresses.first()) else {
            continue;
        };
        if let Some((port, reason)) = service.faults().next() {
            let message = format!("{}:{port} cannot be offered: {reason}", service.service);
            return Err(Failure::new(code::FAILED, message));
        }
        let name = print::shown_name(service);
        let scheme = if port.name.as_deref() == Some("http") {
            "http"
        } else {
            "tcp"
        };
        let url = format!("{scheme}://{name}:{}/", port.port);
        let at = SocketAddr::new(*address, port.port);
        let fetched = match (names, &by_address) {
            (Names::System, _) => plain(&url, None).await?,
            (Names::Private, Some(_)) => plain(&url, Some(at)).await?,
            (Names::Private, None) => match scoped(engine, &url).await? {
                Ok(fetched) => fetched,
                Err(forbidden) => {
                    by_address = Some(forbidden);
                    plain(&url, Some(at)).await?
                }
            },
        };
        if scheme == "http" {
            answer = format!("{url} answered: {}\n", fetched.first_line);
            page = url;
        }
        table.row([
            name,
            fetched.address.ip().to_string(),
            port.port.to_string(),
            port.target.clone().unwrap_or_default(),
            fetched.bytes.to_string(),
            format!("{:.1} ms", fetched.micros as f64 / 1000.0),
        ]);
    }
    print::out(&format!("{}\n{answer}", table.render()));
    let text = match (names, &by_address) {
        (_, Some(error)) => format!(
            "\nThe names could not be made resolvable for an ordinary user: {error}\n\
             So the services were asked by address, under their names. To see them by name:\n  sudo devbox demo\n"
        ),
        (Names::System, None) => {
            "The names are in the hosts file, for every program, until this ends.\n".to_owned()
        }
        (Names::Private, None) => {
            "The names were seen by the fetching program alone, in a private hosts file: \
             no root, no change outside.\n"
                .to_owned()
        }
    };
    print::out(&text);
    if once {
        engine.stop("the fetch is done").await;
        return Ok(());
    }
    let hint = match (names, by_address) {
        (Names::System, _) => Some(format!("curl {page}")),
        (Names::Private, None) => Some(format!("devbox exec -- curl {page}")),
        (Names::Private, Some(_)) => None,
    };
    if let Some(command) = hint {
        print::out(&format!("\nTry it in another terminal:\n  {command}\n"));
    }
    print::out("\nready; Ctrl-C ends it and leaves nothing behind\n");
    Ok(())
}

/// Fetches as any program of this machine does; with an address, without looking the name up.
async fn plain(url: &str, address: Option<SocketAddr>) -> Result<Fetched, Failure> {
    let (report, report_to) = report_socket().await?;
    let mut command = std::process::Command::new(std::env::current_exe().map_err(Failure::because)?);
    command.arg(fetch::ARGUMENT).arg(report_to.to_string()).arg(url);
    if let Some(address) = address {
        command.arg(address.to_string());
    }
    let mut child = command.spawn().map_err(Failure::because)?;
    let fetched = read_report(report, url).await;
    child.wait().map_err(Failure::because)?;
    fetched
}

/// Fetches with a private hosts file; the inner error says that this system forbids one.
async fn scoped(engine: &Engine, url: &str) -> Result<Result<Fetched, process_scope::Error>, Failure> {
    let mut hosts = engine.private_hosts().context("there is no private hosts file")?;
    let (report, report_to) = report_socket().await?;
    let program = std::env::current_exe()
        .map_err(Failure::because)?
        .into_os_string();
    let argv = [
        program,
        fetch::ARGUMENT.into(),
        report_to.to_string().into(),
        url.into(),
    ];
    let mut scoped = match process_scope::spawn(&Scope::new(hosts.content()), &ScopedCommand::new(argv)) {
        Ok(scoped) => scoped,
        Err(error) => return Ok(Err(error)),
    };
    let fetched = read_report(report, url).await?;
    scoped.child.wait().map_err(Failure::because)?;
    Ok(Ok(fetched))
}

async fn report_socket() -> Result<(TcpListener, SocketAddr), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(Failure::because)?;
    let address = listener.local_addr().map_err(Failure::because)?;
    Ok((listener, address))
}

async fn read_report(listener: TcpListener, url: &str) -> Result<Fetched, Failure> {
    let read = async {
        let (mut stream, _) = listener.accept().await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        anyhow::Ok(serde_json::from_str::<Result<Fetched, String>>(&text)?)
    };
    let outcome = tokio::time::timeout(PATIENCE, read).await.map_err(|_| {
        Failure::new(
            code::FAILED,
            format!("{url}: no answer within {} s", PATIENCE.as_secs()),
        )
    })?;
    outcome?.map_err(|reason| Failure::new(code::FAILED, format!("{url}: {reason}")))
}
