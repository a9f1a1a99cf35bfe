//! The arguments of `devbox hosts`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hostsfile::Resolver;

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
    /// One JSON object a line
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print the change and make none
    #[arg(long, global = true)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HostsCommand {
    /// All entries with their lines and blocks; with --tag those of one block
    List,
    /// The addresses of a name, the names of an address, or the entries of a network
    Get {
        /// A name, an address or a network
        #[arg(value_name = "NAME|ADDRESS|CIDR")]
        what: String,
    },
    /// Add names to the block
    Add {
        /// Where the names are to lead
        address: String,
        /// One name or more; the first is the canonical one
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        how: HowToName,
    },
    /// Remove names from the block
    Rm {
        /// One name or more
        #[arg(required = true)]
        names: Vec<String>,
        /// From your own lines, outside all blocks
        #[arg(long)]
        own: bool,
    },
    /// Make this the whole block; without arguments, lines of "ADDRESS NAME..." from standard input
    Set {
        /// Where the names are to lead
        #[arg(requires = "names")]
        address: Option<String>,
        /// One name or more
        names: Vec<String>,
    },
    /// What blocks add to the file; or how it differs from another file, a backup for instance
    Diff {
        /// The other file
        other: Option<PathBuf>,
    },
    /// What a resolver will not see in the file; exit code 1 if there is anything
    Lint {
        /// glibc, musl, systemd-resolved, macos, windows or freebsd; repeat for more [default: this system's]
        #[arg(long, value_parser = resolver)]
        resolver: Vec<Resolver>,
        /// All of them
        #[arg(long, conflicts_with = "resolver")]
        all: bool,
    },
    /// Mend the markers of damaged blocks, or of the one that --tag names
    Repair,
    /// Make a disabled block's lines count again
    Enable,
    /// Turn a block's lines into comments
    Disable,
    /// Copy the file aside
    Backup {
        /// A folder [default: one of yours]
        #[arg(long, value_name = "FOLDER")]
        to: Option<PathBuf>,
    },
    /// Put a copy's content back
    Restore {
        /// The copy [default: the newest backup]
        copy: Option<PathBuf>,
        /// The folder of backups [default: as for backup]
        #[arg(long, value_name = "FOLDER")]
        from: Option<PathBuf>,
    },
    /// Make the system's resolver forget what it has cached
    Flush,
}

/// What goes with names that are added.
#[derive(Debug, Args)]
pub(crate) struct HowToName {
    /// To your own lines, outside all blocks
    #[arg(long)]
    pub(super) own: bool,
    /// A comment behind the names
    #[arg(long)]
    pub(super) comment: Option<String>,
    /// With --own: take the names from other addresses, in place of refusing
    #[arg(long = "move", requires = "own")]
    pub(super) move_names: bool,
    /// Allow underscores, which systemd-resolved does not
    #[arg(long)]
    pub(super) underscore: bool,
}

fn resolver(text: &str) -> Result<Resolver, String> {
    text.parse()
        .map_err(|_| format!("one of {}", Resolver::ALL.map(Resolver::as_str).join(", ")))
}
