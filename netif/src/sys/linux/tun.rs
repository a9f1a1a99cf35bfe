//! TUN interfaces, tun(4) of the kernel's documentation: one lives as long as a descriptor of it.
#![expect(unsafe_code, reason = "there is no safe wrapper of TUNSETIFF")]

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::ioctl::{Setter, ioctl, opcode};

use crate::InterfaceName;

const DEVICE: &str = "/dev/net/tun";

/// linux/if_tun.h
const TUNSETIFF: u32 = opcode::write::<i32>(b'T', 202);
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
/// Where one of that name is there it is an error, and not that one.
const IFF_TUN_EXCL: u16 = 0x8000;

/// struct ifreq of linux/if.h, as far as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

pub(super) fn create(name: &InterfaceName) -> io::Result<OwnedFd> {
    let device = device()?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TUN | IFF_NO_PI | IFF_TUN_EXCL,
        rest: [0; 22],
    };
    // A name has at most 15 bytes, so that the NUL is there.
    for (to, from) in request.name.iter_mut().zip(name.as_str().bytes()) {
        *to = from;
    }
    // SAFETY: TUNSETIFF takes a pointer to a struct ifreq, of which it reads the name and the flags; `request` has its layout and
    // its 40 bytes.
    let setter = unsafe { Setter::<TUNSETIFF, InterfaceRequest>::new(request) };
    // SAFETY: as above; the descriptor is of /dev/net/tun.
    unsafe { ioctl(&device, setter) }?;
    Ok(device)
}

/// Whether this process may make one.
pub(super) fn device() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(open(DEVICE, flags, Mode::empty())?)
}
