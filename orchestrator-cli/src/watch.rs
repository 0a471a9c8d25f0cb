//! `runtime list --watch`

use std::time::Duration;

use orchestrator_proto::client::{Client, ClientError, ItemStream};
use orchestrator_proto::control::Request;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::cli::ListArgs;
use crate::failure::{Exit, Failure};
use crate::interrupt::Signals;
use crate::output::Output;
use crate::screen::Screen;
use crate::{format, list};

/// Events that come so soon after each other are one reason to look.
const TOGETHER: Duration = Duration::from_millis(50);

/// Shows the instances again and again, until a signal ends it.
pub(crate) async fn watch(
    client: &Client,
    out: &mut Output,
    args: &ListArgs,
    interval: Duration,
) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let in_place = out.is_terminal() && !out.is_json();
    let screen = match in_place {
        true => Some(Screen::enter(false).map_err(|error| Failure::output(&error))?),
        false => None,
    };
    let mut events = follow(client).await?;
    let mut is_first = true;
    loop {
        let all = tokio::select! {
            all = list::wanted(client, args) => all?,
            exit = signals.next() => return Ok(exit),
        };
        let next = Instant::now() + interval;
        match &screen {
            Some(screen) => {
                let text = list::text(out, &all, args.wide);
                screen.show(&text).map_err(|error| Failure::output(&error))?;
            }
            None if out.is_json() => list::json(out, &all, true)?,
            None => {
                if !is_first {
                    out.line("")?;
                }
                let text = list::text(out, &all, args.wide);
                out.line(&text)?;
            }
        }
        is_first = false;
        out.flush()?;
        tokio::select! {
            () = sleep_until(next) => {}
            exit = signals.next() => return Ok(exit),
            item = events.next() => match item {
                Some(Ok(_)) => {
                    let soon = Instant::now() + TOGETHER;
                    while let Ok(Some(Ok(_))) = timeout_at(soon, events.next()).await {}
                }
                // The daemon that has taken over is asked.
                Some(Err(ClientError::Replaced)) | None => events = follow(client).await?,
                Some(Err(error)) => return Err(error.into()),
            },
        }
    }
}

async fn follow(client: &Client) -> Result<ItemStream, Failure> {
    let since_ms = Some(format::now_ms());
    let request = Request::Events { follow: true, after: None, since_ms, instance: None };
    Ok(client.stream(request).await?)
}
