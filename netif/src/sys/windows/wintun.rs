//! Wintun adapters: the driver comes with `wintun.dll`, which is loaded when an adapter is made.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use wintun_bindings::{Adapter, MIN_RING_CAPACITY, Session, Wintun, load_from_path};

use crate::render::ip_helper;

const FILE: &str = "wintun.dll";

/// Only beside the program, which only an administrator can write where it is a service: not where a caller's `PATH` or working
/// directory leads.
fn file() -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(FILE))
}

/// Whether the file is there, or where it is missing.
pub(super) fn found() -> Result<PathBuf, String> {
    let file = file().map_err(|error| format!("the folder of this program is not known: {error}"))?;
    match file.try_exists() {
        Ok(true) => Ok(file),
        Ok(false) => Err(format!("there is no {}", file.display())),
        Err(error) => Err(format!("{}: {error}", file.display())),
    }
}

fn load() -> io::Result<Wintun> {
    let file = found().map_err(|why| io::Error::new(io::ErrorKind::NotFound, why))?;
    // SAFETY: the crate loads a library only with the signature of the people who make Wintun (its feature
    // verify_binary_signature), and whose functions are the ones that it declares.
    let loaded = unsafe { load_from_path(&file) };
    loaded.map_err(io::Error::from)
}

/// An adapter of ours. It is gone when this is.
pub(crate) struct Tunnel {
    pub(super) name: String,
    pub(super) luid: u64,
    // Before the adapter. As long as there is a session, Windows takes the adapter for connected, and its addresses can be bound.
    _session: Arc<Session>,
    _adapter: Arc<Adapter>,
}

impl Tunnel {
    pub(super) fn create(wanted: &ip_helper::Adapter) -> io::Result<Self> {
        let wintun = load()?;
        let adapter = Adapter::create(&wintun, &wanted.name, &wanted.tunnel_type, Some(wanted.guid))
            .map_err(io::Error::from)?;
        let session = adapter
            .start_session(MIN_RING_CAPACITY)
            .map_err(io::Error::from)?;
        // SAFETY: every bit pattern is a number.
        let luid = unsafe { adapter.get_luid().Value };
        Ok(Self {
            name: wanted.name.clone(),
            luid,
            _session: session,
            _adapter: adapter,
        })
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("name", &self.name)
            .field("luid", &self.luid)
            .finish_non_exhaustive()
    }
}
