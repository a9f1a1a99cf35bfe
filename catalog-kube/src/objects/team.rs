//! What the ConfigMap `devbox` of a namespace says of its services, for everybody who uses them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;

use service_catalog::{Label, MAX_ALIASES, Service, ServiceId};

use super::wire::words;

/// The ConfigMap's name.
pub(crate) const CONFIG_MAP: &str = "devbox";

/// Lines that are told of one by one. A file that is wrong throughout is not repeated.
const MAX_FAULTS: usize = 4;

/// A team's names, pins and order. What of it cannot be understood is left out and told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Team {
    names: BTreeMap<Label, Vec<Label>>,
    pins: BTreeMap<Member, IpAddr>,
    order: BTreeMap<Label, u16>,
    faults: Vec<String>,
}

/// A service, or one member of it.
type Member = (Label, Option<Label>);

impl Team {
    /// Reads the ConfigMap's texts: `names` and `pins` have lines `SERVICE: WORDS`, `order` has a service in each line. A `#` begins a
    /// comment.
    pub(crate) fn read(namespace: &Label, data: &BTreeMap<String, String>) -> Self {
        let mut team = Self::default();
        let mut taken = BTreeMap::new();
        let mut faults = Vec::new();
        for (key, text) in data {
            let lines = (1..).zip(text.lines().map(content));
            let lines = lines.filter(|(_, line)| !line.is_empty());
            let mut fault = |line: usize, what: String| {
                faults.push(format!("`{}`, line {line}: {what}", key.escape_debug()));
            };
            match key.as_str() {
                "names" => lines.for_each(|(number, line)| {
                    team.read_names(line).unwrap_or_else(|what| fault(number, what));
                }),
                "pins" => lines.for_each(|(number, line)| {
                    team.read_pin(line, &mut taken)
                        .unwrap_or_else(|what| fault(number, what));
                }),
                "order" => lines.for_each(|(number, line)| {
                    team.read_order(line).unwrap_or_else(|what| fault(number, what));
                }),
                other => faults.push(format!(
                    "`{}` is no key of it: expected `names`, `pins` or `order`",
                    other.escape_debug()
                )),
            }
        }
        let more = faults.len().saturating_sub(MAX_FAULTS);
        let told = faults.into_iter().take(MAX_FAULTS);
        let place = format!("ConfigMap {CONFIG_MAP} in {namespace}");
        team.faults = told.map(|fault| format!("{place}: {fault}")).collect();
        if more > 0 {
            team.faults
                .push(format!("{place}: {more} more lines or keys are not understood"));
        }
        team
    }

    /// `orders-postgres: db, store`.
    fn read_names(&mut self, line: &str) -> Result<(), String> {
        let (service, value) = pair(line, "`orders-postgres: db`")?;
        let service: Label = understood(service)?;
        let mut names = Vec::new();
        for word in words(value) {
            let name = understood(word)?;
            if name != service && !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            return Err(format!("{service} is given no name but its own"));
        }
        if names.len() > MAX_ALIASES {
            return Err(format!("{service} can have {MAX_ALIASES} further names"));
        }
        once(self.names.entry(service), names)
    }

    /// `orders-postgres: 127.77.3.4`, or `db-0.db: 127.77.3.5` for one pod.
    fn read_pin(&mut self, line: &str, taken: &mut BTreeMap<IpAddr, String>) -> Result<(), String> {
        let (service, value) = pair(line, "`orders-postgres: 127.77.3.4`")?;
        let member = match service.split_once('.') {
            None => (understood(service)?, None),
            Some((member, service)) => (understood(service)?, Some(understood(member)?)),
        };
        let address = value
            .parse::<IpAddr>()
            .map_err(|_| format!("`{}` is no address", value.escape_debug()))?;
        if let Some(by) = taken.get(&address) {
            return Err(format!("{address} is {by}'s by an earlier line"));
        }
        taken.insert(address, member.named());
        once(self.pins.entry(member), address)
    }

    /// `orders-postgres`.
    fn read_order(&mut self, line: &str) -> Result<(), String> {
        let service = understood(line)?;
        let place = u16::try_from(self.order.len()).unwrap_or(u16::MAX);
        once(self.order.entry(service), place)
    }

    /// What is wrong with it, one line each.
    pub(crate) fn faults(&self) -> &[String] {
        &self.faults
    }

    /// The services that it says something of.
    pub(crate) fn services(&self) -> BTreeSet<&Label> {
        let pinned = self.pins.keys().map(|(service, _)| service);
        self.names.keys().chain(pinned).chain(self.order.keys()).collect()
    }

    /// Gives a service of the namespace, or a member of one, what the team wants for it. Names from its own annotation come first.
    pub(crate) fn dress(&self, service: &mut Service) {
        let ServiceId { name, member, .. } = &service.id;
        let names = self.names.get(name).filter(|_| member.is_none());
        for alias in names.into_iter().flatten() {
            if service.aliases.len() < MAX_ALIASES && !service.aliases.contains(alias) {
                service.aliases.push(alias.clone());
            }
        }
        service.pin = self.pins.get(&(name.clone(), member.clone())).copied();
        service.order = self.order.get(name).copied();
    }
}

/// A line without its comment.
fn content(line: &str) -> &str {
    line.split_once('#').map_or(line, |(before, _)| before).trim()
}

