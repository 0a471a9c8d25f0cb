//! What can't be.

use orchestrator_proto::control::{Capability, Cpus, Execution, IoClass, Request, RuntimeSpec};
use tests::Daemon;

use super::refusal;

#[test]
fn options_that_mean_nothing_are_refused_with_what_to_write() {
    let daemon = Daemon::start();
    let cases = [
        ("--umask=999", "write it in octal"),
        ("--keep-caps=CAP_NOPE", "is not a capability"),
        ("--drop-caps=1", "is not a capability"),
        ("--ambient-caps=", "is not a capability"),
        ("--rlimit=nofile", "write RESOURCE=SOFT:HARD"),
        ("--rlimit=files=1", "there are cpu, fsize"),
        ("--rlimit=nofile=2:1", "the first, which holds, is more"),
        ("--rlimit=nofile=-1", "is no limit"),
        ("--nice=20", "-20..=19"),
        ("--nice=low", "invalid"),
        ("--cpus=", "write their numbers"),
        ("--cpus=3-1", "write their numbers"),
        ("--cpus=99999", "the kernel has 8192 at most"),
        ("--io-class=fast", "use realtime, best-effort or idle"),
        ("--io-class=idle:3", "use realtime, best-effort or idle"),
        ("--realtime=fifo", "use fifo or rr with a priority"),
        ("--realtime=fifo:100", "use fifo or rr with a priority"),
        ("--env-file=", "can't make"),
        ("--inherit-env=A,,B", "write clean, none, all"),
        ("--stdin=tty", "write null or file:PATH"),
    ];
    for (option, told) in cases {
        let said = daemon.cli(["runtime", "add", "/bin/true", option]);
        assert!(said.code == Some(2) && said.stderr.contains(told), "{option}: {said:?}");
    }
    let both = ["--keep-caps", "CAP_KILL", "--drop-caps", "CAP_CHOWN"];
    let said = daemon.cli(["runtime", "add", "/bin/true"].into_iter().chain(both));
    assert_eq!(said.code, Some(2), "{said:?}");
    // The daemon says these.
    let cases: [(&[&str], &str); 5] = [
        (&["--user", ""], "is not the name of a user"),
        (&["--rlimit", "core=1", "--rlimit", "core=2"], "two limits for core"),
        (&["--ambient-caps", "CAP_KILL", "--drop-caps", "CAP_KILL"], "can't be dropped"),
        (&["--inherit-env", "NOTIFY_SOCKET"], "the daemon's own"),
        (&["--groups", "a:b"], "is not the name of a group"),
    ];
    for (options, told) in cases {
        let said = daemon.cli(["runtime", "add", "/bin/true"].iter().chain(options));
        assert!(said.code == Some(1) && said.stderr.contains(told), "{options:?}: {said:?}");
    }
    assert_eq!(daemon.json(["runtime", "list"])["runtimes"].as_array().unwrap().len(), 0);
}

#[test]
fn values_that_no_option_can_say_are_refused_too() {
    let daemon = Daemon::start();
    let bad = [
        Execution { nice: Some(i32::MIN), ..Execution::default() },
        Execution { cpus: Some(Cpus(vec![u32::MAX])), ..Execution::default() },
        Execution { io_class: Some(IoClass::Realtime(255)), ..Execution::default() },
        Execution { drop_caps: vec![Capability(255)], ..Execution::default() },
    ];
    for execution in bad {
        let spec = RuntimeSpec { execution: execution.into(), ..RuntimeSpec::new("/bin/true") };
        let error = daemon.request(Request::RuntimeAdd(spec)).unwrap_err().to_string();
        assert!(error.contains("is not") || error.contains("processors") || error.contains("no"));
    }
}

#[test]
fn what_the_kernel_refuses_is_told_with_what_it_was() {
    let daemon = Daemon::start();
    daemon.add(["/bin/true", "--name", "cpus", "--cpus", "8191"]);
    let why = refusal(&daemon, "cpus");
    let told = "can't have it run on the processors 8191: Invalid argument (EINVAL); none of them \
                is there";
    assert!(why.contains(told), "{why}");
    // No more than fs.nr_open, whoever asks.
    daemon.add(["/bin/true", "--name", "files", "--rlimit", "nofile=infinity"]);
    let why = refusal(&daemon, "files");
    let told = "can't set its limits to nofile=infinity: Operation not permitted (EPERM)";
    assert!(why.contains(told), "{why}");
    // Nothing is left, and others start.
    daemon.add(["/bin/sleep", "--name", "nap", "--", "1000"]);
    super::start(&daemon, "nap");
    assert_eq!(daemon.processes().len(), 1);
}
