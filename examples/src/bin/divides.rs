//! Has numbers divided by a service, one after the other, and prints what comes of it.
#![forbid(unsafe_code)]

use std::time::Duration;

use examples::{Divide, Quotient};
use orchestrator_proto::sdk::Runtime;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let runtime = Runtime::connect().await?;
    let client = runtime.client::<Divide, Quotient>()?.with_deadline(Duration::from_secs(2));
    for dividend in 1_000.. {
        let request = Divide { dividend, divisor: dividend % 10 };
        match client.call(&request).await {
            Ok(Quotient { value, rest }) => println!("{dividend}: {value}, {rest} is left"),
            Err(error) if error.may_have_had_effect() => println!("{dividend}: {error}"),
            Err(error) => println!("{dividend}: not done: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
