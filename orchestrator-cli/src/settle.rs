//! Waiting until what was applied is so.

use std::collections::HashMap;
use std::time::Duration;

use orchestrator_proto::client::{Client, ClientError};
use orchestrator_proto::control::{
    ChangeKind, Desired, Effect, Kind, Observed, Plan, Reply, Request, RuntimeInfo, Wanted,
    WantedSet,
};
use orchestrator_proto::{InstanceId, Millis};
use tokio::time::{Instant, timeout_at};

use crate::failure::{Exit, Failure, Report};
use crate::{format, runtime};

/// Events that come so soon after each other are one reason to look.
const TOGETHER: Duration = Duration::from_millis(20);

/// The most instances that are told of one by one.
const MAX_TOLD: usize = 50;

/// All instances.
pub(crate) async fn list(client: &Client) -> Result<Vec<RuntimeInfo>, Failure> {
    match client.request(Request::RuntimeList).await? {
        Reply::Runtimes(all) => Ok(all),
        _ => Err(Failure::unexpected_reply()),
    }
}

/// Waits until all that is wanted is as it should be, or can't come there any more, or it takes
/// too long. `before` is what was there before it was applied.
pub(crate) async fn wait(
    client: &Client,
    wanted: &WantedSet,
    plan: &Plan,
    before: &[RuntimeInfo],
    timeout: Millis,
) -> Result<(), Failure> {
    let deadline = Instant::now().checked_add(timeout.duration()).filter(|_| timeout.0 > 0);
    let goal = Goal::new(wanted, plan, before);
    loop {
        // Asked for first, so that nothing that happens after a look is missed.
        let since_ms = Some(format::now_ms());
        let request = Request::Events { follow: true, after: None, since_ms, instance: None };
        let mut events = client.stream(request).await?;
        loop {
            let look = goal.look(&list(client).await?);
            if look.is_over() {
                return look.verdict("and can't be");
            }
            let next = match deadline {
                Some(deadline) => timeout_at(deadline, events.next()).await,
                None => Ok(events.next().await),
            };
            match next {
                Ok(Some(Ok(_))) => {
                    let soon = Instant::now() + TOGETHER;
                    while let Ok(Some(Ok(_))) = timeout_at(soon, events.next()).await {}
                }
                // The daemon that has taken over is asked.
                Ok(Some(Err(ClientError::Replaced)) | None) => break,
                Ok(Some(Err(error))) => return Err(error.into()),
                Err(_) => return goal.look(&list(client).await?).verdict("in time"),
            }
        }
        // Nobody answers at once, if the daemon was killed.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What is waited for.
struct Goal<'a> {
    wanted: Vec<Wanted>,
    /// Those that are executed anew, as they were before.
    anew: HashMap<String, Option<&'a RuntimeInfo>>,
    removed: Vec<InstanceId>,
}

impl<'a> Goal<'a> {
    fn new(wanted: &'a WantedSet, plan: &Plan, before: &'a [RuntimeInfo]) -> Self {
        let each = wanted.instances.iter();
        let each = each.flat_map(|it| it.replicas().unwrap_or_else(|| vec![it.clone()]));
        let anew = plan.instances.iter().filter(|it| {
            it.kind != ChangeKind::Remove && matches!(it.effect, Effect::Start | Effect::Restart)
        });
        let anew = anew.map(|it| {
            let id = || it.id.map(|id| id.to_string()).unwrap_or_default();
            let label = it.name.clone().unwrap_or_else(id);
            (label, before.iter().find(|info| Some(info.id) == it.id))
        });
        let removed = plan.instances.iter().filter(|it| it.kind == ChangeKind::Remove);
        Self {
            wanted: each.collect(),
            anew: anew.collect(),
            removed: removed.filter_map(|it| it.id).collect(),
        }
    }

    fn look(&self, all: &[RuntimeInfo]) -> Look {
        let by_label: HashMap<_, _> = all
            .iter()
            .flat_map(|it| {
                [(it.id.to_string(), it)].into_iter().chain(it.name.clone().map(|name| (name, it)))
            })
            .collect();
        let mut look = Look::default();
        for wanted in &self.wanted {
            let label = wanted.label();
            let Some(info) = by_label.get(&label) else {
                look.lost.push((label, "it has been removed".to_owned()));
                continue;
            };
            let before = self.anew.get(&label).copied().flatten();
            let why = || (label.clone(), runtime::state(&info.observed, format::now_ms()));
            match stage(wanted, info, before) {
                Stage::There => {}
                Stage::Coming => look.coming.push(why()),
                Stage::Waiting => look.waiting.push(why()),
                Stage::Lost => look.lost.push(why()),
            }
        }
        for info in all.iter().filter(|info| self.removed.contains(&info.id)) {
            let label = info.name.clone().unwrap_or_else(|| info.id.to_string());
            let state = runtime::state(&info.observed, format::now_ms());
            look.coming.push((label, format!("it is being removed: {state}")));
        }
        look
    }
}

/// How far one is.
enum Stage {
    There,
    Coming,
    /// For others.
    Waiting,
    Lost,
}

fn stage(wanted: &Wanted, info: &RuntimeInfo, before: Option<&RuntimeInfo>) -> Stage {
    // As long as it is as it was, it is about to be executed anew.
    let is_old = before.is_some_and(|before| {
        before.starts == info.starts
            && (before.observed == info.observed || info.observed.is_active())
    });
    let is_task = wanted.spec.supervision.kind != Kind::Service;
    match (&info.observed, wanted.desired) {
        // As it was before, perhaps: it has not to be executed for that.
        (Observed::Scheduled { .. }, Desired::Running) => Stage::There,
        (_, Desired::Running) if is_old => Stage::Coming,
        (observed, Desired::Stopped) if observed.is_active() => Stage::Coming,
        (_, Desired::Stopped) => Stage::There,
        (Observed::Completed { .. }, _) => Stage::There,
        // Whatever its run comes to.
        _ if wanted.spec.supervision.kind.schedule().is_some() => Stage::There,
        // A task has then only begun.
        (Observed::Ready { .. }, _) if !is_task => Stage::There,
        (Observed::Waiting { .. }, _) => Stage::Waiting,
        (Observed::Failed { .. }, _) => Stage::Lost,
        (Observed::Stopped { .. }, _) if info.desired == Desired::Stopped => Stage::Lost,
        _ => Stage::Coming,
    }
}

/// Those that are not there, each with why.
#[derive(Default)]
struct Look {
    coming: Vec<(String, String)>,
    waiting: Vec<(String, String)>,
    lost: Vec<(String, String)>,
}

impl Look {
    /// Whether nothing is going to change by itself. Those that wait for one that is lost wait in
    /// vain.
    fn is_over(&self) -> bool {
        self.coming.is_empty() && (self.waiting.is_empty() || !self.lost.is_empty())
    }

    fn verdict(self, how: &str) -> Result<(), Failure> {
        let all: Vec<_> = self.lost.into_iter().chain(self.coming).chain(self.waiting).collect();
        let Some((first, _)) = all.first() else {
            return Ok(());
        };
        let are = if all.len() == 1 { "is" } else { "are" };
        let count = format::count(all.len() as u64, "instance");
        let message = format!("{count} {are} not as wanted {how}");
        let hint = Some(format!("see `orchestrator-cli runtime logs {first}`"));
        let more = all.len().saturating_sub(MAX_TOLD);
        let mut causes: Vec<_> =
            all.iter().take(MAX_TOLD).map(|(name, why)| format!("{name}: {why}")).collect();
        if more > 0 {
            causes.push(format!("and {more} more"));
        }
        let report = Report::new(Exit::Failed, "not-reached", message, None);
        Err(Report { causes, hint, ..report }.into())
    }
}
