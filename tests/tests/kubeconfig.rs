//! What `devbox` makes of a kubeconfig, with no cluster behind it.
#![cfg(target_os = "linux")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use devbox_tests::{Caller, Machine, Outcome, Result, Scene, scenario, wait};

/// A kubeconfig with the contexts `staging` and `production`, whose credentials a program gives that writes down who runs it.
fn kubeconfig(scene: &Scene, asked: &Path) -> Result<String> {
    let plugin = scene.write(
        "credential-plugin",
        format!(
            "#!/bin/sh\necho \"$(id -u) $HOME\" >> {}\necho '{}'\n",
            asked.display(),
            r#"{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "secret"}}"#,
        ),
    )?;
    std::fs::set_permissions(&plugin, PermissionsExt::from_mode(0o755))?;
    Ok(format!(
        "apiVersion: v1
kind: Config
current-context: staging
clusters:
  - {{name: nowhere, cluster: {{server: \"https://{}\"}}}}
users:
  - name: ada
    user:
      exec:
        apiVersion: client.authentication.k8s.io/v1
        command: {}
        interactiveMode: Never
contexts:
  - {{name: staging, context: {{cluster: nowhere, user: ada, namespace: orders}}}}
  - {{name: production, context: {{cluster: nowhere, user: ada}}}}
",
        scene.free_address()?,
        plugin.display(),
    ))
}

/// Puts a kubeconfig where kubectl has it, for the user that a program of the tests runs as.
fn at_home(scene: &Scene, caller: Caller, text: &str) -> Result<PathBuf> {
    let folder = scene.home(caller)?.join(".kube");
    std::fs::create_dir_all(&folder)?;
    scene.give(&folder, caller)?;
    let file = folder.join("config");
    std::fs::write(&file, text)?;
    scene.give(&file, caller)?;
    Ok(file)
}

#[test]
fn what_is_wrong_with_a_kubeconfig_is_said() -> Outcome {
    scenario(|scene| {
        let caller = Caller::Ordinary;
        let devbox = |arguments: &[&str]| scene.devbox(arguments.iter().copied()).map(|run| run.by(caller));
        let up = ["up", "--no-hosts", "--namespace=orders"];
        devbox(&up)?.run(wait::SOON)?.expect_code(1)?.expect_text(&[
            "there is no kubeconfig",
            ".kube/config",
            "--kubeconfig",
        ])?;
        devbox(&["exec", "-n", "orders", "--", "true"])?
            .run(wait::SOON)?
            .expect_code(125)?
            .expect_text(&["there is no kubeconfig"])?;

        let asked = scene.folder().join("asked");
        at_home(scene, caller, &kubeconfig(scene, &asked)?)?;
        devbox(&[&up[..], &["--context", "stagign"]].concat())?
            .run(wait::SOON)?
            .expect_code(1)?
            .expect_text(&["no context `stagign`", "did you mean `staging`?"])?;
        devbox(&[&up[..], &["--kubeconfig", "elsewhere"]].concat())?
            .run(wait::SOON)?
            .expect_code(1)?
            .expect_text(&["elsewhere: No such file"])?;
        ensure!(!asked.exists(), "a credential was asked for in vain");
        Ok(())
    })
}

#[test]
fn a_cluster_that_does_not_answer_is_told_with_exit_code_2() -> Outcome {
    scenario(|scene| {
        let caller = Caller::Ordinary;
        let folder = scene.folder_of("plugin", caller)?;
        at_home(scene, caller, &kubeconfig(scene, &folder.join("asked"))?)?;
        scene
            .devbox(["up", "--no-hosts", "--namespace=orders"])?
            .by(caller)
            .run(4 * wait::SOON)?
            .expect_code(2)?
            .expect_text(&[
                "staging is not reachable",
                "is it running, and is this its address?",
            ])?;
        Ok(())
    })
}

#[test]
fn under_sudo_the_kubeconfig_is_the_callers_and_so_is_who_runs_its_plug_in() -> Outcome {
    scenario(|scene| {
        let caller = Caller::Ordinary;
        let machine = Machine::with_sudo(scene)?;
        let folder = scene.folder_of("plugin", caller)?;
        let asked = folder.join("asked");
        at_home(scene, caller, &kubeconfig(scene, &asked)?)?;
        let program = scene.devbox_program()?;
        let up = ["up".as_ref(), "--namespace=orders".as_ref()];
        let words = [
            "sudo".as_ref(),
            "--non-interactive".as_ref(),
            "--".as_ref(),
            program.as_os_str(),
        ];
        scene
            .command(words.into_iter().chain(up))
            .by(caller)
            .inside(&machine)
            .run(4 * wait::SOON)?
            .expect_code(2)?
            .expect_text(&["staging is not reachable"])?;
        let wanted = format!("{} {}\n", caller.uid(), scene.home(caller)?.display());
        let found = std::fs::read_to_string(&asked)?;
        ensure!(found.split_inclusive('\n').all(|line| line == wanted), "{found}");
        Ok(())
    })
}

#[test]
fn roles_are_printed_with_no_cluster() -> Outcome {
    scenario(|scene| {
        let caller = Caller::Ordinary;
        let devbox = |arguments: &[&str]| scene.devbox(arguments.iter().copied()).map(|run| run.by(caller));
        let out = devbox(&[
            "rbac",
            "-n",
            "orders",
            "-n",
            "shop",
            "--service-account",
            "ci:runner",
        ])?
        .run(wait::SOON)?
        .expect_success()?;
        let text = out.output();
        ensure!(text.matches("\nkind: Role\n").count() == 2, "{text}");
        ensure!(text.matches("kind: ServiceAccount").count() == 2, "{text}");
        // The namespace is the kubeconfig's where none is named.
        devbox(&["rbac"])?
            .run(wait::SOON)?
            .expect_code(1)?
            .expect_text(&["there is no kubeconfig", "-n NAMESPACE"])?;
        // As where a variable of a script is empty.
        devbox(&["rbac", "-n", "orders", "--user", ""])?
            .run(wait::SOON)?
            .expect_code(1)?
            .expect_text(&["a value is required for '--user <NAME>'"])?;
        at_home(scene, caller, &kubeconfig(scene, &scene.folder().join("asked"))?)?;
        devbox(&["rbac", "--via", "pod"])?
            .run(wait::SOON)?
            .expect_success()?
            .expect_text(&["namespace: orders", "devbox-pod"])?;
        Ok(())
    })
}
