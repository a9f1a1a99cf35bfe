//! What a catalog file may say, and how a mistake in it is told.

use catalog_file::{Error, StaticCatalog};
use service_catalog::{Catalog, Port, Protocol, Service, Target};

const GOOD: &str = r#"environment: dev
services:
  - name: orders
    namespace: backend
    ports: [{name: pg, port: 5432, protocol: tcp, target: "127.0.0.1:15432"}]
  - name: web
    namespace: shop
    ports:
      - port: 80
        target: web.internal:8080
      - port: 443
        name: https
        protocol: tcp
        target: "[::1]:8443"
"#;

#[test]
fn the_format_of_the_documentation_is_read() {
    let catalog = StaticCatalog::parse(GOOD, "c.yaml").unwrap();
    assert_eq!(catalog.catalog().environment.as_str(), "dev");
    let targets: Vec<_> = catalog.catalog().targets().collect();
    let dialled: Vec<_> = targets
        .iter()
        .map(|target| format!("{target} -> {}", catalog.dial_address(target).unwrap()))
        .collect();
    assert_eq!(
        dialled,
        [
            "tcp/backend/orders/5432 -> 127.0.0.1:15432",
            "tcp/shop/web/80 -> web.internal:8080",
            "tcp/shop/web/443 -> [::1]:8443",
        ]
    );
    let port = catalog.catalog().port(&targets[0]).unwrap();
    assert_eq!(port.name.as_ref().unwrap().as_str(), "pg");
    assert_eq!(port.target.as_deref(), Some("127.0.0.1:15432"));
    assert_eq!(port.protocol, Protocol::Tcp);

    for absent in [
        "tcp/backend/orders/5433",
        "udp/backend/orders/5432",
        "tcp/shop/orders/5432",
    ] {
        assert_eq!(
            catalog.dial_address(&absent.parse::<Target>().unwrap()),
            None,
            "{absent}"
        );
    }
}

#[test]
fn services_may_have_aliases_members_and_no_ports() {
    let text = r#"environment: dev
services:
  - {name: db, namespace: backend, member: db-0, ports: [{port: 5432, target: "127.0.0.1:1"}]}
  - {name: db, namespace: backend, aliases: [orders, stock], ports: [{port: 5432, target: "127.0.0.1:2"}]}
  - {name: old, namespace: backend, alias_of: db.backend}
  - {name: older, namespace: backend, alias_of: db-0.db.backend, ports: []}
  - {name: idle, namespace: backend, ports: []}
"#;
    let catalog = StaticCatalog::parse(text, "c.yaml").unwrap();
    let services: Vec<_> = catalog
        .catalog()
        .services
        .values()
        .map(|service| {
            let aliases: Vec<_> = service.aliases.iter().map(ToString::to_string).collect();
            let of = service.alias_of.as_ref().map(ToString::to_string);
            (
                service.id.to_string(),
                service.ports.len(),
                aliases.join(","),
                of.unwrap_or_default(),
            )
        })
        .collect();
    let expected = [
        ("db.backend", 1, "orders,stock", ""),
        ("db-0.db.backend", 1, "", ""),
        ("idle.backend", 0, "", ""),
        ("old.backend", 0, "", "db.backend"),
        ("older.backend", 0, "", "db-0.db.backend"),
    ];
    let expected =
        expected.map(|(id, ports, aliases, of)| (id.to_owned(), ports, aliases.to_owned(), of.to_owned()));
    assert_eq!(services, expected);
    for (target, address) in [
        ("tcp/backend/db/5432", "127.0.0.1:2"),
        ("tcp/backend/db/db-0/5432", "127.0.0.1:1"),
    ] {
        let target = target.parse().unwrap();
        assert_eq!(catalog.dial_address(&target).unwrap().to_string(), address);
    }
}

#[test]
fn a_catalog_from_elsewhere_says_what_to_dial_in_its_targets() {
    let port = |number: u16, protocol, target: Option<&str>| Port {
        name: None,
        port: number.try_into().unwrap(),
        protocol,
        target: target.map(str::to_owned),
    };
    let catalog = |port| {
        let service = Service::new("a.x".parse().unwrap(), vec![port]).unwrap();
        Catalog::new("dev".parse().unwrap(), [service]).unwrap()
    };
    let good =
        StaticCatalog::from_targets(catalog(port(80, Protocol::Tcp, Some("web.internal:8080")))).unwrap();
    let target = "tcp/x/a/80".parse().unwrap();
    assert_eq!(
        good.dial_address(&target).unwrap().to_string(),
        "web.internal:8080"
    );
    for (bad, says) in [
        (
            port(80, Protocol::Tcp, None),
            "port 80/tcp of `a.x`: it does not say what to dial",
        ),
        (
            port(80, Protocol::Tcp, Some("pod web-1")),
            "port 80/tcp of `a.x`: `pod web-1` is not an address",
        ),
        (
            port(53, Protocol::Udp, None),
            "port 53/udp of `a.x`: it does not say what to dial",
        ),
    ] {
        let error = StaticCatalog::from_targets(catalog(bad)).unwrap_err().to_string();
        assert!(error.starts_with(says), "{error}");
    }
}

#[test]
fn an_environment_may_be_empty() {
    let catalog = StaticCatalog::parse("environment: dev\nservices: []\n", "c.yaml").unwrap();
    assert!(catalog.catalog().services.is_empty());
}

