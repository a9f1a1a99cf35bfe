//! What `up` and `demo` share: seeing a running session through from the terminal.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use devbox_engine::{Config, Engine, EngineEvent, Event, Helper, StatusReport, StopReason};
use tokio::runtime::Builder;

use crate::args::Output;
use crate::failure::{Failure, code};
use crate::print;
use crate::sys::{Signals, Starter};

/// How long the session may still take after the second signal. The last words come on top of it.
const AFTER_THE_SECOND: Duration = Duration::from_millis(700);
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_millis(100);

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
    end_at_the_second_signal(config.helper.as_ref().map(Helper::pid)).map_err(Failure::because)?;
    // A credential plug-in may wait for its user.
    let engine = tokio::select! {
        biased;
        signal = signals.next() => return Ok(StopReason::Requested { by: signal.into() }),
        started = devbox_engine::start(config) => started?,
    };
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
            // Signals first: there may always be one more event.
            biased;
            signal = signals.next() => engine.stop(signal).await,
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
                Some(EngineEvent::Notice(notice)) => print::tell_notice(&notice, output),
                None => break,
            },
            _ = &mut gone, if !ready && !abandoned => {
                abandoned = true;
                engine.stop("an interrupted start").await;
            }
        }
    }
    let reason = engine.wait().await?;
    failed.map_or(Ok(reason), Err)
}

/// Ends the process within a second of the second signal, whatever hangs: a helper, a disk, or this program's own main thread
/// where nobody reads what it prints. That needs a thread, and a runtime, of its own.
///
/// What is not undone by then is left to the helper, which sees its channel close.
fn end_at_the_second_signal(helper: Option<u32>) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let watch = move || {
        let waited = runtime.block_on(async {
            let mut signals = Signals::new()?;
            signals.next().await;
            signals.next().await;
            tokio::time::sleep(AFTER_THE_SECOND).await;
            std::io::Result::Ok(())
        });
        if let Err(error) = waited {
            tracing::debug!(%error, "a second signal has no deadline");
            return;
        }
        let (said, heard) = mpsc::channel();
        thread::spawn(move || {
            print::note(&last_words(helper));
            // Nobody waits for it any more where it comes too late.
            said.send(()).ok();
        });
        heard.recv_timeout(LAST_WORDS).ok();
        #[expect(clippy::exit, reason = "the main thread may never return")]
        std::process::exit(code::UNAVAILABLE.into());
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch)?;
    Ok(())
}

/// What is not waited for.
fn last_words(helper: Option<u32>) -> String {
    match helper {
        Some(pid) => format!(
            "devbox: ended at the second signal, before everything was undone; the helper (pid {pid}) undoes the rest"
        ),
        None => "devbox: ended at the second signal, before every connection was closed".to_owned(),
    }
}
