//! Hostile peers against a real gateway and a real session (tests/python/hostile.py), each bounded in time and number.
//!
//! Each function makes its attack, and reports the memory of the attacked process and what an honest user experienced.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;

use crate::caller::Caller;
use crate::devbox::{Gateway, Service, TOKEN, Up, UpOptions};
use crate::hosts;
use crate::other_gateway::need_python;
use crate::peers::{Echo, Fountain};
use crate::process::{Exit, Process};
use crate::scene::Scene;
use crate::siege::{Row, Siege};
use crate::wait;

const PORT: u16 = 7950;
const BULK_PORT: u16 = 7951;

/// What the tests allow for where the promise is one second: they share a few cores with others.
const A_SECOND: Duration = Duration::from_secs(2);

/// How long an honest client waits before it gives up.
const PATIENCE: Duration = Duration::from_secs(10);

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// How large an attack is.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Scale {
    /// Sockets that trickle a handshake.
    pub sockets: usize,
    /// Streams at the gateway that are not read.
    pub streams: usize,
    /// Connections of a session that are not read.
    pub readers: usize,
    /// How long an attack goes on.
    pub time: Duration,
    /// How long the memory has to be returned; zero: it is not looked at.
    pub settle: Duration,
}

impl Scale {
    /// A few seconds each, for the ordinary tests.
    pub const SHORT: Scale = Scale {
        sockets: 600,
        streams: 200,
        readers: 50,
        time: Duration::from_secs(2),
        settle: Duration::ZERO,
    };

    /// For the campaign.
    pub const FULL: Scale = Scale {
        sockets: 600,
        streams: 4000,
        readers: 1000,
        time: Duration::from_secs(10),
        settle: Duration::from_secs(30),
    };
}

/// One attack.
pub type Attack = fn(&Scene, Scale) -> crate::Result<Row>;

/// All attacks, by the names that the campaign takes.
pub const ALL: [(&str, Attack); 10] = [
    ("trickle", handshakes_that_trickle),
    ("trickle-many", handshakes_that_trickle_from_many_addresses),
    ("pings", pings_to_the_gateway),
    ("pings-up", pings_to_the_session),
    ("flap", a_catalog_that_flaps),
    ("flap-pace", a_catalog_that_flaps_at_a_pace),
    ("flap-unread", a_catalog_that_flaps_with_the_output_unread),
    ("streams", streams_that_never_read),
    ("readers", readers_that_stall),
    ("guess", guessed_tokens),
];

/// Sockets of one address whose request never ends; fresh clients come from another address.
///
/// # Errors
/// If the attack could not be made.
pub fn handshakes_that_trickle(scene: &Scene, scale: Scale) -> crate::Result<Row> {
    trickle(scene, scale, "handshakes that trickle", 1)
}

/// The same from two hundred addresses.
///
/// # Errors
/// If the attack could not be made.
pub fn handshakes_that_trickle_from_many_addresses(scene: &Scene, scale: Scale) -> crate::Result<Row> {
    trickle(scene, scale, "the same from 200 addresses", 200)
}

