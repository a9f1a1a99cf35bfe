use super::*;
use crate::key::ProviderId;

fn wish(provider: usize, service: &str, own: &[&str], given: &[&str]) -> Wish {
    let texts = |names: &[&str]| names.iter().copied().map(Arc::from).collect();
    let octet = u8::try_from(provider).unwrap();
    let key = ServiceKey {
        provider: ProviderId(provider),
        environment: "staging".parse().unwrap(),
        service: service.parse().unwrap(),
    };
    Wish {
        behind: Behind {
            service: key.service.clone(),
            environment: key.environment.clone(),
            ports: vec![service_catalog::Port::tcp(5432.try_into().unwrap())],
            members: Vec::new(),
        },
        service: key,
        shown: format!("{service} of p{provider}"),
        addresses: vec![IpAddr::from([
            127,
            77,
            octet,
            u8::try_from(service.len()).unwrap(),
        ])],
        own: texts(own),
        given: texts(given),
        refused: Vec::new(),
        right: Right::new(None, provider, None),
    }
}

#[test]
fn a_clash_that_somebody_has_decided_is_shown_and_no_news() {
    let of = |service: &str, order: Option<u16>| Wish {
        right: Right::new(None, 0, order),
        ..wish(0, service, &[], &["db"])
    };
    for (order, told) in [(None, 1), (Some(0), 0)] {
        let (mut names, mut notices) = (Names::new(vec!["file".to_owned()]), Notices::default());
        refresh(&mut names, vec![of("a.x", order), of("bb.x", None)], &mut notices);
        assert_eq!(names.clashes().len(), 1);
        assert_eq!(events(&mut notices).len(), told, "{order:?}");
    }
}

/// What is wanted as a whole, as what changes: the services that are no more are taken away.
fn refresh(names: &mut Names, wishes: Vec<Wish>, notices: &mut Notices) {
    let mut changes: BTreeMap<_, _> = names.named.keys().cloned().map(|key| (key, None)).collect();
    changes.extend(wishes.into_iter().map(|wish| (wish.service.clone(), Some(wish))));
    names.refresh(changes, notices);
}

fn owner_of(name: &str, wishes: Vec<Wish>) -> String {
    let mut names = Names::new(vec!["file".to_owned()]);
    let keys: Vec<_> = wishes.iter().map(|wish| wish.service.clone()).collect();
    refresh(&mut names, wishes, &mut Notices::default());
    let owner = keys.iter().find(|key| names.of(key).iter().any(|of| of == name));
    owner.unwrap().to_string()
}

#[test]
fn for_a_name_whom_the_user_puts_first_comes_before_the_earlier_far_side_and_that_before_whom_a_catalog_puts_first()
 {
    let of = |provider: usize, service: &str, by_user: Option<u16>, by_catalog: Option<u16>| Wish {
        right: Right::new(by_user, provider, by_catalog),
        ..wish(provider, service, &[], &["db"])
    };
    let owner = |wishes: Vec<Wish>| owner_of("db", wishes);
    let nobody = || vec![of(0, "a.x", None, None), of(0, "bb.x", None, None)];
    assert_eq!(owner(nobody()), "a.x");
    let by_catalog = || vec![of(0, "a.x", None, Some(7)), of(0, "bb.x", None, Some(2))];
    assert_eq!(owner(by_catalog()), "bb.x");
    let mut two = by_catalog();
    two.push(of(1, "ccc.x", None, Some(0)));
    assert_eq!(
        owner(two),
        "bb.x",
        "a far side does not put itself before another"
    );
    let mut three = by_catalog();
    three.push(of(1, "ccc.x", Some(9), None));
    assert_eq!(owner(three), "ccc.x", "the user does");
    // However strongly it is wanted: a name that a service has by itself stays its own.
    let own = wish(1, "db.x", &["db"], &[]);
    let mut four = by_catalog();
    four.push(own);
    assert_eq!(owner(four), "db.x");
}

fn events(notices: &mut Notices) -> Vec<Event> {
    std::iter::from_fn(|| notices.poll_event()).collect()
}

