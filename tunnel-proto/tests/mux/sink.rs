//! What a connection sends is the same stream of bytes in every kind of sink.

use bytes::{Buf, Bytes, BytesMut};
use proptest::prelude::*;
use tunnel_proto::{ChunkQueue, TransmitSink};

use crate::support::{FAR, NEAR, Pair, small};

#[derive(Debug, Clone)]
enum Step {
    Open,
    Write(prop::sample::Index, usize),
    Finish(prop::sample::Index),
    Transmit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>();
    let bytes = prop_oneof![1..20usize, 1..30_000usize];
    prop_oneof![
        1 => Just(Step::Open),
        4 => (which.clone(), bytes.clone()).prop_map(|(which, n)| Step::Write(which, n)),
        1 => which.prop_map(Step::Finish),
        3 => bytes.prop_map(Step::Transmit),
    ]
}

/// What the near end sends when these steps are taken and its frames go into sinks of type `S`.
fn sent<S: TransmitSink + Buf + Default>(steps: &[Step]) -> Vec<u8> {
    let mut pair = Pair::up(small(), small());
    let mut streams = vec![pair.open(NEAR)];
    let mut sink = S::default();
    let mut all = Vec::new();
    for step in steps {
        match step {
            Step::Open if streams.len() < 60 => streams.push(pair.open(NEAR)),
            Step::Open => {}
            // Fails for a stream that is finished, in the same way for both sinks.
            Step::Write(which, n) => drop(pair.write(NEAR, *which.get(&streams), *n)),
            Step::Finish(which) => drop(pair.ends[NEAR].finish(*which.get(&streams), pair.now)),
            Step::Transmit(limit) => {
                pair.ends[NEAR].poll_transmit(&mut sink, *limit);
                // As a socket would take them: some now, some later.
                let n = sink.remaining().min(*limit);
                all.extend_from_slice(&sink.copy_to_bytes(n));
            }
        }
    }
    let rest = sink.remaining();
    all.extend_from_slice(&sink.copy_to_bytes(rest));
    assert!(pair.wires[FAR].is_empty());
    all
}

#[derive(Debug, Clone)]
enum Queue {
    Push(usize),
    Slice(usize),
    Pop,
    PopUpTo(usize),
    Advance(prop::sample::Index),
}

fn queue_step() -> impl Strategy<Value = Queue> {
    let bytes = || prop_oneof![0..40usize, 3000..5000usize, 0..20_000usize];
    prop_oneof![
        4 => bytes().prop_map(Queue::Push),
        2 => bytes().prop_map(Queue::Slice),
        1 => Just(Queue::Pop),
        1 => bytes().prop_map(Queue::PopUpTo),
        1 => any::<prop::sample::Index>().prop_map(Queue::Advance),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_sink_that_copies_and_one_that_does_not_get_the_same_bytes(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        prop_assert!(sent::<BytesMut>(&steps) == sent::<ChunkQueue>(&steps));
    }

    #[test]
    fn a_chunk_queue_gives_out_what_was_put_in(steps in prop::collection::vec(queue_step(), 1..80)) {
        let (mut queue, mut model) = (ChunkQueue::new(), BytesMut::new());
        let mut next = 0u8;
        let mut some = |n: usize| -> Vec<u8> {
            (0..n).map(|_| { next = next.wrapping_add(1); next }).collect()
        };
        for step in steps {
            match step {
                Queue::Push(n) => {
                    let bytes = some(n);
                    model.extend_from_slice(&bytes);
                    queue.push(Bytes::from(bytes));
                }
                Queue::Slice(n) => {
                    let bytes = some(n);
                    model.extend_from_slice(&bytes);
                    queue.push_slice(&bytes);
                }
                Queue::Pop => match queue.pop() {
                    Some(chunk) => prop_assert!(!chunk.is_empty() && chunk == model.split_to(chunk.len())),
                    None => prop_assert!(model.is_empty()),
                },
                Queue::PopUpTo(limit) => match queue.pop_up_to(limit) {
                    Some(chunk) => {
                        prop_assert!(chunk.len() <= limit && chunk == model.split_to(chunk.len()));
                    }
                    None => prop_assert!(model.is_empty() || limit == 0),
                },
                Queue::Advance(index) => {
                    let n = index.index(model.len() + 1);
                    queue.advance(n);
                    model.advance(n);
                }
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert_eq!(queue.is_empty(), model.is_empty());
            let mut slices = [std::io::IoSlice::new(&[]); 256];
            let filled = queue.chunks_vectored(&mut slices);
            prop_assert_eq!(filled, queue.chunk_count().min(256));
            let seen = slices[..filled].iter().flat_map(|slice| slice.iter().copied());
            prop_assert!(seen.eq(model.iter().copied()) || filled == 256);
        }
    }
}

#[test]
fn a_large_payload_reaches_a_chunk_queue_without_a_copy() {
    let mut pair = Pair::up(small(), small());
    let id = pair.open(NEAR);
    pair.settle();
    let payload = Bytes::from(vec![7; 8 * 1024]);
    let at = payload.as_ptr();
    pair.ends[NEAR].send(id, payload).unwrap();
    let mut queue = ChunkQueue::new();
    assert!(pair.ends[NEAR].poll_transmit(&mut queue, 64 * 1024));
    let head = queue.pop().unwrap();
    assert_eq!(head.len(), 8);
    let sent = queue.pop().unwrap();
    assert_eq!((sent.as_ptr(), sent.len()), (at, 8 * 1024));
}
