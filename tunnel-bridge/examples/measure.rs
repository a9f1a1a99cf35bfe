//! What a link costs on this machine: a program, a listener, a link, a far end and a target, each end of the link on a
//! thread of its own with one runtime, all over loopback.
//!
//! `cargo run --release -p tunnel-bridge --example measure [seconds]`

use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tunnel_bridge::listener::{Listener, ListenerOptions, bind};
use tunnel_bridge::resume::{Desk, DeskOptions, Options, Received, Redial, RedialError};
use tunnel_bridge::ws::{ConnectOptions, Upgrade, connect_carrier};
use tunnel_bridge::{Carrier, Link, Role, Target, direct, splice};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn main() -> Result<()> {
    let seconds = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(3.0);
    let time = Duration::from_secs_f64(seconds);
    let target = target()?;
    let through = road(target, false)?;
    let resumable = road(target, true)?;
    let mut out = std::io::stdout().lock();
    for (name, address) in [
        ("direct", target),
        ("link", through),
        ("link that can be taken up again", resumable),
    ] {
        writeln!(out, "{name}")?;
        for (what, direction, streams) in [("up", b'u', 1), ("down", b'd', 1), ("down x8", b'd', 8)] {
            let (bytes, took, cpu) = bulk(address, direction, streams, time)?;
            let gib = bytes as f64 / f64::from(1 << 30);
            writeln!(
                out,
                "  bulk {what:<8} {:>6.2} GiB/s   {:>5.2} CPU s/GiB (both ends)",
                gib / took.as_secs_f64(),
                cpu.as_secs_f64() / gib
            )?;
        }
        for bytes in [64, 16 * 1024] {
            let (p50, p99) = round_trips(address, bytes, time)?;
            writeln!(
                out,
                "  request/response {bytes:>6} B   p50 {p50:>8.1?}   p99 {p99:>8.1?}"
            )?;
        }
        let (count, cpu) = connections(address, time, 16)?;
        let rate = count as f64 / time.as_secs_f64();
        writeln!(
            out,
            "  connections {rate:>7.0} /s   {:>5.0} CPU us each",
            cpu.as_secs_f64() * 1e6 / count as f64
        )?;
    }
    Ok(())
}

/// Does what the first byte says: `e`cho, send `d`own for ever, take what comes `u`p.
fn target() -> Result<SocketAddr> {
    let socket = TcpListener::bind(ANY)?;
    let address = socket.local_addr()?;
    thread::Builder::new().name("target".into()).spawn(move || {
        for stream in socket.incoming().map_while(Result::ok) {
            // An error is the program's end, which is how these connections end.
            thread::spawn(move || serve(stream).ok());
        }
    })?;
    Ok(address)
}

fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 256 * 1024];
    stream.read_exact(&mut buffer[..1])?;
    match buffer[0] {
        b'd' => loop {
            stream.write_all(&buffer)?;
        },
        b'u' => while stream.read(&mut buffer)? > 0 {},
        _ => loop {
            let n = stream.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            stream.write_all(&buffer[..n])?;
        },
    }
    Ok(())
}

/// Both ends of a link, and a listener whose connections go to `target`.
fn road(target: SocketAddr, resumable: bool) -> Result<SocketAddr> {
    let (gateway_out, gateway) = mpsc::channel();
    runtime_thread("far", async move {
        let socket = tokio::net::TcpListener::bind(ANY).await?;
        gateway_out
            .send(socket.local_addr()?)
            .map_err(std::io::Error::other)?;
        let (stream, _) = socket.accept().await?;
        tunnel_bridge::prepare_socket(&stream);
        let upgrade = Upgrade::read(stream).await.map_err(std::io::Error::other)?;
        let carrier = upgrade
            .accept_carrier("measure.1")
            .await
            .map_err(std::io::Error::other)?;
        let desk = Desk::new(DeskOptions::default());
        let link = if resumable {
            match desk
                .receive(carrier, "measure")
                .await
                .map_err(std::io::Error::other)?
            {
                Received::New(link) | Received::Resumed(link) => link,
            }
        } else {
            Link::over(carrier, Role::Server)
        };
        while let Some(incoming) = link.accept().await {
            tokio::spawn(async move {
                let address = incoming.target().as_str().to_owned();
                let dialled = tokio::select! {
                    dialled = direct::connect(address, direct::DIAL_TIMEOUT) => dialled,
                    () = incoming.abandoned() => return,
                };
                match dialled {
                    Ok(stream) => drop(splice(stream, Box::new(incoming.accept())).await),
                    Err(refusal) => incoming.refuse(refusal),
                }
            });
        }
        Ok(())
    })?;
    let gateway = gateway.recv().map_err(std::io::Error::other)?;
    let (address_out, address) = mpsc::channel();
    runtime_thread("near", async move {
        let url = format!("ws://{gateway}").parse().map_err(std::io::Error::other)?;
        let options = ConnectOptions::new(url, "measure.1");
        let carrier = connect_carrier(&options).await.map_err(std::io::Error::other)?;
        let link = if resumable {
            Link::resumable(carrier, Again(options), Options::default())
        } else {
            Link::over(carrier, Role::Client)
        };
        let target = Target::new(&target.to_string()).map_err(std::io::Error::other)?;
        let changed = Arc::new(Notify::new());
        let listener = Listener::spawn(
            bind(ANY)?,
            target,
            link.dialer(),
            ListenerOptions::default(),
            changed,
        )
        .map_err(std::io::Error::other)?;
        address_out
            .send(listener.local_addr())
            .map_err(std::io::Error::other)?;
        link.closed().await;
        Ok(())
    })?;
    address.recv().map_err(std::io::Error::other)
}

