//! Commands, executed by a real holder.

use super::*;
use crate::process::Kin;
use crate::process::kin;

async fn gone(pid: u32) {
    within_test(async {
        while kin(pid, 1, InstanceId::generate(), 0) != Kin::Gone {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn how_a_command_ended_and_its_last_line() {
    let asked = Asked::new();
    assert_eq!(asked.shell("exit 0", LONG).await, Ok(()));
    assert_eq!(asked.shell("exit 4", LONG).await.unwrap_err(), "exit code 4");
    let error = asked.shell("echo one; echo 'no disk' >&2; exit 2", LONG).await;
    assert_eq!(error.unwrap_err(), "exit code 2: no disk");
    let error = asked.shell("kill -9 $$", LONG).await.unwrap_err();
    assert_eq!(error, "signal 9 (SIGKILL)");
    let error = asked.ask(Check::Exec(vec!["/no/such/program".into()]), LONG).await.unwrap_err();
    assert!(error.contains("/no/such/program"), "{error}");
    // More than a pipe holds.
    let script = "head -c 2000000 /dev/zero | tr '\\0' x; echo; echo last; exit 1";
    assert_eq!(asked.shell(script, LONG).await.unwrap_err(), "exit code 1: last");
}

#[tokio::test]
async fn a_command_has_the_surroundings_of_its_instance() {
    let asked = Asked::new();
    asked.is(Observed::Ready { pid: 4711, since_ms: 0 });
    let script = format!(
        "test $COLOUR = blue && test $(pwd) = {} && test -z \"$NOTIFY_SOCKET$WATCHDOG_USEC\" \
         && test $MAINPID = 4711 && test $ORCHESTRATOR_RUN = {}",
        asked.dir.path().display(),
        FIRST_COMMAND + 3,
    );
    assert_eq!(asked.shell(&script, LONG).await, Ok(()));
}

#[tokio::test]
async fn nothing_is_left_of_a_command_that_hangs_or_of_what_one_leaves_behind() {
    let asked = Asked::new();
    let file = asked.dir.path().join("pids");
    let hangs = "trap '' TERM INT HUP; sleep 1000 & echo $$ $! > pids.new; mv pids.new pids; wait";
    assert_eq!(asked.shell(hangs, SHORT).await.unwrap_err(), "no answer within 200ms");
    for pid in text_of(&file).await.split_whitespace() {
        gone(pid.parse().unwrap()).await;
    }
    let leaves = "sleep 1000 >/dev/null 2>&1 & echo $! > left.new; mv left.new left";
    assert_eq!(asked.shell(leaves, LONG).await, Ok(()));
    gone(text_of(&asked.dir.path().join("left")).await.trim().parse().unwrap()).await;
}

#[tokio::test]
async fn one_probe_at_a_time_and_a_stop_command_does_not_wait_for_it() {
    let asked = Asked::new();
    let file = asked.dir.path().join("first");
    let first = sh("echo $$ > first.new; mv first.new first; sleep 1000");
    let first = tokio::spawn(asked.health.ask(&Check::Exec(first), LONG, 3));
    let pid: u32 = text_of(&file).await.trim().parse().unwrap();
    let error = asked.shell("exit 0", SHORT).await.unwrap_err();
    assert_eq!(error, "no answer within 200ms");
    assert_eq!(within_test(asked.health.run(&sh("exit 0"), 3)).await, Ok(()));
    // Nobody waits for the first one any more.
    first.abort();
    assert_eq!(asked.shell("exit 0", LONG).await, Ok(()));
    gone(pid).await;
}