fn pair<'a>(line: &'a str, example: &str) -> Result<(&'a str, &'a str), String> {
    let (service, value) = line
        .split_once(':')
        .ok_or_else(|| format!("expected a service and what is wanted for it, as in {example}"))?;
    Ok((service.trim(), value.trim()))
}

fn understood<T: std::str::FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn once<V>(entry: Entry<'_, impl Ord + Named, V>, value: V) -> Result<(), String> {
    match entry {
        Entry::Vacant(entry) => {
            entry.insert(value);
            Ok(())
        }
        Entry::Occupied(entry) => Err(format!("{} has an earlier line", entry.key().named())),
    }
}

/// What a line is about, for its reader.
trait Named {
    fn named(&self) -> String;
}

impl Named for Label {
    fn named(&self) -> String {
        self.to_string()
    }
}

impl Named for Member {
    fn named(&self) -> String {
        match self {
            (service, None) => service.to_string(),
            (service, Some(member)) => format!("{member}.{service}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(texts: &[(&str, &str)]) -> Team {
        let data = texts
            .iter()
            .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
        Team::read(&"orders".parse().unwrap(), &data.collect())
    }

    fn dressed(team: &Team, id: &str, aliases: &[&str]) -> Service {
        let mut service = Service::new(id.parse().unwrap(), Vec::new()).unwrap();
        service.aliases = aliases.iter().map(|alias| alias.parse().unwrap()).collect();
        team.dress(&mut service);
        service.check().unwrap();
        service
    }

    fn aliases(service: &Service) -> Vec<&str> {
        service.aliases.iter().map(Label::as_str).collect()
    }

    #[test]
    fn names_pins_and_order_reach_the_services_that_they_are_for() {
        let team = read(&[
            (
                "names",
                "# ours\norders-postgres: db, store  # as in production\n\ncache: redis db",
            ),
            ("pins", "orders-postgres: 127.77.3.4\ndb-0.db: fd77::5\n"),
            ("order", "cache\norders-postgres\n"),
        ]);
        assert_eq!(team.faults(), [""; 0]);
        let postgres = dressed(&team, "orders-postgres.orders", &["pg", "db"]);
        assert_eq!(
            aliases(&postgres),
            ["pg", "db", "store"],
            "the annotation's first"
        );
        assert_eq!(postgres.pin, "127.77.3.4".parse().ok());
        assert_eq!(postgres.order, Some(1));
        assert_eq!(dressed(&team, "cache.orders", &[]).order, Some(0));
        let member = dressed(&team, "db-0.db.orders", &[]);
        assert_eq!((member.pin, member.order), ("fd77::5".parse().ok(), None));
        let other = dressed(&team, "web.orders", &[]);
        assert_eq!((other.pin, other.order, aliases(&other)), (None, None, vec![]));
        let named: Vec<_> = team.services().into_iter().map(Label::as_str).collect();
        assert_eq!(named, ["cache", "db", "orders-postgres"]);
    }

    #[test]
    fn a_line_that_is_not_understood_is_told_and_the_others_count() {
        let team = read(&[
            ("names", "a: x\nB_C: y\nd"),
            ("pins", "a: 127.77.0.1\nb: 127.77.0.1\nc: here"),
        ]);
        assert_eq!(
            team.faults(),
            [
                "ConfigMap devbox in orders: `names`, line 2: `B_C` is not a usable name: `B` is not a lower case letter, a digit or `-`",
                "ConfigMap devbox in orders: `names`, line 3: expected a service and what is wanted for it, as in `orders-postgres: db`",
                "ConfigMap devbox in orders: `pins`, line 2: 127.77.0.1 is a's by an earlier line",
                "ConfigMap devbox in orders: `pins`, line 3: `here` is no address",
            ]
        );
        assert_eq!(aliases(&dressed(&team, "a.orders", &[])), ["x"]);
        assert_eq!(dressed(&team, "a.orders", &[]).pin, "127.77.0.1".parse().ok());
        assert_eq!(dressed(&team, "b.orders", &[]).pin, None);
    }

    #[test]
    fn what_is_no_key_is_told_and_long_nonsense_is_counted() {
        let team = read(&[("name", "a: b"), ("order", "a\na\nb c\n-\n?\n!")]);
        assert_eq!(team.faults().len(), MAX_FAULTS + 1);
        assert!(team.faults()[0].contains("`name` is no key of it"), "{team:?}");
        assert!(
            team.faults()[1].contains("line 2: a has an earlier line"),
            "{team:?}"
        );
        assert!(
            team.faults()[4].ends_with("2 more lines or keys are not understood"),
            "{team:?}"
        );
        assert_eq!(dressed(&team, "a.orders", &[]).order, Some(0));
    }

    proptest! {
        #[test]
        fn whatever_is_written_makes_services_that_are_in_order(
            names in "(\\PC|[a-c:, .#\n]){0,60}", pins in "(\\PC|[a-c:.0-9\n]){0,60}", order in "[a-c\n#]{0,20}", key in "\\PC{0,5}",
        ) {
            let team = read(&[("names", &names), ("pins", &pins), ("order", &order), (&key, &names)]);
            for service in team.services() {
                dressed(&team, &format!("{service}.orders"), &["pg"]);
                dressed(&team, &format!("m.{service}.orders"), &[]);
            }
            prop_assert!(team.faults().len() <= MAX_FAULTS + 1);
        }
    }
}
