//! Users, groups and capabilities.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;

use orchestrator_proto::control::Exit;
use tests::{Daemon, binary, eventually, executable, skipped};

use super::{environment, is_root, open_daemon, refusal, says, start, status, text};

/// Of the user `nobody`, on most machines.
const NOBODY: u32 = 65534;

fn knows_nobody() -> bool {
    let user = nix::unistd::User::from_name("nobody").ok().flatten();
    let is_known = user.is_some_and(|user| user.uid.as_raw() == NOBODY);
    if !is_known {
        skipped("there is no user nobody with the number 65534");
    }
    is_known
}

#[test]
fn an_instance_of_another_user_is_that_user_alone_and_can_speak() {
    if !is_root() || !knows_nobody() {
        return;
    }
    let daemon = open_daemon();
    let says = says(&daemon);
    let probe = daemon.dir().join("probe");
    let out = daemon.dir().join("out");
    fs::create_dir(&out).unwrap();
    chown(&out, Some(NOBODY), None).unwrap();
    executable(&probe, format!("#!/bin/sh\nid -un > {}/by\n", text(&out)).as_bytes());
    let id = daemon.add([
        text(&says),
        "--name",
        "it",
        "--user",
        "nobody",
        "--ready-notify",
        "--live-exec",
        text(&probe),
        "--live-interval",
        "10ms",
        "--",
        "ready",
        "say:READY=1\\nSTATUS=heard",
    ]);
    // It is ready by its own word, and has connected.
    let pid = start(&daemon, "it");
    assert_eq!(daemon.info("it").status, "heard");
    eventually("it is connected", || (daemon.info("it").connections == 1).then_some(()));
    for (field, number) in [("Uid", NOBODY), ("Gid", group_of_nobody())] {
        assert_eq!(status(pid, field), [0; 4].map(|_| number.to_string()).join("\t"));
    }
    // As initgroups(3) has it: none of root's.
    assert_eq!(status(pid, "Groups"), group_of_nobody().to_string());
    for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    let environment = environment(pid);
    for variable in ["USER=nobody", "LOGNAME=nobody"] {
        assert!(environment.iter().any(|it| it == variable), "{variable} in {environment:?}");
    }
    // Its sockets are its own, and nobody else's.
    let plain = id.replace('-', "");
    for dialect in ["native", "veecle", "notify"] {
        let path = daemon.socket().with_extension("sock.d").join(format!("{plain}.{dialect}"));
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (NOBODY, 0o600), "{path:?}");
    }
    let control = fs::metadata(daemon.socket()).unwrap();
    assert_eq!((control.uid(), control.mode() & 0o777), (0, 0o600));
    // What belongs to it is executed in the same way.
    eventually("its probe has run", || {
        let by = fs::read_to_string(out.join("by")).ok()?;
        (by == "nobody\n").then_some(())
    });
    let shown = daemon.ok(["runtime", "show", "it"]);
    assert!(shown.lines().any(|line| line.starts_with("user") && line.ends_with("nobody")));
    // Root's daemon reaches it.
    daemon.ok(["runtime", "stop", "it"]);
    assert!(fs::metadata(format!("/proc/{pid}")).is_err());
}

fn group_of_nobody() -> u32 {
    nix::unistd::User::from_name("nobody").unwrap().unwrap().gid.as_raw()
}

#[test]
fn it_is_so_after_the_daemon_was_replaced_and_after_everything_was_killed() {
    if !is_root() || !knows_nobody() {
        return;
    }
    let mut daemon = open_daemon();
    let says = says(&daemon);
    daemon.add([
        text(&says),
        "--name",
        "it",
        "--user",
        "nobody",
        "--restart",
        "always",
        "--ready-runtime",
        "--",
        "ready",
    ]);
    let pid = start(&daemon, "it");
    daemon.replace_killed();
    eventually("it has connected again", || (daemon.info("it").connections == 1).then_some(()));
    assert_eq!(daemon.info("it").observed.pid(), Some(pid));
    // With the holder go the sockets that it kept; it connects to new ones.
    daemon.kill();
    daemon.launch();
    eventually("it has connected again", || (daemon.info("it").connections == 1).then_some(()));
    assert_eq!(daemon.info("it").observed.pid(), Some(pid));
    daemon.terminate();
    daemon.launch();
    let pid = eventually("it runs again", || daemon.info("it").observed.pid());
    eventually("it is ready again", || {
        (daemon.info("it").observed.word() == "ready").then_some(())
    });
    assert_eq!(status(pid, "Uid").split('\t').next().unwrap(), NOBODY.to_string());
}

