//! What holds for every manifest.

use proptest::prelude::*;

use super::{Fake, good};
use crate::control::*;
use crate::manifest::{entries, write};
use crate::{Millis, OsBytes, Size};

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z$:{}\"'\\\\ü\n\u{7f}\u{1}]{0,8}", "[A-Z]{1,3}"]
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9._-]{0,5}"
}

fn millis() -> impl Strategy<Value = Millis> {
    (10_u64..86_400_000).prop_map(Millis)
}

fn probe() -> impl Strategy<Value = Probe> {
    let check = prop_oneof![
        text().prop_map(Check::Http),
        text().prop_map(Check::Tcp),
        prop::collection::vec(text(), 0..3)
            .prop_map(|args| { Check::Exec([vec!["/bin/x y".to_owned()], args].concat()) }),
    ];
    (check, millis(), millis(), 1_u32.., 1_u32..).prop_map(
        |(check, interval, timeout, failures, successes)| Probe {
            check,
            interval,
            timeout,
            failures,
            successes,
        },
    )
}

fn restart() -> impl Strategy<Value = Restart> {
    let policy = prop_oneof![
        Just(RestartPolicy::Never),
        Just(RestartPolicy::OnFailure),
        Just(RestartPolicy::Always),
    ];
    let times = (millis(), millis(), millis(), millis());
    let numbers = (1_u32..=100, 0_u32..=100, 0_u32..=1000);
    (policy, times, numbers, any::<Vec<u8>>()).prop_map(
        |(
            policy,
            (delay, max_delay, reset_after, burst_within),
            (factor, jitter, burst),
            codes,
        )| {
            Restart {
                policy,
                delay,
                factor,
                max_delay,
                jitter,
                reset_after,
                burst,
                burst_within,
                success_exit_codes: codes,
            }
        },
    )
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![Just(Condition::Started), Just(Condition::Ready), Just(Condition::Completed)]
}

