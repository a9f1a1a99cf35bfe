//! `devbox demo`: the whole road on one machine, and what can be shown of it to whoever runs it.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use catalog_file::LiveCatalog;
use devbox_gateway::{Gateway, GatewayConfig, TokenAdmission, demo_services as demo};
use devbox_gateway_client::{GatewayProvider, Token, TokenSource};
use devbox_helper_client::AsyncClient;
use devbox_session::{Event, Handle, StatusReport, StopReason};
use process_scope::{Scope, ScopedCommand};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::addresses::Addresses;
use crate::args::{DemoArgs, Output};
use crate::config::{Config, default_pool};
use crate::exec;
use crate::failure::{Failure, code};
use crate::fetch::{self, Fetched};
use crate::print::{self, Table};
use crate::session::{self, Run};
use crate::{private_hosts, runtime, sys};

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

/// Runs it. The calling thread is the only one yet.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode, Failure> {
    let caller = sys::caller().map_err(Failure::because)?;
    let file = private_hosts::system_file()?;
    let names = if sys::is_root() {
        Names::System
    } else {
        Names::Private
    };
    let helper = match names {
        Names::System => Some(session::start_helper(
            &file,
            &default_pool(),
            &caller,
            args.verbose > 0,
        )?),
        Names::Private => None,
    };
    sys::drop_to_caller(&caller).map_err(Failure::because)?;
    runtime::run(args.verbose, async {
        let reason = attempt(names, Some(file), helper, args.once).await?;
        match reason {
            // Not for this root either: a file that is bound read-only, for one.
            StopReason::Hosts { error, .. } if names == Names::System => {
                print::note(&format!(
                    "note: {error}; so the names are given to the fetching program alone"
                ));
                session::verdict(attempt(Names::Private, None, None, args.once).await?)
            }
            reason => session::verdict(reason),
        }
    })
}

/// One demo, with the names made resolvable in this way.
async fn attempt(
    names: Names,
    file: Option<PathBuf>,
    helper: Option<AsyncClient>,
    once: bool,
) -> Result<StopReason, Failure> {
    let (token, gateway, services) = far_side().await?;
    let address = gateway.local_addr();
    let ended = CancellationToken::new();
    let serving = tokio::spawn(gateway.run(ended.clone()));

    let url = format!("ws://{address}")
        .parse()
        .context("the gateway's address")?;
    let config = Config {
        environment: "demo".parse().ok(),
        ..Config::defaults()
    };
    let id = session::new_id(&config)?;
    let mut provider = GatewayProvider::new(url, TokenSource::Fixed(token), id.clone());
    provider.connect_timeout = Duration::from_secs(5);
    let helper_pid = helper.as_ref().map(AsyncClient::pid);
    let hosts_file = file.filter(|_| names == Names::System);
    let identity = session::identity(id, provider.gateway.to_string(), hosts_file, helper_pid);
    let settings = session::settings(&config, identity, names == Names::System)?;
    let addresses = Addresses::in_memory(&config)?;
    let run = Run {
        settings,
        addresses,
        provider: crate::provider::boxed(provider, config.environment.clone()),
        helper,
        helper_is_root: names == Names::System,
        output: Output::Text,
    };
    let (failed, mut failure) = mpsc::channel(1);
    let reason = run
        .until_end(|event, handle| {
            if let Event::Ready { status } = event {
                let (status, handle, failed) = (status.clone(), handle.clone(), failed.clone());
                tokio::spawn(async move {
                    if let Err(failure) = show(&status, names, once, &handle).await {
                        drop(failed.try_send(failure));
                        handle
                            .stop(StopReason::Requested {
                                by: "the demo failed".to_owned(),
                            })
                            .await;
                    }
                });
            }
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
async fn far_side() -> Result<(Token, Gateway, demo::DemoServices), Failure> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Failure::new(code::FAILED, error.to_string()))?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let token = Token::new(&token).map_err(Failure::because)?;
    let services = demo::start().await.map_err(Failure::because)?;
    let catalog = services
        .catalog(free_port(demo::WEB_PORT), free_port(demo::ECHO_PORT))
        .map_err(Failure::because)?;
    let admission = TokenAdmission::open(
        TokenSource::Fixed(token.clone()),
        std::sync::Arc::new(LiveCatalog::new(catalog)),
    )
    .await
    .map_err(Failure::because)?;
    let config = GatewayConfig::new(admission, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let gateway = Gateway::bind(config).await.map_err(Failure::because)?;
    Ok((token, gateway, services))
}

/// Fetches from each service and prints what happened.
async fn show(status: &StatusReport, names: Names, once: bool, handle: &Handle) -> Result<(), Failure> {
    let mut table = Table::new(["NAME", "ADDRESS", "PORT", "TARGET", "BYTES", "TIME"]);
    let mut by_address = None;
    let (mut page, mut answer) = (String::new(), String::new());
    for service in &status.services {
        let Some((port, address)) = service.ports.first().zip(service.address) else {
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
        let at = SocketAddr::new(address, port.port);
        let fetched = match (names, &by_address) {
            (Names::System, _) => plain(&url, None).await?,
            (Names::Private, Some(_)) => plain(&url, Some(at)).await?,
            (Names::Private, None) => match scoped(status, &url).await? {
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
            "The names stand in the hosts file, for every program, until this ends.\n".to_owned()
        }
        (Names::Private, None) => {
            "The names were seen by the fetching program alone, in a private hosts file: \
             no root, no change outside.\n"
                .to_owned()
        }
    };
    print::out(&text);
    if once {
        handle
            .stop(StopReason::Requested {
                by: "the fetch is done".to_owned(),
            })
            .await;
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
async fn scoped(status: &StatusReport, url: &str) -> Result<Result<Fetched, process_scope::Error>, Failure> {
    let base = std::fs::read(private_hosts::system_file()?).map_err(Failure::because)?;
    let rendered = private_hosts::render(&private_hosts::without_sessions(&base), &exec::entries(status))?;
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
    let mut scoped = match process_scope::spawn(&Scope::new(rendered.bytes), &ScopedCommand::new(argv)) {
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