#[test]
fn groups_by_name_and_by_number() {
    if !is_root() || !knows_nobody() {
        return;
    }
    let daemon = open_daemon();
    let add = |name: &str, args: &[&str]| {
        let all = ["/bin/sleep", "--name", name].into_iter().chain(args.iter().copied());
        daemon.add(all.chain(["--", "1000"]));
        let pid = start(&daemon, name);
        let ids = ["Uid", "Gid"].map(|id| status(pid, id).split('\t').next().unwrap().to_owned());
        (ids.join(" "), status(pid, "Groups"))
    };
    let is = |ids: &str, groups: &str| (ids.to_owned(), groups.to_owned());
    assert_eq!(
        add("a", &["--user", "65534", "--group", "7", "--groups", "8,9"]),
        is("65534 7", "8 9")
    );
    assert_eq!(add("b", &["--user", "4000000", "--group", "4000001"]), is("4000000 4000001", ""));
    assert_eq!(add("c", &["--user", "nobody", "--group", "7", "--groups", ""]), is("65534 7", ""));
    assert_eq!(add("d", &["--group", "7", "--groups", "8"]), is("0 7", "8"));
    let (ids, _) = add("e", &["--user", "root"]);
    assert_eq!(ids, "0 0");
}

#[test]
fn capabilities() {
    if !is_root() || !knows_nobody() {
        return;
    }
    let daemon = open_daemon();
    let add = |name: &str, args: &[&str]| {
        let all = ["/bin/sleep", "--name", name].into_iter().chain(args.iter().copied());
        daemon.add(all.chain(["--", "1000"]));
        let pid = start(&daemon, name);
        ["CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb"]
            .map(|set| u64::from_str_radix(&status(pid, set), 16).unwrap())
    };
    let own = u64::from_str_radix(&status(daemon.holder_pid(), "CapBnd"), 16).unwrap();
    let bind = 1 << 10;
    let user = ["--user", "nobody", "--ambient-caps", "CAP_NET_BIND_SERVICE"];
    assert_eq!(add("bind", &user), [bind, bind, bind, own, bind]);
    let user = [&user[..], &["--keep-caps", "net_bind_service", "--no-new-privs"]].concat();
    assert_eq!(add("bound", &user), [bind; 5]);
    let admin = 1 << 21 | 1 << 16;
    let rest = own & !admin;
    let dropped = add("dropped", &["--drop-caps", "CAP_SYS_ADMIN,cap_sys_module"]);
    assert_eq!(dropped, [rest, rest, 0, rest, 0]);
    assert_eq!(add("none", &["--keep-caps", ""]), [0; 5]);
    assert_eq!(add("kept", &["--keep-caps", "CAP_KILL"]), [1 << 5, 1 << 5, 0, 1 << 5, 0]);
}

#[test]
fn what_it_prints_it_can_open_again() {
    if !is_root() || !knows_nobody() {
        return;
    }
    let daemon = open_daemon();
    let script = "echo out > /dev/stdout; echo err > /dev/stderr";
    daemon.add(["/bin/sh", "--name", "it", "--user", "nobody", "--", "-c", script]);
    daemon.ok(["runtime", "start", "it"]);
    assert_eq!(daemon.exited("it"), Exit::Code(0), "{}", daemon.ok(["runtime", "logs", "it"]));
    assert_eq!(daemon.ok(["runtime", "stdout", "it"]), "out\n");
    assert_eq!(daemon.ok(["runtime", "stderr", "it"]), "err\n");
}