fn supervision() -> impl Strategy<Value = Supervision> {
    let readiness = prop_oneof![
        Just(Readiness::Running),
        Just(Readiness::Notify),
        Just(Readiness::Runtime),
        probe().prop_map(Readiness::Probe),
    ];
    let effect =
        prop_oneof![Just(OnFailure::Stop), Just(OnFailure::Restart), Just(OnFailure::Ignore)];
    // Names that no generated instance has, so that there is no circle.
    let requirement =
        ("[A-Z]:?", condition(), effect).prop_map(|(instance, condition, on_failure)| {
            Requirement { instance, condition, on_failure }
        });
    let after =
        ("[A-Z]", condition()).prop_map(|(instance, condition)| After { instance, condition });
    let step = (1..=64, 0_u64..1_000_000)
        .prop_map(|(signal, wait)| StopStep { signal: Signal(signal), wait: Millis(wait) });
    let lists = (
        prop::collection::vec(requirement, 0..3),
        prop::collection::vec(after, 0..3),
        prop::collection::vec(step, 1..9),
        prop::option::of(prop::collection::vec(text(), 0..2)),
    );
    let rest = (readiness, millis(), prop::option::of(probe()), millis());
    (restart(), rest, lists, (kind(), millis())).prop_map(
        |(
            restart,
            (readiness, start_timeout, liveness, watchdog),
            (requires, after, steps, command),
            (kind, run_timeout),
        )| {
            let command = command.map(|args| [vec!["/bin/quit".to_owned()], args].concat());
            let stop = Stop { command: command.unwrap_or_default(), steps };
            let kind = if restart.policy == RestartPolicy::Always { Kind::Service } else { kind };
            let run_timeout = if kind == Kind::Service { Millis::ZERO } else { run_timeout };
            Supervision {
                kind,
                restart,
                readiness,
                start_timeout,
                liveness,
                watchdog,
                requires,
                after,
                stop,
                run_timeout,
            }
        },
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    let expression = prop_oneof![Just("30 3 * * mon-fri"), Just("@daily"), Just("every 1m30s")];
    let zone = prop_oneof![Just(None), Just(Some("Europe/Berlin".to_owned()))];
    let overlap = prop_oneof![Just(Overlap::Skip), Just(Overlap::Queue), Just(Overlap::Replace)];
    let schedule = (expression, zone, overlap, any::<bool>()).prop_map(
        |(expression, time_zone, overlap, catch_up)| Schedule {
            time_zone,
            overlap,
            catch_up,
            ..Schedule::new(expression)
        },
    );
    prop_oneof![Just(Kind::Service), Just(Kind::Task), schedule.prop_map(Kind::Schedule)]
}

fn execution() -> impl Strategy<Value = Execution> {
    let names = || prop::collection::vec("[A-Z$]{1,3}", 0..3);
    let caps = || {
        prop::collection::btree_set(0_u8..41, 0..3)
            .prop_map(|caps| caps.into_iter().map(Capability).collect::<Vec<_>>())
    };
    let limits = prop::collection::btree_map(0_usize..16, prop::option::of(0_u64..99), 0..3);
    let users = (prop::option::of("[a-z$]{1,4}"), prop::option::of(names()));
    let rights = (any::<bool>(), any::<bool>(), caps(), caps(), prop::option::of(0_u32..=0o777));
    let scheduling = (prop::option::of(-20..=19), prop::collection::btree_set(0_u32..9, 0..4));
    let classes = (prop::option::of(0_u8..8), prop::option::of(1_u8..100));
    let rest = (prop::collection::vec((text(), any::<bool>()), 0..3), 0..3, names(), any::<bool>());
    (users, rights, limits, scheduling, classes, rest).prop_map(
        |(
            (user, groups),
            (no_new_privs, keep, caps, ambient_caps, umask),
            limits,
            (nice, cpus),
            (level, priority),
            (files, word, names, reads),
        )| {
            let limit = |(at, soft): (usize, Option<u64>)| {
                let resource = Resource::ALL[at].0;
                Rlimit { resource, soft, hard: soft.filter(|it| it % 2 == 0) }
            };
            let file = |(path, optional)| EnvFile { path: format!("/{path}"), optional };
            Execution {
                group: user.clone(),
                user,
                groups,
                umask: umask.map(Umask),
                no_new_privs,
                keep_caps: keep.then(|| caps.clone()),
                drop_caps: if keep { Vec::new() } else { caps },
                ambient_caps,
                rlimit: limits.into_iter().map(limit).collect(),
                nice,
                cpus: Some(Cpus(cpus.into_iter().collect())).filter(Cpus::is_good),
                io_class: level.map(IoClass::BestEffort),
                realtime: priority.map(Realtime::Rr),
                env_file: files.into_iter().map(file).collect(),
                inherit_env: match word {
                    _ if !names.is_empty() => InheritEnv::Names(names),
                    0 => InheritEnv::Clean,
                    1 => InheritEnv::None,
                    _ => InheritEnv::All,
                },
                stdin: if reads { Stdin::File("/${x}".into()) } else { Stdin::Null },
            }
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    let size = || prop::option::of((1_u64 << 20..1 << 40).prop_map(Size));
    let weight = || prop::option::of(1..=Limits::MAX_WEIGHT);
    let cpu = prop::option::of(CpuQuota::RANGE.prop_map(CpuQuota));
    let rest = (weight(), prop::option::of(1..=Limits::MAX_PIDS), weight(), any::<bool>());
    (size(), size(), size(), cpu, rest).prop_map(|(a, b, swap_max, cpu, rest)| Limits {
        memory_max: a.max(b),
        memory_high: if a.is_some() { a.min(b) } else { None },
        swap_max,
        cpu,
        cpu_weight: rest.0,
        pids_max: rest.1,
        io_weight: rest.2,
        limits_required: rest.3,
    })
}

fn log() -> impl Strategy<Value = LogRules> {
    let size = prop::option::of((LogRules::MIN_SIZE.0..=LogRules::MAX_SIZE.0).prop_map(Size));
    let age = (0..=LogRules::MAX_AGE.0).prop_map(Millis);
    let keep = prop::option::of(1..=LogRules::MAX_KEEP);
    (size, age, keep, any::<bool>(), any::<bool>()).prop_map(
        |(max_size, max_age, keep, packs, drops)| LogRules {
            max_size,
            max_age,
            keep,
            compress: if packs { Compression::Zstd } else { Compression::None },
            when_full: if drops { WhenFull::Drop } else { WhenFull::Block },
        },
    )
}

/// Each at another address.
fn listen() -> impl Strategy<Value = Vec<Listen>> {
    let name = "([a-z.]{1,3}=)?";
    let one = prop_oneof![
        (name, 1_u16..=9999).prop_map(|(name, port)| format!("{name}tcp:127.0.0.1:{port}")),
        (name, 1_u16..=9999).prop_map(|(name, port)| format!("{name}udp:[::1]:{port}")),
        (name, "[a-z$,=]{1,6}", "(,mode=0[0-7]{3})?")
            .prop_map(|(name, path, mode)| format!("{name}unix:/{path}{mode}")),
        (name, "[a-z]{1,6}").prop_map(|(name, path)| format!("{name}unix-datagram:/{path}")),
    ];
    prop::collection::vec(one, 0..4).prop_map(|texts| {
        let mut all = Vec::<Listen>::new();
        for listen in texts.iter().map(|text| text.parse::<Listen>().unwrap()) {
            if all.iter().all(|other| other.place() != listen.place()) {
                all.push(listen);
            }
        }
        all
    })
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let priority = prop_oneof![Just(Priority::High), Just(Priority::Normal), Just(Priority::Low)];
    let env = prop::collection::btree_map("[A-Z.]{1,4}", text(), 0..3);
    let basics = (name(), text(), prop::collection::vec(text(), 0..3), env, listen());
    let state =
        (prop::option::of(priority), any::<bool>(), any::<bool>(), prop::option::of(text()));
    let replicas = prop::option::of((0..=Replicas::MAX).prop_map(Replicas));
    (basics, state, supervision(), execution(), (limits(), replicas), log()).prop_map(
        |(
            (name, path, args, env, listen),
            (priority, runs, privileged, cwd),
            supervision,
            execution,
            (limits, replicas),
            log,
        )| {
            // A socket is for one instance.
            let replicas = replicas.filter(|_| listen.is_empty());
            let spec = RuntimeSpec {
                id: None,
                name: Some(name),
                program: Program::Path(format!("/{path}").into()),
                args: args.into_iter().map(Into::into).collect(),
                env: env.into_iter().map(|(k, v)| (OsBytes::from(k), v.into())).collect(),
                cwd: cwd.map(|cwd| format!("/x{cwd}").into()),
                privileged,
                supervision,
                log,
                execution: execution.into(),
                limits: limits.into(),
                listen,
                replicas,
            };
            let desired = if runs { Desired::Running } else { Desired::Stopped };
            Wanted { spec, desired, priority }
        },
    )
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = Fake::new(&text).read();
    }

    #[test]
    fn no_text_that_looks_like_one_panics(
        text in "(\\[instance\\.[a-c]\\]\n|\\[\\[link\\]\\]\n|\\[defaults\\]\n|(program|args|restart|stop|requires|to|env|include)( = |\\.)|\"[a$:{}]{0,4}\"\n|[0-9]{1,3}\n|\\{|\\}|\\[|\\]|,|a = 1\n){0,24}"
    ) {
        let _ = Fake::new(&text).read();
    }

    #[test]
    fn what_is_written_is_read_as_the_same(
        instances in prop::collection::vec(wanted(), 0..3),
        policy in prop_oneof![Just(Policy::Block), Just(Policy::DropOldest), Just(Policy::DropNewest)],
        capacity in 1_u32..=LinkSpec::MAX_CAPACITY,
        history in prop::option::of(1..=LinkSpec::MAX_HISTORY),
        (transport, spin_us) in (
            prop::sample::select(vec![None, Some(Transport::Routed), Some(Transport::Shm)]),
            1..=LinkSpec::MAX_SPIN_US,
        ),
        block_timeout in prop::option::of((1_u64..86_400_000).prop_map(Millis)),
        type_name in "[a-z$\"]{1,9}",
        udp in any::<bool>(),
    ) {
        let mut instances = instances;
        instances.dedup_by_key(|it| it.label());
        instances.sort_by_key(Wanted::label);
        instances.dedup_by_key(|it| it.label());
        // A socket is of one instance.
        let mut places = Vec::new();
        for listen in instances.iter_mut().map(|it| &mut it.spec.listen) {
            listen.retain(|listen| !places.contains(&listen.place()));
            places.extend(listen.iter().map(Listen::place));
        }
        let sets = instances.iter().filter(|it| it.spec.replicas.is_some());
        let sets: Vec<_> = sets.map(Wanted::label).collect();
        let replica_of = |it: &Wanted| Replica::of_name(&it.label()).map(|it| it.set);
        instances.retain(|it| !replica_of(it).is_some_and(|set| sets.contains(&set)));
        let to = match udp {
            true => TargetSpec::Udp("[::1]:9".into()),
            false => TargetSpec::Instance("b".into()),
        };
        let link = LinkSpec {
            from: (!udp).then(|| "a".into()),
            type_name,
            to,
            policy: Some(policy).filter(|it| *it != Policy::default()),
            capacity: Some(capacity).filter(|it| *it != LinkSpec::DEFAULT_CAPACITY),
            block_timeout: (policy == Policy::Block).then_some(block_timeout).flatten(),
            history: history.filter(|_| !udp),
            transport,
            spin_us: (transport == Some(Transport::Shm)).then_some(spin_us),
        };
        let set = WantedSet { instances, links: vec![link] };
        let text = write(&set).unwrap();
        prop_assert_eq!(good(&text).set, set, "{}", text);
    }

    #[test]
    fn two_that_differ_have_other_entries(a in wanted(), b in wanted()) {
        let mut b = b;
        b.spec.name.clone_from(&a.spec.name);
        prop_assert_eq!(entries(&a) == entries(&b), a == b);
    }
}
