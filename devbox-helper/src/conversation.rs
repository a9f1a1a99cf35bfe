//! One caller's stream: the versions are agreed on, then one request is answered after the other, until the stream ends.

use std::time::Duration;

use devbox_helper_client::{
    Call, Error as ChannelError, FrameError, Handshake, HelperError, OLDEST_VERSION, Receiver, Reply,
    Request, Response, Sender, VERSION, common_version,
};

use crate::error::with_sources;
use crate::machine::Answer;

/// Who answers.
pub(crate) trait Desk {
    /// Carries a request out.
    fn answer(&mut self, request: Request) -> Answer;

    /// Is told that the answer to the last request was sent.
    fn answered(&mut self) {}

    /// Is told of what was no request.
    fn misunderstood(&mut self, _: &HelperError) {}
}

/// Serves a caller until the stream ends, or breaks off where the next message cannot be found. A caller must say hello within
/// `patience`, if there is one.
pub(crate) fn converse(
    receiver: &mut Receiver,
    sender: &mut Sender,
    patience: Option<Duration>,
    desk: &mut impl Desk,
) -> Result<(), ChannelError> {
    if !greet(receiver, sender, patience, desk)? {
        return Ok(());
    }
    loop {
        let (id, answer, last) = match receiver.receive::<Call>() {
            Ok(Some(Call { id, request })) => (Some(id), desk.answer(request), false),
            Ok(None) => return Ok(()),
            Err(ChannelError::Frame(error)) => {
                let id = match &error {
                    FrameError::Malformed { id, .. } => *id,
                    _ => None,
                };
                // After a frame that is too long, where the next one begins is unknown.
                let last = !matches!(error, FrameError::Malformed { .. });
                let error = malformed(&error);
                desk.misunderstood(&error);
                (id, Answer::Reply(Reply::Error(error)), last)
            }
            Err(error) => {
                desk.misunderstood(&malformed(&error));
                return Err(error);
            }
        };
        let sent = match answer {
            Answer::Reply(reply) => sender.send(&Response {
                id,
                listener: false,
                reply,
            }),
            Answer::Passed(listener) => {
                let response = Response {
                    id,
                    listener: true,
                    reply: Reply::Bound,
                };
                sender.send_with_listener(&response, &listener)
            }
        };
        if let Err(error) = sent {
            if is_late(&error) {
                desk.misunderstood(&HelperError::Malformed {
                    message: "the caller does not read what it is answered".into(),
                });
            }
            return Err(error);
        }
        if last {
            return Ok(());
        }
        desk.answered();
    }
}

/// Whether the caller may be served: it said hello first, and there is a version that both speak.
fn greet(
    receiver: &mut Receiver,
    sender: &mut Sender,
    patience: Option<Duration>,
    desk: &mut impl Desk,
) -> Result<bool, ChannelError> {
    let hello = match patience {
        Some(patience) => receiver.receive_within::<Handshake>(patience),
        None => receiver.receive::<Handshake>(),
    };
    let answer = match hello {
        Ok(Some(Handshake::Hello { version, oldest })) => {
            welcome(version, oldest).ok_or(HelperError::VersionMismatch {
                client: version,
                server: VERSION,
                client_oldest: oldest,
                server_oldest: Some(OLDEST_VERSION),
            })
        }
        Ok(Some(_)) => Err(HelperError::Malformed {
            message: "the first message must be a hello".into(),
        }),
        Ok(None) => return Ok(false),
        Err(ChannelError::Frame(error)) => Err(malformed(&error)),
        Err(error) => {
            desk.misunderstood(&malformed(&error));
            return Err(error);
        }
    };
    match answer {
        Ok(welcome) => sender.send(&welcome).map(|()| true),
        Err(error) => {
            desk.misunderstood(&error);
            sender.send(&Handshake::Error(error)).map(|()| false)
        }
    }
}

/// A write that the system has given up, rather than one to somebody who is gone.
fn is_late(error: &ChannelError) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error, ChannelError::Channel(error) if matches!(error.kind(), WouldBlock | TimedOut))
}

fn welcome(newest: u32, oldest: Option<u32>) -> Option<Handshake> {
    let version = common_version(oldest.unwrap_or(newest), newest)?;
    Some(Handshake::Welcome {
        version,
        pid: std::process::id(),
    })
}

fn malformed(error: &dyn std::error::Error) -> HelperError {
    HelperError::Malformed {
        message: with_sources(error),
    }
}
