//! `runtime wait`

use std::time::Duration;

use orchestrator_proto::Millis;
use orchestrator_proto::client::{Client, ClientError};
use orchestrator_proto::control::{
    Observed, Reply, Request, RunResult, RuntimeInfo, ScheduleInfo, Selector,
};
use tokio::time::{Instant, timeout_at};

use crate::cli::WaitState;
use crate::failure::{Exit, Failure, Report};
use crate::format;
use crate::output::Output;
use crate::replicas::{self, Shown};

/// `runtime wait`
pub(crate) async fn wait(
    client: &Client,
    out: &mut Output,
    instances: Vec<String>,
    state: WaitState,
    timeout: Option<Millis>,
) -> Result<Exit, Failure> {
    let deadline = timeout.and_then(|time| Instant::now().checked_add(time.duration()));
    let mut all = Vec::new();
    for instance in instances {
        match replicas::show(client, Selector(instance.clone())).await? {
            Shown::Instance(_) => all.push(instance),
            Shown::Set(set) => {
                if set.instances.is_empty() && !out.is_json() {
                    out.line(&format!("set {instance} has no replicas"))?;
                }
                all.extend(set.instances.iter().map(|info| info.id.to_string()));
            }
        }
    }
    for instance in all {
        let info = one(client, instance.into(), state, deadline).await?;
        if out.is_json() {
            out.json_line(&info)?;
        } else {
            let name = info.name.clone().unwrap_or_else(|| info.id.to_string());
            out.line(&format!("instance {name} is {}", info.observed.word()))?;
        }
    }
    Ok(Exit::Ok)
}

/// Waits for one of them. They change at the same time, so one after the other is as quick.
async fn one(
    client: &Client,
    instance: Selector,
    state: WaitState,
    deadline: Option<Instant>,
) -> Result<RuntimeInfo, Failure> {
    loop {
        // Asked for first, so that nothing that happens after a look at it is missed.
        let mut events = client
            .stream(Request::Events {
                follow: true,
                after: None,
                since_ms: Some(format::now_ms()),
                instance: Some(instance.clone()),
            })
            .await?;
        loop {
            let info = look(client, instance.clone()).await?;
            match verdict(state, &info) {
                Some(true) => return Ok(info),
                Some(false) => return Err(in_vain(&info, state, "and can't be")),
                None => {}
            }
            let next = match deadline {
                Some(deadline) => timeout_at(deadline, events.next()).await,
                None => Ok(events.next().await),
            };
            match next {
                Ok(Some(Ok(_))) => {}
                // The daemon that has taken over is asked.
                Ok(Some(Err(ClientError::Replaced)) | None) => break,
                Ok(Some(Err(error))) => return Err(error.into()),
                Err(_) => {
                    let info = look(client, instance).await?;
                    return match verdict(state, &info) {
                        Some(true) => Ok(info),
                        _ => Err(in_vain(&info, state, "in time")),
                    };
                }
            }
        }
        // Nobody answers at once, if the daemon was killed.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn look(client: &Client, instance: Selector) -> Result<RuntimeInfo, Failure> {
    match client.request(Request::RuntimeShow { instance }).await? {
        Reply::Runtime(detail) => Ok(detail.info),
        _ => Err(Failure::unexpected_reply()),
    }
}

/// Whether it is in this state; false if it can't come there by itself any more.
const fn verdict(state: WaitState, info: &RuntimeInfo) -> Option<bool> {
    match (state, &info.observed) {
        (WaitState::Ready, Observed::Ready { .. })
        | (WaitState::Completed, Observed::Completed { .. })
        | (
            WaitState::Stopped,
            Observed::Stopped { .. } | Observed::Completed { .. } | Observed::Failed { .. },
        ) => Some(true),
        (WaitState::Stopped, Observed::Scheduled { .. }) => Some(true),
        (WaitState::Completed, Observed::Scheduled { .. }) => match &info.schedule {
            Some(ScheduleInfo { last: Some(run), .. }) => {
                Some(matches!(run.result, RunResult::Completed { .. }))
            }
            _ => None,
        },
        (WaitState::Ready, Observed::Completed { .. } | Observed::Failed { .. })
        | (WaitState::Completed, Observed::Failed { .. }) => Some(false),
        _ => None,
    }
}

fn in_vain(info: &RuntimeInfo, state: WaitState, how: &str) -> Failure {
    let name = info.name.clone().unwrap_or_else(|| info.id.to_string());
    let wanted = match state {
        WaitState::Ready => "ready",
        WaitState::Stopped => "stopped",
        WaitState::Completed => "completed",
    };
    Report {
        exit: Exit::Failed,
        code: "not-reached",
        message: format!("instance {name} is not {wanted} {how}"),
        causes: vec![crate::runtime::state(&info.observed, format::now_ms())],
        hint: Some(format!("see `orchestrator-cli runtime logs {name}`")),
    }
    .into()
}
