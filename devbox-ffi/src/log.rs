//! What the library logs, handed to the app.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::app;
use crate::error::DevboxError;
use crate::stream::CallbackError;

/// Lines that wait for the app. Further ones are dropped and counted: logging never waits.
const QUEUE: usize = 4096;

/// How much someone should care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, uniffi::Enum)]
pub enum LogLevel {
    /// Something stopped.
    Error,
    /// Someone should look.
    Warn,
    /// A change that the user would name.
    Info,
    /// Why a branch was taken.
    Debug,
    /// Each frame.
    Trace,
}

/// One line of the log.
#[derive(Debug, Clone, uniffi::Record)]
pub struct LogRecord {
    /// How much someone should care.
    pub level: LogLevel,
    /// The part of the library that says it: `devbox_session::driver`.
    pub target: String,
    /// What happened.
    pub message: String,
    /// With what: names to values.
    pub fields: HashMap<String, String>,
    /// How many lines before this one were dropped since the app did not take them fast enough.
    pub dropped: u64,
}

/// Takes what the library logs.
#[uniffi::export(foreign)]
pub trait LogSink: Send + Sync {
    /// One line. Calls come one after another on a thread of their own, on which nothing else waits.
    fn on_log(&self, record: LogRecord) -> Result<(), CallbackError>;
}

/// Sets who takes what the library logs, for the whole process, up to a level; none takes nothing.
#[uniffi::export]
pub fn set_log_sink(sink: Option<Arc<dyn LogSink>>, level: LogLevel) -> Result<(), DevboxError> {
    install()?;
    let former = {
        let mut current = CURRENT.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, sink.map(|sink| (sink, level.into())))
    };
    // Without the lock: letting go of the app's object may run code of the app.
    drop(former);
    tracing::callsite::rebuild_interest_cache();
    Ok(())
}

static CURRENT: RwLock<Option<(Arc<dyn LogSink>, LevelFilter)>> = RwLock::new(None);
static INSTALLED: Mutex<bool> = Mutex::new(false);

fn install() -> Result<(), DevboxError> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    let (lines, queue) = sync_channel(QUEUE);
    let dropped = AtomicU64::new(0);
    tracing::subscriber::set_global_default(Lines { lines, dropped }).map_err(|_| DevboxError::LogTaken)?;
    let thread = thread::Builder::new().name("devbox-log".to_owned());
    let started = thread.spawn(move || hand_over(&queue));
    started.map_err(|error| DevboxError::runtime(&error))?;
    *installed = true;
    Ok(())
}

fn hand_over(queue: &Receiver<LogRecord>) {
    for record in queue {
        let sink = {
            let current = CURRENT.read().unwrap_or_else(PoisonError::into_inner);
            current.as_ref().map(|(sink, _)| Arc::clone(sink))
        };
        // What the app's log throws cannot be logged.
        app::call(move || sink.map(|sink| sink.on_log(record).ok()));
    }
}

fn filter() -> LevelFilter {
    let current = CURRENT.read().unwrap_or_else(PoisonError::into_inner);
    current.as_ref().map_or(LevelFilter::OFF, |(_, level)| *level)
}

/// A subscriber of events; spans are not followed.
struct Lines {
    lines: SyncSender<LogRecord>,
    dropped: AtomicU64,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= filter()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(filter())
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let record = LogRecord {
            level: (*event.metadata().level()).into(),
            target: event.metadata().target().to_owned(),
            message: fields.message,
            fields: fields.others,
            dropped,
        };
        if self.lines.try_send(record).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[derive(Default)]
struct Fields {
    message: String,
    others: HashMap<String, String>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.others.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string does not fail.
            write!(self.message, "{value:?}").ok();
        } else {
            self.others.insert(field.name().to_owned(), format!("{value:?}"));
        }
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warn,
            Level::INFO => Self::Info,
            Level::DEBUG => Self::Debug,
            Level::TRACE => Self::Trace,
        }
    }
}
