//! Streams of a link, without sockets at their ends.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunnel_bridge::{
    GoAwayReason, Link, LinkEnd, Refusal, RefusalKind, ResetReason, is_link_lost, refusal_of, reset_of,
};

use crate::support::{Over, over_each_carrier, pair, pair_to_cut, pattern, read_all, refused, soon, target};

over_each_carrier! {
    a_draining_end_serves_its_streams_and_those_that_crossed,
    whatever_was_dialed_is_served_by_an_end_that_leaves,
    the_reason_for_leaving_is_heard_while_streams_go_on,
    a_stream_carries_both_directions_and_their_ends,
    both_ends_open_streams,
    a_refusal_arrives_with_its_kind_and_message,
    a_dropped_stream_is_a_reset_for_the_other_end,
    a_stream_that_is_finished_both_ways_may_be_dropped_with_bytes_under_way,
    a_cut_link_resets_its_streams_and_never_ends_them,
    leaving_tells_the_other_end_why,
    two_hundred_streams_at_once_arrive_whole,
    thousands_of_opens_at_once_are_served_and_too_many_are_refused,
    one_stalled_reader_of_a_hundred_stops_nobody,
}

async fn a_stream_carries_both_directions_and_their_ends(over: Over) {
    let (near, far) = pair(over).await;
    let mut ours = near.open(&target("tcp/backend/orders/5432")).await.unwrap();
    ours.write_all(b"before the answer").await.unwrap();
    let incoming = soon("the request", far.accept()).await.unwrap();
    assert_eq!(incoming.target().as_str(), "tcp/backend/orders/5432");
    let mut theirs = incoming.accept();
    soon("the answer", ours.accepted()).await.unwrap();
    ours.shutdown().await.unwrap();
    assert_eq!(
        soon("request", read_all(&mut theirs)).await.unwrap(),
        b"before the answer"
    );
    // Half-closed: the other direction still carries all it has.
    let answer = pattern(1024 * 1024, 1);
    let (sent, received) = tokio::join!(
        async {
            theirs.write_all(&answer).await.unwrap();
            theirs.shutdown().await.unwrap();
        },
        soon("answer", read_all(&mut ours))
    );
    let () = sent;
    assert!(received.unwrap() == answer);
    assert!(ours.is_finished() && theirs.is_finished());
}

async fn both_ends_open_streams(over: Over) {
    let (near, far) = pair(over).await;
    let mut theirs = far.open(&target("from the far end")).await.unwrap();
    theirs.write_all(b"hello").await.unwrap();
    let mut ours = soon("the request", near.accept()).await.unwrap().accept();
    let mut five = [0; 5];
    soon("bytes", ours.read_exact(&mut five)).await.unwrap();
    assert_eq!(&five, b"hello");
}

async fn a_refusal_arrives_with_its_kind_and_message(over: Over) {
    let (near, far) = pair(over).await;
    let mut stream = near.open(&target("x")).await.unwrap();
    soon("the request", far.accept()).await.unwrap().refuse(refused());
    let error = soon("the refusal", stream.read_u8()).await.unwrap_err();
    assert_eq!(refusal_of(&error), Some(&refused()));
    let error = stream.write_all(b"x").await.unwrap_err();
    assert_eq!(refusal_of(&error), Some(&refused()));

    let mut stream = near.open(&target("x")).await.unwrap();
    drop(soon("the request", far.accept()).await.unwrap());
    assert_eq!(
        soon("the refusal", stream.accepted()).await.unwrap_err().kind,
        RefusalKind::Internal
    );
}

