//! Makes an interface with two addresses, or what comes closest to one here, and answers on each with what it is sent, until Ctrl-C (on
//! Windows until the end of its input). Then everything is as it was.
//!
//! `cargo run -p netif --example virtual-interface`, as root, and `nc 10.107.0.1 7777` beside it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is what the example is for"
)]

use std::io;
use std::net::{IpAddr, TcpListener};
use std::process::ExitCode;
use std::thread;

use netif::conflict::{Intent, conflicts};
use netif::observed::Transport;
use netif::{Applied, Backend, Change, Owner, Place, Subnet, Wanted, plan};

const PORT: u16 = 7777;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let stop = Stop::begin()?;
    let mut machine = netif::system(&Owner::new("example")?)?;
    let addresses: [IpAddr; 2] = ["10.107.0.1".parse()?, "fd77:6465:76::1".parse()?];
    let subnets = addresses.map(|address| Subnet {
        prefix: address.into(),
        addresses: vec![address],
    });
    let observed = machine.observe()?;
    let intent = Intent {
        prefixes: subnets.iter().map(|subnet| subnet.prefix).collect(),
        ports: vec![(Transport::Tcp, PORT)],
        suffixes: Vec::new(),
    };
    for conflict in conflicts(&observed, &intent) {
        println!("in the way: {conflict}");
    }
    let wanted = Wanted {
        place: Place::Dummy,
        interface: "example0".parse()?,
        mtu: None,
        metric: None,
        subnets: subnets.into(),
        resolver: None,
    };
    let plan = plan(&machine.capabilities(), &wanted);
    for reason in &plan.reasons {
        println!("{reason}");
    }
    // Whatever happens from here on, what was added is undone.
    let mut added = Vec::new();
    for (change, outcome) in plan.changes.iter().zip(machine.apply(&plan.changes)) {
        match outcome {
            Ok(Applied::Added) => added.push(change.clone()),
            Ok(Applied::Present) => println!("{change} is there already"),
            Err(error) => eprintln!("{change}: {error}"),
        }
    }
    let ended = serve(&addresses).and_then(|()| stop.wait());
    undo(&mut *machine, &added);
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// An echo server at each address.
fn serve(addresses: &[IpAddr]) -> io::Result<()> {
    for address in addresses {
        let listener = TcpListener::bind((*address, PORT))?;
        println!("listening on {}", listener.local_addr()?);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
    }
    Ok(())
}

fn undo(machine: &mut dyn Backend, added: &[Change]) {
    for (change, outcome) in added.iter().zip(machine.undo(added)) {
        match outcome {
            Ok(undone) => println!("{change}: {undone}"),
            Err(error) => eprintln!("{change}: {error}"),
        }
    }
}

/// Signals that end a process, which wait until they are waited for: one of them must not end this process before it has undone what it did.
#[cfg(unix)]
struct Stop(nix::sys::signal::SigSet);

#[cfg(unix)]
impl Stop {
    /// To be called before any other thread is there, which would get them.
    fn begin() -> io::Result<Self> {
        use nix::sys::signal::{SigSet, Signal};
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        signals.thread_block()?;
        Ok(Self(signals))
    }

    fn wait(&self) -> io::Result<()> {
        self.0.wait()?;
        Ok(())
    }
}

/// The end of the input, since a Ctrl-C ends the process at once.
#[cfg(not(unix))]
struct Stop;

#[cfg(not(unix))]
impl Stop {
    fn begin() -> io::Result<Self> {
        Ok(Self)
    }

    fn wait(&self) -> io::Result<()> {
        io::copy(&mut io::stdin(), &mut io::sink()).map(drop)
    }
}
