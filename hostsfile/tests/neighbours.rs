//! Several programs keep a block each in one file: whatever they do in whatever order, a name is in one block only.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use hostsfile::{Block, Document, Edit, Entry, HostName, Neighbour, Options, Owner, Setting, Tag};
use proptest::prelude::*;

const PROGRAMS: u8 = 4;
const USER: &str = "127.0.0.1 localhost\n# BEGIN mine\n10.0.0.1 n0\n# END mine\n";

fn tag(program: u8) -> Tag {
    Tag::new(&format!("devbox-{program}")).unwrap()
}

fn address(program: u8) -> IpAddr {
    Ipv4Addr::new(127, 77, program, 1).into()
}

fn name(number: u8) -> HostName {
    HostName::new(&format!("n{number}.backend")).unwrap()
}

#[derive(Debug, Clone)]
enum Action {
    /// Sets its block to these names; takes those that it did not ask for before.
    Set {
        program: u8,
        names: BTreeSet<u8>,
        take: bool,
    },
    Leave(u8),
    /// Ends without removing its block; another one with this tag comes only after it was removed.
    Die(u8),
    /// Another program writes the file as it was in the beginning.
    Rewrite,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let names = proptest::collection::btree_set(0_u8..12, 0..10);
    let action = prop_oneof![
        6 => (0..PROGRAMS, names, any::<bool>()).prop_map(|(program, names, take)| Action::Set { program, names, take }),
        1 => (0..PROGRAMS).prop_map(Action::Leave),
        1 => (0..PROGRAMS).prop_map(Action::Die),
        1 => Just(Action::Rewrite),
    ];
    proptest::collection::vec(action, 1..40)
}

struct Machine {
    document: Document,
    dead: BTreeSet<u8>,
    asked: Vec<BTreeSet<u8>>,
}

impl Machine {
    fn program_of(&self, tag: &str) -> Option<u8> {
        (0..PROGRAMS).find(|program| tag == format!("devbox-{program}"))
    }

    fn names_of(&self, program: u8) -> BTreeSet<HostName> {
        let lines = self.document.entries();
        let own = lines.filter(|entry| entry.address == address(program));
        own.flat_map(|entry| entry.names)
            .map(|name| HostName::new(name).unwrap())
            .collect()
    }

    fn set(&mut self, program: u8, names: &BTreeSet<u8>, take: bool) -> Setting {
        let entries: Vec<Entry> = names
            .iter()
            .map(|number| Entry::new(address(program), [name(*number)]).unwrap())
            .collect();
        let block = Block::new(tag(program))
            .with_owner(Owner::new(&format!("o{program}")).unwrap())
            .with_entries(entries);
        let judge = |view: &hostsfile::BlockView<'_>| match self.program_of(view.tag) {
            None => Neighbour::Stranger,
            Some(program) if self.dead.contains(&program) => Neighbour::Abandoned,
            Some(_) => Neighbour::Holder,
        };
        let before = self.asked[usize::from(program)].clone();
        let is_new = |wanted: &HostName| !before.iter().any(|number| name(*number) == *wanted);
        let setting = self
            .document
            .setting_beside(block, judge, |name| take && is_new(name));
        self.document = self.document.edited(&setting.edits, &Options::new()).unwrap();
        self.asked[usize::from(program)].clone_from(names);
        for (tag, _) in &setting.removed {
            let program = self.program_of(tag.as_str()).unwrap();
            assert!(self.dead.remove(&program));
        }
        setting
    }

    fn remove(&mut self, program: u8) {
        let edits = [Edit::RemoveBlock(tag(program))];
        self.document = self.document.edited(&edits, &Options::new()).unwrap();
        self.asked[usize::from(program)].clear();
        self.dead.remove(&program);
    }
}

proptest! {
    #[test]
    fn a_name_is_never_in_two_blocks(actions in actions()) {
        let mut machine = Machine {
            document: Document::parse(USER),
            dead: BTreeSet::new(),
            asked: vec![BTreeSet::new(); usize::from(PROGRAMS)],
        };
        for action in actions {
            match action {
                Action::Set { program, names, take } => {
                    if machine.dead.contains(&program) {
                        machine.remove(program);
                    }
                    let others: Vec<_> = (0..PROGRAMS)
                        .filter(|other| *other != program && !machine.dead.contains(other))
                        .map(|other| (other, machine.names_of(other)))
                        .collect();
                    let new: BTreeSet<_> = names
                        .difference(&machine.asked[usize::from(program)])
                        .map(|number| name(*number))
                        .collect();
                    let setting = machine.set(program, &names, take);
                    let held: BTreeSet<_> = setting.held.iter().flat_map(|held| held.names.clone()).collect();
                    let wanted: BTreeSet<_> = names.iter().map(|number| name(*number)).collect();
                    let published = machine.names_of(program);
                    prop_assert!(published.is_disjoint(&held));
                    prop_assert_eq!(&published | &held, wanted);
                    for (other, before) in others {
                        let lost = &before - &machine.names_of(other);
                        prop_assert!(take || lost.is_empty(), "{:?} was taken", lost);
                        prop_assert!(lost.is_subset(&new) && lost.is_subset(&published));
                    }
                    // Setting the same again changes nothing.
                    let before = machine.document.clone();
                    machine.set(program, &names, take);
                    prop_assert_eq!(&machine.document, &before);
                }
                Action::Leave(program) => machine.remove(program),
                Action::Die(program) => {
                    machine.dead.insert(program);
                }
                Action::Rewrite => {
                    machine.document = Document::parse(USER);
                    machine.dead.clear();
                }
            }
            for number in 0..12 {
                let found = machine.document.lookup(name(number).as_str());
                prop_assert!(found.len() <= 1, "{} leads to {:?}", name(number), found);
            }
        }
        for program in 0..PROGRAMS {
            machine.remove(program);
        }
        prop_assert_eq!(machine.document.render(), USER.as_bytes());
    }
}

#[test]
fn a_name_that_only_resolvers_do_not_see_is_not_held() {
    let document = Document::parse("# BEGIN devbox-0 off=1\n# 127.77.0.1 N0.backend\n# END devbox-0\n");
    let block = Block::new(tag(1)).with_entries([Entry::new(address(1), [name(0)]).unwrap()]);
    let setting = document.setting_beside(block, |_| Neighbour::Holder, |_| false);
    assert!(setting.held.is_empty());
}

#[test]
fn a_damaged_block_is_no_neighbour() {
    let document = Document::parse("# BEGIN devbox-0 owner=o0\n127.77.0.1 n0.backend\n");
    let block = Block::new(tag(1)).with_entries([Entry::new(address(1), [name(0)]).unwrap()]);
    let setting = document.setting_beside(block, |_| Neighbour::Abandoned, |_| true);
    assert!(setting.held.is_empty() && setting.removed.is_empty());
    assert!(document.edited(&setting.edits, &Options::new()).is_ok());
}
