//! What `devbox.yaml` says of single services.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use devbox_engine::ServiceOptions;
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

/// The options of one service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    share: Option<bool>,
    idle_timeout: Option<Spanned<String>>,
    max_connections: Option<NonZeroUsize>,
    bandwidth: Option<Spanned<String>>,
    proxy_protocol: Option<Spanned<String>>,
}

/// What is wrong with a value, and where it is.
pub(super) type Mistake = (Location, String);

impl Entry {
    pub(super) fn options(&self) -> Result<ServiceOptions, Mistake> {
        let idle_timeout = self
            .idle_timeout
            .as_ref()
            .map(|text| at(text, duration))
            .transpose()?;
        let bandwidth = self
            .bandwidth
            .as_ref()
            .map(|text| at(text, bandwidth))
            .transpose()?;
        let proxy = self.proxy_protocol.as_ref().map(|text| at(text, proxy_protocol));
        Ok(ServiceOptions {
            share: self.share,
            idle_timeout,
            max_connections: self.max_connections,
            bandwidth,
            proxy_protocol: proxy.transpose()?.unwrap_or(false),
        })
    }
}

fn at<T>(text: &Spanned<String>, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Mistake> {
    parse(&text.value).map_err(|message| (text.referenced, message))
}

fn duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
    let parsed = humantime::parse_duration(text);
    let parsed = parsed.map_err(|_| format!("`{text}` is not a duration: write 30s, 10m or 2h"))?;
    if (Duration::from_secs(1)..=LONGEST).contains(&parsed) {
        Ok(parsed)
    } else {
        Err(format!(
            "an idle timeout is between 1s and 365d, and `{text}` is not"
        ))
    }
}

/// `10MiB/s`; bytes, not bits.
fn bandwidth(text: &str) -> Result<NonZeroU64, String> {
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
    let wrong = || format!("`{text}` is not a bandwidth: write 500KiB/s, 10MiB/s or 1GB/s");
    let per_second = text.trim().strip_suffix("/s").ok_or_else(wrong)?;
    let digits = per_second.find(|character: char| !character.is_ascii_digit());
    let (number, unit) = per_second.split_at(digits.unwrap_or(per_second.len()));
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim();
    let found = UNITS.iter().find(|(name, _)| *name == unit);
    let Some((_, bytes)) = found else {
        let similar = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
        return Err(match similar {
            Some((name, _)) => format!("{}; did you mean `{number}{name}/s`?", wrong()),
            None => wrong(),
        });
    };
    let rate = number.checked_mul(*bytes).filter(|rate| *rate >= SMALLEST);
    rate.and_then(NonZeroU64::new)
        .ok_or_else(|| format!("a bandwidth is at least 1KiB/s, and `{text}` is not"))
}

fn proxy_protocol(text: &str) -> Result<bool, String> {
    match text {
        "v2" => Ok(true),
        _ => Err(format!(
            "`{text}` is not a version of the PROXY protocol that is spoken: `v2` is"
        )),
    }
}
