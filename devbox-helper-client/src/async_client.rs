//! The same verbs for an async owner. Two threads hold the channel: one writes, one reads and reaps, so that the end
//! of the helper is noticed at once, even while nothing is asked, and nothing the helper does can block the owner.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::ExitStatus;
use std::sync::mpsc as blocking;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::channel::{Receiver, Sender};
use crate::client::{
    Answer, Client, HelperProcess, Parts, bound, bound_udp, hosts, network, released, swept,
};
use crate::codec::encode;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::message::{
    Call, HostsBlock, HostsReport, NetworkReport, NewInterface, NewResolver, ReleaseReport, Reply, Request,
    SweepReport, UserEdit,
};

/// A handle to a running helper for async code. Clones ask the same helper, in the order of their calls.
///
/// When the last clone is dropped the stream ends, and the helper undoes everything and exits. Nothing here waits for
/// that, nor for a helper that has stopped responding: a request fails with [`Error::TimedOut`] at its deadline, and a reply
/// that comes later is dropped.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use devbox_helper_client::{AsyncClient, Client, Endpoint};
///
/// // Before there is a runtime: this waits for the helper's welcome.
/// let client = Client::start(std::env::current_exe()?, ["__helper", "--hosts-file", "/etc/hosts"])?;
/// let helper = AsyncClient::new(client)?.with_timeout(Duration::from_secs(10));
/// let web = helper.bind(Endpoint::tcp("127.77.3.5:80".parse()?)).await?;
/// # drop(web);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AsyncClient {
    // At most 16 requests wait; a further caller waits for room, until its deadline.
    asks: mpsc::Sender<Ask>,
    end: watch::Receiver<Option<End>>,
    pid: u32,
    timeout: Duration,
}

impl AsyncClient {
    /// Takes over a started helper, with the time limit of its [`StartOptions`](crate::StartOptions::reply_timeout). Does not
    /// block and needs no runtime; requests need a tokio runtime with its timer enabled.
    ///
    /// # Errors
    /// [`Error::Channel`] when no thread can be started.
    pub fn new(client: Client) -> Result<Self, Error> {
        let pid = client.pid();
        let Parts {
            channel,
            process,
            reply_timeout,
            last_id,
        } = client.into_parts()?;
        let (sender, receiver) = channel.split();
        let (asks, asked) = mpsc::channel(QUEUE);
        let (ended, end) = watch::channel(None);
        // Bounded: once that many requests are sent and unanswered, the writer waits here for the reader.
        let (sent, awaited) = blocking::sync_channel(QUEUE);
        thread::Builder::new()
            .name("helper-write".into())
            .spawn(move || write(sender, asked, &sent, last_id))?;
        thread::Builder::new()
            .name("helper-read".into())
            .spawn(move || read(receiver, process, &mut Awaited::new(awaited, last_id), &ended))?;
        Ok(Self {
            asks,
            end,
            pid,
            timeout: reply_timeout,
        })
    }

    /// This handle with another time limit for its requests, from the call until the reply.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The helper's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends one request and waits for its reply.
    ///
    /// # Errors
    /// As [`Client::request`].
    ///
    /// # Cancel safety
    /// Not cancel safe: a request that was sent is carried out, whether or not somebody waits for the reply. One that was
    /// not sent yet is not. Other requests are unaffected.
    pub async fn request(&self, request: Request) -> Result<Reply, Error> {
        self.ask(request).await.map(|(reply, _)| reply)
    }

    /// Makes this the caller's block, in place of the one before it.
    ///
    /// # Errors
    /// As [`AsyncClient::request`].
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn set_hosts(&self, block: HostsBlock) -> Result<HostsReport, Error> {
        hosts(self.request(Request::SetHosts { block }).await?)
    }

    /// As [`AsyncClient::set_hosts`], and takes names from other sessions where they are asked for the first time.
    ///
    /// # Errors
    /// As [`AsyncClient::request`].
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn take_hosts(&self, block: HostsBlock) -> Result<HostsReport, Error> {
        hosts(self.request(Request::TakeHosts { block }).await?)
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

    /// Makes changes that a user asked for by hand. They are permanent.
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
        bound(endpoint, self.ask(Request::Bind { endpoint }).await?)
    }

    /// As [`AsyncClient::bind`], for a UDP port of this address.
    ///
    /// # Errors
    /// As [`Client::bind`].
    ///
    /// # Cancel safety
    /// The socket of a dropped call is closed.
    pub async fn bind_udp(&self, address: SocketAddr) -> Result<UdpSocket, Error> {
        let endpoint = Endpoint::udp(address);
        bound_udp(endpoint, self.ask(Request::Bind { endpoint }).await?)
    }

    /// Removes the blocks whose owners are dead.
    ///
    /// # Errors
    /// As [`AsyncClient::request`].
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn sweep(&self) -> Result<SweepReport, Error> {
        swept(self.request(Request::Sweep).await?)
    }

    /// Removes what sessions left that were killed together with their helper.
    ///
    /// # Errors
    /// As [`AsyncClient::request`].
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn clean_up(&self) -> Result<SweepReport, Error> {
        swept(self.request(Request::CleanUp).await?)
    }

    /// Claims addresses for this user; see [`Client::add_addresses`].
    ///
    /// # Errors
    /// As [`Client::add_addresses`].
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn add_addresses(
        &self,
        addresses: Vec<String>,
        interface: Option<String>,
    ) -> Result<NetworkReport, Error> {
        network(
            self.request(Request::AddAddresses { addresses, interface })
                .await?,
        )
    }

