//! The tunnel over real sockets of the loopback interface.

mod handshake;
mod listeners;
mod streams;
mod support;
