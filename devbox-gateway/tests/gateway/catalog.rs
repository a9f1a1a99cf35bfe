//! The catalog file while clients are connected.

use std::fs::File;
use std::time::SystemTime;

use service_catalog::{Catalog, Health, Update, wire};
use tunnel_bridge::RefusalKind;

use super::support::{Client, Files, Updates, echo, file, ping, start};

async fn serving(services: &str) -> (Files, super::support::Running, Client, Updates) {
    let files = Files::new(services);
    let gateway = start(files.config().await).await;
    let client = gateway.client("laptop").await;
    let mut updates = client.updates().await;
    assert!(matches!(updates.next().await, Update::Snapshot(_)));
    (files, gateway, client, updates)
}

#[tokio::test]
async fn a_client_gets_the_whole_catalog_first() {
    let echo = echo().await;
    let (_files, gateway, _client, updates) = serving(&file(&[
        ("orders.backend", 5432, echo.address),
        ("web.shop", 80, echo.address),
    ]))
    .await;
    assert_eq!(updates.known.environment.as_str(), "dev");
    assert_eq!(updates.services(), ["orders.backend", "web.shop"]);
    let port = &updates.known.services[&"web.shop".parse().unwrap()].ports[0];
    assert_eq!(
        (port.port.get(), port.target.clone()),
        (80, Some(echo.address.to_string()))
    );
    gateway.stop().await;
}

#[tokio::test]
async fn a_change_arrives_however_the_file_is_changed() {
    let echo = echo().await;
    let text = |names: &[&str]| {
        let services: Vec<_> = names.iter().map(|name| (*name, 80, echo.address)).collect();
        file(&services)
    };
    let (files, gateway, client, mut updates) = serving(&text(&["a.x"])).await;
    let modified = |time| {
        File::options()
            .write(true)
            .open(&files.catalog)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };

    // In place.
    std::fs::write(&files.catalog, text(&["a.x", "b.x"])).unwrap();
    updates.next().await;
    assert_eq!(updates.services(), ["a.x", "b.x"]);
    ping(&mut client.open("tcp/x/b/80").await.unwrap(), "new").await;

    // By a rename.
    files.replace(&files.catalog, &text(&["a.x", "c.x"]));
    let update = updates.next().await;
    assert_eq!(updates.services(), ["a.x", "c.x"]);
    assert!(
        matches!(&update, Update::Changed { upserted, removed } if upserted.len() == 1 && removed.len() == 1),
        "{update:?}"
    );

    // By a rename to a file with an old time stamp.
    let new = files.dir.path().join("old");
    std::fs::write(&new, text(&["d.x"])).unwrap();
    File::options()
        .write(true)
        .open(&new)
        .unwrap()
        .set_modified(SystemTime::UNIX_EPOCH)
        .unwrap();
    std::fs::rename(&new, &files.catalog).unwrap();
    updates.next().await;
    assert_eq!(updates.services(), ["d.x"]);

    // In place, with the same length and the same time stamp as before.
    std::fs::write(&files.catalog, text(&["e.x"])).unwrap();
    modified(SystemTime::UNIX_EPOCH);
    updates.next().await;
    assert_eq!(updates.services(), ["e.x"]);

    gateway.stop().await;
}

#[tokio::test]
async fn a_file_with_a_mistake_leaves_the_last_good_one_in_force() {
    let echo = echo().await;
    let good = file(&[("a.x", 80, echo.address)]);
    let (files, gateway, client, mut updates) = serving(&good).await;

    files.replace(
        &files.catalog,
        &good.replace("name: a", "name: a\n    colour: red"),
    );
    let Update::Health(Health::Stale { reason }) = updates.next().await else {
        panic!("not stale")
    };
    let place = format!("{}:4:5: ", files.catalog.display());
    assert!(
        reason.starts_with(&place) && reason.contains("colour"),
        "{reason}"
    );
    ping(&mut client.open("tcp/x/a/80").await.unwrap(), "still there").await;

    // Who comes in the meantime is told both.
    let mut second = gateway.client("desktop").await.updates().await;
    assert!(matches!(second.next().await, Update::Snapshot(_)));
    assert_eq!(second.services(), ["a.x"]);
    assert_eq!(second.next().await, Update::Health(Health::Stale { reason }));

    // Gone is another mistake.
    std::fs::remove_file(&files.catalog).unwrap();
    let Update::Health(Health::Stale { reason }) = updates.next().await else {
        panic!("not stale")
    };
    assert!(reason.contains("cannot read the catalog file"), "{reason}");

    // And good again, with one service more.
    std::fs::write(
        &files.catalog,
        file(&[("a.x", 80, echo.address), ("b.x", 80, echo.address)]),
    )
    .unwrap();
    assert!(matches!(updates.next().await, Update::Changed { .. }));
    assert_eq!(updates.services(), ["a.x", "b.x"]);
    assert_eq!(updates.next().await, Update::Health(Health::Live));
    gateway.stop().await;
}

