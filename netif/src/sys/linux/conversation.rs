//! Asking the kernel, and hearing its answers.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, send, socket_with,
};

use super::machine::again;
use crate::parse::netlink::{Answer, answers};
use crate::render::netlink::{Everything, Request};

/// Requests in one message to the kernel, which answers each that fails, and the last one: so many answers fit into a socket's queue
/// (net.core.rmem_default), where a short one takes about 800 bytes.
const AT_ONCE: usize = 128;

/// The kernel's answers to one read. It sends no longer datagrams than somebody read before, and at least pages.
const ANSWER_BYTES: usize = 64 * 1024;

/// The kernel answers while it is asked. What takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Times that a list is read again, since something changed while it was read.
const READINGS: usize = 5;

/// A socket to the kernel, of the network namespace of the thread that made it.
#[derive(Debug)]
pub(super) struct Conversation {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Conversation {
    pub(super) fn open() -> io::Result<Self> {
        // No protocol is NETLINK_ROUTE, which is 0.
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; ANSWER_BYTES],
        })
    }

    /// Has the kernel carry out each request, in their order.
    pub(super) fn carry_out(&mut self, requests: Vec<Request>) -> Vec<io::Result<()>> {
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            let mut message = Vec::new();
            let mut count = 0;
            while let Some(request) = requests.next_if(|_| count < AT_ONCE) {
                count += 1;
                self.sequence = self.sequence.wrapping_add(1);
                let last = count == AT_ONCE || requests.peek().is_none();
                message.extend(request.finish(self.sequence, last));
            }
            let mut codes = vec![0; count];
            match self.exchange(&message, first, &mut codes) {
                Ok(()) => outcomes.extend(codes.into_iter().map(outcome)),
                // What became of each is not known.
                Err(error) => outcomes.extend((0..count).map(|_| Err(again(&error)))),
            }
        }
        outcomes
    }

    /// Sends requests that have numbers from `first` on, and puts the error's number of each that failed into `codes`.
    fn exchange(&mut self, message: &[u8], first: u32, codes: &mut [i32]) -> io::Result<()> {
        send(&self.socket, message, SendFlags::empty())?;
        let last = self.sequence;
        let mut ended = false;
        while !ended {
            self.receive(|sequence, _, answer| {
                let code = usize::try_from(sequence.wrapping_sub(first))
                    .ok()
                    .and_then(|at| codes.get_mut(at));
                if let (Answer::Ended(error), Some(code)) = (answer, code) {
                    *code = error;
                    ended |= sequence == last;
                }
            })?;
        }
        Ok(())
    }

    /// Everything of a kind, as `take` wants it.
    pub(super) fn list<T>(
        &mut self,
        what: Everything,
        mut take: impl FnMut(Answer) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut all = Vec::new();
        for _ in 0..READINGS {
            self.sequence = self.sequence.wrapping_add(1);
            let wanted = self.sequence;
            send(
                &self.socket,
                &Request::dump(what).finish(wanted, false),
                SendFlags::empty(),
            )?;
            all.clear();
            let (mut ended, mut torn) = (None, false);
            while ended.is_none() {
                self.receive(|sequence, interrupted, answer| {
                    if sequence != wanted {
                        return;
                    }
                    torn |= interrupted;
                    match answer {
                        Answer::Ended(code) => ended = Some(code),
                        answer => all.extend(take(answer)),
                    }
                })?;
            }
            outcome(ended.unwrap_or_default())?;
            if !torn {
                break;
            }
        }
        // A machine on which something changes all the time is seen as well as can be.
        Ok(all)
    }

    /// The answers of one datagram: the number of the request, whether something changed in between, and what it says.
    fn receive(&mut self, mut take: impl FnMut(u32, bool, Answer)) -> io::Result<()> {
        let (length, from) = match recvfrom(&self.socket, &mut *self.buffer, RecvFlags::TRUNC) {
            Ok((_, length, from)) => (length, from),
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // Other processes may write to this socket as well; the kernel's port is 0.
        if !matches!(from.map(SocketAddrNetlink::try_from), Some(Ok(from)) if from.pid() == 0) {
            return Ok(());
        }
        let datagram = self.buffer.get(..length);
        let datagram =
            datagram.ok_or_else(|| io::Error::other("an answer is longer than the kernel may send"))?;
        for (head, answer) in answers(datagram) {
            take(head.sequence, head.interrupted, answer);
        }
        Ok(())
    }
}

fn outcome(code: i32) -> io::Result<()> {
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}
