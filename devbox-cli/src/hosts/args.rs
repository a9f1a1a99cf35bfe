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
    #[command(flatten)]
    pub(super) writing: HowToWrite,
}

/// How a file is written.
#[derive(Debug, Args)]
pub(crate) struct HowToWrite {
    /// Create the file if it does not exist
    #[arg(long, global = true, help_heading = WRITING)]
    pub(super) create: bool,
    /// Write into the file instead of replacing it, as a bind mount needs
    #[arg(long, global = true, help_heading = WRITING)]
    pub(super) in_place: bool,
    /// Change the file even if it is marked read-only
    #[arg(long, global = true, help_heading = WRITING)]
    pub(super) force: bool,
    /// Write each name on a line of its own
    #[arg(long, global = true, help_heading = WRITING)]
    pub(super) one_per_line: bool,
    /// Clear the system resolver's cache after a change
    #[arg(long, global = true, help_heading = WRITING)]
    pub(super) flush: bool,
}

const WRITING: &str = "Writing (all but --flush for other files than the system's)";

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
    /// Remove names from the block, or whole entries by their address, network or comment
    Rm {
        /// Names, addresses or networks
        #[arg(value_name = "NAME|ADDRESS|CIDR", required_unless_present_any = ["comment", "all"])]
        what: Vec<String>,
        /// Remove the entries with this comment
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
        /// Remove the whole block
        #[arg(long, conflicts_with_all = ["what", "comment", "own"])]
        all: bool,
        /// Remove them from your own lines, outside all blocks
        #[arg(long)]
        own: bool,
    },
    /// Set the comment of entries in the block; without TEXT, remove it
    Comment {
        /// A name, an address or a network
        // Numbered, as completion adds to the argument, which puts it behind the other one.
        #[arg(index = 1, value_name = "NAME|ADDRESS|CIDR")]
        what: String,
        /// The comment
        #[arg(index = 2)]
        text: Option<String>,
        /// Those on your own lines, outside all blocks
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
    /// Add the entries of another file to the block, or another tool's blocks as blocks of the same names
    Import {
        /// The file [default with --from: the hosts file itself]
        #[arg(required_unless_present = "from")]
        other: Option<PathBuf>,
        /// Whose blocks to read
        #[arg(long, value_enum, value_name = "TOOL")]
        from: Option<Tool>,
    },
    /// List the blocks with their state and their owner
    Tags,
    /// Show what blocks add to the file, or how it differs from another file such as a backup
    Diff {
        /// The other file
        other: Option<PathBuf>,
    },
    /// List what a resolver will not see in the file
    ///
    /// Exits with 0 if there is nothing to list, and with 1 if there is or if the file cannot be read.
    Lint {
        /// glibc, musl, systemd-resolved, macos, windows or freebsd; repeat for more [default: this system's]
        #[arg(long, value_parser = resolver)]
        resolver: Vec<Resolver>,
        /// Check for all of them
        #[arg(long, conflicts_with = "resolver")]
        all: bool,
        /// Whether glibc gives the addresses of all lines with a name or ends at the first one [default: as /etc/host.conf says]
        #[arg(long, value_enum, value_name = "SETTING")]
        multi: Option<Multi>,
    },
    /// Repair the markers of damaged blocks that are devbox's, or of the one that --tag names
    Repair,
    /// Turn a disabled block's comments back into lines
    Enable,
    /// Turn a block's lines into comments
    Disable,
    /// Disable the block if it is enabled, enable it otherwise
    Toggle,
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

/// `multi` of host.conf(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Multi {
    On,
    Off,
}

/// A tool that keeps blocks of its own in hosts files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tool {
    /// `# profile.on NAME` to `# end`
    Hostctl,
    /// `# DO NOT EDIT NAME BEGIN` to `# DO NOT EDIT NAME END`
    Innernet,
}

fn resolver(text: &str) -> Result<Resolver, String> {
    text.parse()
        .map_err(|_| format!("one of {}", Resolver::ALL.map(Resolver::as_str).join(", ")))
}
