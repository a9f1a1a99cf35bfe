//! What `up` and `demo` share: seeing a running session through from the terminal.

use devbox_engine::{Config, Engine, EngineEvent, Event, StatusReport, StopReason};

use crate::args::Output;
use crate::failure::Failure;
use crate::print;
use crate::sys::{Signals, Starter};

/// Runs a session until it has ended, telling what happens; says why it ended. `on_ready` is called once, and may end the
/// session. So does whoever starts it in the background and is gone before.
pub(crate) async fn until_end(
    config: Config,
    output: Output,
    starter: Option<&Starter>,
    mut on_ready: impl FnMut(&StatusReport, &Engine) -> Result<(), Failure>,
) -> Result<StopReason, Failure> {
    // From here on a signal ends the session in good order.
    let mut signals = Signals::new().map_err(Failure::because)?;
    let engine = devbox_engine::start(config).await?;
    let mut events = engine.events();
    let mut ready = false;
    let mut failed = None;
    let gone = async {
        match starter {
            Some(starter) => starter.gone().await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(gone);
    let mut abandoned = false;
    loop {
        tokio::select! {
            biased;
            event = events.next() => match event {
                Some(EngineEvent::Session(event)) => {
                    print::tell(&event, output);
                    // Events may have been missed, `Ready` among them.
                    if let Event::Ready { status } | Event::Lagged { status, .. } = &event
                        && status.ready
                        && !std::mem::replace(&mut ready, true)
                        && let Err(failure) = on_ready(status, &engine)
                    {
                        engine.stop("it could not go on").await;
                        failed = Some(failure);
                    }
                }
                Some(EngineEvent::Notice(notice)) => print::note(&print::notice(&notice)),
                None => break,
            },
            signal = signals.next() => engine.stop(signal).await,
            _ = &mut gone, if !ready && !abandoned => {
                abandoned = true;
                engine.stop("an interrupted start").await;
            }
        }
    }
    let reason = engine.wait().await?;
    failed.map_or(Ok(reason), Err)
}
