//! The tunnel over real sockets of the loopback interface.

#[cfg(test)]
mod giving_up;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod listeners;
#[cfg(all(test, feature = "quic"))]
mod quic;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
#[cfg(test)]
mod wrapped;
