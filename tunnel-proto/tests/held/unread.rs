//! What unread bytes hold when the peer chooses the least convenient way to send them.

use std::alloc::System;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use cap::Cap;
use tunnel_proto::{ChunkQueue, Config, Connection, Event, Role};

/// Counts what is allocated.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

fn held() -> usize {
    ALLOCATOR.allocated()
}

fn frame(out: &mut BytesMut, kind: u8, stream: u32, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap();
    out.put_u32(u32::from(kind) << 24 | len);
    out.put_u32(stream);
    out.put_slice(payload);
}

/// A server with `streams` open streams of the client: 1, 3, 5 and so on.
fn server(streams: u32) -> Connection {
    let now = Instant::now();
    let mut server = Connection::new(Role::Server, Config::default(), now).unwrap();
    let mut hello = BytesMut::new();
    Connection::new(Role::Client, Config::default(), now)
        .unwrap()
        .poll_transmit(&mut hello, 1000);
    server.handle_bytes(hello.freeze(), now).unwrap();
    for number in 0..streams {
        let mut open = BytesMut::new();
        frame(&mut open, 0x10, 2 * number + 1, b"x");
        server.handle_bytes(open.freeze(), now).unwrap();
        while let Some(event) = server.poll_event() {
            if let Event::Opened { id, .. } = event {
                server.accept(id, now).unwrap();
            }
        }
        server.poll_transmit(&mut BytesMut::new(), 1000);
    }
    server
}

/// Moves the data to where an owner keeps what nobody has read.
fn take(server: &mut Connection, kept: &mut [ChunkQueue]) -> usize {
    let mut all = 0;
    while let Some(event) = server.poll_event() {
        if let Event::Data { id, bytes } = event {
            all += bytes.len();
            kept[id.number() as usize / 2].push(bytes);
        }
    }
    all
}

/// One test, since the allocator counts for the whole process.
#[test]
fn unread_bytes_hold_a_small_multiple_of_their_size() {
    one_byte_frames_cost_no_more_than_others();
    small_slices_do_not_keep_large_messages();
    credit_costs_no_more_in_many_frames();
}

fn credit_costs_no_more_in_many_frames() {
    const FRAMES: u32 = 400_000;
    let mut server = server(2);
    while server.poll_event().is_some() {}
    let before = held();
    // To two streams in turn, and with none of it among them.
    for _ in 0..10 {
        let mut message = BytesMut::new();
        for number in 0..FRAMES / 10 {
            let bytes = u32::from(number % 4 >= 2);
            frame(&mut message, 0x16, 2 * (number % 2) + 1, &bytes.to_be_bytes());
        }
        server.handle_bytes(message.freeze(), Instant::now()).unwrap();
    }
    let grown = held().saturating_sub(before);
    assert!(
        grown < 64 * 1024,
        "{grown} bytes are held for {FRAMES} frames of credit"
    );
    let mut granted = 0;
    while let Some(event) = server.poll_event() {
        match event {
            Event::Credit { bytes, .. } => granted += bytes,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(granted, FRAMES / 2);
    // Asked back each time that it was granted.
    let mut returned = 0;
    let before = held();
    for _ in 0..10 {
        let mut message = BytesMut::new();
        for _ in 0..1000 {
            frame(&mut message, 0x16, 1, &5_u32.to_be_bytes());
            frame(&mut message, 0x90, 1, &0_u32.to_be_bytes());
        }
        server.handle_bytes(message.freeze(), Instant::now()).unwrap();
        server.poll_transmit(&mut BytesMut::new(), 1000);
    }
    let grown = held().saturating_sub(before);
    assert!(
        grown < 64 * 1024,
        "{grown} bytes are held for credit that came and went"
    );
    granted = 0;
    while let Some(event) = server.poll_event() {
        match event {
            Event::Credit { bytes, .. } => granted += bytes,
            Event::CreditReturned { bytes, .. } => returned += bytes,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(granted, 50_000);
    assert!(returned >= 50_000, "{returned}");
}

fn one_byte_frames_cost_no_more_than_others() {
    const STREAMS: usize = 8;
    const EACH: usize = 200_000;
    const UNREAD: usize = STREAMS * EACH;
    const CONSTANT: usize = 64 * 1024;
    let mut server = server(8);
    let mut kept = Vec::new();
    kept.resize_with(STREAMS, ChunkQueue::new);
    let before = held();
    // A byte to each stream in turn, which keeps any two bytes of a stream apart; read late, and read at once.
    for late in [true, false] {
        for part in 0..100 {
            let mut message = BytesMut::new();
            for _ in 0..EACH / 200 {
                for number in 0..8 {
                    frame(&mut message, 0x13, 2 * number + 1, &[part]);
                }
            }
            server.handle_bytes(message.freeze(), Instant::now()).unwrap();
            if !late {
                take(&mut server, &mut kept);
            }
        }
        let unread = if late { UNREAD / 2 } else { UNREAD };
        let grown = held() - before;
        assert!(
            grown <= 3 * unread + CONSTANT,
            "{grown} bytes are held for {unread}, late: {late}"
        );
        take(&mut server, &mut kept);
    }
    assert_eq!(kept.iter().map(ChunkQueue::len).sum::<usize>(), UNREAD);
    let grown = held() - before;
    assert!(
        grown <= 3 * UNREAD + CONSTANT,
        "{grown} bytes are held for {UNREAD} by their owner"
    );
    drop(kept);
    let left = held().saturating_sub(before);
    assert!(left <= CONSTANT, "{left} bytes are held for nothing");
}

fn small_slices_do_not_keep_large_messages() {
    const CONSTANT: usize = 64 * 1024;
    let mut server = server(1);
    let mut kept = [ChunkQueue::new()];
    let before = held();
    let mut unread = 0;
    for _ in 0..40 {
        // 5 KiB that are kept and 4 MiB that are not.
        let mut message = BytesMut::with_capacity(4 << 20);
        frame(&mut message, 0x13, 1, &[7; 5 * 1024]);
        let rest = (4 << 20) - message.len() - 8;
        frame(&mut message, 0x80, 0, &vec![0; rest]);
        server.handle_bytes(message.freeze(), Instant::now()).unwrap();
        unread += take(&mut server, &mut kept);
    }
    assert_eq!(unread, 40 * 5 * 1024);
    let grown = held() - before;
    assert!(
        grown <= 4 * unread + CONSTANT,
        "{grown} bytes are held for {unread}"
    );
    // What fills a good part of its message is handed on as it is.
    let mut message = BytesMut::new();
    frame(&mut message, 0x13, 1, &[7; 32 * 1024]);
    let message: Bytes = message.freeze();
    let at = message.as_ptr();
    server.handle_bytes(message, Instant::now()).unwrap();
    match server.poll_event() {
        Some(Event::Data { bytes, .. }) => assert_eq!(bytes.as_ptr(), at.wrapping_add(8)),
        other => panic!("{other:?}"),
    }
}
