//! A sensor in a plain thread, without an async runtime: sends a reading every 100 ms, or as often as it
//! is told, and ends when it gets SIGTERM.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use examples::{Interval, Reading};
use orchestrator_proto::sdk::SendError;
use orchestrator_proto::sdk::blocking::{Error, Runtime};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> anyhow::Result<()> {
    let runtime = Runtime::connect()?;
    let readings = runtime.output::<Reading>()?;
    let mut intervals = runtime.input::<Interval>()?;

    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let closing = runtime.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            closing.close();
        }
    })?;

    runtime.ready();
    let (mut interval, mut number) = (Duration::from_millis(100), 0);
    let mut due = Instant::now();
    loop {
        // To wait for what may be told is how it waits for the next reading.
        match intervals.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(Interval { ms }) => {
                interval = Duration::from_millis(ms.max(1).into());
                due = Instant::now() + interval;
                println!("every {interval:?}");
                continue;
            }
            Err(Error::TimedOut) => due = Instant::now() + interval,
            Err(Error::Closed) => break,
            Err(Error::Failed(error)) => eprintln!("{error}"),
        }
        let reading = Reading { number, celsius: 20.0 + (number as f32 / 10.0).sin() };
        match readings.send(&reading) {
            Ok(()) => println!("reading {number}: {:.1} °C", reading.celsius),
            // The next one is newer anyway.
            Err(Error::Failed(SendError::Disconnected)) => println!("reading {number} is lost"),
            Err(Error::Closed) => break,
            Err(error) => return Err(error.into()),
        }
        number += 1;
    }
    println!("{number} readings");
    // The last one may still wait for the kernel.
    match runtime.flush_timeout(Duration::from_secs(1)) {
        Ok(()) | Err(Error::Closed | Error::Failed(SendError::Disconnected)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
