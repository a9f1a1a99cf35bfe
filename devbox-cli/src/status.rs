//! `devbox status` and `devbox down`: asking running sessions.

use std::process::ExitCode;

use devbox_engine::{Found, Silence, Silent};
use service_catalog::Label;

use crate::args::{Output, SelectArgs, StatusArgs};
use crate::failure::{Failure, code};
use crate::{print, runtime, sys, watch};

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
        let Found { running, silent } = devbox_engine::find(args.which.environment()).await;
        for session in &silent {
            print::note(&format!("warning: {}", describe(session)));
        }
        if running.is_empty() {
            return Err(if silent.is_empty() {
                none(args.which.environment())
            } else {
                Failure::new(code::UNAVAILABLE, "no running session can be shown")
            });
        }
        if args.watch {
            return watch::watch(running, args.output.form()).await;
        }
        match args.output.form() {
            Output::Json => running.iter().for_each(|found| print::json(&found.report)),
            Output::Text => {
                let texts: Vec<_> = running.iter().map(|found| print::status(&found.report)).collect();
                print::out(&texts.join("\n"));
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// A session whose state is not known, and what to do about it.
fn describe(session: &Silent) -> String {
    let environment = session.environment().unwrap_or("-");
    let end = match session.reason {
        Silence::Older | Silence::Version { .. } => {
            format!("; `devbox down --env {environment}` ends it")
        }
        _ => String::new(),
    };
    format!(
        "a session of {environment} cannot be shown: {}{end}",
        session.reason
    )
}

/// `devbox down`.
pub(crate) fn down(args: &SelectArgs) -> Result<ExitCode, Failure> {
    as_user()?;
    runtime::run(0, async {
        let Found { running, silent } = devbox_engine::find(args.which.environment()).await;
        let count = running.len() + silent.len();
        if count == 0 {
            return Err(none(args.which.environment()));
        }
        if count > 1 && !args.all {
            let mut failure = Failure::new(code::FAILED, format!("{count} sessions are running"))
                .help("say which with --env NAME, or --all:");
            for found in &running {
                let who = &found.report.identity;
                let environments: Vec<_> = found.report.environments().collect();
                failure = failure.help(format!(
                    "  {}  pid {}, since {}",
                    environments.join(", "),
                    who.pid,
                    print::time(who.started_at)
                ));
            }
            for found in &silent {
                failure = failure.help(format!(
                    "  {}  {}",
                    found.environment().unwrap_or("-"),
                    found.reason
                ));
            }
            return Err(failure);
        }
        for found in running {
            found.stop("devbox down").await?;
            print::out(&format!("session {} has ended\n", found.report.identity.session));
        }
        for found in silent {
            found.stop("devbox down").await?;
            let environment = found.environment().unwrap_or("-");
            print::out(&format!("the session of {environment} has ended\n"));
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Under sudo the calling user's sessions are meant.
fn as_user() -> Result<(), Failure> {
    let caller = sys::caller().map_err(Failure::because)?;
    sys::drop_to_caller(&caller).map_err(Failure::because)
}
