//! Turns itself off: asks its own daemon to stop it, as only a privileged instance may.
//!
//! Ends with code 3 if the daemon refuses.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use orchestrator_proto::sdk::{RequestError, Runtime};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let runtime = Runtime::connect().await?;
    println!("switched on");
    tokio::time::sleep(Duration::from_secs(1)).await;

    println!("turning myself off");
    match runtime.stop(runtime.instance_id().to_string()).await {
        Err(RequestError::Refused(refusal)) => {
            println!("refused: {refusal}");
            Ok(ExitCode::from(3))
        }
        Err(error) => Err(error.into()),
        // SIGTERM ends this program, usually before the answer is here.
        Ok(_) => std::future::pending().await,
    }
}
