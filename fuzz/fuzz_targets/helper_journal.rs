//! Whatever a journal of the network has become: reading it gives changes or unreadable lines, and what it gives reads the same once it
//! is written anew. Then the lines of the bytes are used as records with valid checksums, and undone on a machine of somebody else's.
#![no_main]

use devbox_helper::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::journal(bytes);
    fuzzing::records(bytes);
});