#[test]
fn a_record_knows_its_service_and_the_names_of_the_members() {
    let mut names = Names::new(Vec::new());
    let mut notices = Notices::default();
    let mut alias = wish(0, "database.backend", &["database.backend"], &[]);
    let service = wish(0, "db.backend", &["db.backend", "db.backend.svc"], &[]);
    alias.behind = service.behind.clone();
    alias.addresses.clone_from(&service.addresses);
    let member = |id: &str, names: &[&str], last: u8| Wish {
        addresses: vec![IpAddr::from([127, 77, 9, last])],
        ..wish(0, id, names, &[])
    };
    let wishes = vec![
        alias,
        service,
        member("db-0.db.backend", &["db-0.db.backend", "db-0.db.backend.svc"], 1),
        member("db-1.db.backend", &[], 2),
        // Of the same name in another provider.
        wish(1, "db-2.db.backend", &["db-2.db.backend"], &[]),
    ];
    refresh(&mut names, wishes, &mut notices);
    let of = |name: &str| {
        let record = names
            .wanted()
            .iter()
            .find(|record| record.names.iter().any(|of| **of == *name));
        record.unwrap().behind.clone().unwrap()
    };
    assert_eq!(
        names.wanted().iter().next().unwrap().names,
        ["db.backend", "db.backend.svc", "database.backend"].map(Arc::from)
    );
    let service = of("database.backend");
    assert_eq!(service.service.to_string(), "db.backend");
    assert_eq!(service.members, ["db-0.db.backend"].map(Arc::from));
    assert_eq!(of("db.backend.svc"), service);
    assert!(of("db-0.db.backend.svc").members.is_empty());
}

#[test]
fn a_clash_goes_by_configured_order_and_is_told_once() {
    let mut names = Names::new(vec!["hosts".to_owned()]);
    let mut notices = Notices::default();
    let wishes = || {
        vec![
            wish(0, "orders.backend", &["orders.backend"], &["shop"]),
            wish(
                1,
                "orders.backend",
                &["orders.backend", "orders.backend.local"],
                &[],
            ),
            wish(1, "shop.x", &["shop"], &[]),
        ]
    };
    refresh(&mut names, wishes(), &mut notices);
    refresh(&mut names, wishes(), &mut notices);
    let of = |index: usize| names.of(&wishes()[index].service);
    assert_eq!(of(0), ["orders.backend"]);
    assert_eq!(of(1), ["orders.backend.local"]);
    assert_eq!(of(2), ["shop"], "an own name is stronger than a given one");
    let told = events(&mut notices);
    assert_eq!(told.len(), 2, "{told:?}");
    let all: Vec<_> = names
        .wanted()
        .iter()
        .flat_map(|record| record.names.clone())
        .collect();
    let distinct: BTreeSet<_> = all.iter().collect();
    assert_eq!(all.len(), distinct.len(), "no name is in two records");
}

#[test]
fn names_that_a_rule_refuses_are_told_once_and_counted() {
    let mut names = Names::new(vec!["hosts".to_owned()]);
    let mut notices = Notices::default();
    let refused = |name: String| RefusedName {
        name,
        why: "it is a name of the machine itself".to_owned(),
    };
    let wishes = || {
        let mut wishes: Vec<_> = (0..7)
            .map(|number| wish(0, &format!("localhost.n{number}"), &[], &[]))
            .collect();
        for wish in &mut wishes {
            wish.refused = vec![
                refused(wish.service.service.to_string()),
                refused(format!("{}.svc", wish.service.service)),
            ];
        }
        let mut partly = wish(0, "web.localhost", &["web.localhost.svc"], &[]);
        partly.refused = vec![refused("web.localhost".to_owned())];
        wishes.push(partly);
        wishes.push(wish(0, "web.shop", &["web.shop"], &[]));
        wishes
    };
    refresh(&mut names, wishes(), &mut notices);
    refresh(&mut names, wishes(), &mut notices);
    let told: Vec<_> = events(&mut notices)
        .into_iter()
        .map(|event| match event {
            Event::NamesRefused(refusals) => (refusals.nameless, refusals.names.to_string()),
            other => panic!("{other:?}"),
        })
        .collect();
    let several = "localhost.n0, localhost.n1, localhost.n2, localhost.n3, localhost.n4 and 2 more";
    assert_eq!(
        told,
        [(true, several.to_owned()), (false, "web.localhost".to_owned())]
    );
    assert_eq!(names.refused(&wishes()[0].service).len(), 2);
}

