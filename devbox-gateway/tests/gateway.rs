//! A gateway over real sockets on loopback: who is let in, what can be reached, and what a change of the files does.

#[cfg(test)]
mod gateway {
    mod admission;
    mod approach;
    mod catalog;
    mod demo_services;
    mod handover;
    mod hostile;
    #[cfg(feature = "kube")]
    mod kube;
    mod listen;
    mod providers;
    mod push;
    mod quic;
    mod resume;
    mod status;
    mod streams;
    mod successor;
    mod support;
    mod users;
}
