use proptest::prelude::*;
use service_catalog::Service;

use super::*;

const FORWARD: Reach = Reach {
    addresses: false,
    names: false,
    datagrams: false,
};
const GATEWAY: Reach = Reach {
    addresses: true,
    names: false,
    datagrams: true,
};

const POD: Reach = Reach {
    addresses: true,
    names: true,
    datagrams: true,
};

fn namespace() -> Label {
    "shop".parse().unwrap()
}

fn awaited() -> BTreeSet<Scope> {
    let scope = |resource| Scope {
        namespace: namespace(),
        resource,
    };
    [Resource::Services, Resource::Slices].map(scope).into()
}

fn objects(reach: Reach) -> Objects {
    Objects::new("dev".parse().unwrap(), Globs::default(), reach, awaited())
}

fn service(json: &serde_json::Value) -> ServiceObject {
    let service: wire::Service = serde_json::from_value(json.clone()).unwrap();
    service.object().unwrap()
}

fn slice(json: &serde_json::Value) -> SliceObject {
    let slice: wire::Slice = serde_json::from_value(json.clone()).unwrap();
    slice.object().unwrap()
}

/// Everything that has to be told, put together by somebody who was told `catalog` so far.
fn tell(
    objects: &mut Objects,
    catalog: &mut Catalog,
    answers: &mut BTreeMap<Target, Arc<Answers>>,
    now: Instant,
) {
    while let Some((target, of)) = objects.poll_answers(now) {
        match of {
            Some(of) => answers.insert(target, of),
            None => answers.remove(&target),
        };
    }
    while let Some(update) = objects.poll_update(now) {
        if let Update::Changed { upserted, .. } = &update {
            assert!(upserted.iter().all(|service| service.check().is_ok()));
        }
        catalog.apply(&update);
    }
}

/// The catalog of these objects, listed once.
fn listed(reach: Reach, services: &[serde_json::Value], slices: &[serde_json::Value]) -> Catalog {
    let mut objects = objects(reach);
    objects.handle_services(&namespace(), services.iter().map(service).collect());
    objects.handle_slices(&namespace(), slices.iter().map(slice).collect());
    let mut catalog = Catalog::empty("dev".parse().unwrap());
    tell(&mut objects, &mut catalog, &mut BTreeMap::new(), Instant::now());
    catalog
}

fn service_json(name: &str, spec: &serde_json::Value) -> serde_json::Value {
    serde_json::json!({"metadata": {"name": name, "namespace": "shop", "managedFields": [{"x": 1}]}, "spec": spec})
}

