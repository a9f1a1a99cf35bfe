//! A machine in memory or in a file, for tests.

mod machine;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::backend::{Applied, Backend, Capabilities, ChangeError, Found, Support, TunHandle, Undone};
use crate::observed::Observed;
use crate::{Change, Error, InterfaceName, Kind, Owner};
use machine::Machine;

/// A machine that is only remembered: it has what was added to it, by its owner and by others, and behaves as a Linux machine does.
///
/// In a [file](Self::at) it outlives its process, so that one that was killed and started again finds the machine as it was, and a test
/// can be somebody else at the same machine. Two differences to a real machine: a TUN interface stays until it is removed, and
/// there are no prefix routes.
///
/// ```
/// use netif::{Applied, Backend, Change, Device, Owner, Recording, Undone};
///
/// let mut machine = Recording::new(Owner::new("devbox")?);
/// let change = Change::Address { device: Device::Loopback, address: "10.107.3.4/32".parse()? };
/// assert_eq!(machine.apply(&[change.clone()]).remove(0)?, Applied::Added);
/// assert_eq!(machine.undo(&[change.clone()]).remove(0)?, Undone::Removed);
/// assert_eq!(machine.undo(&[change]).remove(0)?, Undone::Gone);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Recording {
    owner: Owner,
    capabilities: Capabilities,
    machine: Machine,
    log: Option<Log>,
    refused: Vec<Change>,
    /// The other ends of the descriptors that [`Backend::open_tun`] gave.
    peers: Vec<TunHandle>,
}

impl Recording {
    /// A machine on which there is nothing, and which can do everything.
    #[must_use]
    pub fn new(owner: Owner) -> Self {
        Self {
            owner,
            capabilities: Capabilities {
                dummy: Support::Available,
                tun: Support::Available,
                tun_is_local: true,
                loopback: Support::Available,
                local_routes: Support::Available,
                unicast_routes: Support::Available,
                resolver: Support::Available,
                resolver_ports: true,
                resolver_needs_interface: true,
                whole_127: true,
            },
            machine: Machine::default(),
            log: None,
            refused: Vec::new(),
            peers: Vec::new(),
        }
    }

    /// The machine in a file, which is made if there is none. Each change is one write of a line, so that a process that is killed
    /// leaves whole changes; several processes may use the file at once.
    ///
    /// # Errors
    /// [`Error::System`] where the file cannot be read or made, or has other lines than those of this type.
    pub fn at(owner: Owner, path: &Path) -> Result<Self, Error> {
        let open = || {
            let log = Log {
                path: path.to_owned(),
                read_bytes: 0,
            };
            let mut recording = Self {
                log: Some(log),
                ..Self::new(owner)
            };
            recording.with(|_, _| Ok(()))?;
            Ok(recording)
        };
        open().map_err(|source| Error::System {
            what: "read the recording of a machine",
            source,
        })
    }

    /// The same machine with other abilities.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// From now on this change can be neither applied nor undone.
    pub fn refuse(&mut self, change: Change) {
        self.refused.push(change);
    }

    /// Somebody else adds something: another owner, or one who leaves no mark. What they do is not checked.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add_for(&mut self, who: Option<&Owner>, change: &Change) -> io::Result<()> {
        self.with(|machine, log| {
            log(
                machine,
                Line::Add {
                    change: change.clone(),
                    owner: who.cloned(),
                },
            )
        })
    }

    /// Somebody else removes something, whoever made it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn remove_for(&mut self, change: &Change) -> io::Result<()> {
        self.with(|machine, log| {
            log(
                machine,
                Line::Remove {
                    change: change.clone(),
                },
            )
        })
    }

    /// All that there is, each with its owner, in an order of its own.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn contents(&mut self) -> io::Result<Vec<(Change, Option<Owner>)>> {
        self.with(|machine, _| Ok(machine.contents()))
    }

    /// Does something with the machine as it is, while no other process does.
    fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Machine, &mut dyn FnMut(&mut Machine, Line) -> io::Result<()>) -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(log) = &mut self.log else {
            return work(&mut self.machine, &mut |machine, line| {
                machine.replay(line);
                Ok(())
            });
        };
        let mut file = log.open()?;
        for line in log.read(&mut file)? {
            self.machine.replay(line);
        }
        work(&mut self.machine, &mut |machine, line| {
            log.write(&mut file, &line)?;
            machine.replay(line);
            Ok(())
        })
    }

    /// Handles each change, whatever happened to the others.
    fn each<T>(
        &mut self,
        changes: impl Iterator<Item = Change>,
        mut handle: impl FnMut(&Machine, &Change) -> Result<(T, Option<Line>), ChangeError>,
    ) -> Vec<Result<T, ChangeError>> {
        changes
            .map(|change| {
                let handled = self.with(|machine, log| {
                    Ok(match handle(machine, &change) {
                        Err(error) => Err(error),
                        Ok((done, line)) => {
                            line.map_or(Ok(()), |line| log(machine, line))?;
                            Ok(done)
                        }
                    })
                });
                handled.unwrap_or_else(|source| {
                    Err(ChangeError::System {
                        what: format!("record {change}"),
                        source,
                    })
                })
            })
            .collect()
    }
}

