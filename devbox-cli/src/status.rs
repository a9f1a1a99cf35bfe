//! `devbox status` and `devbox down`: asking sessions that run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use devbox_session::StatusReport;
use devbox_session::control::{Asking, Request};
use service_catalog::Label;

use crate::args::{Output, SelectArgs, StatusArgs};
use crate::failure::{Failure, code};
use crate::{print, runtime, sys};

/// A session that hangs is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Draining included.
const LEAVING: Duration = Duration::from_secs(20);

/// A session that answered.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) socket: PathBuf,
    pub(crate) report: StatusReport,
}

/// The sessions of this user that answer, those of one environment if it is given.
pub(crate) async fn find(environment: Option<&Label>) -> Vec<Found> {
    let mut found = Vec::new();
    for socket in sys::control_sockets() {
        let asked = tokio::time::timeout(PATIENCE, async {
            let stream = sys::connect_control(&socket).await?;
            Asking::ask(stream, &Request::Status).await?.report().await
        });
        match asked.await {
            Ok(Ok(Some(report))) => found.push(Found { socket, report }),
            Ok(Ok(None)) => tracing::debug!(socket = %socket.display(), "the session is ending"),
            Ok(Err(error)) => tracing::debug!(socket = %socket.display(), %error, "nobody answers"),
            Err(_) => print::note(&format!("warning: {} does not answer", socket.display())),
        }
    }
    found.retain(|found| {
        environment.is_none_or(|wanted| found.report.environment.as_deref() == Some(wanted.as_ref()))
    });
    found
}

fn none(environment: Option<&Label>) -> Failure {
    let of = environment.map_or_else(String::new, |environment| {
        format!(" for the environment {environment}")
    });
    Failure::new(code::FAILED, format!("no session is running{of}")).help("`devbox up` starts one")
}

/// `devbox status`.
pub(crate) fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    as_user()?;
    runtime::run(0, async {
        let sessions = find(args.env.as_ref()).await;
        if sessions.is_empty() {
            return Err(none(args.env.as_ref()));
        }
        match args.output {
            Output::Json => sessions.iter().for_each(|found| print::json(&found.report)),
            Output::Text => {
                let texts: Vec<_> = sessions
                    .iter()
                    .map(|found| print::status(&found.report))
                    .collect();
                print::out(&texts.join("\n"));
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// `devbox down`.
pub(crate) fn down(args: &SelectArgs) -> Result<ExitCode, Failure> {
    as_user()?;
    runtime::run(0, async {
        let sessions = find(args.env.as_ref()).await;
        if sessions.is_empty() {
            return Err(none(args.env.as_ref()));
        }
        if sessions.len() > 1 && !args.all {
            let mut failure = Failure::new(code::FAILED, format!("{} sessions are running", sessions.len()))
                .help("say which with --env NAME, or --all:");
            for found in &sessions {
                let who = &found.report.identity;
                let environment = found.report.environment.as_deref().unwrap_or("-");
                failure = failure.help(format!(
                    "  {environment}  pid {}, since {}",
                    who.pid,
                    print::time(who.started_at)
                ));
            }
            return Err(failure);
        }
        for found in sessions {
            let who = &found.report.identity;
            let leaving = tokio::time::timeout(LEAVING, async {
                let stream = sys::connect_control(&found.socket).await?;
                Asking::ask(
                    stream,
                    &Request::Stop {
                        by: "devbox down".to_owned(),
                    },
                )
                .await?
                .ended()
                .await
            });
            match leaving.await {
                Ok(Ok(())) => print::out(&format!("session {} has ended\n", who.session)),
                Ok(Err(error)) => return Err(Failure::because(error)),
                Err(_) => {
                    return Err(Failure::new(
                        code::UNAVAILABLE,
                        format!(
                            "session {} (pid {}) is still ending after {} s",
                            who.session,
                            who.pid,
                            LEAVING.as_secs()
                        ),
                    ));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Under sudo the sessions meant are the calling user's.
fn as_user() -> Result<(), Failure> {
    let caller = sys::caller().map_err(Failure::because)?;
    sys::drop_to_caller(&caller).map_err(Failure::because)
}
