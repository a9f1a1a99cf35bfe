//! Generates the bindings from the built library: `cargo xtask bindings` runs it.
#![deny(unsafe_code)]

fn main() {
    uniffi::uniffi_bindgen_main();
}
