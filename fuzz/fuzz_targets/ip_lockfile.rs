//! Arbitrary bytes are a lock file that survives a round trip through text, or are reported as faulty.
#![no_main]

use ipalloc::LockFile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(lock) = LockFile::parse(bytes) {
        assert_eq!(LockFile::parse(lock.to_string().as_bytes()).unwrap(), lock);
    }
});
