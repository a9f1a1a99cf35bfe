//! What is wanted of single services.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use devbox_engine::{BadServiceOption, ServiceOptions};
use serde::{Deserialize, Deserializer};
use service_catalog::{Label, ServiceId};

use super::{parse, wrong};
use crate::error::DevboxError;

/// What is wanted of one service: what its connections are held to, and its names and address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, uniffi::Record)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// Whether other users of this machine may connect to it. Default: what the session says.
    #[uniffi(default = None)]
    pub share: Option<bool>,
    /// After how long without a byte either way a connection is reset. In YAML `30s`, `10m`. Default: never.
    #[serde(default, deserialize_with = "idle_timeout")]
    #[uniffi(default = None)]
    pub idle_timeout: Option<Duration>,
    /// How many connections to it may be open at once, on all of its ports together. Default: as many as the session has.
    #[uniffi(default = None)]
    pub max_connections: Option<u32>,
    /// How many bytes a second its connections may carry together, each way. In YAML `10MiB/s`. Default: any number.
    #[serde(default, deserialize_with = "bandwidth")]
    #[uniffi(default = None)]
    pub bandwidth: Option<u64>,
    /// Whether it is told the program's address by a PROXY protocol header of version 2, which it must expect. In YAML `v2`.
    #[serde(default, deserialize_with = "proxy_protocol")]
    #[uniffi(default = false)]
    pub proxy_protocol: bool,
    /// Further names in its own namespace, in place of those that its far side gives it. Default: those.
    #[uniffi(default = None)]
    pub names: Option<Vec<String>>,
    /// The address that it is to have, of the session's pool, in place of the one that its far side pins it to.
    #[uniffi(default = None)]
    pub pin: Option<String>,
    /// Its place among the services that would have the same name, whichever far side they are of: the lowest has it. Those without one
    /// come after it.
    #[uniffi(default = None)]
    pub order: Option<u16>,
}

/// By service, as the engine takes them.
pub(super) fn options(
    services: HashMap<String, ServiceSettings>,
) -> Result<BTreeMap<ServiceId, ServiceOptions>, DevboxError> {
    let options = services.into_iter().map(|(service, settings)| {
        let id = parse("services", &service)?;
        Ok((id, settings.into_options(&service)?))
    });
    options.collect()
}

impl ServiceSettings {
    fn into_options(self, service: &str) -> Result<ServiceOptions, DevboxError> {
        let zero = |option: &str| wrong(&format!("services.{service}.{option}"), "0", "it is at least 1");
        let connections = self
            .max_connections
            .map(|most| NonZeroUsize::new(most as usize).ok_or_else(|| zero("max_connections")));
        let bandwidth = self
            .bandwidth
            .map(|rate| NonZeroU64::new(rate).ok_or_else(|| zero("bandwidth")));
        let key = |option: &str| format!("services.{service}.{option}");
        let names = self.names.map(|names| {
            let names = names.iter().map(|name| parse::<Label>(&key("names"), name));
            names.collect::<Result<Vec<_>, _>>()
        });
        let pin = self.pin.map(|pin| parse::<IpAddr>(&key("pin"), &pin));
        Ok(ServiceOptions {
            share: self.share,
            idle_timeout: self.idle_timeout,
            max_connections: connections.transpose()?,
            bandwidth: bandwidth.transpose()?,
            proxy_protocol: self.proxy_protocol,
            names: names.transpose()?,
            pin: pin.transpose()?,
            order: self.order,
        })
    }
}

fn idle_timeout<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    read(from, ServiceOptions::parse_idle_timeout)
}

fn bandwidth<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Ok(read(from, ServiceOptions::parse_bandwidth)?.map(NonZeroU64::get))
}

fn proxy_protocol<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    Ok(read(from, ServiceOptions::parse_proxy_protocol)?.unwrap_or(false))
}

fn read<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: impl Fn(&str) -> Result<T, BadServiceOption>,
) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| parse(&text).map_err(serde::de::Error::custom))
        .transpose()
}
