use std::alloc::System;
use std::time::Duration;

use cap::Cap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunnel_bridge::{Link, LinkOptions, MuxStream, RefusalKind, Role, StreamCarrier, Target};

/// Counts what is allocated.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const KIB: usize = 1024;

/// Two ends in memory.
fn pair(options: &LinkOptions) -> (Link, Link) {
    let (near, far) = tokio::io::duplex(256 * KIB);
    let near = Link::over_with(StreamCarrier::new(near), Role::Client, options);
    let far = Link::over(StreamCarrier::new(far), Role::Server);
    (near, far)
}

/// A stream's two ends, past a byte each way.
async fn open(near: &Link, far: &Link, target: &Target) -> (MuxStream, MuxStream) {
    let mut asking = near.open(target).await.unwrap();
    asking.write_all(b"?").await.unwrap();
    let mut serving = far.accept().await.unwrap().accept();
    assert_eq!(serving.read_u8().await.unwrap(), b'?');
    serving.write_all(b"!").await.unwrap();
    assert_eq!(asking.read_u8().await.unwrap(), b'!');
    (asking, serving)
}

/// Ends a stream both ways.
async fn close((mut asking, mut serving): (MuxStream, MuxStream)) {
    asking.shutdown().await.unwrap();
    assert_eq!(serving.read(&mut [0]).await.unwrap(), 0);
    serving.shutdown().await.unwrap();
    assert_eq!(asking.read(&mut [0]).await.unwrap(), 0);
}

async fn carry(from: &mut MuxStream, to: &mut MuxStream, bytes: usize) {
    let (sent, mut received) = (vec![b'x'; bytes], vec![0; bytes]);
    let (written, read) = tokio::join!(from.write_all(&sent), to.read_exact(&mut received));
    written.unwrap();
    read.unwrap();
    assert_eq!(sent, received);
}

/// One test, since the allocator counts for the whole program.
#[tokio::test]
async fn streams_cost_little_and_leave_nothing_behind() {
    let all = async {
        ten_thousand_are_open_and_as_many_come_and_go().await;
        the_limit_is_what_was_set().await;
    };
    tokio::time::timeout(Duration::from_secs(180), all)
        .await
        .expect("in time");
}

async fn ten_thousand_are_open_and_as_many_come_and_go() {
    const STREAMS: usize = 10_000;
    let (near, far) = pair(&LinkOptions::default());
    let target = Target::new("echo").unwrap();
    close(open(&near, &far, &target).await).await;

    let before = ALLOCATOR.allocated();
    let per_stream = || ALLOCATOR.allocated().saturating_sub(before) / STREAMS;
    let mut streams = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        streams.push(open(&near, &far, &target).await);
    }
    let idle = per_stream();
    for (asking, serving) in &mut streams {
        carry(asking, serving, 64 * KIB).await;
        carry(serving, asking, 64 * KIB).await;
    }
    let used = per_stream();
    // Both ends' streams, without the sockets and tasks that a connection has on top: half of what a connection may cost.
    assert!(idle <= 2 * KIB, "{idle} bytes for each idle stream");
    assert!(used <= idle + 256, "{used} bytes after traffic, {idle} before");

    let held = ALLOCATOR.allocated();
    for _ in 0..2 * STREAMS {
        close(open(&near, &far, &target).await).await;
    }
    let grown = ALLOCATOR.allocated().saturating_sub(held);
    assert!(
        grown < 256 * KIB,
        "{grown} bytes more after streams that came and went"
    );

    for stream in streams {
        close(stream).await;
    }
    // Four tables keep their places, of 17 bytes each.
    let kept = per_stream();
    assert!(kept <= 256, "{kept} bytes are kept for each stream that was open");
}

async fn the_limit_is_what_was_set() {
    let mut options = LinkOptions::default();
    options.max_streams = 3;
    let (near, far) = pair(&options);
    let target = Target::new("echo").unwrap();
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(open(&near, &far, &target).await);
    }
    let refused = near.open(&target).await.unwrap().accepted().await;
    assert_eq!(refused.map_err(|refusal| refusal.kind), Err(RefusalKind::TooMany));
    // The other end knows the limit as well.
    let refused = far.open(&target).await.unwrap().accepted().await;
    assert_eq!(refused.map_err(|refusal| refusal.kind), Err(RefusalKind::TooMany));
    close(streams.remove(0)).await;
    streams.push(open(&near, &far, &target).await);
    for stream in streams {
        close(stream).await;
    }
}
