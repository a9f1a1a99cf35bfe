//! Memory that glibc keeps for later.

/// Gives freed memory back to the system (malloc_trim(3)). By itself glibc gives back only what is at the end of its heap: after a
/// burst of connections it keeps tens of MiB.
#[expect(unsafe_code, reason = "no safe wrapper has malloc_trim")]
pub(crate) fn give_memory_back() {
    // SAFETY: it takes a number, and leaves everything alone that is allocated.
    unsafe { nix::libc::malloc_trim(0) };
}
