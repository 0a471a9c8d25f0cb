//! Answers each ping with a pong of the same value.
#![forbid(unsafe_code)]

use examples::{Ping, Pong};
use orchestrator_proto::sdk::{Runtime, SendError};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let runtime = Runtime::connect().await?;
    let mut pings = runtime.input::<Ping>()?;
    let pongs = runtime.output::<Pong>()?;
    loop {
        let Ping { value } = pings.recv().await?;
        println!("received ping {value}");
        match pongs.send(&Pong { value }).await {
            Ok(()) => println!("sent pong {value}"),
            Err(SendError::Disconnected) => println!("no connection for pong {value}"),
            Err(error) => return Err(error.into()),
        }
    }
}