struct Again(ConnectOptions);

#[async_trait::async_trait]
impl Redial for Again {
    async fn redial(&self) -> std::result::Result<Box<dyn Carrier>, RedialError> {
        connect_carrier(&self.0).await.map_err(RedialError::later)
    }
}

fn runtime_thread(name: &str, work: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name(name.into())
        .spawn(move || runtime.block_on(work))?;
    Ok(())
}

/// CPU time of the threads of the link's ends; zero where the system does not tell (proc(5), schedstat).
fn link_cpu() -> Duration {
    let mut total = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if matches!(read("comm").trim(), "near" | "far") {
            let nanos = read("schedstat")
                .split(' ')
                .next()
                .and_then(|text| text.parse().ok());
            total += Duration::from_nanos(nanos.unwrap_or(0));
        }
    }
    total
}

fn bulk(
    address: SocketAddr,
    direction: u8,
    streams: usize,
    time: Duration,
) -> Result<(u64, Duration, Duration)> {
    let (stop, moved) = (AtomicBool::new(false), AtomicU64::new(0));
    let (since, cpu) = (Instant::now(), link_cpu());
    thread::scope(|scope| {
        let mut all = Vec::new();
        for _ in 0..streams {
            all.push(scope.spawn(|| -> Result<()> {
                let mut stream = TcpStream::connect(address)?;
                stream.write_all(&[direction])?;
                let mut buffer = vec![0; 256 * 1024];
                while !stop.load(Ordering::Relaxed) {
                    let n = match direction {
                        b'd' => stream.read(&mut buffer)?,
                        _ => stream.write(&buffer)?,
                    };
                    moved.fetch_add(n as u64, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        for one in all {
            one.join()
                .unwrap_or_else(|_| Err(std::io::Error::other("a program failed")))?;
        }
        Ok((moved.load(Ordering::Relaxed), since.elapsed(), link_cpu() - cpu))
    })
}

fn round_trips(address: SocketAddr, bytes: usize, time: Duration) -> Result<(Duration, Duration)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.write_all(b"ee")?;
    let mut buffer = vec![b'e'; bytes];
    stream.read_exact(&mut buffer[..1])?;
    let mut all = Vec::new();
    let since = Instant::now();
    while since.elapsed() < time {
        let begin = Instant::now();
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        all.push(begin.elapsed());
    }
    all.sort_unstable();
    Ok((all[all.len() / 2], all[all.len() * 99 / 100]))
}

/// New connection, a byte there and back, end.
fn connections(address: SocketAddr, time: Duration, programs: usize) -> Result<(u64, Duration)> {
    let (count, cpu, since) = (AtomicU64::new(0), link_cpu(), Instant::now());
    thread::scope(|scope| {
        let mut all = Vec::new();
        for _ in 0..programs {
            all.push(scope.spawn(|| -> Result<()> {
                while since.elapsed() < time {
                    let mut stream = TcpStream::connect(address)?;
                    stream.write_all(b"ee")?;
                    stream.read_exact(&mut [0])?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        for one in all {
            one.join()
                .unwrap_or_else(|_| Err(std::io::Error::other("a program failed")))?;
        }
        Ok((count.load(Ordering::Relaxed), link_cpu() - cpu))
    })
}