#[test]
fn a_mistake_is_told_with_its_place() {
    // What is replaced in the good file by what; line, column; what the message says.
    let cases = [
        (
            "environment: dev",
            "environment: Dev",
            (1, 14),
            "`D` is not a lower case letter",
        ),
        ("environment: dev\n", "", (1, 1), "missing field `environment`"),
        (
            "name: orders",
            "name: -orders",
            (3, 11),
            "begins or ends with `-`",
        ),
        (
            "name: orders",
            "name: orders\n    nmae: x",
            (4, 5),
            "unknown field `nmae`",
        ),
        (
            "name: orders",
            "name: orders\n    name: again",
            (4, 5),
            "duplicate",
        ),
        ("namespace: shop", "namespace: a.b", (7, 16), "`.` is not"),
        (
            "port: 5432",
            "port: 0",
            (5, 30),
            "`0` is not a port: a number from 1 to 65535",
        ),
        ("port: 5432", "port: 65536", (5, 30), "`65536` is not a port"),
        ("port: 5432", "port: 0x50", (5, 30), "`0x50` is not a port"),
        ("port: 5432", "port: pg", (5, 30), "`pg` is not a port"),
        (
            "port: 5432, protocol: tcp",
            "port: 5432, protocol: sctp",
            (5, 46),
            "sctp",
        ),
        (
            "\"127.0.0.1:15432\"",
            "\"127.0.0.1\"",
            (5, 59),
            "it must read host:port",
        ),
        (
            "\"[::1]:8443\"",
            "\"[::1]:0\"",
            (14, 17),
            "the port must be a number",
        ),
        (
            ", target: \"127.0.0.1:15432\"",
            "",
            (5, 36),
            "missing field `target`",
        ),
        (
            "- port: 443\n        name: https",
            "- port: 80",
            (11, 9),
            "port 80/tcp twice",
        ),
        (
            "name: web\n    namespace: shop",
            "name: orders\n    namespace: backend",
            (6, 5),
            "`orders.backend` is there twice",
        ),
        (
            "ports: [{name: pg, port: 5432, protocol: tcp, target: \"127.0.0.1:15432\"}]",
            "aliases: []",
            (3, 5),
            "`ports: []`",
        ),
        (
            "    ports: [{name: pg",
            "    alias_of: web.shop\n    ports: [{name: pg",
            (6, 13),
            "no ports of its own",
        ),
        (
            "ports: [{name: pg, port: 5432, protocol: tcp, target: \"127.0.0.1:15432\"}]",
            "alias_of: web.shopping",
            (5, 15),
            "no service `web.shopping`",
        ),
        (
            "ports: [{name: pg, port: 5432, protocol: tcp, target: \"127.0.0.1:15432\"}]",
            "alias_of: orders.backend",
            (5, 15),
            "an alias itself",
        ),
        (
            "namespace: backend",
            "namespace: backend\n    aliases: [orders]",
            (3, 5),
            "aliases of service",
        ),
        (
            "namespace: backend",
            "namespace: backend\n    member: a.b",
            (5, 13),
            "`.` is not",
        ),
        ("services:", "services", (2, 1), ""),
        ("[{name: pg", "[{name: pg, [", (5, 24), "mismatched bracket"),
    ];
    let mut wrong = Vec::new();
    for (good, bad, place, says) in cases {
        let text = GOOD.replacen(good, bad, 1);
        assert_ne!(text, GOOD, "{good} is in the good file");
        match StaticCatalog::parse(&text, "dir/c.yaml") {
            Err(error @ Error::Catalog { line, column, .. }) => {
                let told = error.to_string();
                let start = format!("dir/c.yaml:{line}:{column}: ");
                if (line, column) != place
                    || !told.contains(says)
                    || !told.starts_with(&start)
                    || told.contains('\n')
                {
                    wrong.push(format!("{bad:?}: {told}"));
                }
            }
            other => wrong.push(format!("{bad:?}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_file_that_ends_too_early_is_an_error() {
    for end in [
        "",
        "environment: dev\n",
        "environment: dev\nservices:\n",
        "environment: dev\nservices:\n  - name: orders\n",
    ] {
        let error = StaticCatalog::parse(end, "c.yaml");
        assert!(
            matches!(error, Err(Error::Catalog { line: 1.., .. })),
            "{end:?}: {error:?}"
        );
    }
}

#[test]
fn in_code_a_port_can_be_added_once() {
    let mut catalog = StaticCatalog::new("dev".parse().unwrap());
    let id = || "orders.backend".parse().unwrap();
    let address = || "127.0.0.1:1".parse().unwrap();
    catalog.add(id(), None, 1.try_into().unwrap(), address()).unwrap();
    catalog
        .add(
            id(),
            Some("two".parse().unwrap()),
            2.try_into().unwrap(),
            address(),
        )
        .unwrap();
    let before = catalog.clone();
    assert!(matches!(
        catalog.add(id(), None, 2.try_into().unwrap(), address()),
        Err(Error::Service {
            source: service_catalog::Error::DuplicatePort { .. }
        })
    ));
    assert_eq!(catalog, before);
    assert_eq!(catalog.catalog().targets().count(), 2);
}

#[test]
fn a_number_may_be_a_port_of_both_protocols_each_with_its_own_address() {
    let text = "environment: dev\nservices:\n  - name: dns\n    namespace: x\n    ports:\n      \
                - {port: 53, target: \"127.0.0.1:1\"}\n      \
                - {port: 53, protocol: udp, target: \"127.0.0.1:2\"}\n";
    let catalog = StaticCatalog::parse(text, "catalog.yaml").unwrap();
    for (target, address) in [("tcp/x/dns/53", "127.0.0.1:1"), ("udp/x/dns/53", "127.0.0.1:2")] {
        let target = target.parse().unwrap();
        assert_eq!(catalog.dial_address(&target).unwrap().to_string(), address);
    }
    let twice = format!("{text}      - {{port: 53, protocol: udp, target: \"127.0.0.1:3\"}}\n");
    assert!(StaticCatalog::parse(&twice, "catalog.yaml").is_err());
}
