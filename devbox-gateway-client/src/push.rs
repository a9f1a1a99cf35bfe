use std::sync::Arc;

use devbox_provider::{ConnectError, Connection, Provider, Wanted};
use service_catalog::{Health, SourceError, Update, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tunnel_bridge::{Link, MuxStream, Target};

use crate::handshake::PUSH_STREAM;
use crate::source::why_it_ended;

/// Longest answer of a gateway to a pushed update: a line, and what is around it.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// The task that tells the gateway each change of the client's own catalog. Dropping this ends it.
pub(crate) struct Pushing {
    _task: JoinSet<()>,
}

/// Why a catalog could not be given to the gateway.
pub(crate) enum PushError {
    /// The client's own catalog cannot be had.
    Own(ConnectError),
    /// The gateway takes no catalogs, or not this one.
    NotTaken { reason: String },
    /// The link ended meanwhile.
    Source(SourceError),
}

/// Gives the gateway the catalog that `own` has, and goes on telling it each change. Returns once the gateway has taken
/// the first one.
pub(crate) async fn push(
    link: &Link,
    own: &Arc<dyn Provider>,
    wanted: &Wanted,
) -> Result<Pushing, PushError> {
    let mut connection = own.connect(wanted.clone()).await.map_err(PushError::Own)?;
    let first = connection.source.next().await.map_err(PushError::Source)?;
    let target = Target::new(PUSH_STREAM).map_err(|error| PushError::NotTaken {
        reason: error.to_string(),
    })?;
    let refused = |refusal: tunnel_bridge::Refusal| PushError::NotTaken {
        reason: refusal.to_string(),
    };
    let mut stream = link.open(&target).await.map_err(refused)?;
    stream.accepted().await.map_err(refused)?;
    let (reader, mut writer) = tokio::io::split(stream);
    let mut answers = Answers {
        reader,
        decoder: wire::Decoder::with_limit(MAX_ANSWER_BYTES),
    };
    let mut encoder = wire::Encoder::new();
    tell(&mut writer, &mut encoder, &first)
        .await
        .map_err(PushError::Source)?;
    match answers.next(link).await.map_err(PushError::Source)? {
        Health::Live => {}
        Health::Stale { reason } => return Err(PushError::NotTaken { reason }),
    }
    let mut task = JoinSet::new();
    task.spawn(async move {
        tokio::select! {
            () = tell_changes(connection, writer, encoder) => {}
            () = log_answers(answers) => {}
        }
    });
    Ok(Pushing { _task: task })
}

async fn tell_changes(
    mut connection: Connection,
    mut writer: WriteHalf<MuxStream>,
    mut encoder: wire::Encoder,
) {
    loop {
        let told = match connection.source.next().await {
            // How far the far side can trust the catalog is between it and its own clients.
            Ok(Update::Health(_)) => Ok(()),
            Ok(update) => tell(&mut writer, &mut encoder, &update).await,
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tracing::debug!(%error, "the pushed catalog is not followed any further");
            // The gateway keeps what it has for as long as this stream lives.
            return std::future::pending().await;
        }
    }
}

async fn tell(
    writer: &mut WriteHalf<MuxStream>,
    encoder: &mut wire::Encoder,
    update: &Update,
) -> Result<(), SourceError> {
    let message = encoder.encode(update)?;
    writer.write_all(&message).await.map_err(SourceError::lost)
}

/// Changes that the gateway does not take show as a stale catalog on the catalog stream; here they are only logged.
async fn log_answers(mut answers: Answers) {
    while let Ok(answer) = answers.read().await {
        if let Health::Stale { reason } = answer {
            tracing::warn!(%reason, "the gateway does not take the changed catalog");
        }
    }
}

/// The gateway's answers, one for each update.
struct Answers {
    reader: ReadHalf<MuxStream>,
    decoder: wire::Decoder,
}

impl Answers {
    async fn next(&mut self, link: &Link) -> Result<Health, SourceError> {
        match self.read().await {
            Err(AnswerError::Io(error)) => Err(why_it_ended(link, error, |_| {}).await),
            Err(AnswerError::Source(error)) => Err(error),
            Ok(health) => Ok(health),
        }
    }

    async fn read(&mut self) -> Result<Health, AnswerError> {
        let mut buffer = [0; 1024];
        loop {
            let update = self.decoder.poll_update().map_err(SourceError::from);
            match update.map_err(AnswerError::Source)? {
                Some(Update::Health(health)) => return Ok(health),
                // Answers say how it went and nothing else.
                Some(_) => continue,
                None => {}
            }
            match self.reader.read(&mut buffer).await.map_err(AnswerError::Io)? {
                0 => return Err(AnswerError::Source(SourceError::Ended)),
                count => self.decoder.handle_bytes(buffer.get(..count).unwrap_or_default()),
            }
        }
    }
}

enum AnswerError {
    Io(std::io::Error),
    Source(SourceError),
}
