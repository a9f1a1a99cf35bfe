//! The multiplexer through its public face: two connections and the bytes between them.

#[cfg(test)]
mod arrival;
#[cfg(test)]
mod flows;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod later;
#[cfg(test)]
mod order;
#[cfg(test)]
mod peer;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod sink;
#[cfg(test)]
mod support;
#[cfg(test)]
mod time;
#[cfg(test)]
mod windows;