fn slice_json(service: &str, number: u8, port: u16, pods: &[(u8, bool, bool)]) -> serde_json::Value {
    let endpoint = |(pod, ready, terminating): &(u8, bool, bool)| {
        serde_json::json!({
            "addresses": [format!("10.0.{number}.{pod}")],
            "conditions": {"ready": ready, "serving": ready, "terminating": terminating},
            "targetRef": {"kind": "Pod", "name": format!("{service}-{pod}"), "namespace": "shop"},
        })
    };
    serde_json::json!({
        "metadata": {
            "name": format!("{service}-{number}"), "namespace": "shop",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": port, "protocol": "TCP"}],
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn reason(service: &Service) -> &str {
    match &service.readiness {
        Readiness::Ready => "",
        Readiness::NotReady { reason } => reason,
    }
}

fn team(data: &serde_json::Value) -> Option<Team> {
    let json = serde_json::json!({"metadata": {"name": "devbox", "namespace": "shop"}, "data": data});
    let map: wire::ConfigMap = serde_json::from_value(json).unwrap();
    map.team()
}

#[test]
fn a_teams_wishes_come_and_go_with_its_config_map() {
    let now = Instant::now();
    let spec = serde_json::json!({"selector": {"app": "x"}, "ports": [{"port": 80}]});
    let names = ["web", "cache", "db"];
    let services = || {
        names
            .iter()
            .map(|name| service(&service_json(name, &spec)))
            .collect()
    };
    let slices = names
        .iter()
        .map(|name| slice(&slice_json(name, 1, 8080, &[(1, true, false)])));
    let mut awaited = awaited();
    awaited.insert(Scope {
        namespace: namespace(),
        resource: Resource::Team,
    });
    let mut objects = Objects::new("dev".parse().unwrap(), Globs::default(), POD, awaited);
    objects.handle_services(&namespace(), services());
    objects.handle_slices(&namespace(), slices.collect());
    assert_eq!(
        objects.poll_update(now),
        None,
        "names would change as soon as they are there"
    );
    objects.handle_team(&namespace(), None);
    let mut catalog = Catalog::empty("dev".parse().unwrap());
    let mut told = |objects: &mut Objects| {
        tell(objects, &mut catalog, &mut BTreeMap::new(), now);
        catalog.clone()
    };
    let plain = told(&mut objects);
    assert_eq!(plain.services.len(), 3);

    let wishes = serde_json::json!({"names": "web: shop", "pins": "cache: 127.77.1.1", "order": "db\nweb"});
    objects.handle_team(&namespace(), team(&wishes));
    let dressed = told(&mut objects);
    let of = |name: &str| &dressed.services[&ServiceId::new(namespace(), name.parse().unwrap())];
    assert_eq!(of("web").aliases, ["shop".parse().unwrap()]);
    assert_eq!(
        (of("db").order, of("web").order, of("cache").order),
        (Some(0), Some(1), None)
    );
    assert_eq!(of("cache").pin, "127.77.1.1".parse().ok());
    assert_eq!(dressed.notes, [""; 0]);

    // Listed again as they were, the services keep what the team wants for them.
    objects.handle_services(&namespace(), services());
    assert_eq!(told(&mut objects), dressed);

    objects.handle_team(
        &namespace(),
        team(&serde_json::json!({"names": "web: shop\nweb"})),
    );
    let damaged = told(&mut objects);
    assert_eq!(damaged.notes.len(), 1);
    assert!(
        damaged.notes[0].contains("`names`, line 2"),
        "{:?}",
        damaged.notes
    );
    assert_eq!(
        damaged
            .services
            .values()
            .filter(|service| !service.aliases.is_empty())
            .count(),
        1
    );

    objects.handle_team(&namespace(), None);
    assert_eq!(told(&mut objects), plain);
}

#[test]
fn a_config_map_that_may_not_be_read_is_a_note_and_keeps_nothing_back() {
    let now = Instant::now();
    let scope = Scope {
        namespace: namespace(),
        resource: Resource::Team,
    };
    let mut objects = Objects::new(
        "dev".parse().unwrap(),
        Globs::default(),
        POD,
        [scope.clone()].into(),
    );
    let forbidden = Forbidden {
        who: crate::Who::You,
        verb: "get".to_owned(),
        resource: "configmaps".to_owned(),
        namespace: Some("shop".to_owned()),
    };
    objects.handle_trouble(scope, Some(Trouble::Unknown { forbidden }));
    let Some(Update::Snapshot(catalog)) = objects.poll_update(now) else {
        panic!("no catalog");
    };
    assert_eq!(
        catalog.notes,
        ["you may not get configmaps in the namespace shop, so a team's names, pins and order are not known"]
    );
    assert_eq!(
        objects.poll_update(now),
        None,
        "the catalog is not stale for that"
    );
}

#[test]
fn what_a_gateway_may_not_watch_is_told_to_its_clients_and_a_users_own_lack_is_in_their_status() {
    for (who, wanted) in [
        (
            Who::Gateway,
            vec![
                "the gateway may not watch services in the namespace shop, so they are listed every 5 s"
                    .to_owned(),
            ],
        ),
        (Who::You, Vec::new()),
    ] {
        let (mut objects, now) = (objects(POD), Instant::now());
        objects.handle_services(&namespace(), Vec::new());
        objects.handle_slices(&namespace(), Vec::new());
        let notes = |objects: &mut Objects| match objects.poll_update(now) {
            Some(Update::Snapshot(catalog)) => catalog.notes,
            other => panic!("no catalog: {other:?}"),
        };
        assert_eq!(notes(&mut objects), Vec::<String>::new());
        let scope = Scope {
            namespace: namespace(),
            resource: Resource::Services,
        };
        let forbidden = Forbidden {
            who,
            verb: "watch".to_owned(),
            resource: "services".to_owned(),
            namespace: Some("shop".to_owned()),
        };
        let every = Duration::from_secs(5);
        objects.handle_trouble(scope.clone(), Some(Trouble::Polled { forbidden, every }));
        if wanted.is_empty() {
            assert_eq!(objects.poll_update(now), None);
            continue;
        }
        assert_eq!(notes(&mut objects), wanted);
        // Together with what the gateway says of its sessions, until neither is so any more.
        objects.handle_notes(vec!["the gateway may not list leases".to_owned()]);
        assert_eq!(notes(&mut objects).len(), 2);
        objects.handle_trouble(scope, None);
        objects.handle_notes(Vec::new());
        assert_eq!(notes(&mut objects), Vec::<String>::new());
    }
}

#[test]
fn each_kind_of_service_says_what_it_is() {
    let ports = serde_json::json!([{"port": 80}]);
    let selector = serde_json::json!({"app": "x"});
    let services = [
        service_json("web", &serde_json::json!({"selector": selector, "ports": ports})),
        service_json(
            "empty",
            &serde_json::json!({"selector": selector, "ports": ports}),
        ),
        service_json(
            "leaving",
            &serde_json::json!({"selector": selector, "ports": ports}),
        ),
        service_json("by-hand", &serde_json::json!({"ports": ports})),
        service_json("alone", &serde_json::json!({"ports": ports})),
        service_json(
            "outside",
            &serde_json::json!({"type": "ExternalName", "externalName": "db.example", "ports": ports}),
        ),
        service_json(
            "elsewhere",
            &serde_json::json!({"type": "ExternalName", "externalName": "db.orders.svc.cluster.local", "ports": ports}),
        ),
        service_json(
            "name-only",
            &serde_json::json!({"type": "ExternalName", "externalName": "db.example"}),
        ),
        service_json(
            "dns",
            &serde_json::json!({"ports": [{"port": 53, "protocol": "UDP"}]}),
        ),
        service_json(
            "sctp",
            &serde_json::json!({"ports": [{"port": 9, "protocol": "SCTP"}]}),
        ),
    ];
    let mut by_hand = slice_json("by-hand", 1, 8080, &[(1, true, false)]);
    by_hand["endpoints"][0]["targetRef"] = serde_json::Value::Null;
    let slices = [
        slice_json("web", 1, 8080, &[(1, false, false), (2, true, false)]),
        slice_json("leaving", 2, 8080, &[(1, true, true)]),
        by_hand,
    ];
    let told = |reach, name: &str| {
        let catalog = listed(reach, &services, &slices);
        let id: ServiceId = format!("{name}.shop").parse().unwrap();
        reason(&catalog.services[&id]).to_owned()
    };
    assert_eq!(told(FORWARD, "web"), "");
    assert_eq!(told(FORWARD, "empty"), "it has no pod");
    assert_eq!(told(FORWARD, "leaving"), "its pods are being terminated");
    assert_eq!(told(FORWARD, "alone"), "it has neither a selector nor endpoints");
    assert!(told(FORWARD, "by-hand").contains("reaches pods only"));
    assert_eq!(told(POD, "by-hand"), "");
    assert!(told(FORWARD, "dns").starts_with("a port-forward carries no UDP"));
    assert_eq!(told(POD, "dns"), "it has neither a selector nor endpoints");
    assert_eq!(told(POD, "sctp"), "SCTP is not carried");
    assert_eq!(
        told(FORWARD, "outside"),
        "it stands for db.example, and a port-forward follows no ExternalName: connect to db.example itself where this \
         machine reaches it, or use `--via pod`, which follows it"
    );
    assert_eq!(
        told(GATEWAY, "elsewhere"),
        "it stands for the service db in the namespace orders, and this gateway follows no ExternalName: `-n orders` has \
         that service under its own name, and `--via pod` follows it"
    );
    assert_eq!(told(POD, "outside"), "");
    assert_eq!(told(POD, "elsewhere"), "");
    assert_eq!(
        told(POD, "name-only"),
        "it stands for db.example, and names no port"
    );
}

#[test]
fn a_headless_service_has_a_name_for_each_pod() {
    let spec = serde_json::json!({"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 5432}]});
    let mut with_name = slice_json("db", 1, 5432, &[(1, true, false), (2, true, false)]);
    with_name["endpoints"][0]["hostname"] = "db-0".into();
    let catalog = listed(FORWARD, &[service_json("db", &spec)], &[with_name]);
    let ids: Vec<_> = catalog.services.keys().map(ToString::to_string).collect();
    assert_eq!(ids, ["db.shop", "db-0.db.shop", "db-2.db.shop"]);
}

#[test]
fn annotations_name_and_hide_and_choose_ports() {
    let spec = serde_json::json!({"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]});
    let annotated = |annotations: serde_json::Value| {
        let mut json = service_json("web", &spec);
        json["metadata"]["annotations"] = annotations;
        listed(FORWARD, &[json], &[])
    };
    let catalog = annotated(serde_json::json!({
        "devbox.dev/name": "shop, web storefront Not_A_Name", "devbox.dev/ports": "http", "other": "x",
    }));
    let web = catalog.services.values().next().unwrap();
    let aliases: Vec<_> = web.aliases.iter().map(Label::as_str).collect();
    assert_eq!(aliases, ["shop", "storefront"]);
    assert_eq!(
        web.ports.iter().map(|port| port.port.get()).collect::<Vec<_>>(),
        [80]
    );
    assert!(
        annotated(serde_json::json!({"devbox.dev/ignore": "true"}))
            .services
            .is_empty()
    );
    assert_eq!(
        annotated(serde_json::json!({"devbox.dev/ignore": "false"}))
            .services
            .len(),
        1
    );
}

#[test]
fn a_new_service_is_told_when_it_is_ready_and_not_before() {
    let now = Instant::now();
    let mut objects = objects(FORWARD);
    objects.handle_services(&namespace(), Vec::new());
    objects.handle_slices(&namespace(), Vec::new());
    assert!(matches!(objects.poll_update(now), Some(Update::Snapshot(_))));
    let spec = serde_json::json!({"selector": {"a": "b"}, "ports": [{"port": 80}]});
    objects.handle_service(service(&service_json("web", &spec)));
    objects.handle_slice(slice(&slice_json("web", 1, 80, &[(1, false, false)])));
    assert_eq!(objects.poll_update(now), None);
    objects.handle_slice(slice(&slice_json("web", 1, 80, &[(1, true, false)])));
    let Some(Update::Changed { upserted, .. }) = objects.poll_update(now) else {
        panic!("it is ready");
    };
    assert_eq!(upserted[0].readiness, Readiness::Ready);
    // Once told, it stays and says why it does not answer.
    objects.handle_slice(slice(&slice_json("web", 1, 80, &[(1, false, false)])));
    let Some(Update::Changed { upserted, .. }) = objects.poll_update(now) else {
        panic!("it is no longer ready");
    };
    assert_eq!(reason(&upserted[0]), "its only pod is not ready");
    // One that never becomes ready is told after a while.
    objects.handle_service(service(&service_json("never", &spec)));
    assert_eq!(objects.poll_update(now), None);
    let due = objects.poll_timeout().unwrap();
    assert_eq!(due, now + QUIET);
    let Some(Update::Changed { upserted, .. }) = objects.poll_update(due) else {
        panic!("it was kept back long enough");
    };
    assert_eq!(reason(&upserted[0]), "it has no pod");
    assert_eq!(objects.poll_timeout(), None);
}

#[derive(Debug, Clone)]
enum Happened {
    Service(serde_json::Value),
    ServiceGone(u8),
    Slice(u8, u8, serde_json::Value),
    SliceGone(u8, u8),
    Relisted,
    Asked,
}

fn happened() -> impl Strategy<Value = Happened> {
    let kind = prop_oneof![
        Just(serde_json::json!({"selector": {"a": "b"}, "ports": [{"port": 80}]})),
        Just(serde_json::json!({"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 80}]})),
        Just(serde_json::json!({"ports": [{"port": 81}], "sessionAffinity": "ClientIP"})),
    ];
    let service =
        (0..3_u8, kind).prop_map(|(of, spec)| Happened::Service(service_json(&format!("s{of}"), &spec)));
    let pods = prop::collection::vec((1..4_u8, any::<bool>(), any::<bool>()), 0..3);
    let slice = (0..3_u8, 0..2_u8, 1..3_u16, pods).prop_map(|(of, number, port, pods)| {
        Happened::Slice(of, number, slice_json(&format!("s{of}"), number, port, &pods))
    });
    prop_oneof![
        4 => service,
        1 => (0..3_u8).prop_map(Happened::ServiceGone),
        6 => slice,
        2 => (0..3_u8, 0..2_u8).prop_map(|(of, number)| Happened::SliceGone(of, number)),
        1 => Just(Happened::Relisted),
        3 => Just(Happened::Asked),
    ]
}

proptest! {
    #[test]
    fn the_same_objects_make_the_same_catalog_however_they_came(
        happened in prop::collection::vec(happened(), 0..40),
    ) {
        let now = Instant::now();
        let late = now + 2 * QUIET;
        let mut services: BTreeMap<String, ServiceObject> = BTreeMap::new();
        let mut slices: BTreeMap<(u8, u8), SliceObject> = BTreeMap::new();
        let mut objects = objects(FORWARD);
        objects.handle_services(&namespace(), Vec::new());
        objects.handle_slices(&namespace(), Vec::new());
        let mut catalog = Catalog::empty("dev".parse().unwrap());
        let mut answers = BTreeMap::new();
        for event in happened {
            match event {
                Happened::Service(json) => {
                    let object = service(&json);
                    services.insert(object.id.to_string(), object.clone());
                    objects.handle_service(object);
                }
                Happened::ServiceGone(of) => {
                    let id = format!("s{of}.shop");
                    services.remove(&id);
                    objects.handle_service_gone(&id.parse().unwrap());
                }
                Happened::Slice(of, number, json) => {
                    let object = slice(&json);
                    slices.insert((of, number), object.clone());
                    objects.handle_slice(object);
                }
                Happened::SliceGone(of, number) => {
                    slices.remove(&(of, number));
                    objects.handle_slice_gone(&namespace(), &format!("s{of}-{number}").into());
                }
                Happened::Relisted => {
                    objects.handle_slices(&namespace(), slices.values().rev().cloned().collect());
                    objects.handle_services(&namespace(), services.values().rev().cloned().collect());
                }
                Happened::Asked => tell(&mut objects, &mut catalog, &mut answers, now),
            }
        }
        // What is kept back has been known for long enough then.
        tell(&mut objects, &mut catalog, &mut answers, now);
        tell(&mut objects, &mut catalog, &mut answers, late);

        let mut fresh = self::objects(FORWARD);
        fresh.handle_slices(&namespace(), slices.into_values().collect());
        fresh.handle_services(&namespace(), services.into_values().collect());
        let mut expected = Catalog::empty("dev".parse().unwrap());
        let mut expected_answers = BTreeMap::new();
        tell(&mut fresh, &mut expected, &mut expected_answers, now);
        prop_assert_eq!(&catalog, &expected);
        prop_assert_eq!(&answers, &expected_answers);
        // What the catalog calls ready has somebody who answers, and nobody else.
        for service in catalog.services.values() {
            let answered = service.ports.iter().any(|port| {
                let target = Target { service: service.id.clone(), port: port.port, protocol: port.protocol };
                !answers[&target].places.is_empty()
            });
            prop_assert_eq!(answered, service.readiness == Readiness::Ready);
        }
    }
}
