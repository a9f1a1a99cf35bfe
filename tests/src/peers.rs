//! Small servers inside the test process, for tests that have to see both ends.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::ensure;

use crate::scene::Scene;
use crate::wait;

/// A listener with one thread per connection. Dropping it stops listening; connections end when their peers do.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start<F>(scene: &Scene, serve: F) -> crate::Result<Server>
    where
        F: Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind((scene.address(), 0))?;
        let address = listener.local_addr()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicUsize::new(0));
        let serve = Arc::new(serve);
        let (stop, count) = (Arc::clone(&stopped), Arc::clone(&accepted));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                count.fetch_add(1, Ordering::AcqRel);
                let serve = Arc::clone(&serve);
                // A peer that goes away is not an error here; the test checks what arrives on the other side.
                std::thread::spawn(move || serve(stream).ok());
            }
        });
        Ok(Server {
            address,
            stopped,
            accepted,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        let woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(5)).is_ok();
        if let (true, Some(thread)) = (woken, self.thread.take()) {
            // It cannot have panicked, since it only accepts.
            thread.join().ok();
        }
    }
}

/// Sends back what it receives as it arrives. A half-closed connection gets the rest, then the end of file.
#[derive(Debug)]
pub struct Echo(Server);

impl Echo {
    /// Starts one on the scene's address.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn start(scene: &Scene) -> crate::Result<Echo> {
        let server = Server::start(scene, |mut stream| {
            stream.set_nodelay(true)?;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return stream.shutdown(Shutdown::Write),
                    count => stream.write_all(&buffer[..count])?,
                }
            }
        })?;
        Ok(Echo(server))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Asks the service at `address` for an echo.
    ///
    /// # Errors
    /// If it does not give one.
    pub fn ask(address: SocketAddr) -> crate::Result {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(wait::SOON))?;
        stream.write_all(b"hello")?;
        let mut back = [0; 5];
        stream.read_exact(&mut back)?;
        ensure!(&back == b"hello", "{} came back", back.escape_ascii());
        Ok(())
    }

    /// How many connections have been accepted so far.
    pub fn accepted(&self) -> usize {
        self.0.accepted.load(Ordering::Acquire)
    }
}

/// Sends one line and ends its direction at once, then counts what the client sends until the end of file.
#[derive(Debug)]
pub struct Greeter(Server, Arc<AtomicUsize>);

impl Greeter {
    /// Starts one that sends `line`.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn start(scene: &Scene, line: &str) -> crate::Result<Greeter> {
        let line = format!("{line}\n");
        let received = Arc::new(AtomicUsize::new(0));
        let sum = Arc::clone(&received);
        let server = Server::start(scene, move |mut stream| {
            stream.write_all(line.as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            // Wait until the peer is done too, since closing with unread bytes would reset the connection.
            let mut rest = [0; 16 * 1024];
            loop {
                match stream.read(&mut rest)? {
                    0 => return Ok(()),
                    count => sum.fetch_add(count, Ordering::AcqRel),
                };
            }
        })?;
        Ok(Greeter(server, received))
    }

    /// How many bytes all clients have sent so far.
    pub fn received(&self) -> usize {
        self.1.load(Ordering::Acquire)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }
}

/// Reads everything the client sends, and answers only after the end of file: `got N bytes`, then 1 MiB of `x`. A tunnel that
/// ends both directions at the first end of file loses that answer.
#[derive(Debug)]
pub struct AfterEnd(Server);

impl AfterEnd {
    /// How many bytes follow the line.
    pub const TAIL: usize = 1 << 20;

    /// Starts one on the scene's address.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn start(scene: &Scene) -> crate::Result<AfterEnd> {
        let server = Server::start(scene, |mut stream| {
            let count = std::io::copy(&mut stream, &mut std::io::sink())?;
            stream.write_all(format!("got {count} bytes\n").as_bytes())?;
            stream.write_all(&vec![b'x'; AfterEnd::TAIL])?;
            stream.shutdown(Shutdown::Write)
        })?;
        Ok(AfterEnd(server))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }
}

/// Sends zeros for as long as they are taken.
#[derive(Debug)]
pub struct Fountain(Server);

impl Fountain {
    /// Starts one on the scene's address.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn start(scene: &Scene) -> crate::Result<Fountain> {
        let server = Server::start(scene, |mut stream| {
            let block = vec![0; 256 * 1024];
            loop {
                stream.write_all(&block)?;
            }
        })?;
        Ok(Fountain(server))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }
}

/// Sends [`Drip::content`] at a pace, and then the end of file.
#[derive(Debug)]
pub struct Drip(Server);

impl Drip {
    const BLOCKS: usize = 400;
    const BLOCK_BYTES: usize = 16 * 1024;
    const PAUSE: Duration = Duration::from_millis(20);

    /// What each connection gets, in 8 s or more: no two of its blocks are the same.
    #[must_use]
    pub fn content() -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        let mut content = vec![0; Self::BLOCKS * Self::BLOCK_BYTES];
        random.fill(&mut content);
        content
    }

    /// Starts one on the scene's address.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn start(scene: &Scene) -> crate::Result<Drip> {
        let server = Server::start(scene, |mut stream| {
            for block in Self::content().chunks(Self::BLOCK_BYTES) {
                stream.write_all(block)?;
                std::thread::sleep(Self::PAUSE);
            }
            stream.shutdown(Shutdown::Write)
        })?;
        Ok(Drip(server))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// How many connections have been accepted so far.
    pub fn accepted(&self) -> usize {
        self.0.accepted.load(Ordering::Acquire)
    }
}

/// Resets each connection as soon as it has received something.
#[derive(Debug)]
pub struct Resetter(Server);

impl Resetter {
    /// Starts one on the scene's address.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn start(scene: &Scene) -> crate::Result<Resetter> {
        let server = Server::start(scene, |mut stream| {
            let mut byte = [0];
            if stream.read(&mut byte)? > 0 {
                // Closing with a zero linger time sends RST instead of FIN (socket(7), SO_LINGER).
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            }
            Ok(())
        })?;
        Ok(Resetter(server))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }
}

/// Whether nothing listens at `address`.
pub fn is_closed(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_err()
}