fn trickle(scene: &Scene, scale: Scale, name: &'static str, addresses: usize) -> crate::Result<Row> {
    let echo = Echo::start(scene)?;
    let gateway = Gateway::of_echo(scene, &echo, PORT)?;
    let pid = gateway.process()?.pid();
    let siege = Siege::before(pid)?;
    let logged = gateway.process()?.errors().lines().count();
    let mut attacker = Hostile::of("trickle", gateway.address(), scale.time + 3 * PATIENCE)
        .number("--count", scale.sockets)
        .number("--addresses", addresses)
        .start(scene)?;
    let knock = |number: usize| knock(gateway.address(), scene, TOKEN, &format!("fresh-{number}"));
    let (memory, mut times) = siege.during(&mut attacker, scale.time, || {
        std::thread::scope(|scope| {
            let fresh: Vec<_> = (0..3).map(|number| scope.spawn(move || knock(number))).collect();
            let times = fresh.into_iter().map(|client| client.join().ok()?.ok());
            times.collect::<Vec<_>>()
        })
    })?;
    times.sort();
    let logged = gateway.process()?.errors().lines().count() - logged;
    let let_in = times.iter().filter(|time| matches!(time, Some((_, 101)))).count();
    let slowest = times.iter().flatten().map(|(took, _)| *took).max();
    let in_time = let_in == 3 && slowest.is_some_and(|took| took <= A_SECOND);
    wait::until_ok("a client after the attack", wait::SOON, || {
        let (_, status) = knock(3)?;
        ensure!(status == 101, "answered with {status}");
        Ok(())
    })?;
    let slowest = slowest.map_or_else(|| "none".to_owned(), |took| format!("the slowest in {took:.1?}"));
    Row::new(name, memory)
        .seen(format!(
            "{let_in} of 3 fresh clients let in within {PATIENCE:?} ({slowest}), {logged} lines logged"
        ))
        .bound("3 of 3 fresh clients are let in within a second", in_time)
        .bound("at most 20 lines are logged", logged <= 20)
        .grows_at_most(64)
        .settles(pid, scale.settle, 32)
}

/// One client that floods the gateway with WebSocket Pings and reads no Pong.
///
/// # Errors
/// If the attack could not be made.
pub fn pings_to_the_gateway(scene: &Scene, scale: Scale) -> crate::Result<Row> {
    let echo = Echo::start(scene)?;
    let gateway = Gateway::of_echo(scene, &echo, PORT)?;
    let up = Up::start(&gateway, Caller::Ordinary)?;
    let pid = gateway.process()?.pid();
    let siege = Siege::before(pid)?;
    let mut attacker = Hostile::of("pings", gateway.address(), scale.time).start(scene)?;
    let address = SocketAddr::new(up.address_of("echo.demo")?, PORT);
    let (memory, slowest) = siege.during(&mut attacker, scale.time + PATIENCE, || {
        slowest_of(scale.time, || Echo::ask(address))
    })?;
    wait::until_ok("the service after the attack", wait::SOON, || Echo::ask(address))?;
    Row::new("pings to the gateway", memory)
        .seen(format!(
            "an echo takes up to {}; {}",
            shown(slowest),
            told(&attacker)
        ))
        .bound("an echo takes at most a second", in_a_second(slowest))
        .grows_at_most(64)
        .settles(pid, scale.settle, 32)
}

/// A gateway that floods its client with WebSocket Pings and reads no Pong.
///
/// # Errors
/// If the attack could not be made.
pub fn pings_to_the_session(scene: &Scene, scale: Scale) -> crate::Result<Row> {
    let evil = EvilGateway::start(scene, "pinging", 1, Duration::ZERO, 2 * scale.time + PATIENCE)?;
    let mut up = evil.up(false)?;
    let pid = up.process().pid();
    let siege = Siege::before(pid)?;
    let mut attacker = evil.process;
    let ask = || up.status(&[])?.run(PATIENCE)?.expect_success().map(|_| ());
    let (memory, slowest) = siege.during(&mut attacker, scale.time, || slowest_of(scale.time, ask))?;
    let row = Row::new("pings to the session", memory)
        .seen(format!("`devbox status` takes up to {}", shown(slowest)))
        .bound("`devbox status` works", slowest.is_some())
        .grows_at_most(64)
        .settles(pid, scale.settle, 32)?;
    up.process().signal(Signal::TERM)?;
    let exit = up.process_mut().wait(wait::SOON)?;
    ensure!(exit == Exit::Code(0), "{exit}");
    hosts::expect_original(up.hosts())?;
    Ok(row)
}

