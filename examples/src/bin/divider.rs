//! Answers requests to divide. Dividing by zero is a failure.
#![forbid(unsafe_code)]

use examples::{Divide, Quotient};
use orchestrator_proto::sdk::{Runtime, Service};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let runtime = Runtime::connect().await?;
    let service = runtime.service::<Divide, Quotient>()?;
    let at_once = Service::<Divide, Quotient>::AT_ONCE;
    let never = service.serve(at_once, |Divide { dividend, divisor }| async move {
        println!("{dividend} / {divisor}");
        match dividend.checked_div(divisor).zip(dividend.checked_rem(divisor)) {
            Some((value, rest)) => Ok(Quotient { value, rest }),
            None => Err(format!("{dividend} can't be divided by {divisor}")),
        }
    });
    match never.await {}
}
