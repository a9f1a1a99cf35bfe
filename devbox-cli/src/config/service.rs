//! What `devbox.yaml` says of single services.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use devbox_engine::{BadServiceOption, ServiceOptions};
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};
use service_catalog::Label;

/// The options of one service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    share: Option<bool>,
    idle_timeout: Option<Spanned<String>>,
    max_connections: Option<NonZeroUsize>,
    bandwidth: Option<Spanned<String>>,
    proxy_protocol: Option<Spanned<String>>,
    names: Option<Vec<Label>>,
    pin: Option<IpAddr>,
    order: Option<u16>,
}

/// What is wrong with a value, and where it is.
pub(super) type Mistake = (Location, String);

impl Entry {
    pub(super) fn options(&self) -> Result<ServiceOptions, Mistake> {
        let idle_timeout = self
            .idle_timeout
            .as_ref()
            .map(|text| at(text, ServiceOptions::parse_idle_timeout))
            .transpose()?;
        let bandwidth = self
            .bandwidth
            .as_ref()
            .map(|text| at(text, ServiceOptions::parse_bandwidth))
            .transpose()?;
        let proxy = self.proxy_protocol.as_ref();
        let proxy = proxy.map(|text| at(text, ServiceOptions::parse_proxy_protocol));
        Ok(ServiceOptions {
            share: self.share,
            idle_timeout,
            max_connections: self.max_connections,
            bandwidth,
            proxy_protocol: proxy.transpose()?.unwrap_or(false),
            names: self.names.clone(),
            pin: self.pin,
            order: self.order,
        })
    }
}

fn at<T>(text: &Spanned<String>, parse: impl Fn(&str) -> Result<T, BadServiceOption>) -> Result<T, Mistake> {
    parse(&text.value).map_err(|error| (text.referenced, error.to_string()))
}
