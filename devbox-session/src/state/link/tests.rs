use super::*;

const HOLD: Duration = Duration::from_secs(5);

struct World {
    link: Link,
    backoff: Backoff,
    notices: Notices,
    now: Instant,
}

impl World {
    fn new(environment: Option<&str>) -> Self {
        let now = Instant::now();
        let settings = ProviderSettings {
            name: "gateway".to_owned(),
            environment: environment.map(|label| label.parse().unwrap()),
        };
        Self {
            link: Link::new(&settings, now),
            backoff: Backoff {
                shortest: Duration::from_millis(100),
                longest: HOLD,
                seed: 7,
            },
            notices: Notices::default(),
            now,
        }
    }

    fn connect(&mut self) -> Option<Option<Label>> {
        if let Some(until) = self.link.poll_timeout(HOLD) {
            self.now = self.now.max(until);
        }
        self.link.poll_connect(self.now)
    }

    fn up(&mut self, environment: &str) -> Arrival {
        self.connect().expect("it is time to connect");
        self.link.handle_connected(self.now);
        let label = environment.parse().unwrap();
        self.link
            .handle_catalog(&label, Vec::new(), self.now, &mut self.backoff, &mut self.notices)
    }

    fn lose(&mut self) {
        self.link.handle_lost(
            "cut".to_owned(),
            self.now,
            HOLD,
            &mut self.backoff,
            &mut self.notices,
        );
    }

    fn leave(&mut self) {
        let reason = "the far side ended the link".to_owned();
        self.link
            .handle_left(reason, self.now, HOLD, &mut self.backoff, &mut self.notices);
    }

    fn fail(&mut self, error: ConnectError) -> Failure {
        self.connect().expect("it is time to connect");
        self.link
            .handle_failed(error, self.now, 3, &mut self.backoff, &mut self.notices)
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.notices.poll_event()).collect()
    }
}

fn away() -> ConnectError {
    ConnectError::Unreachable {
        far_side: "g".to_owned(),
        reason: "refused".to_owned(),
    }
}

#[test]
fn without_a_choice_the_first_catalog_decides_the_environment_for_good() {
    let mut world = World::new(None);
    assert_eq!(world.up("staging"), Arrival::Accepted { switched: false });
    assert_eq!(world.link.settled().map(Label::as_str), Some("staging"));
    world.now += HOLD;
    world.lose();
    assert_eq!(
        world.up("dev"),
        Arrival::Wrong,
        "a restarted far side may be another environment"
    );
    assert!(!world.link.is_up());
    assert!(
        world
            .events()
            .iter()
            .any(|event| matches!(event, Event::WrongEnvironment { found, .. } if found == "dev"))
    );
    assert_eq!(world.up("dev"), Arrival::Wrong);
    assert!(world.events().is_empty(), "said once");
    assert_eq!(world.up("staging"), Arrival::Accepted { switched: false });
}

#[test]
fn a_catalog_of_another_environment_on_a_live_link_ends_the_link() {
    let mut world = World::new(None);
    world.up("staging");
    let other = "dev".parse().unwrap();
    let arrival = world.link.handle_catalog(
        &other,
        Vec::new(),
        world.now,
        &mut world.backoff,
        &mut world.notices,
    );
    assert_eq!(arrival, Arrival::Wrong);
    assert!(!world.link.is_up());
}

#[test]
fn a_connect_that_takes_long_is_told_once_with_what_it_waits_for() {
    let mut world = World::new(None);
    let status = Status::new("gateway", "wss://g/").waiting_for(Some("TCP connection to 10.1.2.3:443"));
    let late = ConnectError::TimedOut {
        far_side: "wss://g/".to_owned(),
        after: Duration::from_secs(10),
        waited_for: None,
    };
    for tries in 1..=2 {
        world.connect().expect("it is time to connect");
        world.link.set_status(status.clone());
        if tries == 1 {
            assert_eq!(world.link.poll_timeout(HOLD), Some(world.now + SLOW));
        }
        world.now += SLOW;
        world.link.handle_timeout(world.now, HOLD, &mut world.notices);
        world
            .link
            .handle_failed(late.clone(), world.now, 3, &mut world.backoff, &mut world.notices);
    }
    let told = world.events();
    let [
        Event::StillConnecting { waits_for, .. },
        Event::ConnectFailed { .. },
        Event::ConnectFailed { .. },
    ] = &told[..]
    else {
        panic!("each failed try of the first connect is told: {told:?}");
    };
    assert_eq!(waits_for.as_deref(), Some("TCP connection to 10.1.2.3:443"));
}

