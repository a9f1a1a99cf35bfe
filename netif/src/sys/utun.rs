//! macOS's utun interfaces (net/if_utun.h, sys/sys_domain.h): each is a socket of a kernel control, and lives as long as a descriptor
//! of it.
#![expect(unsafe_code, reason = "there is no safe wrapper of UTUN_OPT_IFNAME")]

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SysControlAddr, connect, socket};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};

/// UTUN_CONTROL_NAME
const CONTROL: &str = "com.apple.net.utun_control";

/// The number of an interface is one less; with 0 the system takes the first that is free.
const ANY_UNIT: u32 = 0;

/// A utun of ours.
#[derive(Debug)]
pub(crate) struct Utun {
    socket: OwnedFd,
    name: String,
}

pub(super) fn create() -> io::Result<Utun> {
    let socket = socket(
        AddressFamily::System,
        SockType::Datagram,
        SockFlag::empty(),
        SockProtocol::KextControl,
    )?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    fcntl_setfl(&socket, fcntl_getfl(&socket)? | OFlags::NONBLOCK)?;
    let control = SysControlAddr::from_name(socket.as_raw_fd(), CONTROL, ANY_UNIT)?;
    connect(socket.as_raw_fd(), &control)?;
    let name = name(&socket)?;
    Ok(Utun { socket, name })
}

/// As the system calls the interface of a connected control: `utun7`.
fn name(socket: &OwnedFd) -> io::Result<String> {
    let mut text = [0_u8; libc::IFNAMSIZ];
    let mut length = libc::socklen_t::try_from(size_of_val(&text)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open; the buffer is writable, is as long as `length` says, and both live through the call.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SYSPROTO_CONTROL,
            libc::UTUN_OPT_IFNAME,
            text.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    let written = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = str::from_utf8(written).map_err(io::Error::other)?;
    if name.is_empty() {
        return Err(io::Error::other("the system tells no name of the utun"));
    }
    Ok(name.to_owned())
}

impl Utun {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn handle(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }
}
