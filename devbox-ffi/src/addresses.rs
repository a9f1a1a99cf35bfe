//! Addresses for other languages: the `ipalloc` crate.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipalloc::{Key, Pool, Timestamp};
use ipnet::IpNet;

use crate::config::parse;
use crate::error::DevboxError;

/// Which address a key holds. The same keys get the same addresses on every machine; a released address rests before another
/// key gets it. Times are seconds since the Unix epoch: it reads no clock.
#[derive(Debug, uniffi::Object)]
pub struct Allocator(Mutex<ipalloc::Allocator>);

/// What became of one key of a batch.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Leased {
    /// The key.
    pub key: String,
    /// Its address; none where the pool has too few.
    pub address: Option<String>,
}

#[uniffi::export]
impl Allocator {
    /// One that has leased nothing yet, of prefixes such as `127.77.0.0/16`.
    #[uniffi::constructor]
    pub fn new(prefixes: Vec<String>) -> Result<Arc<Self>, DevboxError> {
        let prefixes = prefixes.iter().map(|prefix| parse::<IpNet>("prefixes", prefix));
        let pool = Pool::new(prefixes.collect::<Result<Vec<_>, _>>()?)?;
        Ok(Arc::new(Self(Mutex::new(ipalloc::Allocator::new(pool)))))
    }

    /// Leases an address to a key. A key that holds one keeps it.
    pub fn lease(&self, key: &str, now: u64) -> Result<String, DevboxError> {
        let leased = self.locked().lease(&Key::new(key)?, Timestamp::from_secs(now))?;
        Ok(leased.to_string())
    }

    /// Leases addresses to all of these keys at once, whatever their order.
    pub fn lease_all(&self, keys: Vec<String>, now: u64) -> Result<Vec<Leased>, DevboxError> {
        let keys = keys.iter().map(|key| Key::new(key));
        let keys: Vec<Key> = keys.collect::<Result<_, _>>()?;
        let leased = self.locked().lease_all(&keys, Timestamp::from_secs(now));
        let leased = leased.into_iter().map(|(key, address)| Leased {
            key: key.to_string(),
            // The only failure is that the pool is exhausted.
            address: address.ok().map(|address| address.to_string()),
        });
        Ok(leased.collect())
    }

    /// Releases the address of a key, which rests from now on; none where it held none.
    pub fn release(&self, key: &str, now: u64) -> Result<Option<String>, DevboxError> {
        let released = self.locked().release(&Key::new(key)?, Timestamp::from_secs(now));
        Ok(released.map(|address| address.to_string()))
    }

    /// The address that a key holds.
    pub fn address(&self, key: &str) -> Result<Option<String>, DevboxError> {
        let held = self.locked().get(&Key::new(key)?);
        Ok(held.map(|address| address.to_string()))
    }

    /// The key that holds an address.
    pub fn holder(&self, address: &str) -> Result<Option<String>, DevboxError> {
        let address: IpAddr = parse("address", address)?;
        Ok(self.locked().lookup(address).map(ToString::to_string))
    }
}

impl Allocator {
    fn locked(&self) -> MutexGuard<'_, ipalloc::Allocator> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
