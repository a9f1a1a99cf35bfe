//! `devbox up`.

use std::path::PathBuf;
use std::process::ExitCode;

use devbox_session::Event;

use crate::addresses::Addresses;
use crate::args::{Output, UpArgs};
use crate::config::Config;
use crate::failure::Failure;
use crate::session::{self, Run};
use crate::{dry_run, print, private_hosts, runtime, sys};

/// Runs it. The calling thread is the only one yet.
pub(crate) fn run(args: &UpArgs) -> Result<ExitCode, Failure> {
    let caller = sys::caller().map_err(Failure::because)?;
    // Everything that the user's configuration leads to is done with the user's rights; only the helper keeps root.
    let config = sys::as_caller(&caller, || Config::load(&args.connect, caller.home.as_deref()))
        .map_err(Failure::because)??;
    config.gateway()?;
    let hosts_file = hosts_file(args)?;
    let needs_helper = !args.dry_run && (hosts_file.is_some() || sys::is_root());
    let helper = if needs_helper {
        let file = hosts_file.clone().map_or_else(private_hosts::system_file, Ok)?;
        Some(session::start_helper(
            &file,
            &config.pool,
            &caller,
            args.connect.verbose > 0,
        )?)
    } else {
        None
    };
    let root = sys::is_root();
    // Files other than the system's are edited with the caller's rights, whatever the helper's are.
    let helper_is_root = root && (caller.uid == 0 || args.hosts_file.is_none());
    sys::drop_to_caller(&caller).map_err(Failure::because)?;
    runtime::run(args.connect.verbose, async {
        let id = session::new_id(&config)?;
        let provider = session::provider(&config, &id)?;
        let gateway = provider.gateway.to_string();
        let helper_pid = helper.as_ref().map(devbox_helper_client::AsyncClient::pid);
        let identity = session::identity(id, gateway, hosts_file.clone(), helper_pid);
        let settings = session::settings(&config, identity, hosts_file.is_some())?;
        let addresses = Addresses::open(&config, session::state_folder(&caller))?;
        if args.dry_run {
            return dry_run::run(
                settings,
                addresses.allocator,
                crate::provider::boxed(provider, config.environment.clone()),
                hosts_file.as_deref(),
                root,
                args.output,
            )
            .await;
        }
        let run = Run {
            settings,
            addresses,
            provider: crate::provider::boxed(provider, config.environment.clone()),
            helper,
            helper_is_root,
            output: args.output,
        };
        let output = args.output;
        let reason = run
            .until_end(|event, _| {
                if let (Event::Ready { status }, Output::Text) = (event, output) {
                    print::out(&print::services(&status.services));
                    print::out("ready\n");
                }
            })
            .await?;
        session::verdict(reason)
    })
}

/// The hosts file that is to be edited, if one is.
fn hosts_file(args: &UpArgs) -> Result<Option<PathBuf>, Failure> {
    if args.no_hosts {
        return Ok(None);
    }
    match &args.hosts_file {
        Some(file) => std::path::absolute(file).map(Some).map_err(Failure::because),
        None => private_hosts::system_file().map(Some),
    }
}
