//! The service at the far end. The first byte of a connection selects what it does.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Sends back what it receives.
pub(crate) const ECHO: u8 = b'e';
/// Sends without end.
pub(crate) const SEND: u8 = b's';
/// Reads to the end, then answers with the number of bytes it received, as 8 bytes in big-endian order.
pub(crate) const COUNT: u8 = b'c';

/// Reads as many bytes as the first eight say in big-endian order, then answers with one: for ways that carry no half-close.
pub(crate) const TAKE: u8 = b't';

/// The first argument that makes this program the service: `__service PORT`, on every address, until it is killed.
pub(crate) const ARGUMENT: &str = "__service";

/// As much as one read or write moves in a bulk transfer.
pub(crate) const BULK_BYTES: usize = 256 << 10;

/// The service, for as long as this process lives.
pub(crate) struct Service {
    address: SocketAddr,
}

impl Service {
    pub(crate) fn start() -> io::Result<Self> {
        Service::start_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(crate) fn start_at(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let acceptors = Arc::new(Acceptors {
            listener,
            idle: AtomicUsize::new(0),
        });
        acceptors.start_one()?;
        Ok(Self { address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Threads that each accept a connection, serve it and accept the next one: what is measured is the way there, not how a system starts and
/// ends a thread with its buffer.
struct Acceptors {
    listener: TcpListener,
    idle: AtomicUsize,
}

impl Acceptors {
    fn start_one(self: &Arc<Self>) -> io::Result<()> {
        let acceptors = Arc::clone(self);
        self.idle.fetch_add(1, Ordering::AcqRel);
        let started = thread::Builder::new().spawn(move || acceptors.run());
        if started.is_err() {
            self.idle.fetch_sub(1, Ordering::AcqRel);
        }
        started.map(drop)
    }

    fn run(self: &Arc<Self>) {
        let mut buffer = vec![0; BULK_BYTES];
        loop {
            let Ok((connection, _)) = self.listener.accept() else {
                // It may be out of descriptors.
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            // Somebody waits for the next connection; where no thread can be had, it waits for this one.
            if self.idle.fetch_sub(1, Ordering::AcqRel) == 1 {
                drop(self.start_one());
            }
            // A broken connection is reported by the load, which sees it too.
            drop(serve(connection, &mut buffer));
            self.idle.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Serves for ever, if the arguments are [`ARGUMENT`] and a port.
pub(crate) fn serve_if_asked(arguments: &[String]) -> io::Result<bool> {
    let [first, port] = arguments else {
        return Ok(false);
    };
    if first != ARGUMENT {
        return Ok(false);
    }
    let port = port
        .parse()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let _service = Service::start_at((Ipv4Addr::UNSPECIFIED, port).into())?;
    loop {
        thread::park();
    }
}

fn serve(mut connection: TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut order = [0];
    connection.read_exact(&mut order)?;
    match order[0] {
        ECHO => loop {
            let length = connection.read(buffer)?;
            if length == 0 {
                return Ok(());
            }
            connection.write_all(&buffer[..length])?;
        },
        SEND => loop {
            connection.write_all(buffer)?;
        },
        COUNT => {
            let mut total = 0_u64;
            loop {
                let length = connection.read(buffer)?;
                if length == 0 {
                    break;
                }
                total += length as u64;
            }
            connection.write_all(&total.to_be_bytes())?;
            connection.shutdown(Shutdown::Write)
        }
        TAKE => {
            let mut length = [0; 8];
            connection.read_exact(&mut length)?;
            io::copy(
                &mut (&connection).take(u64::from_be_bytes(length)),
                &mut io::sink(),
            )?;
            connection.write_all(&[TAKE])
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
