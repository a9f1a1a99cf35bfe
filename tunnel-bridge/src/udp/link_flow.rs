//! A flow of a link, over whichever kind of link.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::flow::CarrierFlow;
#[cfg(feature = "quic")]
use crate::quic::QuicFlow;
use crate::{DatagramFlow, Refusal, RefusalKind, ResetReason, Target};

/// A flow of a [`Link`](crate::Link). Dropping it ends it at both ends, which says [`ResetReason::Cancelled`].
///
/// Sending never waits: up to 256 datagrams and 256 KiB may be on their way to the wire, beyond which they are dropped, and as
/// much may have arrived and not been received, of which the oldest are. [`DatagramFlow::dropped`] counts both. Over QUIC the
/// flows of a link share the 256 KiB on their way.
#[derive(Debug)]
pub struct MuxFlow(Kind);

#[derive(Debug)]
enum Kind {
    Carrier(CarrierFlow),
    #[cfg(feature = "quic")]
    Quic(Box<QuicFlow>),
}

impl From<CarrierFlow> for MuxFlow {
    fn from(flow: CarrierFlow) -> MuxFlow {
        MuxFlow(Kind::Carrier(flow))
    }
}

#[cfg(feature = "quic")]
impl From<QuicFlow> for MuxFlow {
    fn from(flow: QuicFlow) -> MuxFlow {
        MuxFlow(Kind::Quic(Box::new(flow)))
    }
}

/// Does the same with either kind.
macro_rules! either {
    ($kind:expr, $flow:ident => $does:expr) => {
        match $kind {
            Kind::Carrier($flow) => $does,
            #[cfg(feature = "quic")]
            Kind::Quic($flow) => $does,
        }
    };
}

impl DatagramFlow for MuxFlow {
    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &Bytes) -> Poll<io::Result<()>> {
        either!(&mut self.0, flow => flow.poll_send(cx, datagram))
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        either!(&mut self.0, flow => flow.poll_receive(cx))
    }

    fn max_datagram(&self) -> usize {
        either!(&self.0, flow => flow.max_datagram())
    }

    fn reset(&mut self, reason: ResetReason) {
        either!(&mut self.0, flow => flow.reset(reason));
    }

    fn dropped(&self) -> u64 {
        either!(&self.0, flow => flow.dropped())
    }
}

/// A flow that the other end requests. Dropping it refuses it.
#[derive(Debug)]
pub struct IncomingFlow {
    target: Target,
    /// Taken by the answer.
    flow: Option<MuxFlow>,
}

impl IncomingFlow {
    pub(crate) fn new(target: Target, flow: impl Into<MuxFlow>) -> IncomingFlow {
        IncomingFlow {
            target,
            flow: Some(flow.into()),
        }
    }

    /// Offers it to whoever accepts, or refuses it.
    pub(crate) fn offer(self, queue: &mpsc::Sender<IncomingFlow>) {
        match queue.try_send(self) {
            Err(mpsc::error::TrySendError::Full(incoming)) => {
                incoming.refuse(Refusal::new(RefusalKind::TooMany, "too many requests wait"));
            }
            Err(mpsc::error::TrySendError::Closed(incoming)) => {
                incoming.refuse(Refusal::new(RefusalKind::NotAllowed, "this end takes no flows"));
            }
            Ok(()) => {}
        }
    }

    /// The target it requests.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Resolves when the other end no longer wants the flow, or the link is gone.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn abandoned(&self) {
        poll_fn(|cx| match &self.flow {
            Some(MuxFlow(kind)) => either!(kind, flow => flow.poll_ended(cx)),
            None => Poll::Ready(()),
        })
        .await;
    }

    /// Accepts. Datagrams that were sent behind the request can be received from the flow.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "only accept and refuse take the flow, and both take self"
    )]
    pub fn accept(mut self) -> MuxFlow {
        let mut flow = self
            .flow
            .take()
            .expect("a request holds its flow until it is answered");
        either!(&mut flow.0, flow => flow.accept());
        flow
    }

    /// Refuses, and says why.
    pub fn refuse(mut self, refusal: Refusal) {
        self.refuse_with(refusal);
    }

    fn refuse_with(&mut self, refusal: Refusal) {
        match self.flow.take() {
            Some(MuxFlow(Kind::Carrier(flow))) => flow.refuse(refusal),
            #[cfg(feature = "quic")]
            Some(MuxFlow(Kind::Quic(flow))) => flow.refuse(&refusal),
            None => {}
        }
    }
}

impl Drop for IncomingFlow {
    fn drop(&mut self) {
        self.refuse_with(Refusal::new(
            RefusalKind::Internal,
            "the far side gave the request up",
        ));
    }
}
