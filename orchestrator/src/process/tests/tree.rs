//! Stops, and what becomes of everything an instance started.

use orchestrator_proto::control::Desired;

use super::*;

#[tokio::test]
async fn exits_are_reported_as_they_were() {
    for (script, exit) in [
        ("exit 0", Exit::Code(0)),
        ("exit 7", Exit::Code(7)),
        ("exit 255", Exit::Code(255)),
        ("kill -KILL $$", signal(KILL)),
        ("kill -USR1 $$", signal(10)),
        // A real-time signal, which has no name.
        ("kill -40 $$", signal(40)),
    ] {
        let kept = Kept::shell(script, LONG);
        let pid = kept.start().await;
        assert_eq!(kept.exited().await, exit, "{script}");
        assert_eq!(Stat::of(pid), None, "a zombie");
        assert_eq!(kept.keeper.view().desired, Desired::Running);
        assert!(!kept.stop().await);
    }
}

#[tokio::test]
async fn who_ignores_sigterm_is_killed_after_its_timeout() {
    for kernel in kernels() {
        let script = sh("trap '' TERM; echo ready; while :; do sleep 1000; done");
        let mut kept = Kept::new(kernel, script, SHORT);
        let pid = kept.start().await;
        assert_eq!(kept.line().await, "ready");
        let before = std::time::Instant::now();
        assert!(kept.stop().await);
        assert!(before.elapsed() >= SHORT);
        assert_eq!(kept.last_exit(), signal(KILL));
        assert!(kept.happened(&EventKind::Killed));
        assert_eq!(Stat::of(pid), None);
    }
}

