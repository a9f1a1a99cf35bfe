//! Memory that glibc keeps for later.

/// Gives freed memory back to the system (malloc_trim(3)). By itself glibc gives back only what is at the end of its heap: after a
/// burst of connections it keeps tens of MiB.
#[expect(unsafe_code, reason = "no safe wrapper has malloc_trim")]
pub(crate) fn give_memory_back() {
    // SAFETY: it takes a number, and leaves everything alone that is allocated.
    unsafe { nix::libc::malloc_trim(0) };
}

/// How much of its end the heap keeps, and the size from which on memory is not of the heap.
const KEPT_BYTES: i32 = 8 * 1024 * 1024;
const LARGE_BYTES: i32 = 1024 * 1024;

/// Keeps what is freed at the end of the heap until [`give_memory_back`] (mallopt(3)). By itself glibc gives it back whenever it is
/// 128 KiB, and a transfer whose buffers come and go there pays with a page fault for each 4 KiB that it takes again: 160 KiB for
/// each MiB of a download.
#[expect(unsafe_code, reason = "no safe wrapper has mallopt")]
pub(crate) fn keep_memory() {
    for (parameter, value) in [
        (nix::libc::M_TRIM_THRESHOLD, KEPT_BYTES),
        (nix::libc::M_MMAP_THRESHOLD, LARGE_BYTES),
    ] {
        // SAFETY: it takes two numbers, and changes nothing that is allocated.
        if unsafe { nix::libc::mallopt(parameter, value) } == 0 {
            tracing::debug!(parameter, value, "glibc refuses");
        }
    }
}
