//! A caller's side of the machine: each request goes to the thread that owns it, and into the log.

use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};

use super::{Answer, ClaimId, Credentials, Entry, Event, HelperError, LogTo, Reply, Request};
use crate::conversation;

pub(super) struct Desk {
    id: ClaimId,
    peer: Credentials,
    log: Arc<LogTo>,
    events: SyncSender<Event>,
}

impl Desk {
    pub(super) fn new(id: ClaimId, peer: Credentials, log: Arc<LogTo>, events: SyncSender<Event>) -> Self {
        Self {
            id,
            peer,
            log,
            events,
        }
    }

    /// The connection is gone.
    pub(super) fn leave(self) {
        leave(&self.events, self.id);
    }

    fn log(&self, verb: &str, refused: Option<&HelperError>) {
        let reason = refused.map(ToString::to_string);
        self.log.write(&Entry {
            peer: &self.peer,
            verb,
            refused: reason.as_deref(),
        });
    }
}

impl conversation::Desk for Desk {
    fn answer(&mut self, request: Request) -> Answer {
        let verb = verb(&request);
        let (reply, answered) = mpsc::sync_channel(1);
        let ending = || {
            Answer::Reply(Reply::Error(HelperError::Unsupported {
                what: "anything: the helper is ending".into(),
            }))
        };
        let answer = match self.events.send(Event::Ask(self.id, request, reply)) {
            Ok(()) => answered.recv().map_or_else(
                |_| ending(),
                |(id, answer)| {
                    self.id = id;
                    answer
                },
            ),
            Err(_) => ending(),
        };
        match &answer {
            Answer::Reply(Reply::Error(error)) => self.log(verb, Some(error)),
            Answer::Reply(_) | Answer::Passed(_) => self.log(verb, None),
        }
        answer
    }

    fn misunderstood(&mut self, error: &HelperError) {
        self.log("?", Some(error));
    }
}

/// Ends a claim, and waits until what it held is undone.
pub(super) fn leave(events: &SyncSender<Event>, id: ClaimId) {
    let (done, undone) = mpsc::sync_channel(1);
    // Either fails only when everything is being undone anyway.
    if events.send(Event::Leave(id, done)).is_ok() {
        undone.recv().ok();
    }
}

/// What the log calls a request.
fn verb(request: &Request) -> &'static str {
    match request {
        Request::SetHosts { .. } => "set-hosts",
        Request::TakeHosts { .. } => "take-hosts",
        Request::ClearHosts => "clear-hosts",
        Request::Bind { .. } => "bind",
        Request::Sweep => "sweep",
        Request::CleanUp => "clean-up",
        Request::Release => "release",
        Request::EditHosts { .. } => "edit-hosts",
        Request::RestoreHosts { .. } => "restore-hosts",
        Request::OpenPool { .. } => "open-pool",
        Request::AddAddresses { .. } => "add-addresses",
        Request::RemoveAddresses { .. } => "remove-addresses",
        Request::CreateInterface { .. } => "create-interface",
        Request::RemoveInterface { .. } => "remove-interface",
        Request::OpenTun { .. } => "open-tun",
        Request::SetResolver { .. } => "set-resolver",
        Request::ClearResolver { .. } => "clear-resolver",
        Request::Flush => "flush",
        Request::Status => "status",
        Request::Hold { .. } => "hold",
        Request::Resume { .. } => "resume",
        _ => "another",
    }
}
