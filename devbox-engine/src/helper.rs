use std::ffi::OsString;
use std::path::PathBuf;

use devbox_helper_client::{AsyncClient, Client, StartOptions, SweepReport};

use crate::error::Error;
use crate::sys;

/// How the helper is started: the one process that changes the machine.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HelperConfig {
    /// A program that becomes a helper with these arguments: `devbox-helper`, or the running program itself where its `main`
    /// calls `devbox_helper::enter`.
    pub program: PathBuf,
    /// Its arguments: what `devbox_helper::Policy::to_args` gives, behind whatever the program wants first.
    pub args: Vec<OsString>,
    /// Whether its standard error is this process's own. Default: `false`.
    pub verbose: bool,
    /// Whether the helper edits the hosts file with rights that this process does not have. If not, a session that could
    /// not write the file anyway displaces nobody. Default: `false`.
    pub privileged: bool,
}

impl HelperConfig {
    /// A quiet helper with this process's rights.
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            verbose: false,
            privileged: false,
        }
    }
}

/// A running helper; clones are handles to the same one.
///
/// It undoes what it did for this process, and ends, when the last handle is dropped or this process ends in any way.
#[derive(Debug, Clone)]
pub struct Helper {
    pub(crate) client: AsyncClient,
    pub(crate) privileged: bool,
}

impl Helper {
    /// Starts a helper with the rights that this process has now, and waits for its welcome.
    ///
    /// Call it before any thread or runtime exists, and give up root afterwards: nothing but the helper should keep it.
    ///
    /// # Errors
    /// [`Error::Helper`].
    pub fn start(config: &HelperConfig) -> Result<Self, Error> {
        let options = StartOptions::new(&config.program)
            .args(config.args.iter().cloned())
            .verbose(config.verbose);
        let client = AsyncClient::new(Client::start_with(&options)?)?;
        Ok(Self {
            client,
            privileged: config.privileged,
        })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.client.pid()
    }

    /// Removes what sessions left that were killed together with their helper: their blocks in the helper's hosts file, and
    /// their control sockets.
    ///
    /// # Errors
    /// [`Error::Helper`] if the hosts file could not be swept. Control sockets that stay do no harm.
    ///
    /// # Cancel safety
    /// Not safe: what was begun is done, whether or not somebody waits for the result.
    pub async fn clean_up(&self) -> Result<SweepReport, Error> {
        sys::remove_dead_control_sockets().await;
        Ok(self.client.sweep().await?)
    }
}
