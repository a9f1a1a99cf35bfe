//! How much one client may ask: a bucket of tokens for each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

/// How much one client may ask. A client is an IPv4 address or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Questions each second.
    pub per_second: u32,
    /// Questions at once after a pause.
    pub burst: u32,
}

/// Says who may ask. Reads no clock.
///
/// ```
/// use std::time::{Duration, Instant};
/// use nameserver::{Limiter, RateLimit};
/// let mut limiter = Limiter::new(RateLimit { per_second: 1, burst: 2 });
/// let (client, start) = ([192, 0, 2, 1].into(), Instant::now());
/// let asked: Vec<_> = (0..3).map(|_| limiter.admit(client, start)).collect();
/// assert_eq!(asked, [true, true, false]);
/// assert!(limiter.admit(client, start + Duration::from_secs(1)));
/// ```
#[derive(Debug)]
pub struct Limiter {
    limit: RateLimit,
    buckets: HashMap<IpAddr, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// How many clients are remembered. When there are more, as with forged addresses, all start anew.
const MAX_CLIENTS: usize = 65_536;

impl Limiter {
    /// Nobody has asked yet.
    pub fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            buckets: HashMap::new(),
        }
    }

    /// Whether this client may ask one question more.
    pub fn admit(&mut self, client: IpAddr, now: Instant) -> bool {
        let client = match client.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
            v4 @ IpAddr::V4(_) => v4,
        };
        let burst = f64::from(self.limit.burst.max(1));
        if self.buckets.len() >= MAX_CLIENTS && !self.buckets.contains_key(&client) {
            self.buckets.clear();
        }
        let bucket = self.buckets.entry(client).or_insert(Bucket {
            tokens: burst,
            at: now,
        });
        let gained =
            now.saturating_duration_since(bucket.at).as_secs_f64() * f64::from(self.limit.per_second);
        bucket.tokens = (bucket.tokens + gained).min(burst);
        bucket.at = now;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_do_not_share_a_bucket_but_a_64_does() {
        let mut limiter = Limiter::new(RateLimit {
            per_second: 1,
            burst: 1,
        });
        let now = Instant::now();
        let mut admit = |text: &str| limiter.admit(text.parse().unwrap(), now);
        assert!(admit("192.0.2.1"));
        assert!(admit("192.0.2.2"));
        assert!(!admit("::ffff:192.0.2.2"));
        assert!(admit("2001:db8::1"));
        assert!(!admit("2001:db8::2"));
        assert!(admit("2001:db8:0:1::2"));
    }
}
