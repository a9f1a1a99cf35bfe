//! Difference and application of catalogs, and the texts of targets.

use proptest::prelude::*;
use service_catalog::{Catalog, Error, Health, Label, Port, Protocol, Service, ServiceId, Target, Update};

use super::generate;

proptest! {
    #[test]
    fn applying_the_difference_gives_the_newer(a in generate::catalog(), b in generate::catalog()) {
        let mut mine = a.clone();
        match a.diff(&b) {
            Some(update) => mine.apply(&update),
            None => prop_assert_eq!(&a, &b),
        }
        prop_assert_eq!(mine, b);
    }

    /// Most pairs above differ in their environment: here none does, and a change says no more than it must.
    #[test]
    fn a_difference_names_only_what_differs(a in generate::catalog(), mut b in generate::catalog()) {
        b.environment = a.environment.clone();
        b.notes = a.notes.clone();
        prop_assert_eq!(a.diff(&a), None);
        let mut mine = a.clone();
        if let Some(update) = a.diff(&b) {
            let Update::Changed { upserted, removed } = &update else {
                return Err(TestCaseError::fail("not a change"));
            };
            prop_assert!(upserted.iter().all(|service| a.services.get(&service.id) != Some(service)));
            prop_assert!(removed.iter().all(|id| a.services.contains_key(id)));
            mine.apply(&update);
        }
        prop_assert_eq!(mine, b);
    }

    #[test]
    fn what_a_catalog_offers_can_be_asked_for(catalog in generate::catalog()) {
        for target in catalog.targets() {
            prop_assert_eq!(&target.to_string().parse::<Target>().unwrap(), &target);
            prop_assert_eq!(catalog.port(&target).unwrap().port, target.port);
        }
    }

    #[test]
    fn arbitrary_text_never_panics_and_has_one_spelling(text in "\\PC*|(tcp|udp)/[a-b]/[a-b]/[+0-9]{1,6}") {
        if let Ok(target) = text.parse::<Target>() {
            prop_assert_eq!(target.to_string(), text.clone());
        }
        if let Ok(id) = text.parse::<ServiceId>() {
            prop_assert_eq!(id.to_string(), text.clone());
        }
        if let Ok(label) = text.parse::<Label>() {
            prop_assert_eq!(label.to_string(), text);
        }
    }
}

#[test]
fn targets_that_are_none_are_refused() {
    for text in [
        "",
        "catalog",
        "tcp/a/b",
        "tcp/a/b/",
        "tcp/a/b/0",
        "tcp/a/b/080",
        "tcp/a/b/+80",
        "tcp/a/b/65536",
        "tcp/a/b/80/",
        "TCP/a/b/80",
        "sctp/a/b/80",
        "tcp/a.b/c/80",
        "tcp/../b/80",
        "10.0.0.1:22",
    ] {
        assert!(text.parse::<Target>().is_err(), "{text}");
    }
}

#[test]
fn a_service_has_no_port_twice() {
    let id: ServiceId = "orders.backend".parse().unwrap();
    let port = |number: u16, protocol, name: Option<&str>| Port {
        name: name.map(|name| name.parse().unwrap()),
        port: number.try_into().unwrap(),
        protocol,
        target: None,
    };
    let check = |ports: Vec<Port>| Service::new(id.clone(), ports).map(drop);

    assert_eq!(check(vec![]), Ok(()), "a name without a port is still a name");
    assert_eq!(
        check(vec![port(53, Protocol::Tcp, None), port(53, Protocol::Udp, None)]),
        Ok(())
    );
    assert_eq!(
        check(vec![
            port(53, Protocol::Tcp, None),
            port(53, Protocol::Tcp, Some("dns"))
        ]),
        Err(Error::DuplicatePort {
            service: id.clone(),
            port: 53.try_into().unwrap(),
            protocol: Protocol::Tcp
        })
    );
    assert_eq!(
        check(vec![
            port(1, Protocol::Tcp, Some("x")),
            port(2, Protocol::Tcp, Some("x"))
        ]),
        Err(Error::DuplicatePortName {
            service: id.clone(),
            name: "x".into()
        })
    );
    for target in [String::new(), "x".repeat(256), "a\nb".into(), "ä".into()] {
        let mut bad = port(1, Protocol::Tcp, None);
        bad.target = Some(target);
        assert_eq!(
            check(vec![bad]),
            Err(Error::TargetText {
                service: id.clone(),
                port: 1.try_into().unwrap()
            })
        );
    }
}

#[test]
fn a_catalog_has_no_service_twice() {
    let service = Service::new(
        "orders.backend".parse().unwrap(),
        vec![Port::tcp(1.try_into().unwrap())],
    )
    .unwrap();
    let twice = Catalog::new("dev".parse().unwrap(), [service.clone(), service.clone()]);
    assert_eq!(twice, Err(Error::DuplicateService { service: service.id }));
}

#[test]
fn health_and_the_removal_of_nothing_leave_a_catalog_as_it_is() {
    let before = Catalog::empty("dev".parse().unwrap());
    let mut catalog = before.clone();
    catalog.apply(&Update::Health(Health::stale("x")));
    catalog.apply(&Update::Changed {
        upserted: vec![],
        removed: vec!["a.b".parse().unwrap()],
    });
    assert_eq!(catalog, before);
}

#[test]
fn a_reason_is_one_line_of_limited_length() {
    let Health::Stale { reason } = Health::stale(&"ä\n".repeat(10_000)) else {
        panic!("not stale")
    };
    assert!(
        reason.len() <= service_catalog::MAX_REASON_BYTES && reason.len() > 1000,
        "{}",
        reason.len()
    );
    assert!(!reason.contains('\n'));
}

#[test]
fn another_name_for_a_service_has_no_ports_of_its_own() {
    let mut alias = Service::alias("db.shop".parse().unwrap(), "postgres.shop".parse().unwrap());
    assert_eq!(alias.check(), Ok(()));
    alias.ports.push(Port::tcp(1.try_into().unwrap()));
    assert_eq!(
        alias.check(),
        Err(Error::AliasWithPorts {
            service: alias.id.clone()
        })
    );
}

#[test]
fn aliases_are_few_and_different() {
    let id: ServiceId = "orders.backend".parse().unwrap();
    let check = |aliases: &[&str]| {
        let service = Service {
            aliases: aliases.iter().map(|alias| alias.parse().unwrap()).collect(),
            ..Service::new(id.clone(), Vec::new()).unwrap()
        };
        service.check()
    };
    assert_eq!(check(&["shop", "store"]), Ok(()));
    let many: Vec<String> = (0..17).map(|n| format!("a{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for bad in [&["shop", "shop"][..], &["orders"], &many] {
        assert_eq!(check(bad), Err(Error::Aliases { service: id.clone() }), "{bad:?}");
    }
}

#[test]
fn a_member_of_a_service_is_a_service_of_its_own() {
    let id: ServiceId = "db-0.db.shop".parse().unwrap();
    assert_eq!(id.member, Some("db-0".parse().unwrap()));
    assert_eq!(id.to_string(), "db-0.db.shop");
    let target: Target = "tcp/shop/db/db-0/5432".parse().unwrap();
    assert_eq!(
        (target.service.clone(), target.to_string().as_str()),
        (id, "tcp/shop/db/db-0/5432")
    );
    for text in ["db", "a.b.c.d", ".db.shop", "db-0..shop", "db-0.db."] {
        assert!(text.parse::<ServiceId>().is_err(), "{text}");
    }
}
