//! The IP helper calls back, on a thread of the system's.
#![expect(
    unsafe_code,
    reason = "the IP helper has no safe wrapper, and calls back with a raw context"
)]

mod machine;
mod policies;
mod wintun;

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use windows_sys::Win32::Foundation::{HANDLE, NO_ERROR};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    CancelMibChangeNotify2, MIB_IPFORWARD_ROW2, MIB_IPINTERFACE_ROW, MIB_NOTIFICATION_TYPE,
    MIB_UNICASTIPADDRESS_ROW, MibParameterNotification, NotifyIpInterfaceChange, NotifyRouteChange2,
    NotifyUnicastIpAddressChange,
};
use windows_sys::Win32::NetworkManagement::Ndis::NET_LUID_LH;
use windows_sys::Win32::Networking::WinSock::AF_UNSPEC;

use super::Woken;
use crate::Error;
use crate::watch::Change;
pub(crate) use machine::Machine;

/// IF_TYPE_SOFTWARE_LOOPBACK of ipifcons.h.
const LOOPBACK: u64 = 24;

/// Where the system's calls leave what they say.
#[derive(Debug, Default)]
struct Mailbox {
    letters: Mutex<Letters>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Letters {
    change: Change,
    interrupted: bool,
}

impl Mailbox {
    fn put(&self, put: impl FnOnce(&mut Letters)) {
        put(&mut self.letters.lock().unwrap_or_else(PoisonError::into_inner));
        self.arrived.notify_all();
    }
}

/// What the system calls for.
#[derive(Debug)]
pub(crate) struct Source {
    // Before the mailbox: they are cancelled first.
    _subscriptions: [Subscription; 3],
    mailbox: Arc<Mailbox>,
}

/// A call that the system was asked for. Dropping it waits until none is under way.
#[derive(Debug)]
struct Subscription(HANDLE);

// SAFETY: a handle of the IP helper is a number for the whole process and belongs to no thread.
unsafe impl Send for Subscription {}

impl Drop for Subscription {
    fn drop(&mut self) {
        // SAFETY: the handle came from one of the Notify calls and is cancelled once. On whichever thread this is, it is
        // not one of the callbacks, in which it would wait for itself.
        unsafe { CancelMibChangeNotify2(self.0) };
    }
}

impl Source {
    pub(crate) fn open() -> Result<Self, Error> {
        let mailbox = Arc::new(Mailbox::default());
        // It lives for as long as the subscriptions, which `Source` drops before it.
        let context = Arc::as_ptr(&mailbox).cast::<c_void>();
        let mut handle: HANDLE = ptr::null_mut();
        // SAFETY: the callback has the type that the call wants, and `context` outlives the subscription.
        let code =
            unsafe { NotifyIpInterfaceChange(AF_UNSPEC, Some(interface), context, false, &mut handle) };
        let interfaces = subscribed(code, handle)?;
        let mut handle: HANDLE = ptr::null_mut();
        // SAFETY: as above.
        let code =
            unsafe { NotifyUnicastIpAddressChange(AF_UNSPEC, Some(address), context, false, &mut handle) };
        let addresses = subscribed(code, handle)?;
        let mut handle: HANDLE = ptr::null_mut();
        // SAFETY: as above.
        let code = unsafe { NotifyRouteChange2(AF_UNSPEC, Some(route), context, false, &mut handle) };
        let routes = subscribed(code, handle)?;
        Ok(Self {
            _subscriptions: [interfaces, addresses, routes],
            mailbox,
        })
    }

    pub(crate) fn interrupter(&self) -> Interrupter {
        Interrupter(Arc::clone(&self.mailbox))
    }

    /// Waits for news, and adds what they mean to `change`.
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it is a call that may fail")]
    pub(crate) fn wait(&mut self, until: Option<Instant>, change: &mut Change) -> Result<Woken, Error> {
        let mut letters = self
            .mailbox
            .letters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            if std::mem::take(&mut letters.interrupted) {
                return Ok(Woken::Interrupted);
            }
            let heard = std::mem::take(&mut letters.change);
            if !heard.is_empty() {
                change.addresses |= heard.addresses;
                change.routes |= heard.routes;
                change.links |= heard.links;
                return Ok(Woken::Heard);
            }
            letters = match until {
                None => self
                    .mailbox
                    .arrived
                    .wait(letters)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(Woken::TimedOut);
                    }
                    let waited = self.mailbox.arrived.wait_timeout(letters, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

fn subscribed(code: u32, handle: HANDLE) -> Result<Subscription, Error> {
    if code == NO_ERROR {
        return Ok(Subscription(handle));
    }
    Err(Error::System {
        what: "listen to the system's news of the network (IP helper)",
        source: io::Error::from_raw_os_error(code.cast_signed()),
    })
}

#[derive(Debug, Clone)]
pub(crate) struct Interrupter(Arc<Mailbox>);

impl Interrupter {
    pub(crate) fn interrupt(&self) {
        self.0.put(|letters| letters.interrupted = true);
    }
}

/// Puts a letter into the mailbox that a callback was given.
///
/// # Safety
/// `context` is the mailbox of a [`Source`] whose subscriptions live.
unsafe fn put(context: *const c_void, put: impl FnOnce(&mut Change)) {
    // SAFETY: the caller's promise; a mailbox is shared between threads by design.
    let mailbox = unsafe { &*context.cast::<Mailbox>() };
    mailbox.put(|letters| put(&mut letters.change));
}

fn is_loopback(luid: NET_LUID_LH) -> bool {
    // SAFETY: every bit pattern is a number.
    let value = unsafe { luid.Value };
    // struct { Reserved: 24, NetLuidIndex: 24, IfType: 16 } of ifdef.h.
    value >> 48 == LOOPBACK
}

unsafe extern "system" fn interface(
    context: *const c_void,
    row: *const MIB_IPINTERFACE_ROW,
    kind: MIB_NOTIFICATION_TYPE,
) {
    // SAFETY: the system gives a row that lives for as long as the call, or none.
    let row = unsafe { row.as_ref() };
    // A parameter of an interface is its metric as well, and whether it is connected.
    if kind != MibParameterNotification || row.is_some_and(|row| !is_loopback(row.InterfaceLuid)) {
        // SAFETY: the system gives back what it was given.
        unsafe { put(context, |change| change.links = true) };
    }
}

unsafe extern "system" fn address(
    context: *const c_void,
    row: *const MIB_UNICASTIPADDRESS_ROW,
    kind: MIB_NOTIFICATION_TYPE,
) {
    // SAFETY: as for an interface.
    let row = unsafe { row.as_ref() };
    // The parameters of an address are its lifetimes, which are renewed all the time.
    if kind != MibParameterNotification && row.is_some_and(|row| !is_loopback(row.InterfaceLuid)) {
        // SAFETY: as for an interface.
        unsafe { put(context, |change| change.addresses = true) };
    }
}

unsafe extern "system" fn route(
    context: *const c_void,
    row: *const MIB_IPFORWARD_ROW2,
    kind: MIB_NOTIFICATION_TYPE,
) {
    // SAFETY: as for an interface.
    let row = unsafe { row.as_ref() };
    if kind != MibParameterNotification && row.is_some_and(|row| !is_loopback(row.InterfaceLuid)) {
        // SAFETY: as for an interface.
        unsafe { put(context, |change| change.routes = true) };
    }
}
