//! A way between a client and a far side that fails when it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Scene;

/// Passes TCP connections on, until they are cut or frozen.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    passing: Arc<Mutex<Vec<Passing>>>,
    accepted: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Passing {
    ends: [TcpStream; 2],
    frozen: Arc<AtomicBool>,
}

impl Relay {
    /// One in front of `target`, on the scene's address.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn start(scene: &Scene, target: SocketAddr) -> crate::Result<Relay> {
        let listener = TcpListener::bind((scene.address(), 0))?;
        let address = listener.local_addr()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let passing = Arc::new(Mutex::new(Vec::new()));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (stop, pairs, count) = (Arc::clone(&stopped), Arc::clone(&passing), Arc::clone(&accepted));
        let thread = std::thread::spawn(move || {
            for near in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let Ok(near) = near else { continue };
                count.fetch_add(1, Ordering::AcqRel);
                // A far side that is away is seen as a connection that ends.
                if let Ok(pass) = TcpStream::connect(target).and_then(|far| pass(&near, &far)) {
                    pairs.lock().unwrap_or_else(PoisonError::into_inner).push(pass);
                }
            }
        });
        Ok(Relay {
            address,
            stopped,
            passing,
            accepted,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections have been accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Acquire)
    }

    /// Cuts every connection, in the middle of whatever it carries. How many there were.
    pub fn cut(&self) -> usize {
        let cut = std::mem::take(&mut *self.passing.lock().unwrap_or_else(PoisonError::into_inner));
        for passing in &cut {
            for end in &passing.ends {
                // It may have ended by itself.
                end.shutdown(Shutdown::Both).ok();
            }
        }
        cut.len()
    }

    /// From here on nothing passes over the connections that there are, and neither side hears of that. New ones work.
    pub fn freeze(&self) {
        for passing in &*self.passing.lock().unwrap_or_else(PoisonError::into_inner) {
            passing.frozen.store(true, Ordering::Release);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        let woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(5)).is_ok();
        if let (true, Some(thread)) = (woken, self.thread.take()) {
            // It cannot have panicked, since it only accepts.
            thread.join().ok();
        }
        self.cut();
    }
}

fn pass(near: &TcpStream, far: &TcpStream) -> std::io::Result<Passing> {
    let frozen = Arc::new(AtomicBool::new(false));
    for (from, to) in [(near, far), (far, near)] {
        from.set_nodelay(true)?;
        let (from, to, frozen) = (from.try_clone()?, to.try_clone()?, Arc::clone(&frozen));
        std::thread::spawn(move || copy(from, to, &frozen));
    }
    Ok(Passing {
        ends: [near.try_clone()?, far.try_clone()?],
        frozen,
    })
}

fn copy(mut from: TcpStream, mut to: TcpStream, frozen: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // One that fails has ended.
        let count = from.read(&mut buffer).unwrap_or_default();
        if frozen.load(Ordering::Acquire) {
            // What arrives is lost, its end as well.
            if count == 0 {
                return;
            }
            continue;
        }
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            // A connection that fails on one side fails on the other; either may have ended already.
            to.shutdown(Shutdown::Both).ok();
            from.shutdown(Shutdown::Both).ok();
            return;
        }
    }
}