async fn a_dropped_stream_is_a_reset_for_the_other_end(over: Over) {
    let (near, far) = pair(over).await;
    let mut ours = near.open(&target("x")).await.unwrap();
    let mut theirs = soon("the request", far.accept()).await.unwrap().accept();
    ours.write_all(b"half a request").await.unwrap();
    let mut some = [0; 14];
    soon("bytes", theirs.read_exact(&mut some)).await.unwrap();
    drop(ours);
    let error = soon("the reset", theirs.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(reset_of(&error), Some(ResetReason::Cancelled));

    let mut ours = near.open(&target("x")).await.unwrap();
    soon("the request", far.accept())
        .await
        .unwrap()
        .accept()
        .reset(ResetReason::TimedOut);
    let error = soon("the reset", ours.read_u8()).await.unwrap_err();
    assert_eq!(reset_of(&error), Some(ResetReason::TimedOut));
    assert_eq!(
        ours.write_all(b"x").await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

async fn a_stream_that_is_finished_both_ways_may_be_dropped_with_bytes_under_way(over: Over) {
    let (near, far) = pair(over).await;
    let all = pattern(200_000, 3);
    let mut theirs = {
        let mut ours = near.open(&target("x")).await.unwrap();
        let mut theirs = soon("the request", far.accept()).await.unwrap().accept();
        theirs.shutdown().await.unwrap();
        assert!(soon("the end", read_all(&mut ours)).await.unwrap().is_empty());
        ours.write_all(&all).await.unwrap();
        ours.shutdown().await.unwrap();
        theirs
    };
    // Its last handle is gone too: the driver still sends what it was given.
    drop(near);
    assert!(soon("all", read_all(&mut theirs)).await.unwrap() == all);
}

async fn a_cut_link_resets_its_streams_and_never_ends_them(over: Over) {
    let (near, far, relay) = pair_to_cut(over).await;
    let mut ours = near.open(&target("x")).await.unwrap();
    let mut theirs = soon("the request", far.accept()).await.unwrap().accept();
    theirs.write_all(b"the first half").await.unwrap();
    let mut some = [0; 14];
    soon("bytes", ours.read_exact(&mut some)).await.unwrap();
    // A writer that waits for credit must hear of it as well.
    let writer = tokio::spawn(async move {
        let error = loop {
            if let Err(error) = theirs.write_all(&[7; 65536]).await {
                break error;
            }
        };
        error.kind()
    });
    relay.cut();
    let mut rest = Vec::new();
    let error = soon("the loss", ours.read_to_end(&mut rest)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(is_link_lost(&error));
    assert_eq!(
        soon("the writer's loss", writer).await.unwrap(),
        ErrorKind::ConnectionReset
    );
    let end = soon("the end", near.closed()).await;
    assert!(over.is_loss(&end), "{end:?}");
    assert!(soon("the far end's end", far.accept()).await.is_none());
    assert_eq!(
        near.open(&target("x")).await.unwrap_err().kind,
        RefusalKind::LinkLost
    );
}

async fn leaving_tells_the_other_end_why(over: Over) {
    let (near, far) = pair(over).await;
    let mut ours = near.open(&target("x")).await.unwrap();
    let _theirs = soon("the request", far.accept()).await.unwrap().accept();
    soon("closing", far.close(GoAwayReason::Superseded, "by generation 9")).await;
    assert_eq!(far.closed().await, LinkEnd::Drained);
    let end = soon("the end", near.closed()).await;
    assert_eq!(
        end,
        LinkEnd::Superseded {
            message: "by generation 9".to_owned()
        }
    );
    assert_eq!(
        soon("reset", ours.read_u8()).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );

    let (near, far) = pair(over).await;
    soon("leaving", near.shutdown()).await;
    let end = soon("the end", far.closed()).await;
    assert!(matches!(end, LinkEnd::PeerClosed { .. }), "{end:?}");

    // The last handle's drop is a leave as well.
    let (near, far) = pair(over).await;
    drop(near);
    let end = soon("the end", far.closed()).await;
    assert!(matches!(end, LinkEnd::PeerClosed { .. }), "{end:?}");
}

async fn two_hundred_streams_at_once_arrive_whole(over: Over) {
    let (near, far) = pair(over).await;
    let echo = tokio::spawn(async move {
        while let Some(incoming) = far.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(incoming.accept());
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
        }
    });
    let mut all = tokio::task::JoinSet::new();
    for number in 0..200u64 {
        let near = near.clone();
        all.spawn(async move {
            let sent = pattern(
                1 + (usize::try_from(number).unwrap() * 7919) % 400_000,
                number + 1,
            );
            let (mut read, mut write) = tokio::io::split(near.open(&target(number)).await.unwrap());
            let write_all = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let ((), received) = tokio::join!(write_all, read_all(&mut read));
            assert!(received.unwrap() == sent, "stream {number} came back different");
        });
    }
    soon("200 streams", async {
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
    })
    .await;
    near.shutdown().await;
    soon("the far end", echo).await.unwrap();
}

/// More at once than may wait for their answer: the rest waits its turn. More than may be open: a clear error.
async fn thousands_of_opens_at_once_are_served_and_too_many_are_refused(over: Over) {
    let (near, far) = pair(over).await;
    let mut held = Vec::new();
    for number in 0..16_448 {
        held.push(near.open(&target(number)).await.unwrap());
    }
    let accepting = tokio::spawn(async move {
        let (mut streams, mut readers) = (Vec::new(), tokio::task::JoinSet::new());
        while let Some(incoming) = far.accept().await {
            let mut stream = incoming.accept();
            if over.frees_what_nobody_reads() {
                streams.push(stream);
            } else {
                readers.spawn(async move { read_all(&mut stream).await });
            }
        }
    });
    for stream in &mut held {
        soon("the answer", stream.accepted()).await.unwrap();
    }
    assert_eq!(
        soon("the refusal", answer(&near, "one more"))
            .await
            .unwrap_err()
            .kind,
        RefusalKind::TooMany
    );
    drop(held);
    // Room again, once the resets have gone out.
    soon("room", async {
        while answer(&near, "again").await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    near.shutdown().await;
    soon("the far end", accepting).await.unwrap();
}

/// How a request is answered, whichever end does that.
async fn answer(link: &Link, to: &str) -> Result<(), Refusal> {
    link.open(&target(to)).await?.accepted().await
}

async fn one_stalled_reader_of_a_hundred_stops_nobody(over: Over) {
    let (near, far) = pair(over).await;
    let serving = tokio::spawn(async move {
        while let Some(incoming) = far.accept().await {
            tokio::spawn(async move {
                let bytes = pattern(1024 * 1024, 5);
                let mut stream = incoming.accept();
                stream.write_all(&bytes).await.unwrap();
                stream.shutdown().await.unwrap();
                assert!(read_all(&mut stream).await.unwrap().is_empty());
            });
        }
    });
    let mut stalled = near.open(&target("stalled")).await.unwrap();
    stalled.shutdown().await.unwrap();
    soon("the answer", stalled.accepted()).await.unwrap();
    let mut fast = tokio::task::JoinSet::new();
    for number in 0..99 {
        let near = near.clone();
        fast.spawn(async move {
            let mut stream = near.open(&target(number)).await.unwrap();
            stream.shutdown().await.unwrap();
            assert!(read_all(&mut stream).await.unwrap() == pattern(1024 * 1024, 5));
        });
    }
    soon("99 readers", async {
        while let Some(done) = fast.join_next().await {
            done.unwrap();
        }
    })
    .await;
    // And the stalled one has lost nothing.
    assert!(soon("the stalled one", read_all(&mut stalled)).await.unwrap() == pattern(1024 * 1024, 5));
    near.shutdown().await;
    soon("the far end", serving).await.unwrap();
}

async fn a_draining_end_serves_its_streams_and_those_that_crossed(over: Over) {
    let (near, far) = pair(over).await;
    assert!(!near.is_leaving());
    let mut before = near.open(&target("before")).await.unwrap();
    let mut served = soon("the request", far.accept()).await.unwrap().accept();
    // On a runtime of one thread nothing moves before the next await: the word and the request cross.
    far.drain("back soon");
    let mut crossing = near.open(&target("crossing")).await.unwrap();
    let word = soon("the word", near.leaving()).await.unwrap();
    assert_eq!(
        (word.reason, word.message.as_str()),
        (GoAwayReason::Leaving, "back soon")
    );
    assert!(near.is_leaving() && !near.is_closed());
    assert_eq!(
        near.open(&target("late")).await.unwrap_err().kind,
        RefusalKind::LinkLost
    );
    let mut crossed = soon("what crossed", far.accept()).await.unwrap().accept();
    for (ours, theirs) in [(&mut before, &mut served), (&mut crossing, &mut crossed)] {
        ours.write_all(b"question").await.unwrap();
        ours.shutdown().await.unwrap();
        assert_eq!(soon("the question", read_all(theirs)).await.unwrap(), b"question");
        theirs.write_all(b"answer").await.unwrap();
        theirs.shutdown().await.unwrap();
        assert_eq!(soon("the answer", read_all(ours)).await.unwrap(), b"answer");
    }
    // The link is there for as long as its streams need it, and until the far end closes it.
    assert!(!near.is_closed());
    far.shutdown().await;
    assert!(matches!(
        soon("the end", near.closed()).await,
        LinkEnd::PeerClosed { message } if message.is_empty() || message == "back soon"
    ));
}

async fn whatever_was_dialed_is_served_by_an_end_that_leaves(over: Over) {
    const DIALS: usize = 200;
    let (near, far) = pair(over).await;
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..DIALS {
        let dialer = near.dialer();
        dials.spawn(async move { dialer.dial(&target("busy")).await });
    }
    // More than may be unanswered; then the far end leaves, and serves what had come.
    let mut incoming = vec![soon("a request", far.accept()).await.unwrap()];
    far.drain("back soon");
    let mut dialed = Vec::new();
    while let Some(done) = soon("a dial", dials.join_next()).await {
        match done.unwrap() {
            Ok(stream) => dialed.push(stream),
            Err(refusal) => assert_eq!(refusal.kind, RefusalKind::LinkLost, "{refusal}"),
        }
    }
    assert!(over.holds_back(DIALS, dialed.len()), "{}", dialed.len());
    while incoming.len() < dialed.len() {
        incoming.push(soon("what was dialed", far.accept()).await.unwrap());
    }
    let mut served: Vec<_> = incoming.into_iter().map(|incoming| incoming.accept()).collect();
    for stream in &mut served {
        stream.write_all(b"served").await.unwrap();
    }
    for mut stream in dialed {
        let mut answer = [0; 6];
        soon("the answer", stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"served");
    }
}

async fn the_reason_for_leaving_is_heard_while_streams_go_on(over: Over) {
    let (near, far) = pair(over).await;
    let mut ours = near.open(&target("x")).await.unwrap();
    let mut theirs = soon("the request", far.accept()).await.unwrap().accept();
    far.drain("");
    soon("the word", near.leaving()).await.unwrap();
    let closing = tokio::spawn(async move { near.closed().await });
    theirs.write_all(b"still here").await.unwrap();
    let mut some = [0; 10];
    soon("bytes", ours.read_exact(&mut some)).await.unwrap();
    far.close(GoAwayReason::Superseded, "by generation 9").await;
    assert_eq!(
        soon("the end", closing).await.unwrap(),
        LinkEnd::Superseded {
            message: "by generation 9".to_owned()
        }
    );

    // A link that is lost without a word says so.
    let (near, far, relay) = pair_to_cut(over).await;
    relay.cut();
    assert_eq!(soon("the loss", near.leaving()).await, None);
    assert!(far.closed().await != LinkEnd::Drained);
}