#[test]
fn every_sink_gets_the_newest_set_and_one_at_a_time() {
    let mut names = Names::new(vec!["hosts".to_owned(), "registry".to_owned()]);
    let mut notices = Notices::default();
    let now = Instant::now();
    refresh(&mut names, vec![wish(0, "a.b", &["a.b"], &[])], &mut notices);
    let (first, records) = names.poll_publish(now).unwrap();
    let (second, _) = names.poll_publish(now).unwrap();
    assert_eq!((first, second), (0, 1));
    assert!(names.poll_publish(now).is_none());
    refresh(&mut names, vec![wish(0, "c.d", &["c.d"], &[])], &mut notices);
    names.handle_published(0, records, Published::default(), now, &mut notices);
    assert!(!names.is_published());
    let (again, newest) = names.poll_publish(now).unwrap();
    assert_eq!((again, &*newest.iter().next().unwrap().names[0]), (0, "c.d"));
}

#[test]
fn a_sink_that_fails_is_tried_later_and_told_of_once() {
    let mut names = Names::new(vec!["hosts".to_owned(), "registry".to_owned()]);
    let mut notices = Notices::default();
    let mut now = Instant::now();
    let pause = Duration::from_secs(5);
    refresh(&mut names, vec![wish(0, "a.b", &["a.b"], &[])], &mut notices);
    let error = PublishError::Other {
        message: "disk full".to_owned(),
    };
    for _ in 0..10 {
        let (sink, _) = names.poll_publish(now).unwrap();
        assert_eq!(sink, 0);
        names.handle_failed(sink, &error, now, pause, &mut notices);
        if let Some((sink, records)) = names.poll_publish(now) {
            assert_eq!(sink, 1, "the other sink does not wait for it");
            names.handle_published(sink, records, Published::default(), now, &mut notices);
        }
        assert!(names.is_settled() && !names.is_published());
        now = names.poll_timeout().unwrap();
    }
    let (sink, records) = names.poll_publish(now).unwrap();
    names.handle_published(sink, records, Published::default(), now, &mut notices);
    assert!(names.is_published());
    let told = events(&mut notices);
    assert!(
        matches!(
            told.as_slice(),
            [Event::NamesFailed { .. }, Event::NamesRestored { .. }]
        ),
        "{told:?}"
    );
}

/// A sink that has published one name, and the moment when it had.
fn published() -> (Names, Notices, Instant) {
    let mut names = Names::new(vec!["/etc/hosts".to_owned()]);
    let mut notices = Notices::default();
    let now = Instant::now();
    refresh(&mut names, vec![wish(0, "a.b", &["a.b"], &[])], &mut notices);
    answer(&mut names, &mut notices, now, true);
    (names, notices, now)
}

/// Answers the publication that is due, and only one is.
fn answer(names: &mut Names, notices: &mut Notices, now: Instant, changed: bool) {
    let (sink, records) = names.poll_publish(now).unwrap();
    assert!(names.poll_publish(now).is_none());
    let done = Published {
        changed,
        ..Published::default()
    };
    names.handle_published(sink, records, done, now, notices);
    assert!(names.is_published() && names.poll_publish(now).is_none());
}

