//! A configuration in YAML says all that the record does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use devbox_ffi::{Carrier, DevboxError, Provider, Publish, SessionConfig, parse_config};

const ALL: &str = r#"
providers:
  - kind: gateway
    name: team
    url: wss://gateway.example/devbox
    token_file: token
    environment: staging
    proxy: http://proxy.example:3128
    carrier: websocket
    headers: {X-Team: blue}
    tls_ca: ca.pem
    tls_extra_ca: proxy.pem
    tls_pin: sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
    tls_cert: me.pem
    tls_key: me.key
    accept_any_certificate: true
    insecure: true
  - {kind: direct, name: local, catalog: catalog.yaml}
  - kind: kubernetes
    name: cluster
    context: staging
    kubeconfig: kube/config
    namespaces: [orders, shop]
    via: pod
    gateway_image: registry.example/devbox-gateway:1
    gateway_token_file: gateway-token
    tls_ca: gateway-ca.pem
    tls_extra_ca: proxy.pem
    tls_pin: sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
    tls_cert: me.pem
    tls_key: me.key
    accept_any_certificate: true
    selector: tier=front
    field_selector: metadata.name!=old
    include: ["web*"]
    exclude: [web-old]
    services: [legacy.orders]
    zone: eu-1
    environment: blue
names: {active: backend, named: [shop]}
pool: 127.78.0.0/16
publish: {hosts_file: {file: hosts, helper: {program: devbox, args: [__helper], restart: true, open_pools: [10.9.0.0/16]}}}
dns: {listen: "127.0.0.1:0", suffix: devbox.test}
claim: true
take_names: true
lock_file: devbox.lock
state_dir: state
share: true
limits: {connections: 9}
services:
  orders.backend: {idle_timeout: 10m, max_connections: 3, bandwidth: 10MiB/s, proxy_protocol: v2, share: false, names: [db], pin: 127.78.0.9, order: 1}
  web.shop: {}
"#;

#[test]
fn every_key_is_read() {
    let config = parse_config(ALL).unwrap();
    let [
        Provider::Gateway(gateway),
        Provider::Direct(direct),
        Provider::Kubernetes(cluster),
    ] = config.providers.as_slice()
    else {
        panic!("{config:?}")
    };
    assert_eq!(gateway.carrier, Some(Carrier::WebSocket));
    assert_eq!(gateway.headers["X-Team"], "blue");
    assert_eq!(gateway.tls_pin.len(), 1);
    assert_eq!(direct.catalog, "catalog.yaml");
    assert_eq!(cluster.namespaces, ["orders", "shop"]);
    assert_eq!(cluster.via.as_deref(), Some("pod"));
    assert_eq!(cluster.tls_ca.as_deref(), Some("gateway-ca.pem"));
    assert_eq!(cluster.tls_pin, gateway.tls_pin);
    assert!(cluster.accept_any_certificate);
    assert_eq!(config.pool, ["127.78.0.0/16"]);
    let orders = &config.services["orders.backend"];
    assert_eq!(orders.idle_timeout, Some(Duration::from_secs(600)));
    assert_eq!((orders.bandwidth, orders.proxy_protocol), (Some(10 << 20), true));
    assert_eq!(orders.names.as_deref(), Some(["db".to_owned()].as_slice()));
    assert_eq!(
        (orders.pin.as_deref(), orders.order),
        (Some("127.78.0.9"), Some(1))
    );
    let web = &config.services["web.shop"];
    assert!(!web.proxy_protocol && web.names.is_none());
    assert!(!format!("{config:?}").contains("blue\"}"), "headers are shown");
}

#[test]
fn the_installed_helper_has_a_file_and_a_socket_of_its_own() {
    let publish = |text: &str| {
        parse_config(&format!("providers: []\npublish: {text}\n"))
            .unwrap()
            .publish
    };
    assert!(matches!(
        publish("{installed_helper: {}}"),
        Some(Publish::InstalledHelper {
            file: None,
            socket: None
        })
    ));
    assert!(matches!(
        publish("{installed_helper: {socket: /run/other.sock}}"),
        Some(Publish::InstalledHelper { socket: Some(socket), .. }) if socket == "/run/other.sock"
    ));
}

fn refused(yaml: &str) -> DevboxError {
    let config: SessionConfig = parse_config(yaml).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime
        .block_on(devbox_ffi::Session::start(config, None))
        .unwrap_err()
}

#[test]
fn what_means_nothing_is_named() {
    let gateway = |key: &str| {
        format!(
            "providers: [{{kind: gateway, name: g, url: 'ws://127.0.0.1:1', token: secret-0123456789, {key}}}]"
        )
    };
    for (yaml, expected) in [
        (gateway("tls_pin: [nonsense]"), "tls_pin"),
        (gateway("tls_cert: me.pem"), "tls_key"),
        (gateway("proxy: 'gopher://x'"), "proxy"),
        (gateway("token_file: t"), "token_file"),
        (
            "providers: [{kind: kubernetes, name: k, via: magic}]".to_owned(),
            "via",
        ),
        (
            "providers: [{kind: kubernetes, name: k, via: 'https://gateway.example', tls_key: me.key}]"
                .to_owned(),
            "tls_cert",
        ),
        (
            "providers: []\nservices: {orders.backend: {names: [Not_A_Label]}}".to_owned(),
            "services.orders.backend.names",
        ),
        (
            "providers: []\nservices: {orders.backend: {pin: nowhere}}".to_owned(),
            "services.orders.backend.pin",
        ),
        ("providers: []\nservices: {orders: {}}".to_owned(), "services"),
        (
            "providers: []\nservices: {orders.backend: {max_connections: 0}}".to_owned(),
            "services.orders.backend.max_connections",
        ),
        (
            "providers: []\ndns: {listen: nowhere, suffix: devbox.test}".to_owned(),
            "dns.listen",
        ),
    ] {
        let error = refused(&yaml);
        assert!(
            matches!(&error, DevboxError::Config { key, .. } if key == expected),
            "{yaml}: {error:?}"
        );
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn a_text_that_is_no_value_has_its_place() {
    let yaml = "providers: []\nservices:\n  orders.backend: {bandwidth: 10mib/s}\n";
    let error = parse_config(yaml).unwrap_err();
    assert!(
        matches!(&error, DevboxError::ConfigText { line: Some(3), reason, .. } if reason.contains("10MiB/s")),
        "{error:?}"
    );
}

#[test]
fn a_helper_that_is_not_installed_is_said_with_its_socket() {
    let yaml = "providers: [{kind: direct, name: local, catalog: nowhere.yaml}]\n\
                publish: {installed_helper: {socket: /nowhere/helper.sock}}\n";
    let error = refused(yaml);
    let DevboxError::Helper { failure, .. } = &error else {
        panic!("{error:?}")
    };
    let socket = "/nowhere/helper.sock".to_owned();
    assert_eq!(*failure, devbox_ffi::HelperFailure::NotInstalled { socket });
}