#[test]
fn who_can_not_be_had_is_told() {
    let daemon = open_daemon();
    let add = |name: &str, args: &[&str]| {
        let all = ["/bin/sleep", "--name", name].into_iter().chain(args.iter().copied());
        let said = daemon.cli(["runtime", "add"].into_iter().chain(all).chain(["--", "1000"]));
        assert_eq!(said.code, Some(0), "{said:?}");
    };
    add("unknown", &["--group", "no-such-group"]);
    let why = refusal(&daemon, "unknown");
    assert!(why.contains(r#"there is no group "no-such-group" on this machine"#), "{why}");
    assert_eq!(daemon.info("unknown").observed.word(), "failed");
    add("stranger", &["--user", "no-such-user"]);
    let why = refusal(&daemon, "stranger");
    if !is_root() || !knows_nobody() {
        return;
    }
    assert!(why.contains(r#"there is no user "no-such-user" on this machine"#), "{why}");
    add("number", &["--user", "4000000"]);
    let why = refusal(&daemon, "number");
    assert!(why.contains("no user 4000000 on this machine that would have a group"), "{why}");
    // As that user, not as root.
    let closed = daemon.dir().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    add("cwd", &["--user", "nobody", "--cwd", text(&closed)]);
    let why = refusal(&daemon, "cwd");
    let told = format!("in working directory {closed:?} as user nobody: Permission denied");
    assert!(why.contains(&told), "{why}");
    let input = closed.join("input");
    fs::write(&input, "x").unwrap();
    add("stdin", &["--user", "nobody", "--stdin", &format!("file:{}", text(&input))]);
    let why = refusal(&daemon, "stdin");
    let told = format!("can't open its standard input {input:?} as user nobody: Permission denied");
    assert!(why.contains(&told), "{why}");
    // The way to the sockets.
    fs::set_permissions(daemon.dir(), fs::Permissions::from_mode(0o700)).unwrap();
    add("way", &["--user", "nobody"]);
    let said = daemon.cli(["runtime", "start", "way"]);
    let told = "the user nobody can't get to its runtime sockets";
    assert!(said.code == Some(0) && said.stderr.contains(told), "{said:?}");
    assert!(said.stderr.contains(text(daemon.dir())), "{said:?}");
}

#[test]
fn an_ordinary_users_daemon_has_no_other_users() {
    if is_root() {
        // So that there is one.
        let own = fs::metadata(binary("orchestrator")).unwrap();
        let mut daemon = Daemon::prepare(&[]);
        chown(daemon.dir(), Some(NOBODY), None).unwrap();
        let mut look = std::process::Command::new("/usr/bin/test");
        look.arg("-x").arg(binary("orchestrator")).uid(NOBODY);
        if !look.status().is_ok_and(|it| it.success()) {
            skipped(&format!("others can't execute the daemon, which is of {}", own.uid()));
            return;
        }
        daemon.launch_as(NOBODY);
        refuses_others(&daemon, "nobody", &NOBODY.to_string());
    } else {
        let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap();
        let Some(own) = own else {
            skipped("nobody knows who this user is");
            return;
        };
        refuses_others(&Daemon::start(), &own.name, &own.uid.to_string());
    }
}

fn refuses_others(daemon: &Daemon, name: &str, number: &str) {
    for (at, own) in [name, number].into_iter().enumerate() {
        let instance = format!("own{at}");
        let add = ["runtime", "add", "/bin/sleep", "--name", &instance, "--user", own];
        let said = daemon.cli(add.into_iter().chain(["--", "1000"]));
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
        let pid = start(daemon, &instance);
        assert_eq!(status(pid, "Uid").split('\t').next().unwrap(), number);
    }
    // It may be able to by the time it is started: a warning.
    let said = daemon.cli(["runtime", "add", "/bin/sleep", "--name", "other", "--user", "root"]);
    let told = format!("the daemon runs as user {number} and can't execute anything as root");
    assert!(said.code == Some(0) && said.stderr.contains(&told), "{said:?}");
    assert!(refusal(daemon, "other").contains(&told));
    daemon.add(["/bin/sleep", "--name", "drop", "--drop-caps", "CAP_KILL"]);
    let why = refusal(daemon, "drop");
    let told = "can't drop the capabilities CAP_KILL: Operation not permitted (EPERM); the daemon \
                would need CAP_SETPCAP";
    assert!(why.contains(told), "{why}");
}
