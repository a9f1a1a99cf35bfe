//! A Mac on which nothing is run: what would be is written down, and remembered.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::Os;
use crate::backend::TunHandle;
use crate::observed::{Observed, SeenAddress};
use crate::render::ifconfig::{CommandLine, LOOPBACK};

/// It has what the command lines have said, and writes each of them to a file. Of those that another process wrote there it has what
/// outlives a process: the loopback interface's addresses.
#[derive(Debug)]
pub struct Rehearsal {
    script: File,
    utuns: usize,
    addresses: Vec<SeenAddress>,
    /// By the program that is asked.
    answers: BTreeMap<&'static str, String>,
}

/// A utun that nobody made.
#[derive(Debug)]
pub struct RehearsedUtun {
    name: String,
}

impl Rehearsal {
    /// A machine with a loopback interface as macOS has it. `script` is where the command lines go, one in each line.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn to(script: &Path) -> io::Result<Self> {
        let script = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(script)?;
        let addresses = [
            ([127, 0, 0, 1].into(), 8),
            (IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 128),
        ];
        let addresses = addresses
            .into_iter()
            .filter_map(|(address, bits)| Some(seen(LOOPBACK, IpNet::new(address, bits).ok()?)));
        let mut machine = Self {
            script,
            utuns: 0,
            answers: BTreeMap::new(),
            addresses: addresses.collect(),
        };
        let mut before = String::new();
        machine.script.read_to_string(&mut before)?;
        for line in before.lines() {
            let words: Vec<&str> = line.split(' ').skip(1).collect();
            if words.first() == Some(&LOOPBACK) {
                machine.do_as_told(&words)?;
            }
        }
        Ok(machine)
    }

    /// Has it answer this question with a text of a real machine's.
    #[must_use]
    pub fn answering(mut self, question: &CommandLine, text: &str) -> Self {
        self.answers.insert(question.program, text.to_owned());
        self
    }

    fn do_as_told(&mut self, words: &[&str]) -> io::Result<()> {
        match *words {
            [interface, "inet" | "inet6", address, "-alias"] => {
                let is_it =
                    |seen: &SeenAddress| seen.interface == interface && seen.address.addr() == parse(address);
                let place = self.addresses.iter().position(is_it);
                let place = place.ok_or_else(|| io::Error::other("can't assign requested address"))?;
                self.addresses.remove(place);
            }
            [interface, "inet" | "inet6", address, .., "alias"] => {
                self.addresses.push(seen(interface, parse(address).into()));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Os for Rehearsal {
    type Utun = RehearsedUtun;

    fn observe(&mut self) -> io::Result<Observed> {
        Ok(Observed {
            addresses: self.addresses.clone(),
            ..Observed::default()
        })
    }

    fn answer(&mut self, line: &CommandLine) -> io::Result<String> {
        let answer = self.answers.get(line.program);
        answer.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn run(&mut self, line: &CommandLine) -> io::Result<()> {
        writeln!(self.script, "{line}")?;
        let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
        self.do_as_told(&words)
    }

    fn utun(&mut self) -> io::Result<RehearsedUtun> {
        self.utuns += 1;
        let name = format!("utun{}", self.utuns + 3);
        writeln!(self.script, "make {name}")?;
        Ok(RehearsedUtun { name })
    }

    fn name<'a>(&self, utun: &'a RehearsedUtun) -> &'a str {
        &utun.name
    }

    fn handle(&mut self, _: &RehearsedUtun) -> io::Result<TunHandle> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn seen(interface: &str, address: IpNet) -> SeenAddress {
    SeenAddress {
        interface: interface.to_owned(),
        address,
        ours: false,
    }
}

/// Only what was rendered from an address is parsed.
fn parse(text: &str) -> IpAddr {
    text.parse()
        .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
}