/// A gateway whose services are all removed and added again as fast as the session takes it.
///
/// # Errors
/// If the attack could not be made.
pub fn a_catalog_that_flaps(scene: &Scene, scale: Scale) -> crate::Result<Row> {
    flap(scene, scale, "a catalog that flaps", Duration::ZERO, false)
}

/// The same at a pace at which each change is applied, so that more is reported.
///
/// # Errors
/// If the attack could not be made.
pub fn a_catalog_that_flaps_at_a_pace(scene: &Scene, scale: Scale) -> crate::Result<Row> {
    let pace = Duration::from_micros(100);
    flap(scene, scale, "the same at a pace", pace, false)
}

/// The same with a session whose output nobody reads.
///
/// # Errors
/// If the attack could not be made.
pub fn a_catalog_that_flaps_with_the_output_unread(scene: &Scene, scale: Scale) -> crate::Result<Row> {
    let pace = Duration::from_micros(100);
    flap(scene, scale, "the same, the output unread", pace, true)
}

fn flap(scene: &Scene, scale: Scale, name: &'static str, pace: Duration, unread: bool) -> crate::Result<Row> {
    let evil = EvilGateway::start(scene, "flapping", 50, pace, 2 * scale.time + 8 * PATIENCE)?;
    let mut up = evil.up(unread)?;
    let siege = Siege::before(up.process().pid())?;
    let printed = |up: &Up<'_>| up.process().output().len() + up.process().errors().len();
    // It is the gateway that attacks, and the time is up when this ends.
    let mut clock = scene
        .command(["sleep", &scale.time.as_secs().to_string()])
        .start()?;
    let before = printed(&up);
    let ask = || up.status(&[])?.run(PATIENCE)?.expect_success().map(|_| ());
    let (memory, status) = siege.during(&mut clock, 2 * scale.time, || slowest_of(scale.time, ask))?;
    let logged = (printed(&up) - before) as u64 / scale.time.as_secs().max(1);
    up.process().signal(Signal::TERM)?;
    // A second one, for whoever is impatient.
    std::thread::sleep(Duration::from_millis(500));
    let by_second = ends_after(&mut up, PATIENCE)?;
    hosts_as_before(&up)?;

    let mut up = evil.up(unread)?;
    std::thread::sleep(scale.time / 2);
    let by_first = ends_after(&mut up, PATIENCE)?;
    hosts_as_before(&up)?;
    let row = Row::new(name, memory)
        .seen(format!(
            "{} KiB/s logged; `devbox status` takes up to {}; SIGTERM ends it in {}, a second one in {}",
            logged / KIB as u64,
            shown(status),
            shown(by_first),
            shown(by_second)
        ))
        .bound("at most 128 KiB/s are logged", logged <= 128 * KIB as u64)
        .bound("SIGTERM ends it", by_first.is_some())
        .bound("a second SIGTERM ends it within a second", in_a_second(by_second))
        .bound("`devbox status` works", unread || status.is_some())
        .grows_at_most(64);
    Ok(row)
}

/// A client that opens streams to a service that never stops sending, and reads none of it.
///
/// # Errors
/// If the attack could not be made.
pub fn streams_that_never_read(scene: &Scene, scale: Scale) -> crate::Result<Row> {
    let far = FarSide::start(scene, 2 * scale.time + 6 * PATIENCE)?;
    let gateway = Gateway::start(scene, &far.catalog)?;
    let up = Up::start(&gateway, Caller::Ordinary)?;
    let pid = gateway.process()?.pid();
    let alone = speed(&up, Duration::from_secs(3))?;
    let siege = Siege::before(pid)?;
    let mut attacker = Hostile::of("streams", gateway.address(), scale.time + Duration::from_secs(5))
        .number("--count", scale.streams)
        .words(["--target".into(), format!("tcp/demo/stalled/{PORT}")])
        .start(scene)?;
    let (memory, beside) = siege.during(&mut attacker, 2 * scale.time + PATIENCE, || {
        speed(&up, scale.time)
    })?;
    let beside = beside?;
    Row::new("streams that never read", memory)
        .seen(downloads(alone, beside))
        .seen(format!("; {}", told(&attacker)))
        .bound(
            "a download beside them keeps a tenth of its speed",
            beside >= alone / 10.0,
        )
        .grows_at_most(192)
        .settles(pid, scale.settle, 64)
}

