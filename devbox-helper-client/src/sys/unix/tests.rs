//! A channel whose two ends are in one process, so that what arrives in one read is decided by the test.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::halves;
use crate::channel::{Channel, Receiver};
use crate::codec::encode;
use crate::message::{ReleaseReport, Reply, Response};

fn pair() -> (Channel, Channel) {
    let (a, b) = UnixStream::pair().unwrap();
    let [a, b] = [a, b].map(|stream| halves(stream).unwrap());
    (Channel::new(a.0, a.1), Channel::new(b.0, b.1))
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn bound(id: u64) -> Response {
    Response {
        id: Some(id),
        listener: true,
        reply: Reply::Bound,
    }
}

fn plain(id: u64) -> Response {
    Response {
        id: Some(id),
        listener: false,
        reply: Reply::Released(ReleaseReport { removed_block: None }),
    }
}

/// What was sent before the first is received, so that as much as the system allows arrives in one read.
fn received(receiver: &mut Receiver) -> Vec<(u64, Option<SocketAddr>)> {
    let responses = std::iter::from_fn(|| receiver.receive_response().unwrap());
    responses
        .map(|(response, listener)| {
            let address = listener.map(|listener| listener.local_addr().unwrap());
            (response.id.unwrap(), address)
        })
        .collect()
}

#[test]
fn descriptor_goes_to_the_response_it_was_sent_with_in_either_order() {
    for order in [[false, true], [true, false]] {
        let (mut helper, mut caller) = pair();
        let listener = listener();
        let mut expected = Vec::new();
        for (id, carries) in (1..).zip(order) {
            if carries {
                helper.sender.send_with_listener(&bound(id), &listener).unwrap();
            } else {
                helper.sender.send(&plain(id)).unwrap();
            }
            expected.push((id, carries.then(|| listener.local_addr().unwrap())));
        }
        drop(helper);
        assert_eq!(received(&mut caller.receiver), expected);
    }
}

#[test]
fn one_write_with_several_responses_gives_the_descriptor_to_the_one_that_announces_it() {
    let (mut helper, mut caller) = pair();
    let listener = listener();
    let frames: Vec<u8> = [plain(1), bound(2), plain(3)]
        .iter()
        .flat_map(|response| encode(response).unwrap())
        .collect();
    helper.sender.send_frame(&frames, Some(&listener), None).unwrap();
    drop(helper);
    let address = listener.local_addr().unwrap();
    assert_eq!(
        received(&mut caller.receiver),
        [(1, None), (2, Some(address)), (3, None)]
    );
}

#[test]
fn descriptor_that_is_not_announced_is_closed_and_given_to_nobody() {
    let (mut helper, mut caller) = pair();
    let surplus = listener();
    let address = surplus.local_addr().unwrap();
    helper.sender.send_with_listener(&plain(1), &surplus).unwrap();
    drop(surplus);
    // Announced, but not sent.
    helper.sender.send(&bound(2)).unwrap();
    drop(helper);
    assert_eq!(received(&mut caller.receiver), [(1, None), (2, None)]);
    // Nobody holds it any more: other tests start no process here that could have inherited it.
    std::net::TcpStream::connect(address).unwrap_err();
}

#[test]
fn descriptors_that_come_within_one_long_frame_are_not_collected() {
    let (helper, mut caller) = pair();
    let (mut sender, _) = helper.split();
    let surplus = listener();
    let mut response = plain(1);
    response.reply = Reply::Released(ReleaseReport {
        removed_block: Some("x".repeat(500)),
    });
    let frame = encode(&response).unwrap();
    let writing = std::thread::spawn(move || {
        for byte in frame {
            sender.send_frame(&[byte], Some(&surplus), None).unwrap();
        }
    });
    // The first comes with the frame's first byte, and the last with the last read.
    while caller.receiver.receive_response().unwrap().is_some() {
        assert!(caller.receiver.passed.len() <= 2);
    }
    writing.join().unwrap();
    assert!(caller.receiver.passed.is_empty());
}

#[test]
fn request_with_a_descriptor_is_read_and_the_descriptor_closed() {
    let (mut caller, mut helper) = pair();
    let surplus = listener();
    caller.sender.send_with_listener(&plain(1), &surplus).unwrap();
    let request: Response = helper.receiver.receive().unwrap().unwrap();
    assert_eq!(request, plain(1));
    assert!(helper.receiver.passed.is_empty());
}

#[test]
fn frame_whose_deadline_passed_half_way_is_completed_before_the_next() {
    let (mut helper, mut caller) = pair();
    let long = "x".repeat(3 << 20);
    let soon = || Some(Instant::now() + Duration::from_millis(20));
    let frame = encode(&long).unwrap();
    let error = helper.sender.send_frame(&frame, None, soon()).unwrap_err();
    assert!(matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    ));
    // Nothing is begun while the first is unfinished.
    let second = encode(&"second").unwrap();
    helper.sender.send_frame(&second, None, soon()).unwrap_err();
    let reading = std::thread::spawn(move || {
        let first: String = caller.receiver.receive().unwrap().unwrap();
        let second: String = caller.receiver.receive().unwrap().unwrap();
        (first, second, caller.receiver.receive::<String>().unwrap())
    });
    let third = encode(&"third").unwrap();
    let long_enough = Some(Instant::now() + Duration::from_secs(60));
    helper.sender.send_frame(&third, None, long_enough).unwrap();
    drop(helper);
    assert_eq!(reading.join().unwrap(), (long, "third".to_owned(), None));
}

proptest! {
    /// Any sequence of responses with and without a listener, cut into writes anywhere.
    #[test]
    fn every_response_has_the_listener_it_was_sent_with(
        carries in prop::collection::vec(any::<bool>(), 0..20),
        cut in 1usize..200,
    ) {
        let (mut helper, mut caller) = pair();
        let mut expected = Vec::new();
        for (id, carries) in (1..).zip(carries) {
            let listener = carries.then(listener);
            let frame = encode(&if carries { bound(id) } else { plain(id) }).unwrap();
            let (head, tail) = frame.split_at(cut.min(frame.len()));
            helper.sender.send_frame(head, listener.as_ref(), None).unwrap();
            helper.sender.send_frame(tail, None, None).unwrap();
            expected.push((id, listener.map(|listener| listener.local_addr().unwrap())));
        }
        drop(helper);
        prop_assert_eq!(received(&mut caller.receiver), expected);
    }
}
