//! Whatever a caller sends: the decoder gives messages or errors, in any chunking the same ones, and what it gives can be sent again.
#![no_main]

use devbox_helper_client::{Call, Decoder, FrameError, Handshake, encode};
use libfuzzer_sys::fuzz_target;

fn calls(chunks: impl Iterator<Item = Vec<u8>>) -> Vec<Result<Call, String>> {
    let mut decoder = Decoder::default();
    let mut found = Vec::new();
    for chunk in chunks {
        decoder.handle_bytes(&chunk);
        loop {
            match decoder.poll_message::<Call>() {
                Ok(Some(call)) => found.push(Ok(call)),
                Ok(None) => break,
                Err(error @ FrameError::TooLong { .. }) => {
                    found.push(Err(error.to_string()));
                    return found;
                }
                Err(error) => found.push(Err(error.to_string())),
            }
        }
    }
    found
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (size, bytes) = input;
    let whole = calls(std::iter::once(bytes.clone()));
    let pieces = calls(bytes.chunks(usize::from(size) + 1).map(<[u8]>::to_vec));
    assert_eq!(whole, pieces);
    for call in whole.into_iter().flatten() {
        let mut decoder = Decoder::default();
        decoder.handle_bytes(&encode(&call).expect("it came in a frame"));
        assert_eq!(decoder.poll_message::<Call>().expect("it was a message"), Some(call));
    }
    let mut decoder = Decoder::default();
    decoder.handle_bytes(&bytes);
    let _: Result<Option<Handshake>, _> = decoder.poll_message();
});
