//! Sends a ping every 100 ms and prints it, and prints each pong that comes back.
//!
//! Options: `--interval-ms N`, and `--count N` to end after so many pings.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, bail};
use examples::{Ping, Pong};
use orchestrator_proto::sdk::{Runtime, SendError};
use tokio::time::MissedTickBehavior;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let (mut interval, mut count) = (Duration::from_millis(100), u32::MAX);
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let number = arguments.next().unwrap_or_default().parse::<u32>();
        let number = number.with_context(|| format!("{option} needs a number"))?;
        match option.as_str() {
            // An interval can't be zero.
            "--interval-ms" => interval = Duration::from_millis(number.max(1).into()),
            "--count" => count = number,
            _ => bail!("{option} is not an option; there are --interval-ms and --count"),
        }
    }

    let runtime = Runtime::connect().await?;
    let pings = runtime.output::<Ping>()?;
    let mut pongs = runtime.input::<Pong>()?;
    let mut interval = tokio::time::interval(interval);
    // Pings that were missed while there was no connection are not made up for.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut value = 0;
    while value < count {
        tokio::select! {
            _ = interval.tick() => match pings.send(&Ping { value }).await {
                Ok(()) => {
                    println!("sent ping {value}");
                    value += 1;
                }
                Err(SendError::Disconnected) => runtime.connected().await,
                Err(error) => return Err(error.into()),
            },
            pong = pongs.recv() => println!("received pong {}", pong?.value),
        }
    }
    Ok(runtime.flush().await?)
}
