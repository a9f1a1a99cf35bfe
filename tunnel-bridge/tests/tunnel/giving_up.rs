//! Programs that do not wait for their answer, and targets that never give one.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tunnel_bridge::{ByteStream, Dialer, End, Incoming, Link, Refusal, Side, Target};

use crate::support::{Over, listen, listen_with, over_each_carrier, pair, read_all, request, soon};

/// Dials for ever, as one does that waits for a link.
struct Waiting;

#[async_trait::async_trait]
impl Dialer for Waiting {
    async fn dial(&self, _: &Target) -> Result<Box<dyn ByteStream>, Refusal> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_program_that_leaves_while_there_is_no_link_is_not_carried_on() {
    let listening = listen_with(Arc::new(Waiting), "x");
    let mut program = TcpStream::connect(listening.address()).await.unwrap();
    request(&mut program, b"hello?").await;
    listening
        .until("the connection", |counts| counts.active == 1)
        .await;
    program.set_zero_linger().unwrap();
    drop(program);
    assert_eq!(
        listening.closed(1).await,
        (0, 0, Some(End::Reset { by: Side::Local }))
    );
}

over_each_carrier! {
    three_hundred_clients_of_a_silent_target_delay_nobody_else,
    a_program_that_resets_while_nobody_answers_withdraws_its_request,
    a_program_that_closes_while_nobody_answers_withdraws_its_request,
    a_program_that_only_half_closes_still_gets_its_answer,
}

/// A far end that echoes for the target "other" and gives everything else out without an answer.
fn serve_other(far: Link) -> mpsc::Receiver<Incoming> {
    let (unanswered, receiver) = mpsc::channel(1000);
    tokio::spawn(async move {
        while let Some(incoming) = far.accept().await {
            if incoming.target().as_str() != "other" {
                unanswered.send(incoming).await.unwrap();
                continue;
            }
            let mut stream = incoming.accept();
            tokio::spawn(async move {
                let all = read_all(&mut stream).await.unwrap();
                stream.write_all(&all).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    receiver
}

async fn three_hundred_clients_of_a_silent_target_delay_nobody_else(over: Over) {
    let (near, far) = pair(over).await;
    let mut unanswered = serve_other(far);
    let (silent, other) = (listen(&near, "silent"), listen(&near, "other"));
    let mut programs = Vec::new();
    for _ in 0..300 {
        let mut program = TcpStream::connect(silent.address()).await.unwrap();
        request(&mut program, b"hello?").await;
        programs.push(program);
    }
    silent
        .until("300 connections", |counts| counts.active == 300)
        .await;
    let first = soon("a request", unanswered.recv()).await.unwrap();

    let mut program = TcpStream::connect(other.address()).await.unwrap();
    request(&mut program, b"ping").await;
    program.shutdown().await.unwrap();
    assert_eq!(soon("the echo", read_all(&mut program)).await.unwrap(), b"ping");
    // It was answered while all the others wait, and most of them wait on this side.
    assert_eq!(silent.counts.read().active, 300);
    let mut reached = vec![first];
    while let Ok(incoming) = unanswered.try_recv() {
        reached.push(incoming);
    }
    assert!(reached.len() <= over.most_unanswered(), "{}", reached.len());

    // The programs lose their patience: what the far end was asked for is withdrawn.
    for program in &programs {
        program.set_zero_linger().unwrap();
    }
    drop(programs);
    for incoming in &reached {
        soon("withdrawal", incoming.abandoned()).await;
    }
    silent.closed(300).await;
}

async fn a_program_that_resets_while_nobody_answers_withdraws_its_request(over: Over) {
    let (near, far) = pair(over).await;
    let mut unanswered = serve_other(far);
    let silent = listen(&near, "silent");
    let mut program = TcpStream::connect(silent.address()).await.unwrap();
    request(&mut program, b"hello?").await;
    let incoming = soon("the request", unanswered.recv()).await.unwrap();
    program.set_zero_linger().unwrap();
    drop(program);
    soon("withdrawal", incoming.abandoned()).await;
    assert_eq!(silent.closed(1).await.2, Some(End::Reset { by: Side::Local }));
}

/// As a client with a time limit does: it closes, which looks like a half-close from afar.
async fn a_program_that_closes_while_nobody_answers_withdraws_its_request(over: Over) {
    if !cfg!(target_os = "linux") {
        return println!("SKIP a_program_that_closes_while_nobody_answers_withdraws_its_request: Linux only");
    }
    let (near, far) = pair(over).await;
    let mut unanswered = serve_other(far);
    let silent = listen(&near, "silent");
    let mut program = TcpStream::connect(silent.address()).await.unwrap();
    request(&mut program, b"hello?").await;
    let incoming = soon("the request", unanswered.recv()).await.unwrap();
    drop(program);
    soon("withdrawal", incoming.abandoned()).await;
    assert_eq!(silent.closed(1).await.2, Some(End::Reset { by: Side::Local }));
}

async fn a_program_that_only_half_closes_still_gets_its_answer(over: Over) {
    let (near, far) = pair(over).await;
    let mut unanswered = serve_other(far);
    let silent = listen(&near, "slow");
    let mut program = TcpStream::connect(silent.address()).await.unwrap();
    request(&mut program, b"all of it").await;
    program.shutdown().await.unwrap();
    let incoming = soon("the request", unanswered.recv()).await.unwrap();
    // For longer than it takes to notice a program that has gone.
    let waited = tokio::time::timeout(Duration::from_millis(1200), incoming.abandoned());
    assert!(waited.await.is_err(), "a program that waits was given up");
    let mut stream = incoming.accept();
    assert_eq!(
        soon("the request", read_all(&mut stream)).await.unwrap(),
        b"all of it"
    );
    stream.write_all(b"at last").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    soon("the answer", program.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, "at last");
    assert_eq!(silent.closed(1).await, (9, 7, None));
}