#[tokio::test]
async fn every_process_of_the_group_gets_the_signal() {
    for kernel in kernels() {
        // The shells would also say that a sleep was terminated.
        let script = sh("
            exec 2>/dev/null
            (trap 'echo child got it; exit' TERM; echo ready; while :; do sleep 0.01; done) &
            trap 'echo parent got it; wait; exit 5' TERM; echo ready; wait");
        let mut kept = Kept::new(kernel, script, LONG);
        kept.start().await;
        assert_eq!((kept.line().await, kept.line().await), ("ready".into(), "ready".into()));
        assert!(kept.stop().await);
        assert_eq!(kept.last_exit(), Exit::Code(5));
        let mut said = [kept.line().await, kept.line().await];
        said.sort();
        assert_eq!(said, ["child got it", "parent got it"]);
    }
}

#[tokio::test]
async fn what_outlives_its_leader_is_stopped() {
    for kernel in kernels() {
        let mut kept = Kept::new(kernel, sh("sleep 1000 & echo $!; exit 3"), LONG);
        kept.start().await;
        let grandchild = kept.number().await;
        assert_eq!(kept.exited().await, Exit::Code(3));
        assert!(!is_alive(grandchild));
        assert!(kept.happened(&EventKind::Stopping { signal: TERM }));
        assert!(!kept.happened(&EventKind::Killed));
    }
}

#[tokio::test]
async fn what_outlives_its_leader_and_does_not_listen_is_killed() {
    for kernel in kernels() {
        let script = sh("(trap '' TERM; echo ready; exec sleep 1000) & wait");
        let mut kept = Kept::new(kernel, script, SHORT);
        kept.start().await;
        assert_eq!(kept.line().await, "ready");
        assert!(kept.stop().await);
        assert_eq!(kept.last_exit(), signal(TERM));
        assert!(kept.happened(&EventKind::Killed));
    }
}

#[tokio::test]
async fn what_outlives_its_leader_is_all_that_is_stopping() {
    for kernel in kernels() {
        let script = sh("(trap '' TERM; echo ready; exec sleep 1000) & wait");
        let mut kept = Kept::new(kernel, script, LONG);
        let pid = kept.start().await;
        assert_eq!(kept.line().await, "ready");
        let stop = tokio::spawn({
            let keeper = kept.keeper.clone();
            async move { keeper.stop().await }
        });
        // The leader goes at once, its child does not.
        let mut views = kept.keeper.watch();
        let left = |view: &View| matches!(view.observed, Observed::Stopping { pid: None, .. });
        drop(within(views.wait_for(left)).await.unwrap());
        assert_eq!(Stat::of(pid), None, "a zombie");
        assert_eq!(within(kept.keeper.kill()).await, Ok(true));
        assert_eq!(within(stop).await.unwrap(), Ok(true));
        assert_eq!(kept.last_exit(), signal(TERM));
    }
}

#[tokio::test]
async fn a_double_fork_does_not_escape() {
    for kernel in kernels() {
        let script = sh("(sleep 1000 & echo $!) & wait; echo forked; exec sleep 1000");
        let mut kept = Kept::new(kernel, script, LONG);
        kept.start().await;
        let orphan = kept.number().await;
        assert_eq!(kept.line().await, "forked");
        assert!(kept.stop().await);
        assert!(!is_alive(orphan));
    }
}

fn comm(pid: i32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.unwrap_or_default().trim().to_owned()
}

/// A member that has ended, but whose parent, out of our reach, never collects it.
#[tokio::test]
async fn a_zombie_of_somebody_else_is_not_waited_for() {
    for kernel in kernels() {
        // The inner subshell makes a child, leaves the group by setsid(2), has cleared its
        // environment, and loses its parent.
        let script = sh("
            ((sleep 1000 & echo $!; exec env -i setsid sleep 1000) &); exec sleep 1000");
        let mut kept = Kept::new(kernel, script, LONG);
        let main = kept.start().await;
        let member = kept.number().await;
        let parent = Stat::of(member).unwrap().parent;
        let holder = Stat::of(main).unwrap().parent;
        within(async {
            let is_lost = || Stat::of(parent).is_some_and(|stat| stat.parent == holder);
            while comm(parent) != "sleep" || comm(member) != "sleep" || !is_lost() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(kept.stop().await);
        assert!(!is_alive(member));
        assert!(Stat::of(member).is_some(), "this is about a zombie");
        assert!(is_alive(parent));
        kill(parent);
    }
}

#[tokio::test]
async fn a_program_that_closes_its_output_runs_on() {
    let mut kept = Kept::shell("exec >&- 2>&-; exec sleep 1000", LONG);
    let pid = kept.start().await;
    // The keeper's probe still holds a sender, so ask the kernel: the pipes are closed.
    let files = format!("/proc/{pid}/fd");
    within(async {
        while std::fs::read_dir(&files).unwrap().count() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(kept.lines.try_recv().is_err());
    assert_eq!(kept.keeper.view().observed.word(), "ready");
    assert!(kept.stop().await);
}

#[tokio::test]
async fn a_slow_stop_delays_nobody_else() {
    let mut slow = Kept::shell("trap '' TERM; echo ready; while :; do sleep 1000; done", LONG);
    slow.start().await;
    slow.line().await;
    let stop = tokio::spawn({
        let keeper = slow.keeper.clone();
        async move { keeper.stop().await }
    });
    let mut views = slow.keeper.watch();
    drop(within(views.wait_for(|view| view.observed.word() == "stopping")).await.unwrap());
    for _ in 0..5 {
        let quick = Kept::shell("exec sleep 1000", LONG);
        quick.start().await;
        assert!(quick.stop().await);
    }
    assert!(!stop.is_finished());
    assert_eq!(within(slow.keeper.kill()).await, Ok(true));
    assert_eq!(within(stop).await.unwrap(), Ok(true));
    assert_eq!(slow.last_exit(), signal(KILL));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_starts_and_stops() {
    let mut tasks = Vec::new();
    for _ in 0..10 {
        tasks.push(tokio::spawn(async {
            let kept = Kept::shell("exec sleep 1000", LONG);
            let mut pids = Vec::new();
            for _ in 0..10 {
                let pid = kept.start().await;
                assert!(kept.stop().await);
                assert_eq!(Stat::of(pid), None, "a zombie");
                pids.push(pid);
            }
            assert_eq!(kept.keeper.view().starts, 10);
            assert_eq!(kept.last_exit(), signal(TERM));
            within(kept.keeper.retire()).await.unwrap();
        }));
    }
    for task in tasks {
        within(task).await.unwrap();
    }
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_leaves_nothing() {
    let linux = linux();
    // Nobody else's.
    let long = format!("9{}", std::process::id());
    // Both ends of the race: dropped before the program is executed, and after.
    for _ in 0..50 {
        let mut spawn = linux.spawn(sh(&format!("exec sleep {long}")));
        tokio::select! {
            biased;
            spawned = &mut spawn => kill(spawned.unwrap().process.pid().cast_signed()),
            () = tokio::task::yield_now() => {}
        }
    }
    let sleeps = || {
        procfs::pids().unwrap().into_iter().any(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.ends_with(format!("\0{long}\0").as_bytes()) && is_alive(pid)
        })
    };
    // The last orders may still be under way; one more goes through the same queue.
    let last = Kept::shell("exit 0", LONG);
    last.start().await;
    last.exited().await;
    within(async {
        while sleeps() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
