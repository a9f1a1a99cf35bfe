//! After another start of the machine.

use std::fs;
use std::path::Path;

use crate::Scene;
use crate::before::make_interface;
use crate::stage::{
    DEVBOX, HELPER, LOW_PORT, SERVICE, SOCKET, Session, Stage, assert_as_before, assert_echoes,
    assert_files_as_before, client, kill_for_good, resolve, state, told,
};

pub(crate) const SCENES: [Scene; 3] = [
    ("start_of_the_machine_undoes_what_was_left", swept),
    ("helper_serves_after_a_start", serves),
    ("removal_undoes_everything_and_leaves_no_file", uninstall),
];

/// Nobody has asked the helper for anything yet.
fn swept(_: &mut Stage) {
    assert_eq!((&*state(SOCKET), &*state(SERVICE)), ("active", "inactive"));
    assert_as_before();
    let journals: Vec<_> = fs::read_dir("/var/lib/devbox").unwrap().flatten().collect();
    assert!(journals.is_empty(), "{journals:?}");
}

fn serves(stage: &mut Stage) {
    let session = Session::start(&stage.ben, &["--pool", "10.107.0.0/16"]);
    assert_echoes(resolve("orders.backend").unwrap(), LOW_PORT);
    session.end();
    assert_as_before();
}

fn uninstall(stage: &mut Stage) {
    let mut client = client();
    make_interface(&mut client);
    let session = Session::start(&stage.ana, &["--pool", "10.107.0.0/16"]);
    kill_for_good(|| {
        session.kill();
        drop(client);
    });
    assert!(told("ip", &["-br", "link"]).contains("devbox7"));
    // What a killed helper left goes as well.
    told(DEVBOX, &["helper", "uninstall"]);
    assert_as_before();

    let uid = stage.ana.uid.to_string();
    told(
        DEVBOX,
        &["helper", "install", "--program", HELPER, "--user", &uid],
    );
    let session = Session::start(&stage.ana, &["--pool", "10.107.0.0/16"]);
    told(DEVBOX, &["helper", "uninstall"]);
    assert_as_before();
    session.kill();
    assert_files_as_before();
    let units = told("systemctl", &["list-units", "--all", "--no-legend", "devbox-*"]);
    assert_eq!(units, "");
    assert!(!Path::new("/run/devbox").exists());
    // A second time there is nothing to remove.
    told(DEVBOX, &["helper", "uninstall"]);
}
