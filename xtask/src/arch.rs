//! `cargo xtask arch`: checks Cargo's graph and the sources against the rules of ARCHITECTURE.md.
//!
//! The rules are functions over [`Facts`], which tests build by hand; only `facts` runs Cargo and reads files.

mod facts;
mod graph;
mod law;
mod source;
mod text;

use std::fmt;

use anyhow::Result;

use self::facts::Facts;
use self::law::Kind;

/// How many rules there are.
pub(crate) const RULES: usize = graph::RULES.len() + source::RULES.len();

/// One place where a rule is broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Breach {
    /// Relative to the workspace's root.
    pub(crate) file: String,
    pub(crate) line: usize,
    /// The rule's short name.
    pub(crate) rule: &'static str,
    pub(crate) what: String,
    /// Why the rule exists.
    pub(crate) why: &'static str,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            rule,
            what,
            why,
        } = self;
        write!(f, "{file}:{line}: [{rule}] {what}\n    why: {why}")
    }
}

/// A rule: its short name, why it exists, and the function that finds where it is broken.
struct Rule {
    name: &'static str,
    why: &'static str,
    look: fn(&Facts, &mut dyn FnMut(Place)),
}

/// Where a rule is broken, and how.
struct Place {
    file: String,
    line: usize,
    what: String,
}

/// Whether a crate's row makes it a library, as opposed to a program, tests or benches.
pub(crate) fn is_library(name: &str) -> bool {
    law::of(name).is_some_and(|law| law.kind == Kind::Library)
}

/// Every place where the workspace breaks a rule.
pub(crate) fn check() -> Result<Vec<Breach>> {
    Ok(breaches(&facts::of_workspace()?))
}

fn breaches(facts: &Facts) -> Vec<Breach> {
    let mut found = Vec::new();
    for rule in graph::RULES.iter().chain(source::RULES) {
        let Rule { name, why, look } = rule;
        look(facts, &mut |Place { file, line, what }| {
            found.push(Breach {
                file,
                line,
                rule: name,
                what,
                why,
            });
        });
    }
    found.sort();
    found.dedup();
    found
}
