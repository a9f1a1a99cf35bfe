//! One client that asks again and again, and how long each answer took.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::measure::percentile;

pub(super) struct Prober(UdpSocket);

/// The time of each answer, in microseconds.
pub(super) struct Times(Vec<f64>);

impl Times {
    pub(super) fn p99(&self) -> f64 {
        percentile(&self.0, 0.99)
    }

    pub(super) fn median(&self) -> f64 {
        percentile(&self.0, 0.5)
    }
}

/// Between two questions: the load is somebody else's.
const PAUSE: Duration = Duration::from_micros(300);

impl Prober {
    pub(super) fn new(port: u16) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(Self(socket))
    }

    pub(super) fn run(&self, time: Duration, name: &str) -> Result<Times> {
        let end = Instant::now() + time;
        let mut times = Vec::new();
        let mut number = 0;
        while Instant::now() < end {
            number += 1;
            // A label of `*` stands for one that was never asked for.
            let query = nameserver::query(number, &name.replace('*', &number.to_string()).parse()?, "A")?;
            let begun = Instant::now();
            self.0.send(&query)?;
            let mut reply = [0; 1500];
            self.0.recv(&mut reply).context("no answer")?;
            times.push(begun.elapsed().as_secs_f64() * 1e6);
            std::thread::sleep(PAUSE);
        }
        Ok(Times(times))
    }
}
