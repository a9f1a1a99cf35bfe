//! UDP: flows of datagrams over a link, local ports whose datagrams are carried, and targets that are reached directly.
//!
//! A flow is what UDP has for a connection: the datagrams between one source and one target. Datagrams stay whole, and those
//! that find no room are dropped and counted, at whichever end: nothing here makes a stream wait. The longest that a link carries
//! is [`DatagramFlow::max_datagram`](crate::DatagramFlow::max_datagram), 65,507 bytes with the default settings of both ends.

mod direct;
mod flow;
mod link_flow;
mod listener;
mod relay;
mod table;

pub use direct::{DirectFlow, UdpDialer, connect};
pub use link_flow::{IncomingFlow, MuxFlow};
pub use listener::{DroppedDatagrams, FlowCounts, UdpCounts, UdpListener, UdpOptions, bind, prepare};
pub use relay::{FLOW_IDLE, FlowReport, relay};

pub(crate) use flow::{Flows, LinkFlows, Request};
#[cfg(feature = "quic")]
pub(crate) use flow::{LinkBytes, QUEUE_BYTES, QUEUE_DATAGRAMS, Shared};
