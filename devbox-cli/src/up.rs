//! `devbox up`.

use std::path::PathBuf;
use std::process::ExitCode;

use devbox_engine::{Dns, Publish, system_hosts_file};

use crate::args::{DetachableArgs, Naming, Output, UpArgs};
use crate::config::Config;
use crate::ends::verdict;
use crate::failure::Failure;
use crate::sys::Starter;
use crate::{background, dns, dry_run, helper, output, print, run, runtime, sys};

/// Runs it, in the background where there is a starter that waits for it. The calling thread is the only one so far.
pub(crate) fn run(
    DetachableArgs {
        up: args,
        detach,
        naming,
        dns_listen,
    }: &DetachableArgs,
    starter: Option<&Starter>,
) -> Result<ExitCode, Failure> {
    let caller = sys::caller().map_err(Failure::because)?;
    if *detach && starter.is_none() {
        return background::start(&caller);
    }
    // Everything that the user's configuration leads to is done with the user's rights; only the helper keeps root.
    let config = sys::as_caller(&caller, || Config::load(&args.connect, caller.home.as_deref()))
        .map_err(Failure::because)??;
    let providers = config.providers()?;
    let naming = naming.unwrap_or(config.naming);
    let hosts_file = match naming {
        Naming::Dns => None,
        Naming::Hosts | Naming::Both => hosts_file(args)?,
    };
    let dns = (naming != Naming::Hosts).then(|| Dns {
        listen: dns_listen.unwrap_or(config.dns.listen),
        or_another_port: dns_listen.is_none() && config.dns.or_another_port,
        suffix: config.dns.suffix.clone(),
    });
    let root = sys::is_root();
    let helper = if args.dry_run {
        None
    } else {
        let file = match &hosts_file {
            Some(file) => file.clone(),
            None => system_hosts_file().map_err(Failure::because)?,
        };
        let installed = (!root && (hosts_file.is_some() || dns.is_some()))
            .then(|| helper::connect(&file, &config.pool, &caller))
            .flatten();
        // Without rights a child could write the user's own files, and nothing else.
        if installed.is_none() && (hosts_file.is_some() || root) {
            // Files other than the system's are edited with the caller's rights, whatever the helper's are.
            let wanted = helper::Wanted {
                hosts_file: &file,
                pools: &config.pool,
                privileged: root && (caller.uid == 0 || args.hosts_file.is_none()),
                take_names: args.take_names,
                resolver: dns.is_some(),
                // In the background it would keep the terminal open.
                verbose: args.connect.verbose > 0 && starter.is_none(),
            };
            Some(helper::start(&wanted, &caller)?)
        } else {
            installed
        }
    };
    sys::drop_to_caller(&caller).map_err(Failure::because)?;
    let state_dir = caller.state_folder();
    if state_dir.is_none() {
        print::note("note: addresses are kept in memory only: there is no home folder");
    }
    let config = devbox_engine::Config {
        providers,
        names: config.names.clone(),
        pools: config.pool.clone(),
        max_connections: config.max_connections,
        share: config.share || args.share,
        services: config.services.clone(),
        publish: hosts_file.map_or(Publish::Registry, Publish::HostsFile),
        dns,
        helper,
        claim: true,
        take_names: args.take_names,
        lock_file: config.lock_file(),
        state_dir: state_dir.clone(),
    };
    runtime::run(args.connect.verbose, async {
        if args.dry_run {
            return dry_run::run(&config, root, args.output.form()).await;
        }
        let suffix = config.dns.as_ref().map(|dns| dns.suffix.clone());
        let reason = run::until_end(config, args.output.form(), starter, |status, engine| {
            if args.output.form() == Output::Text {
                print::out(&print::services(status));
                if let (Some(address), Some(suffix)) = (engine.dns_address(), &suffix) {
                    print::out(&if engine.dns_is_asked() {
                        format!(
                            "names under {suffix} are answered on {address}, and this system asks there\n"
                        )
                    } else {
                        format!(
                            "names under {suffix} are answered on {address}: `devbox dns status --at {address}{zone}` says how this \
                             system is pointed at it\n",
                            zone = dns::zone_flag(suffix),
                        )
                    });
                }
                print::out("ready\n");
            }
            match (starter, &state_dir) {
                (Some(starter), Some(state)) => background::go_on(starter, state, status, args),
                _ => Ok(()),
            }
        });
        let reason = reason.await?;
        if args.output.form() == Output::Text {
            output::tell_log(&format!("the session has ended: {reason}\n"));
        }
        verdict(reason)
    })
}

/// The hosts file to edit, if one is to be.
fn hosts_file(args: &UpArgs) -> Result<Option<PathBuf>, Failure> {
    if args.no_hosts {
        return Ok(None);
    }
    match &args.hosts_file {
        Some(file) => std::path::absolute(file).map(Some).map_err(Failure::because),
        None => system_hosts_file().map(Some).map_err(Failure::because),
    }
}
