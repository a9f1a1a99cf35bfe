//! What a listener does when it cannot accept.
#![cfg(unix)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tunnel_bridge::Target;
use tunnel_bridge::direct::TcpDialer;
use tunnel_bridge::listener::{ConnectionCounts, Listener, ListenerOptions, bind};

async fn until(listener: &Listener, changed: &Notify, wanted: impl Fn(&ConnectionCounts) -> bool) {
    let waiting = async {
        while !wanted(&listener.counts()) {
            changed.notified().await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .is_err()
    {
        panic!("still {:?}", listener.counts());
    }
}

#[tokio::test]
async fn a_listener_without_descriptors_says_so_and_recovers_by_itself() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let target = tokio::net::TcpListener::bind(any).await.unwrap();
    let changed = Arc::new(Notify::new());
    let listener = Listener::spawn(
        bind(any).unwrap(),
        Target::new(&target.local_addr().unwrap().to_string()).unwrap(),
        Arc::new(TcpDialer::default()),
        ListenerOptions::default(),
        Arc::clone(&changed),
    )
    .unwrap();
    let mut program = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();

    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(64),
            ..limit
        },
    )
    .unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    program.connect(&listener.local_addr().into()).unwrap();
    until(&listener, &changed, |counts| counts.out_of_descriptors).await;
    assert_eq!(listener.counts().connections, 0);
    assert!(listener.counts().accept_failures > 0);

    drop(taken);
    until(&listener, &changed, |counts| {
        !counts.out_of_descriptors && counts.connections == 1
    })
    .await;
    let (mut served, _) = target.accept().await.unwrap();
    program.write_all(b"ping").unwrap();
    let mut four = [0; 4];
    served.read_exact(&mut four).await.unwrap();
    served.write_all(&four).await.unwrap();
    let answer = tokio::task::spawn_blocking(move || {
        let mut answer = [0; 4];
        program.read_exact(&mut answer).map(|()| answer)
    });
    assert_eq!(&answer.await.unwrap().unwrap(), b"ping");
}