/// Local programs that download through a session and stop reading.
///
/// # Errors
/// If the attack could not be made.
pub fn readers_that_stall(scene: &Scene, scale: Scale) -> crate::Result<Row> {
    let far = FarSide::start(scene, 2 * scale.time + 6 * PATIENCE)?;
    let gateway = Gateway::start(scene, &far.catalog)?;
    let up = Up::start(&gateway, Caller::Ordinary)?;
    let pid = up.process().pid();
    let alone = speed(&up, Duration::from_secs(3))?;
    let siege = Siege::before(pid)?;
    let stalled = SocketAddr::new(up.address_of("stalled.demo")?, PORT);
    let mut attacker = Hostile::of("stalled", stalled, scale.time + Duration::from_secs(5))
        .number("--count", scale.readers)
        .start(scene)?;
    let (memory, beside) = siege.during(&mut attacker, 2 * scale.time + PATIENCE, || {
        speed(&up, scale.time)
    })?;
    let beside = beside?;
    Row::new("readers that stall, at the session", memory)
        .seen(downloads(alone, beside))
        .seen(format!("; {}", told(&attacker)))
        .bound(
            "a download beside them keeps a tenth of its speed",
            beside >= alone / 10.0,
        )
        .grows_at_most(192)
        .settles(pid, scale.settle, 64)
}

/// One address that tries token after token.
///
/// # Errors
/// If the attack could not be made.
pub fn guessed_tokens(scene: &Scene, scale: Scale) -> crate::Result<Row> {
    let echo = Echo::start(scene)?;
    let gateway = Gateway::of_echo(scene, &echo, PORT)?;
    let pid = gateway.process()?.pid();
    let siege = Siege::before(pid)?;
    let mut attacker = Hostile::of("guess", gateway.address(), scale.time)
        .number("--count", 32)
        .start(scene)?;
    let knock = |from: &str| {
        let right = knock_from(from, gateway.address(), scene, TOKEN, "honest");
        right.ok().filter(|(_, status)| *status == 101)
    };
    let (memory, (elsewhere, same)) = siege.during(&mut attacker, scale.time + 3 * PATIENCE, || {
        (knock("127.88.1.1"), knock("127.88.0.1"))
    })?;
    let statuses: serde_json::Value = serde_json::from_str(&told(&attacker)).context("no counts")?;
    let refused = statuses["401"].as_f64().unwrap_or(0.0) / scale.time.as_secs_f64();
    let logged = gateway.process()?.errors();
    let [elsewhere, same] = [elsewhere, same].map(|right| right.map(|(took, _)| took));
    wait::until_ok("a client after the attack", 4 * wait::SOON, || {
        let (_, status) = knock_from("127.88.0.1", gateway.address(), scene, TOKEN, "honest")?;
        ensure!(status == 101, "answered with {status}");
        Ok(())
    })?;
    Row::new("guessed tokens", memory)
        .seen(format!(
            "{refused:.0} guesses per second answered {statuses}; the right token is let in after {} from the same address, {} from \
             another",
            shown(same),
            shown(elsewhere)
        ))
        .bound("at most 100 guesses per second are judged", refused <= 100.0)
        .bound("the right token from another address is let in within a second", in_a_second(elsewhere))
        .bound("the log has the address", logged.contains("127.88.0.1"))
        .grows_at_most(64)
        .settles(pid, scale.settle, 32)
}

/// A run of tests/python/hostile.py.
struct Hostile {
    words: Vec<OsString>,
}