impl Backend for Recording {
    fn capabilities(&mut self) -> Capabilities {
        self.capabilities.clone()
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        let owner = self.owner.clone();
        self.with(|machine, _| Ok(machine.observe(&owner)))
            .map_err(|source| Error::System {
                what: "read the recording of a machine",
                source,
            })
    }

    fn find(&mut self, changes: &[Change]) -> Vec<Result<Found, ChangeError>> {
        let owner = self.owner.clone();
        self.each(changes.iter().cloned(), |machine, change| {
            Ok((machine.find(&owner, change)?, None))
        })
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Applied, ChangeError>> {
        let (owner, capabilities, refused) = (
            self.owner.clone(),
            self.capabilities.clone(),
            self.refused.clone(),
        );
        self.each(changes.iter().cloned(), |machine, change| {
            check_support(&capabilities, change)?;
            check_refused(&refused, change)?;
            if machine.find(&owner, change)? != Found::Absent {
                return Ok((Applied::Present, None));
            }
            if let Some(name) = change.needs().filter(|name| !machine.has_interface(name)) {
                return Err(ChangeError::Missing { name: name.clone() });
            }
            let line = Line::Add {
                change: change.clone(),
                owner: Some(owner.clone()),
            };
            Ok((Applied::Added, Some(line)))
        })
    }

    fn undo(&mut self, changes: &[Change]) -> Vec<Result<Undone, ChangeError>> {
        let (owner, refused) = (self.owner.clone(), self.refused.clone());
        let mut undone = self.each(changes.iter().rev().cloned(), |machine, change| {
            check_refused(&refused, change)?;
            let standing = machine.standing(&owner, change)?;
            let line = (standing == Undone::Removed).then(|| Line::Remove {
                change: change.clone(),
            });
            Ok((standing, line))
        });
        undone.reverse();
        undone
    }

    fn open_tun(&mut self, name: &InterfaceName) -> Result<TunHandle, ChangeError> {
        let made = self.with(|machine, _| Ok(machine.kind(name) == Some(Kind::Tun)));
        if !made.unwrap_or_default() {
            return Err(ChangeError::Missing { name: name.clone() });
        }
        let (handle, peer) = crate::sys::tun_handles()?;
        self.peers.push(peer);
        Ok(handle)
    }
}

fn check_refused(refused: &[Change], change: &Change) -> Result<(), ChangeError> {
    if refused.contains(change) {
        let source = io::Error::other("this machine was told to refuse it");
        return Err(ChangeError::System {
            what: format!("change {change}"),
            source,
        });
    }
    Ok(())
}

fn check_support(capabilities: &Capabilities, change: &Change) -> Result<(), ChangeError> {
    match capabilities.of(change) {
        Support::Available => Ok(()),
        Support::Missing(why) => Err(ChangeError::Unsupported {
            what: format!("{change} ({why})"),
        }),
    }
}

/// What happened to the machine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Add { change: Change, owner: Option<Owner> },
    Remove { change: Change },
}

/// The machine's history in a file, a line for each thing that happened.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    read_bytes: u64,
}

impl Log {
    /// The file, which nobody else reads or writes until it is closed. (Wine refuses to unlock one that stays open.)
    fn open(&self) -> io::Result<File> {
        // Not to append only: on Windows such a file cannot be cut short.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)?;
        file.lock()?;
        Ok(file)
    }

    /// Behind everything that is there, which has been read before.
    fn write(&mut self, file: &mut File, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        file.seek(SeekFrom::Start(self.read_bytes))?;
        file.write_all(text.as_bytes())?;
        self.read_bytes += text.len() as u64;
        Ok(())
    }

    /// What others wrote since the last time. Whoever was killed in the middle of a line did not do what it says.
    fn read(&mut self, file: &mut File) -> io::Result<Vec<Line>> {
        file.seek(SeekFrom::Start(self.read_bytes))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(self.read_bytes + whole as u64)?;
        }
        self.read_bytes += whole as u64;
        let lines = text.get(..whole).unwrap_or_default().lines();
        lines.map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}
