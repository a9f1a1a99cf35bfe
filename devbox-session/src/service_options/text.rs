//! What people write for the options of a service: `10m`, `10MiB/s`, `v2`.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::service_options::ServiceOptions;

/// A text is no value of an option of a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadServiceOption {
    /// It is no length of time.
    #[error("`{text}` is not a duration: write 30s, 10m or 2h")]
    Duration {
        /// The text.
        text: String,
    },
    /// An idle timeout is too short or too long.
    #[error("an idle timeout is between 1s and 365d, and `{text}` is not")]
    IdleTimeout {
        /// The text.
        text: String,
    },
    /// It is no number of bytes a second.
    #[error("`{text}` is not a bandwidth: write 500KiB/s, 10MiB/s or 1GB/s{}", meant(.similar.as_deref()))]
    Bandwidth {
        /// The text.
        text: String,
        /// What was most likely meant.
        similar: Option<String>,
    },
    /// A bandwidth is too small.
    #[error("a bandwidth is at least 1KiB/s, and `{text}` is not")]
    SmallBandwidth {
        /// The text.
        text: String,
    },
    /// It is no version of the PROXY protocol that is spoken.
    #[error("`{text}` is not a version of the PROXY protocol that is spoken: `v2` is")]
    ProxyProtocol {
        /// The text.
        text: String,
    },
}

fn meant(similar: Option<&str>) -> String {
    similar.map_or_else(String::new, |similar| format!("; did you mean `{similar}`?"))
}

/// The shortest and the longest idle timeout.
const IDLE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(365 * 24 * 3600);
/// The smallest bandwidth, in bytes a second.
const SMALLEST: u64 = 1024;
const UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

impl ServiceOptions {
    /// Reads [`idle_timeout`](Self::idle_timeout): `30s`, `10m`, `2h`.
    ///
    /// # Errors
    /// [`BadServiceOption::Duration`], [`BadServiceOption::IdleTimeout`].
    pub fn parse_idle_timeout(text: &str) -> Result<Duration, BadServiceOption> {
        let parsed = humantime::parse_duration(text);
        let parsed = parsed.map_err(|_| BadServiceOption::Duration {
            text: text.to_owned(),
        })?;
        if IDLE.contains(&parsed) {
            Ok(parsed)
        } else {
            Err(BadServiceOption::IdleTimeout {
                text: text.to_owned(),
            })
        }
    }

    /// Reads [`bandwidth`](Self::bandwidth): `10MiB/s`; bytes, not bits.
    ///
    /// # Errors
    /// [`BadServiceOption::Bandwidth`], [`BadServiceOption::SmallBandwidth`].
    pub fn parse_bandwidth(text: &str) -> Result<NonZeroU64, BadServiceOption> {
        let wrong = |similar| BadServiceOption::Bandwidth {
            text: text.to_owned(),
            similar,
        };
        let per_second = text.trim().strip_suffix("/s").ok_or_else(|| wrong(None))?;
        let digits = per_second.find(|character: char| !character.is_ascii_digit());
        let (number, unit) = per_second.split_at(digits.unwrap_or(per_second.len()));
        let number: u64 = number.parse().map_err(|_| wrong(None))?;
        let unit = unit.trim();
        let found = UNITS.iter().find(|(name, _)| *name == unit);
        let Some((_, bytes)) = found else {
            let similar = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
            return Err(wrong(similar.map(|(name, _)| format!("{number}{name}/s"))));
        };
        let rate = number.checked_mul(*bytes).filter(|rate| *rate >= SMALLEST);
        rate.and_then(NonZeroU64::new)
            .ok_or_else(|| BadServiceOption::SmallBandwidth {
                text: text.to_owned(),
            })
    }

    /// Reads [`proxy_protocol`](Self::proxy_protocol): `v2`.
    ///
    /// # Errors
    /// [`BadServiceOption::ProxyProtocol`].
    pub fn parse_proxy_protocol(text: &str) -> Result<bool, BadServiceOption> {
        match text {
            "v2" => Ok(true),
            _ => Err(BadServiceOption::ProxyProtocol {
                text: text.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        assert_eq!(
            ServiceOptions::parse_idle_timeout("10m"),
            Ok(Duration::from_secs(600))
        );
        assert_eq!(
            ServiceOptions::parse_bandwidth("10 MiB/s").map(NonZeroU64::get),
            Ok(10 << 20)
        );
        assert_eq!(
            ServiceOptions::parse_bandwidth("1GB/s").map(NonZeroU64::get),
            Ok(1_000_000_000)
        );
        assert_eq!(ServiceOptions::parse_proxy_protocol("v2"), Ok(true));
    }

    #[test]
    fn what_they_do_not_mean_is_said() {
        let text = || "10mib/s".to_owned();
        let similar = Some("10MiB/s".to_owned());
        let bad = ServiceOptions::parse_bandwidth("10mib/s");
        assert_eq!(
            bad,
            Err(BadServiceOption::Bandwidth {
                text: text(),
                similar
            })
        );
        for text in ["", "10", "10MiB", "MiB/s", "-1MiB/s", "99999999999GiB/s"] {
            assert!(ServiceOptions::parse_bandwidth(text).is_err(), "{text}");
        }
        assert!(matches!(
            ServiceOptions::parse_idle_timeout("10ms"),
            Err(BadServiceOption::IdleTimeout { .. })
        ));
        assert!(ServiceOptions::parse_idle_timeout("soon").is_err());
        assert!(ServiceOptions::parse_proxy_protocol("v1").is_err());
    }
}
