//! Prints all pings and pongs that are linked to it.
#![forbid(unsafe_code)]

use examples::{Ping, Pong};
use orchestrator_proto::sdk::Runtime;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let runtime = Runtime::connect().await?;
    let mut pings = runtime.input::<Ping>()?;
    let mut pongs = runtime.input::<Pong>()?;
    loop {
        tokio::select! {
            ping = pings.recv() => println!("ping {}", ping?.value),
            pong = pongs.recv() => println!("pong {}", pong?.value),
        }
    }
}
