#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod cidr;
mod diff;
mod document;
mod edit;
mod entry;
mod error;
mod file;
mod instructions;
mod layout;
mod line;
mod lint;
mod name;
mod plan;
mod scan;
mod seal;

pub use cidr::Cidr;
pub use diff::Diff;
pub use document::{BlockView, Document, Held, Neighbour, Setting, Stray};
pub use edit::{Edit, OnConflict, Options, UserNames, Which};
pub use entry::{Block, Entry};
pub use error::{Damage, Error};
pub use file::backup::{Backup, BackupRules};
pub use file::flush::{FlushError, Flushed, flush};
pub use file::{FileOptions, HeldLock, HostsFile, Method, Outcome, Swept, system_path};
pub use instructions::{Shell, manual_instructions};
pub use layout::Layout;
pub use line::{EntryLine, Line, LineKind, LineRef, Oddity};
pub use lint::{Diagnostic, Finding, LintOptions, Resolved, Resolver};
pub use name::{Comment, HostName, Marker, Owner, Tag, Zone};
pub use plan::{Conflict, Plan, plan};
pub use scan::LineEnding;
