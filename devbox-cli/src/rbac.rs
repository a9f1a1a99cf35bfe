//! `devbox rbac`: the roles that a way into a cluster needs.

use std::process::ExitCode;

use catalog_kube::rbac::{Subject, roles};

use crate::args::{ConnectArgs, KubeArgs, RbacArgs};
use crate::config::Config;
use crate::failure::{Failure, code};
use crate::{print, sys};

/// Who is given the roles where nobody is named.
const GROUP: &str = "developers";

/// Prints them. No cluster is asked.
pub(crate) fn run(args: &RbacArgs) -> Result<ExitCode, Failure> {
    let caller = sys::caller().map_err(Failure::because)?;
    sys::drop_to_caller(&caller).map_err(Failure::because)?;
    let connect = ConnectArgs {
        config: args.config.clone(),
        namespace: args.namespace.clone(),
        kube: KubeArgs {
            context: args.context.iter().cloned().collect(),
            kubeconfig: args.kubeconfig.clone(),
            via: args.via.clone(),
            ..KubeArgs::default()
        },
        ..ConnectArgs::default()
    };
    let config = Config::load(&connect, caller.home.as_deref())?;
    let mut printed: Vec<String> = Vec::new();
    for cluster in config.clusters(&connect)? {
        // With its namespaces named, a role needs no kubeconfig.
        let options = if cluster.namespaces.is_empty() {
            cluster
                .settled()
                .map_err(|error| Failure::from(error).help("or name a namespace with -n NAMESPACE"))?
        } else {
            cluster
        };
        let roles = roles(&options.via, &options.namespaces, &subjects(args));
        if !printed.contains(&roles) {
            printed.push(roles);
        }
    }
    if printed.is_empty() {
        return Err(Failure::new(code::FAILED, "no cluster is configured"));
    }
    print::out(&printed.join("---\n"));
    Ok(ExitCode::SUCCESS)
}

fn subjects(args: &RbacArgs) -> Vec<Subject> {
    let accounts = args.service_account.iter().cloned();
    let mut subjects: Vec<_> = args.user.iter().cloned().map(Subject::User).collect();
    subjects.extend(args.group.iter().cloned().map(Subject::Group));
    subjects.extend(accounts.map(|(namespace, name)| Subject::ServiceAccount { namespace, name }));
    if subjects.is_empty() {
        subjects.push(Subject::Group(GROUP.to_owned()));
    }
    subjects
}
