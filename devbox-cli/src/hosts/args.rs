//! The arguments of `devbox hosts`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hostsfile::Resolver;

use crate::args::OutputArgs;

#[derive(Debug, Args)]
pub(crate) struct HostsArgs {
    #[command(subcommand)]
    pub(super) command: HostsCommand,
    /// The hosts file [default: the system's]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// The block's name [default: devbox]
    #[arg(long, global = true, value_name = "TAG")]
    pub(super) tag: Option<String>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    /// Print the change without making it
    #[arg(long, global = true)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HostsCommand {
    /// List all entries with their lines and blocks; with --tag, those of one block
    List,
    /// Look up the addresses of a name, the names of an address, or the entries of a network
    Get {
        /// A name, an address or a network
        #[arg(value_name = "NAME|ADDRESS|CIDR")]
        what: String,
    },
    /// Add names to the block
    Add {
        /// The address that the names lead to
        address: String,
        /// One or more names; the first is the canonical one
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        how: HowToName,
    },
    /// Remove names from the block
    Rm {
        /// One or more names
        #[arg(required = true)]
        names: Vec<String>,
        /// Remove them from your own lines, outside all blocks
        #[arg(long)]
        own: bool,
    },
    /// Replace the whole block; without arguments, by lines of "ADDRESS NAME..." from standard input
    Set {
        /// The address that the names lead to
        #[arg(requires = "names")]
        address: Option<String>,
        /// One or more names
        names: Vec<String>,
    },
    /// Show what blocks add to the file, or how it differs from another file such as a backup
    Diff {
        /// The other file
        other: Option<PathBuf>,
    },
    /// List what a resolver will not see in the file; exits with 1 if there is anything
    Lint {
        /// glibc, musl, systemd-resolved, macos, windows or freebsd; repeat for more [default: this system's]
        #[arg(long, value_parser = resolver)]
        resolver: Vec<Resolver>,
        /// Check for all of them
        #[arg(long, conflicts_with = "resolver")]
        all: bool,
    },
    /// Repair the markers of damaged blocks, or of the one that --tag names
    Repair,
    /// Turn a disabled block's comments back into lines
    Enable,
    /// Turn a block's lines into comments
    Disable,
    /// Make a copy of the file
    Backup {
        /// A folder [default: one of yours]
        #[arg(long, value_name = "FOLDER")]
        to: Option<PathBuf>,
    },
    /// Put the content of a copy back
    Restore {
        /// The copy [default: the newest backup]
        copy: Option<PathBuf>,
        /// The folder of backups [default: as for backup]
        #[arg(long, value_name = "FOLDER")]
        from: Option<PathBuf>,
    },
    /// Clear the system resolver's cache
    Flush,
}

/// What goes with names that are added.
#[derive(Debug, Args)]
pub(crate) struct HowToName {
    /// Add them to your own lines, outside all blocks
    #[arg(long)]
    pub(super) own: bool,
    /// A comment after the names
    #[arg(long)]
    pub(super) comment: Option<String>,
    /// With --own: move names that lead to other addresses, instead of refusing
    #[arg(long = "move", requires = "own")]
    pub(super) move_names: bool,
    /// Keep the names' other addresses in the block: they lead to all of them
    #[arg(long, conflicts_with = "own")]
    pub(super) also: bool,
    /// Allow underscores, which systemd-resolved does not
    #[arg(long)]
    pub(super) underscore: bool,
}

fn resolver(text: &str) -> Result<Resolver, String> {
    text.parse()
        .map_err(|_| format!("one of {}", Resolver::ALL.map(Resolver::as_str).join(", ")))
}
