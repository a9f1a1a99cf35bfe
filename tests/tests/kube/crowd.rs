//! Many connections at once.

use anyhow::ensure;
use devbox_tests::kube::Node;
use devbox_tests::{Caller, Outcome, proc, scenario, wait};

use crate::user;

const API_SERVER_PORT: u16 = 6443;

#[test]
fn sixteen_clients_at_once_are_all_answered_and_their_port_forwards_end_with_them() -> Outcome {
    const CLIENTS: usize = 16;
    const REQUESTS: usize = 20;
    scenario(|scene| {
        let namespace = Node::find()?.services()?;
        let caller = Caller::Ordinary;
        let kubeconfig = user::user(scene, &namespace, caller, &[])?;
        let script = format!(
            "for client in $(seq {CLIENTS}); do (for request in $(seq {REQUESTS}); do \
             curl --silent --show-error --fail --max-time 30 --output /dev/null http://web/ && echo answered; done) & done; \
             wait; echo over; while ! [ -e {} ]; do sleep .1; done",
            scene.folder().join("stop").display()
        );
        let words = ["exec", "-n", namespace.name(), "--", "sh", "-c", &script];
        let mut asking = user::devbox(scene, &namespace, &kubeconfig, &words)?
            .by(caller)
            .start()?;
        asking.wait_for_line("the last answer", 8 * wait::SOON, |line| line == "over")?;
        let answered = asking.output().matches("answered").count();
        ensure!(
            answered == CLIENTS * REQUESTS,
            "{answered} answers: {}",
            asking.errors()
        );
        // Those that are kept ready, and the watches.
        wait::until("the end of the port-forwards", wait::SOON / 3, || {
            let open = proc::connections_of(asking.pid(), API_SERVER_PORT).ok()?;
            (open <= 12).then_some(())
        })?;
        scene.write("stop", "")?;
        asking.wait(2 * wait::SOON)?;
        Ok(())
    })
}
