//! Whatever a policy file holds: it is a policy or is refused with a reason.
#![no_main]

use devbox_helper::PolicyFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(why) = PolicyFile::parse(text) {
        assert!(!why.is_empty());
    }
});