impl Hostile {
    fn of(attack: &str, address: SocketAddr, time: Duration) -> Hostile {
        let words = [attack.to_owned(), address.to_string(), "--seconds".to_owned()];
        let hostile = Hostile {
            words: words.map(OsString::from).to_vec(),
        };
        hostile.words([time.as_secs_f32().to_string()])
    }

    fn words(mut self, words: impl IntoIterator<Item = String>) -> Hostile {
        self.words.extend(words.into_iter().map(OsString::from));
        self
    }

    fn number(self, flag: &str, number: usize) -> Hostile {
        self.words([flag.to_owned(), number.to_string()])
    }

    /// Starts it, and waits until the attack is under way.
    fn start(self, scene: &Scene) -> crate::Result<Process> {
        let python = need_python(scene)?;
        scene.write("gateway.py", include_str!("../python/gateway.py"))?;
        let program = scene.write("hostile.py", include_str!("../python/hostile.py"))?;
        let process = scene
            .command([OsString::from(python), "-B".into(), program.into()])
            .args(self.words)
            .args(["--token", TOKEN, "--environment", scene.environment()])
            .by(Caller::Ordinary)
            .start()?;
        process.wait_for_line("an attack under way", 6 * wait::SOON, |line| line == "ready")?;
        Ok(process)
    }
}

/// What an attacker printed at its end, if it lived to.
fn told(attacker: &Process) -> String {
    let output = attacker.output();
    let last = output.lines().last().filter(|line| *line != "ready");
    last.unwrap_or("{}").to_owned()
}

/// A gateway that serves its client badly.
struct EvilGateway<'a> {
    scene: &'a Scene,
    process: Process,
    address: SocketAddr,
}

impl<'a> EvilGateway<'a> {
    fn start(
        scene: &'a Scene,
        kind: &str,
        services: usize,
        pace: Duration,
        time: Duration,
    ) -> crate::Result<EvilGateway<'a>> {
        let address = scene.free_address()?;
        let catalog = scene.folder_of("evil", Caller::Ordinary)?.join("catalog.json");
        let process = Hostile::of(kind, address, time)
            .number("--count", services)
            .words(["--patience".into(), "1".into()])
            .words(["--pause".into(), pace.as_secs_f64().to_string()])
            .words(["--catalog".into(), catalog.display().to_string()])
            .start(scene)?;
        Ok(EvilGateway {
            scene,
            process,
            address,
        })
    }

    /// A session that is ready, and still treated well for a moment.
    fn up(&self, unread: bool) -> crate::Result<Up<'a>> {
        let name = format!("token-{}", self.scene.unique());
        let token = self.scene.write_secret(&name, TOKEN, Caller::Ordinary)?;
        let flags = [
            "--gateway".into(),
            format!("ws://{}", self.address).into(),
            "--token-file".into(),
            token.into(),
            "--env".into(),
            self.scene.environment().into(),
        ];
        let options = UpOptions::new(Caller::Ordinary);
        let options = if unread { options.output_unread() } else { options };
        let up = Up::launch_with(self.scene, self.scene.environment(), flags.to_vec(), &options)?;
        // Its names say that it is ready to whoever does not see its output.
        wait::until_ok("a session that is ready", 2 * wait::SOON, || {
            up.address_of("s0.demo")
        })?;
        Ok(up)
    }
}

/// A service for those who do not read, and one for those who do.
struct FarSide {
    catalog: crate::CatalogFile,
    _stalled: Process,
    _bulk: Fountain,
}

impl FarSide {
    fn start(scene: &Scene, time: Duration) -> crate::Result<FarSide> {
        let address = scene.free_address()?;
        let stalled = Hostile::of("fountain", address, time).start(scene)?;
        let bulk = Fountain::start(scene)?;
        let catalog = scene.catalog(&[
            Service::new("stalled", "demo", PORT, address),
            Service::new("bulk", "demo", BULK_PORT, bulk.address()),
        ])?;
        Ok(FarSide {
            catalog,
            _stalled: stalled,
            _bulk: bulk,
        })
    }
}

