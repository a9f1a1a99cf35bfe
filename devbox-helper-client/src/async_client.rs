//! The same verbs for an async owner. Two threads hold the channel: one writes, one reads and reaps, so that the end
//! of the helper is seen at once, also while nothing is asked.

use std::net::TcpListener;
use std::process::ExitStatus;
use std::sync::mpsc as blocking;
use std::thread;

use tokio::sync::{mpsc, oneshot, watch};

use crate::channel::{Receiver, Sender};
use crate::client::{Client, HelperProcess, bound, hosts, released, swept};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::message::{HostsBlock, HostsReport, ReleaseReport, Reply, Request, SweepReport, UserEdit};

/// A handle to a running helper for async code; clones ask the same helper, in the order of their calls.
///
/// When the last clone is dropped the stream ends, and the helper undoes everything and exits.
#[derive(Debug, Clone)]
pub struct AsyncClient {
    // 16 requests wait at most; a further caller waits for room.
    asks: mpsc::Sender<Ask>,
    end: watch::Receiver<Option<End>>,
    pid: u32,
}

impl AsyncClient {
    /// Takes over a started helper. Needs no runtime.
    ///
    /// # Errors
    /// [`Error::Channel`] when no thread can be started.
    pub fn new(client: Client) -> Result<Self, Error> {
        let pid = client.pid();
        let (channel, process) = client.into_parts()?;
        let (sender, receiver) = channel.split();
        let (asks, asked) = mpsc::channel(QUEUE);
        let (ended, end) = watch::channel(None);
        // Bounded by the rule that the writer waits here for the reader once that many answers are outstanding.
        let (waiting, awaited) = blocking::sync_channel(QUEUE);
        thread::Builder::new()
            .name("helper-write".into())
            .spawn(move || write(sender, asked, &waiting))?;
        thread::Builder::new()
            .name("helper-read".into())
            .spawn(move || read(receiver, process, &awaited, &ended))?;
        Ok(Self { asks, end, pid })
    }

    /// The helper's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends one request and waits for its answer; an answer that says no is an error.
    ///
    /// # Errors
    /// As [`Client::request`], without the time limit.
    ///
    /// # Cancel safety
    /// Not: a request that was taken is done, whether or not somebody waits for the answer.
    pub async fn request(&self, request: Request) -> Result<Reply, Error> {
        self.ask(request).await.map(|answer| answer.reply)
    }

    /// Makes this the caller's block.
    ///
    /// # Errors
    /// As [`AsyncClient::request`].
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn set_hosts(&self, block: HostsBlock) -> Result<HostsReport, Error> {
        hosts(self.request(Request::SetHosts { block }).await?)
    }

    /// Removes the caller's block.
    ///
    /// # Errors
    /// As [`AsyncClient::request`].
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn clear_hosts(&self) -> Result<HostsReport, Error> {
        hosts(self.request(Request::ClearHosts).await?)
    }

    /// Changes that a user asked for by hand; they stay.
    ///
    /// # Errors
    /// As [`AsyncClient::request`].
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn edit_hosts(&self, edits: Vec<UserEdit>) -> Result<HostsReport, Error> {
        hosts(self.request(Request::EditHosts { edits }).await?)
    }

    /// Has the helper bind a listener, as for a port below 1024, and takes it over. It is in blocking mode.
    ///
    /// # Errors
    /// As [`Client::bind`].
    ///
    /// # Cancel safety
    /// The listener of a dropped call is closed.
    pub async fn bind(&self, endpoint: Endpoint) -> Result<TcpListener, Error> {
        let answer = self.ask(Request::Bind { endpoint }).await?;
        bound(&answer.reply, answer.listener)
    }

    /// Removes the blocks of owners that live no longer.
    ///
    /// # Errors
    /// As [`AsyncClient::request`].
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn sweep(&self) -> Result<SweepReport, Error> {
        swept(self.request(Request::Sweep).await?)
    }

    /// Undoes everything that was asked for.
    ///
    /// # Errors
    /// As [`AsyncClient::request`]. The helper tries again when the stream ends.
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn release(&self) -> Result<ReleaseReport, Error> {
        released(self.request(Request::Release).await?)
    }

    /// Waits until the helper is gone, however that came; its exit status where it could be had.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn closed(&self) -> Option<ExitStatus> {
        let mut end = self.end.clone();
        // An error means that the reading thread is gone, and the channel with it.
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.and_then(|end| end.status),
            Err(_) => None,
        }
    }

    async fn ask(&self, request: Request) -> Result<Answer, Error> {
        let (reply_to, answer) = oneshot::channel();
        if self.asks.send(Ask { request, reply_to }).await.is_err() {
            return Err(Error::Ended {
                status: self.closed().await,
            });
        }
        match answer.await {
            Ok(Ok(Answer {
                reply: Reply::Error(error),
                ..
            })) => Err(error.into()),
            Ok(result) => result,
            Err(_) => Err(Error::Ended {
                status: self.closed().await,
            }),
        }
    }
}

type ReplyTo = oneshot::Sender<Result<Answer, Error>>;

struct Ask {
    request: Request,
    reply_to: ReplyTo,
}

#[derive(Debug)]
struct Answer {
    reply: Reply,
    listener: Option<TcpListener>,
}

#[derive(Debug, Clone, Copy)]
struct End {
    status: Option<ExitStatus>,
}

/// Ends with the last handle, or with the helper.
fn write(mut sender: Sender, mut asked: mpsc::Receiver<Ask>, waiting: &blocking::SyncSender<ReplyTo>) {
    while let Some(Ask { request, reply_to }) = asked.blocking_recv() {
        let frame = match crate::codec::encode(&request) {
            Ok(frame) => frame,
            Err(error) => {
                // The asker may have gone; then nobody wants to know.
                drop(reply_to.send(Err(error.into())));
                continue;
            }
        };
        // First the place in the line, then the bytes: an answer never finds the line empty.
        if waiting.send(reply_to).is_err() || sender.send_frame(&frame).is_err() {
            break;
        }
    }
    sender.finish();
}

/// Ends with the helper. Dropping `awaited` tells all who wait.
fn read(
    mut receiver: Receiver,
    mut process: HelperProcess,
    awaited: &blocking::Receiver<ReplyTo>,
    ended: &watch::Sender<Option<End>>,
) {
    while let Ok(Some(reply)) = receiver.receive::<Reply>() {
        let Ok(reply_to) = awaited.try_recv() else {
            break; // an answer to nothing
        };
        let answer = Answer {
            reply,
            listener: receiver.take_listener(),
        };
        // The asker may have gone; the answer, and a listener in it, goes too.
        drop(reply_to.send(Ok(answer)));
    }
    receiver.close();
    ended.send_replace(Some(End {
        status: process.wait_briefly(),
    }));
}

const QUEUE: usize = 16;