#[test]
fn names_that_another_program_removes_are_put_back_told_of_and_counted() {
    let (mut names, mut notices, mut now) = published();
    assert!(events(&mut notices).is_empty() && names.put_back().is_empty());
    for times in 1..=10 {
        names.handle_disturbed(0, now);
        names.handle_disturbed(0, now);
        if times > 1 {
            assert!(names.poll_publish(now).is_none(), "not again and again");
            now = names.poll_timeout().unwrap();
        }
        answer(&mut names, &mut notices, now, true);
        now += Duration::from_secs(1);
        assert_eq!(names.put_back()[0].times, times);
    }
    let told: Vec<_> = events(&mut notices)
        .into_iter()
        .map(|event| match event {
            Event::NamesPutBack(told) => (told.times, told.is_contested()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(1, false), (CONTESTED, true)]);
    // After a while it is put back at once again.
    now += PUT_BACK_PAUSE;
    names.handle_disturbed(0, now);
    answer(&mut names, &mut notices, now, true);
}

#[test]
fn a_disturbance_that_leaves_the_names_alone_is_not_told() {
    let (mut names, mut notices, now) = published();
    for _ in 0..10 {
        names.handle_disturbed(0, now);
        answer(&mut names, &mut notices, now, false);
    }
    assert!(events(&mut notices).is_empty() && names.put_back().is_empty());
    // Nor is what the user's own new line accounts for.
    names.handle_disturbed(0, now);
    let (sink, records) = names.poll_publish(now).unwrap();
    let done = Published {
        changed: true,
        taken: vec![TakenName {
            name: "a.b".to_owned(),
            line: 3,
        }],
        ..Published::default()
    };
    names.handle_published(sink, records, done, now, &mut notices);
    assert!(matches!(
        events(&mut notices).as_slice(),
        [Event::NameTaken { line: 3, .. }]
    ));
    assert!(names.put_back().is_empty());
}

fn held(names: &[&str]) -> Vec<HeldNames> {
    vec![HeldNames {
        session: "dev-1a2b3c4d".to_owned(),
        helper_pid: Some(7),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    }]
}

/// Answers the publication that is due with what others hold. Where that is new, the file changes.
fn leave(names: &mut Names, notices: &mut Notices, now: Instant, held: Vec<HeldNames>) {
    let (sink, records) = names.poll_publish(now).unwrap();
    let done = Published {
        changed: held != names.held(),
        held,
        ..Published::default()
    };
    names.handle_published(sink, records, done, now, notices);
}

#[test]
fn names_that_change_hands_are_told_once_each_way() {
    let mut names = Names::new(vec!["/etc/hosts".to_owned()]);
    let mut notices = Notices::default();
    let mut now = Instant::now();
    let wanted = || wish(0, "a.b", &["a.b", "a.b.svc", "a.b.staging"], &[]);
    refresh(&mut names, vec![wanted()], &mut notices);
    leave(&mut names, &mut notices, now, held(&["a.b", "a.b.svc"]));
    assert_eq!(names.of(&wanted().service), ["a.b.staging"]);
    assert_eq!(names.held_of(&wanted().service), ["a.b", "a.b.svc"]);
    assert_eq!(names.held(), held(&["a.b", "a.b.svc"]));
    let told = events(&mut notices);
    let [Event::NamesHeld(first)] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!((first.names.count, first.lost, first.published), (2, false, 1));
    // Nobody tells when the other session is killed: it is looked at from time to time.
    for _ in 0..3 {
        assert_eq!(names.poll_timeout(), Some(now + HELD_CHECK));
        now += HELD_CHECK;
        leave(&mut names, &mut notices, now, held(&["a.b", "a.b.svc"]));
    }
    names.handle_disturbed(0, now);
    assert!(names.poll_publish(now).is_none(), "whoever holds a name is first");
    now = names.poll_timeout().unwrap();
    leave(&mut names, &mut notices, now, Vec::new());
    assert_eq!(names.of(&wanted().service).len(), 3);
    assert_eq!(names.poll_timeout(), None);
    names.handle_disturbed(0, now);
    leave(&mut names, &mut notices, now, held(&["a.b"]));
    let told = events(&mut notices);
    let [.., Event::NamesGained { names: gained }, Event::NamesHeld(lost)] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(gained.to_string(), "a.b, a.b.svc");
    assert_eq!(
        (lost.names.to_string().as_str(), lost.lost, lost.published),
        ("a.b", true, 2)
    );
    assert!(names.put_back().is_empty());
}

#[test]
fn a_check_that_fails_is_made_again_later_and_not_at_the_end() {
    let (mut names, mut notices, mut now) = published();
    let pause = Duration::from_secs(5);
    names.handle_disturbed(0, now);
    let (sink, _) = names.poll_publish(now).unwrap();
    let error = PublishError::Other {
        message: "disk full".to_owned(),
    };
    names.handle_failed(sink, &error, now, pause, &mut notices);
    names.handle_disturbed(0, now);
    assert!(names.poll_publish(now).is_none() && names.is_settled());
    now = names.poll_timeout().unwrap();
    answer(&mut names, &mut notices, now, true);
    names.handle_disturbed(0, now);
    names.withdraw();
    answer(&mut names, &mut notices, now, true);
    assert_eq!(names.poll_timeout(), None);
}

#[test]
fn another_name_for_a_service_shares_its_record() {
    let mut names = Names::new(vec!["hosts".to_owned()]);
    let mut notices = Notices::default();
    let mut alias = wish(0, "db.x", &["db.x"], &[]);
    let target = wish(0, "postgres.x", &["postgres.x"], &[]);
    alias.addresses.clone_from(&target.addresses);
    alias.behind = target.behind.clone();
    refresh(&mut names, vec![alias, target], &mut notices);
    assert_eq!(names.wanted().len(), 1);
    assert_eq!(
        names.wanted().iter().next().unwrap().names,
        ["postgres.x", "db.x"].map(Arc::from),
        "the service's own name is the canonical one"
    );
}

#[test]
fn after_a_publication_there_is_a_pause_and_one_that_hangs_holds_up_no_other_sink() {
    let mut names = Names::new(vec!["hosts".to_owned(), "registry".to_owned()]);
    let mut notices = Notices::default();
    let mut now = Instant::now();
    let key = || wish(0, "a.b", &[], &[]).service;
    names.mark(key());
    assert!(names.take_dirty(now).is_some(), "at first at once");
    assert!(names.take_dirty(now).is_none());
    refresh(&mut names, vec![wish(0, "a.b", &["a.b"], &[])], &mut notices);
    let begun = now;
    let (hangs, _) = names.poll_publish(now).unwrap();
    let (sink, records) = names.poll_publish(now).unwrap();
    now += Duration::from_millis(20);
    names.handle_published(sink, records, Published::default(), now, &mut notices);
    names.mark(key());
    assert!(names.take_dirty(now).is_none());
    assert_eq!(names.poll_timeout(), Some(begun + LONG));
    now = begun + LONG;
    assert!(names.take_dirty(now).is_some());
    refresh(&mut names, vec![wish(0, "a.b", &["c.d"], &[])], &mut notices);
    let (sink, records) = names.poll_publish(now).unwrap();
    assert_ne!(sink, hangs);
    now += Duration::from_millis(20);
    names.handle_published(sink, records, Published::default(), now, &mut notices);
    let records = names.wanted().clone();
    names.handle_published(hangs, records, Published::default(), now, &mut notices);
    assert!(names.is_published());
    names.mark(key());
    assert_eq!(names.poll_timeout(), Some(now + LONG), "a pause has an end");
}

#[test]
fn the_first_publication_of_a_burst_has_no_pause() {
    let mut names = Names::new(vec!["hosts".to_owned()]);
    let mut notices = Notices::default();
    let mut now = Instant::now();
    let took = Duration::from_millis(20);
    for (number, pause) in [(0, 0), (1, 3), (2, 3)] {
        names.mark(wish(0, "a.b", &[], &[]).service);
        assert!(names.take_dirty(now).is_some(), "{number}");
        refresh(
            &mut names,
            vec![wish(0, "a.b", &[&format!("n{number}.b")], &[])],
            &mut notices,
        );
        let (sink, records) = names.poll_publish(now).unwrap();
        now += took;
        names.handle_published(sink, records, Published::default(), now, &mut notices);
        names.mark(wish(0, "a.b", &[], &[]).service);
        if pause > 0 {
            assert!(names.take_dirty(now).is_none(), "{number}");
            now += pause * took;
        }
    }
    assert!(names.take_dirty(now).is_some());
}