    /// Makes an interface; see [`Client::create_interface`].
    ///
    /// # Errors
    /// As [`AsyncClient::request`].
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn create_interface(&self, interface: NewInterface) -> Result<NetworkReport, Error> {
        network(self.request(Request::CreateInterface { interface }).await?)
    }

    /// Removes an interface of the caller's, with all that is on it.
    ///
    /// # Errors
    /// As [`AsyncClient::request`].
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn remove_interface(&self, name: String) -> Result<NetworkReport, Error> {
        network(self.request(Request::RemoveInterface { name }).await?)
    }

    /// Has names with some suffixes looked up at servers of the caller's.
    ///
    /// # Errors
    /// As [`AsyncClient::request`].
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn set_resolver(&self, rule: NewResolver) -> Result<NetworkReport, Error> {
        network(self.request(Request::SetResolver { rule }).await?)
    }

    /// Undoes everything that was asked for.
    ///
    /// # Errors
    /// As [`AsyncClient::request`]. The helper tries again at the end of the stream.
    ///
    /// # Cancel safety
    /// As [`AsyncClient::request`].
    pub async fn release(&self) -> Result<ReleaseReport, Error> {
        released(self.request(Request::Release).await?)
    }

    /// Waits until the helper is gone, for whatever reason. Returns its exit status if it could be reaped within 3 s.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn closed(&self) -> Option<ExitStatus> {
        let mut end = self.end.clone();
        // An error means that the reading thread is gone, and with it the channel.
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.and_then(|end| end.status),
            Err(_) => None,
        }
    }

    async fn ask(&self, request: Request) -> Result<Answer, Error> {
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(Ok((Reply::Error(error), _))) => Err(error.into()),
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { after: self.timeout }),
        }
    }

    async fn exchange(&self, request: Request) -> Result<Answer, Error> {
        let (reply_to, answer) = oneshot::channel();
        if self.asks.send(Ask { request, reply_to }).await.is_ok()
            && let Ok(result) = answer.await
        {
            return result;
        }
        Err(Error::Ended {
            status: self.closed().await,
        })
    }
}

type ReplyTo = oneshot::Sender<Result<Answer, Error>>;

struct Ask {
    request: Request,
    reply_to: ReplyTo,
}

#[derive(Debug, Clone, Copy)]
struct End {
    status: Option<ExitStatus>,
}

/// Ends with the last handle, or with the helper.
fn write(
    mut sender: Sender,
    mut asked: mpsc::Receiver<Ask>,
    sent: &blocking::SyncSender<(u64, ReplyTo)>,
    last_id: u64,
) {
    let mut id = last_id;
    while let Some(Ask { request, reply_to }) = asked.blocking_recv() {
        // The caller gave up before the request was sent, and must not have it carried out at some later time.
        if reply_to.is_closed() {
            continue;
        }
        id += 1;
        let frame = match encode(&Call { id, request }) {
            Ok(frame) => frame,
            Err(error) => {
                // Fails only when the caller has given up.
                drop(reply_to.send(Err(error.into())));
                continue;
            }
        };
        // Registered before it is sent: no reply arrives that the reader knows nothing of.
        if sent.send((id, reply_to)).is_err() || sender.send_frame(&frame, None, None).is_err() {
            break;
        }
    }
    sender.finish();
}

/// Ends with the helper. Dropping `awaited` tells everybody who waits for a reply.
fn read(
    mut receiver: Receiver,
    mut process: HelperProcess,
    awaited: &mut Awaited,
    ended: &watch::Sender<Option<End>>,
) {
    while let Ok(Some((response, listener))) = receiver.receive_response() {
        match response.id.map(|id| awaited.take(id)) {
            // Fails only when the caller has given up; then a listener is closed.
            Some(Taken::Waiting(reply_to)) => drop(reply_to.send(Ok((response.reply, listener)))),
            Some(Taken::Late) => {}
            Some(Taken::NeverAsked) | None => break,
        }
    }
    receiver.close();
    ended.send_replace(Some(End {
        status: process.wait_briefly(),
    }));
}

/// The requests that were sent and not answered.
struct Awaited {
    sent: blocking::Receiver<(u64, ReplyTo)>,
    /// The id taken from `sent` last; ids only grow.
    last_id: u64,
    /// Requests that the helper has passed over: it replied to later ones.
    passed_over: BTreeMap<u64, ReplyTo>,
}

enum Taken {
    Waiting(ReplyTo),
    /// Replied to before, or given up.
    Late,
    /// No request has this id, or the helper leaves too many unanswered.
    NeverAsked,
}

impl Awaited {
    fn new(sent: blocking::Receiver<(u64, ReplyTo)>, last_id: u64) -> Self {
        Self {
            sent,
            last_id,
            passed_over: BTreeMap::new(),
        }
    }

    fn take(&mut self, id: u64) -> Taken {
        while self.last_id < id {
            let Ok((sent, reply_to)) = self.sent.try_recv() else {
                return Taken::NeverAsked;
            };
            self.last_id = sent;
            self.passed_over.insert(sent, reply_to);
        }
        let taken = self.passed_over.remove(&id);
        self.passed_over.retain(|_, reply_to| !reply_to.is_closed());
        match taken {
            _ if self.passed_over.len() > QUEUE => Taken::NeverAsked,
            Some(reply_to) => Taken::Waiting(reply_to),
            None => Taken::Late,
        }
    }
}

const QUEUE: usize = 16;