/// Bytes per second of a download through the session.
fn speed(up: &Up<'_>, time: Duration) -> crate::Result<f64> {
    let mut stream = up.connect("bulk.demo", BULK_PORT)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let (mut buffer, mut sum) = (vec![0; 256 * KIB], 0);
    let started = Instant::now();
    while started.elapsed() < time {
        match stream.read(&mut buffer) {
            Ok(0) => bail!("the download ended"),
            Ok(count) => sum += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sum as f64 / started.elapsed().as_secs_f64())
}

fn downloads(alone: f64, beside: f64) -> String {
    let mib = MIB as f64;
    format!(
        "a download has {:.1} MiB/s, alone {:.1} MiB/s",
        beside / mib,
        alone / mib
    )
}

/// Asks again and again, and returns the longest that it took; nothing if it failed once.
fn slowest_of(time: Duration, ask: impl Fn() -> crate::Result) -> Option<Duration> {
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    while started.elapsed() < time {
        let asked = Instant::now();
        ask().ok()?;
        slowest = slowest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(slowest)
}

fn in_a_second(time: Option<Duration>) -> bool {
    time.is_some_and(|time| time <= A_SECOND)
}

fn shown(time: Option<Duration>) -> String {
    match time {
        None => "∞".to_owned(),
        Some(Duration::ZERO) => "no time".to_owned(),
        Some(time) => format!("{time:.1?}"),
    }
}

/// Sends SIGTERM and returns how long the session takes to end; nothing if it has to be killed after `within`.
fn ends_after(up: &mut Up<'_>, within: Duration) -> crate::Result<Option<Duration>> {
    if up.process_mut().ended()?.is_some() {
        return Ok(Some(Duration::ZERO));
    }
    let started = Instant::now();
    up.process().signal(Signal::TERM)?;
    // What does not end in time is killed.
    Ok(up.process_mut().wait(within).ok().map(|_| started.elapsed()))
}

/// However a session ended, soon nothing is left of it.
fn hosts_as_before(up: &Up<'_>) -> crate::Result {
    wait::until("the hosts file as before", wait::SOON, || {
        hosts::is_original(up.hosts()).then_some(())
    })
}

/// Asks a gateway for a tunnel, and returns how long that took and the status.
fn knock(address: SocketAddr, scene: &Scene, token: &str, session: &str) -> crate::Result<(Duration, u16)> {
    knock_from("127.88.1.1", address, scene, token, session)
}

fn knock_from(
    from: &str,
    address: SocketAddr,
    scene: &Scene,
    token: &str,
    session: &str,
) -> crate::Result<(Duration, u16)> {
    let started = Instant::now();
    let mut stream = connect_from(from, address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!(
        "GET /kube/devbox/tunnel/client/{session} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: devbox-tunnel.1\r\n\
         Authorization: Bearer {token}\r\nDevbox-Environment: {}\r\n\r\n",
        scene.environment()
    );
    stream.write_all(request.as_bytes())?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    let status = std::str::from_utf8(&head)?.rsplit(' ').next().unwrap_or_default();
    Ok((started.elapsed(), status.parse()?))
}

/// Connects from an address of this machine.
fn connect_from(from: &str, address: SocketAddr) -> crate::Result<TcpStream> {
    use rustix::net;
    let SocketAddr::V4(to) = address else {
        bail!("{address} is not of IPv4")
    };
    let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None)?;
    net::bind(&socket, &SocketAddr::new(from.parse()?, 0))?;
    // Bounds connect(2) as well (socket(7)).
    net::sockopt::set_socket_timeout(&socket, net::sockopt::Timeout::Send, Some(PATIENCE))?;
    net::connect(&socket, &SocketAddr::V4(to))?;
    Ok(socket.into())
}