#[tokio::test]
async fn clients_are_not_moved_to_another_environment() {
    let echo = echo().await;
    let good = file(&[("a.x", 80, echo.address)]);
    let (files, gateway, client, mut updates) = serving(&good).await;
    files.replace(
        &files.catalog,
        &good.replace("environment: dev", "environment: prod"),
    );
    let Update::Health(Health::Stale { reason }) = updates.next().await else {
        panic!("not stale")
    };
    assert!(reason.contains("was `dev` and is `prod`"), "{reason}");
    ping(&mut client.open("tcp/x/a/80").await.unwrap(), "still there").await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_update_leaves_live_connections_and_refuses_what_is_gone() {
    let (first, second) = (echo().await, echo().await);
    let (files, gateway, client, mut updates) = serving(&file(&[
        ("stays.x", 80, first.address),
        ("goes.x", 80, first.address),
        ("moves.x", 80, first.address),
    ]))
    .await;
    let mut stays = client.open("tcp/x/stays/80").await.unwrap();
    let mut goes = client.open("tcp/x/goes/80").await.unwrap();
    let mut moves = client.open("tcp/x/moves/80").await.unwrap();
    ping(&mut stays, "one").await;

    files.replace(
        &files.catalog,
        &file(&[("stays.x", 80, first.address), ("moves.x", 80, second.address)]),
    );
    updates.next().await;
    assert_eq!(updates.services(), ["moves.x", "stays.x"]);

    let refusal = client.refusal("tcp/x/goes/80").await;
    assert_eq!(refusal.kind, RefusalKind::NotFound, "{refusal}");
    for (stream, text) in [(&mut stays, "two"), (&mut goes, "three"), (&mut moves, "four")] {
        ping(stream, text).await;
    }
    // New streams go to the new address: nobody listens at the old one.
    drop((stays, goes, moves, first));
    ping(&mut client.open("tcp/x/moves/80").await.unwrap(), "five").await;
    gateway.stop().await;
}

#[tokio::test]
async fn clients_may_leave_the_catalog_stream_as_they_like() {
    let echo = echo().await;
    let (files, gateway, client, mut updates) = serving(&file(&[("a.x", 80, echo.address)])).await;
    // A half-close of the client's direction is no end.
    tokio::io::AsyncWriteExt::shutdown(&mut updates.stream)
        .await
        .unwrap();
    // A dropped one disturbs nobody.
    drop(client.updates().await);
    std::fs::write(&files.catalog, file(&[])).unwrap();
    updates.next().await;
    assert!(updates.services().is_empty());
    gateway.stop().await;
}

/// The examples of docs/protocol.md, section 8.
#[test]
fn the_messages_of_the_protocols_text_are_read() {
    let bodies = [
        r#"{"snapshot":{"environment":"dev","services":[
  {"id":"orders.backend","ports":[{"name":"pg","port":5432,"protocol":"tcp","target":"127.0.0.1:15432"}],"aliases":["db"]},
  {"id":"db-0.db.backend","ports":[],"readiness":{"not_ready":{"reason":"starting"}}},
  {"id":"old.backend","ports":[],"alias_of":"orders.backend"}]}}"#,
        r#"{"changed":{"upserted":[{"id":"web.shop","ports":[{"port":80,"protocol":"tcp"}]}],"removed":["old.backend"]}}"#,
        r#"{"health":{"stale":{"reason":"catalog.yaml:4:5: unknown field `colour`"}}}"#,
        r#"{"health":"live"}"#,
    ];
    let mut known = Catalog::empty("unknown".parse().unwrap());
    let mut decoder = wire::Decoder::new();
    for body in bodies {
        let [.., a, b, c] = body.len().to_be_bytes();
        decoder.handle_bytes(&[1, a, b, c]);
        decoder.handle_bytes(body.as_bytes());
        known.apply(&decoder.poll_update().unwrap().unwrap());
    }
    decoder.handle_end().unwrap();
    assert_eq!(known.environment.as_str(), "dev");
    let services: Vec<_> = known.services.keys().map(ToString::to_string).collect();
    assert_eq!(services, ["db-0.db.backend", "orders.backend", "web.shop"]);
}