#[test]
fn an_outage_is_reported_once_and_each_kind_of_failure_once() {
    let mut world = World::new(None);
    world.up("staging");
    world.now += HOLD;
    world.lose();
    for _ in 0..100 {
        assert_eq!(world.fail(away()), Failure::Retry);
    }
    world.fail(ConnectError::CredentialRefused {
        far_side: "g".to_owned(),
        file: None,
        message: "no".to_owned(),
    });
    let kinds: Vec<_> = world
        .events()
        .into_iter()
        .map(|event| match event {
            Event::LinkLost { .. } => "lost",
            Event::ConnectFailed { reason, .. } if reason.contains("token") => "token",
            Event::ConnectFailed { .. } => "away",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["lost", "away", "token"]);
    assert!(matches!(
        world.link.report().link,
        LinkState::Waiting { attempt: 101, .. }
    ));
}

#[test]
fn a_link_that_does_not_hold_goes_quiet_until_it_does() {
    let mut world = World::new(None);
    world.up("staging");
    for _ in 0..50 {
        world.lose();
        world.up("staging");
    }
    let told = world.events();
    assert!(told.len() < 8, "{told:?}");
    assert!(
        told.iter()
            .any(|event| matches!(event, Event::LinkUnstable { losses: 3, .. }))
    );
    world.now += HOLD;
    world.link.handle_timeout(world.now, HOLD, &mut world.notices);
    assert!(matches!(
        world.events().as_slice(),
        [Event::LinkStable { losses: 50, .. }]
    ));
}

#[test]
fn the_first_connect_is_given_up_and_a_later_one_never() {
    let mut world = World::new(None);
    assert_eq!(world.fail(away()), Failure::Retry);
    assert_eq!(world.fail(away()), Failure::Retry);
    assert_eq!(world.fail(away()), Failure::GivenUp);
    assert_eq!(
        world.fail(away()),
        Failure::Retry,
        "it is still tried, for a session that has others"
    );
    world.up("staging");
    world.now += HOLD;
    world.lose();
    for _ in 0..20 {
        assert_eq!(world.fail(away()), Failure::Retry);
    }
    assert_eq!(world.link.given_up(), None);
}

#[test]
fn a_far_side_that_is_replaced_again_and_again_is_back_at_once_each_time() {
    let mut world = World::new(None);
    world.up("staging");
    for _ in 0..20 {
        world.now += Duration::from_millis(500);
        world.leave();
        let pause = world.link.poll_timeout(HOLD).unwrap() - world.now;
        assert!(pause <= world.backoff.shortest, "{pause:?}");
        world.up("staging");
    }
    // One that lets in and leaves at once is a failure like any other.
    for _ in 0..20 {
        world.leave();
        world.up("staging");
    }
    world.leave();
    assert!(world.link.poll_timeout(HOLD).unwrap() - world.now >= HOLD / 2);
}

#[test]
fn a_far_side_that_always_leaves_is_asked_more_and_more_seldom_until_a_link_has_held() {
    const ALMOST_BRIEF: Duration = Duration::from_millis(999);
    for lasts in [Duration::from_millis(100), ALMOST_BRIEF] {
        let mut world = World::new(None);
        let begun = world.now;
        let mut tries = 0;
        while world.now < begun + Duration::from_secs(600) {
            world.up("staging");
            tries += 1;
            world.now += lasts;
            world.leave();
        }
        // The allowance, the tries until the pause is the longest, and those of half the longest pause at least.
        assert!(
            (BRIEF_LEAVINGS..BRIEF_LEAVINGS + 10 + 240).contains(&tries),
            "{tries} tries within 10 min"
        );
        let pause = |world: &World| world.link.poll_timeout(HOLD).unwrap() - world.now;
        assert!(pause(&world) >= HOLD / 2);
        // Once one has held, it is back at once again.
        world.up("staging");
        world.now += HOLD;
        world.leave();
        for _ in 0..BRIEF_LEAVINGS {
            assert!(pause(&world) <= world.backoff.shortest);
            world.up("staging");
            world.now += lasts;
            world.leave();
        }
    }
}

#[test]
fn a_far_side_that_is_replaced_every_second_is_back_at_once_without_end() {
    let mut world = World::new(None);
    for _ in 0..1000 {
        world.up("staging");
        world.now += BRIEF;
        world.leave();
        let pause = world.link.poll_timeout(HOLD).unwrap() - world.now;
        assert!(pause <= world.backoff.shortest, "{pause:?}");
    }
}

#[test]
fn superseded_never_connects_again() {
    let mut world = World::new(None);
    let superseded = ConnectError::Superseded {
        far_side: "g".to_owned(),
        message: "generation 9".to_owned(),
    };
    assert!(matches!(world.fail(superseded), Failure::Superseded { .. }));
    world.now += Duration::from_secs(3600);
    assert_eq!(world.link.poll_connect(world.now), None);
    assert_eq!(world.link.poll_timeout(HOLD), None);
}

#[test]
fn pauses_grow_to_the_longest_and_stay_there() {
    let mut world = World::new(None);
    world.up("staging");
    world.now += HOLD;
    world.lose();
    for _ in 0..30 {
        world.fail(away());
        let pause = world.link.poll_timeout(HOLD).unwrap() - world.now;
        assert!(pause <= HOLD, "{pause:?}");
    }
    assert!(world.link.poll_timeout(HOLD).unwrap() - world.now >= HOLD / 2);
}

#[test]
fn a_stale_catalog_is_fresh_again_with_the_next_link() {
    let mut world = World::new(None);
    world.up("staging");
    world
        .link
        .handle_stale(ProviderId(0), Some("line 3".to_owned()), &mut world.notices);
    world.now += HOLD;
    world.lose();
    world.up("staging");
    assert_eq!(world.link.report().stale, None);
    assert!(
        world
            .events()
            .iter()
            .any(|event| matches!(event, Event::CatalogFresh { .. }))
    );
}

#[test]
fn a_switch_asks_for_the_other_environment_and_takes_no_other() {
    let mut world = World::new(Some("staging"));
    assert_eq!(world.connect(), Some(Some("staging".parse().unwrap())));
    world.link.handle_connected(world.now);
    assert!(world.link.switch("dev".parse().unwrap(), world.now));
    assert_eq!(world.connect(), Some(Some("dev".parse().unwrap())));
    world.link.handle_connected(world.now);
    let staging = "staging".parse().unwrap();
    let late = world.link.handle_catalog(
        &staging,
        Vec::new(),
        world.now,
        &mut world.backoff,
        &mut world.notices,
    );
    assert_eq!(late, Arrival::Wrong);
    assert_eq!(world.up("dev"), Arrival::Accepted { switched: true });
}
