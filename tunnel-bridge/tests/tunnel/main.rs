//! The tunnel over real sockets of the loopback interface.

#[cfg(feature = "tls")]
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod datagrams;
#[cfg(test)]
mod direct;
#[cfg(test)]
mod giving_up;
#[cfg(test)]
mod half_close;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod listeners;
#[cfg(test)]
mod proxies;
#[cfg(feature = "quic")]
#[cfg(test)]
mod quic;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
#[cfg(test)]
mod switching;
#[cfg(test)]
mod wrapped;
