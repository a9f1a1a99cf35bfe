//! A loopback interface in memory, and resolver rules in a real folder.

use super::*;
use crate::resolver_files::ResolverFiles;

struct Loopback {
    addresses: Vec<IpNet>,
    rules: Option<ResolverFiles>,
}

impl System for Loopback {
    type Tunnel = std::convert::Infallible;

    fn observe(&mut self) -> io::Result<Observed> {
        Ok(Observed::default())
    }

    fn addresses(&mut self) -> io::Result<Vec<IpNet>> {
        Ok(self.addresses.clone())
    }

    fn add(&mut self, address: IpNet) -> io::Result<()> {
        self.addresses.push(address);
        Ok(())
    }

    fn remove(&mut self, address: IpNet) -> io::Result<()> {
        self.addresses.retain(|there| there.addr() != address.addr());
        Ok(())
    }

    fn rules(&mut self) -> Result<&mut dyn Rules, &'static str> {
        self.rules
            .as_mut()
            .map(|rules| rules as &mut dyn Rules)
            .ok_or("it has none")
    }

    fn whole_127(&self) -> bool {
        false
    }

    fn tunnels(&mut self) -> Result<&mut dyn Tunnels<Tunnel = Self::Tunnel>, String> {
        Err("it reads no packets".to_owned())
    }
}

fn machine(rules: Option<ResolverFiles>) -> Aliases<Loopback> {
    let addresses = vec!["127.0.0.1/8".parse().unwrap()];
    Aliases::new(Owner::new("devbox").unwrap(), Loopback { addresses, rules })
}

fn address(text: &str) -> Change {
    Change::Address {
        device: Device::Loopback,
        address: text.parse().unwrap(),
    }
}

fn rule(server: &str) -> Change {
    Change::Resolver(ResolverRule {
        interface: InterfaceName::new("devbox0").unwrap(),
        suffixes: ["cluster.local", "test"]
            .map(|suffix| Suffix::new(suffix).unwrap())
            .into(),
        servers: vec![server.parse().unwrap()],
    })
}

fn only<T>(mut outcomes: Vec<Result<T, ChangeError>>) -> Result<T, ChangeError> {
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

#[test]
fn aliases_are_added_and_removed_and_the_systems_own_stays() {
    let mut machine = machine(None);
    let before = machine.system.addresses.clone();
    let changes = [address("127.77.3.4/32"), address("fd77::4/128")];
    assert!(
        machine
            .apply(&changes)
            .iter()
            .all(|applied| matches!(applied, Ok(Applied::Added)))
    );
    assert!(
        machine
            .apply(&changes)
            .iter()
            .all(|applied| matches!(applied, Ok(Applied::Present)))
    );
    assert_eq!(
        only(machine.apply(&[address("127.0.0.1/32")])).unwrap(),
        Applied::Present
    );
    assert!(
        machine
            .undo(&changes)
            .iter()
            .all(|undone| matches!(undone, Ok(Undone::Removed)))
    );
    assert!(
        machine
            .undo(&changes)
            .iter()
            .all(|undone| matches!(undone, Ok(Undone::Gone)))
    );
    assert_eq!(machine.system.addresses, before);
}

#[test]
fn a_rule_is_a_file_for_each_suffix_and_only_ours_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = machine(Some(ResolverFiles::in_folder(&folder.path().join("resolver"))));
    let wanted = rule("127.0.0.1:5353");
    assert_eq!(
        only(machine.apply(std::slice::from_ref(&wanted))).unwrap(),
        Applied::Added
    );
    assert_eq!(
        only(machine.find(std::slice::from_ref(&wanted))).unwrap(),
        Found::Ours
    );
    let seen = machine.observe().unwrap().resolvers;
    let told: Vec<_> = seen
        .iter()
        .map(|seen| (seen.suffix.as_str(), seen.servers.clone(), seen.ours))
        .collect();
    let servers: Vec<std::net::SocketAddr> = vec!["127.0.0.1:5353".parse().unwrap()];
    assert_eq!(
        told,
        [("cluster.local", servers.clone(), true), ("test", servers, true)]
    );
    assert!(matches!(
        only(machine.apply(&[rule("127.0.0.2:53")])),
        Err(ChangeError::Differs { .. })
    ));
    // Somebody edits one of the files.
    let test = folder.path().join("resolver").join("test");
    std::fs::write(&test, "nameserver 10.0.0.1\n").unwrap();
    assert!(matches!(
        only(machine.apply(std::slice::from_ref(&wanted))),
        Err(ChangeError::Foreign { .. })
    ));
    assert!(matches!(
        only(machine.undo(std::slice::from_ref(&wanted))),
        Ok(Undone::Left { .. })
    ));
    assert_eq!(std::fs::read_to_string(&test).unwrap(), "nameserver 10.0.0.1\n");
    assert_eq!(
        std::fs::read_dir(folder.path().join("resolver")).unwrap().count(),
        1
    );
    assert!(matches!(only(machine.undo(&[wanted])), Ok(Undone::Left { .. })));
}

#[test]
fn what_such_a_system_lacks_is_told_before_and_when_it_is_tried() {
    let mut machine = machine(None);
    let capabilities = machine.capabilities();
    assert!(
        capabilities.loopback.is_available() && !capabilities.dummy.is_available() && !capabilities.whole_127
    );
    assert_eq!(
        capabilities.tun,
        Support::Missing("it reads no packets".to_owned())
    );
    let interface = Change::Interface(crate::Interface::new(
        InterfaceName::new("devbox0").unwrap(),
        crate::Kind::Tun,
    ));
    for change in [interface, rule("127.0.0.1:53")] {
        let applied = only(machine.apply(std::slice::from_ref(&change)));
        assert!(
            matches!(applied, Err(ChangeError::Unsupported { .. })),
            "{applied:?}"
        );
        assert_eq!(only(machine.undo(&[change])).unwrap(), Undone::Gone);
    }
}
