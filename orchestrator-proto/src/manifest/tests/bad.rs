//! Bad manifests: each is refused with what is wrong, where, and what to do.

use super::Fake;
use crate::manifest::MAX_PROBLEMS;

fn problems(fake: &Fake) -> Vec<String> {
    let problems = fake.read().expect_err("it should be refused");
    assert_eq!(problems.more, 0);
    let shown = problems.all.iter().map(ToString::to_string);
    shown.map(|line| line.replace("/etc/orchestrator.toml:", "")).collect()
}

#[track_caller]
fn bad(text: &str, expected: &[&str]) {
    assert_eq!(problems(&Fake::new(text)), expected, "{text}");
}

/// An instance with these keys, the first of them in line 3.
#[track_caller]
fn bad_keys(keys: &str, expected: &[&str]) {
    bad(&format!("[instance.a]\nprogram = \"/a\"\n{keys}"), expected);
}

#[test]
fn what_is_not_toml() {
    bad("[instance.a", &["1:12: this is not TOML: unclosed table, expected `]`"]);
    bad("a = 1\na = 2", &["2:1: this is not TOML: duplicate key"]);
}

#[test]
fn misspelt_keys() {
    bad("instances = {}", &["1:1: there is no key \"instances\" here; did you mean `instance`?"]);
    bad_keys("restrat = 1", &["3:1: there is no key \"restrat\" here; did you mean `restart`?"]);
    bad_keys(
        "Stop_Timeout = 1",
        &["3:1: there is no key \"Stop_Timeout\" here; did you mean `stop-timeout`?"],
    );
    bad_keys(
        "restart = { dealy = 1 }",
        &["3:13: there is no key \"dealy\" here; did you mean `delay`?"],
    );
    bad(
        "[[link]]\ntype = \"T\"\nto = \"a\"\nqueue = 1",
        &["4:1: there is no key \"queue\" here; there are from, type, to, policy, capacity, \
           block-timeout, history, transport, spin-us"],
    );
}

#[test]
fn flags_that_are_part_of_a_key_here() {
    bad_keys(
        "ready-tcp = \"a:1\"\nrestart-delay = 1\nready-notify = true",
        &[
            "3:1: there is no key \"ready-tcp\" here; write readiness = { tcp = … }",
            "4:1: there is no key \"restart-delay\" here; write restart = { delay = … }",
            "5:1: there is no key \"ready-notify\" here; write readiness = \"notify\"",
        ],
    );
}

#[test]
fn wrong_types() {
    bad_keys(
        "args = \"x\"\nprivileged = \"yes\"\nenv = { A = 1 }\nkind = 3\nliveness = \"x\"",
        &[
            "3:8: a list of texts in brackets is expected here, not a text",
            "4:14: true or false is expected here, not a text",
            "5:13: a text in quotes is expected here, not a whole number",
            "6:8: a text in quotes is expected here, not a whole number",
            "7:12: a table is expected here, not a text",
        ],
    );
    bad(
        "instance = 1\nlink = { a = 1 }\n",
        &[
            "1:12: a table is expected here, not a whole number",
            "2:8: a list of links, each as [[link]], in brackets is expected here, not a table",
        ],
    );
    bad_keys(
        "watchdog = 1.5\nstart-timeout = true",
        &[
            "3:12: a time such as \"10s\" is expected here, not a number with a point",
            "4:17: a time such as \"10s\" is expected here, not true or false",
        ],
    );
}

#[test]
fn values_out_of_range() {
    bad_keys(
        "restart = { factor = 0, jitter = 101, burst = 1001, delay = \"2x\" }\nsuccess-exit-codes = [0, 256, -1]",
        &[
            "3:22: 0 is not 1 to 100",
            "3:34: 101 is not 0 to 100",
            "3:47: 1001 is not 0 to 1000",
            "3:61: \"2x\" is not a time; write 500ms, 10s, 2m, 1h, 1d, 1m30s, or a number of seconds",
            "4:26: 256 is not 0 to 255",
            "4:31: -1 is not 0 to 255",
        ],
    );
    bad_keys(
        "start-timeout = \"400d\"\nstop-timeout = \"2d\"",
        &["3:17: 400d is more than a year", "4:1: it may take a day at most to stop"],
    );
    bad_keys(
        "readiness = { tcp = \"a:1\", interval = \"1ms\", failures = 0 }",
        &["3:28: interval is at least 10ms", "3:57: 0 is not 1 to 4294967295"],
    );
    bad(
        "[[link]]\ntype = \"\"\nto = \"udp:x\"\ncapacity = 0",
        &[
            "2:8: a type name has 1 to 255 bytes",
            "3:6: \"udp:x\" is not a target; write udp:HOST:PORT",
            "4:12: 0 is not 1 to 1048576",
        ],
    );
}

#[test]
fn logs_that_can_not_be_kept() {
    bad_keys(
        "log-max-size = \"63KiB\"\nlog-max-age = \"400d\"\nlog-keep = 0\n\
         log-compress = \"zst\"\nlog-when-full = \"wait\"",
        &[
            "3:1: log-max-size: 63KiB is not 64KiB to 64GiB",
            "4:15: 400d is more than a year",
            "5:12: 0 is not 1 to 10000",
            "6:16: \"zst\" is none of none, zstd; did you mean `zstd`?",
            "7:17: \"wait\" is none of block, drop",
        ],
    );
    bad_keys(
        "log-max-size = \"8 MiB\"\nlog-keep = \"4\"\nlog-compress = true",
        &[
            "3:16: \"8 MiB\" is not a size; write 64KiB, 8MiB, 1GiB, 500kB, 10MB, or a number of \
             bytes",
            "4:12: a whole number is expected here, not a text",
            "5:16: a text in quotes is expected here, not true or false",
        ],
    );
    bad_keys(
        "log_max_size = 1",
        &["3:1: there is no key \"log_max_size\" here; did you mean `log-max-size`?"],
    );
}

#[test]
fn words_that_are_none() {
    bad_keys(
        "restart = \"onfailure\"\nreadiness = \"notfy\"\nrequires = [\"b:redy\", \"c:ready:stopp\"]\n\
         state = \"up\"",
        &[
            "3:11: \"onfailure\" is none of never, on-failure, always; did you mean `on-failure`?",
            "4:13: \"notfy\" is none of running, notify, runtime; did you mean `notify`?",
            "5:13: \"redy\" is none of started, ready, completed; did you mean `ready`?",
            "5:23: \"stopp\" is none of stop, restart, ignore; did you mean `stop`?",
            "6:9: \"up\" is none of running, stopped",
        ],
    );
    let link = |transport| format!("[[link]]\ntype = \"T\"\nto = \"a\"\ntransport = {transport}");
    bad(
        &link("\"routd\""),
        &["4:13: \"routd\" is none of auto, routed, direct, shm; did you mean `routed`?"],
    );
    bad(&link("\"shared\""), &["4:13: \"shared\" is none of auto, routed, direct, shm"]);
    bad(&link("true"), &["4:13: a text in quotes is expected here, not true or false"]);
}

#[test]
fn what_is_missing() {
    bad("[instance.a]", &["1:11: `program` is missing: what it executes"]);
    bad(
        "[[link]]\nfrom = \"a\"",
        &[
            "1:1: a link has no `type`: the type of its messages",
            "1:1: a link has no `to`: who gets its messages",
        ],
    );
    bad_keys(
        "liveness = { interval = 1 }\nrequires = [{ condition = \"ready\" }]\nstop = []",
        &[
            "3:12: a check has one of exec, http, tcp",
            "4:13: `instance` is missing: the one that is needed",
            "5:8: a stop has 1 to 8 signals before SIGKILL",
        ],
    );
    bad_keys(
        "stop-command = []\nreadiness = { exec = \"\" }",
        &[
            "3:16: a command begins with the path of a program",
            "4:22: a command begins with the path of a program",
        ],
    );
}

#[test]
fn what_excludes_each_other() {
    bad_keys(
        "readiness = { tcp = \"a:1\", http = \"x\" }\nstop = [\"INT\"]\nstop-timeout = 1",
        &[
            "3:28: a check has only one of exec, http, tcp, output",
            "5:1: stop-timeout is part of stop; write one or the other",
        ],
    );
    bad_keys(
        "kind = \"task\"\nrestart = \"always\"",
        &["1:11: a task runs to its end once; it can be restarted on-failure or never"],
    );
}

#[test]
fn names_and_ids() {
    bad(
        "[instance.\"a b\"]\nprogram = \"/a\"",
        &["1:11: the name \"a b\" has characters other than A-Z a-z 0-9 . _ -"],
    );
    bad("[instance.\"\"]\nprogram = \"/a\"", &["1:11: a name can't be empty"]);
    let id = "0195fc7b-33e6-70e3-bee1-ac515185fac7";
    let two =
        format!("[instance.a]\nprogram = \"/a\"\nid = \"{id}\"\n[instance.{id}]\nprogram = \"/b\"");
    bad(&two, &[&format!("4:11: the id {id} is given twice; first at 1:11")]);
    let twice =
        "[[link]]\ntype = \"T\"\nto = \"a\"\n[[link]]\ntype = \"T\"\nto = \"a\"\ncapacity = 3";
    bad(twice, &["4:1: the same link is made twice; first at 1:1"]);
}

#[test]
fn circles() {
    let text = "[instance.a]\nprogram = \"/a\"\nrequires = [\"b\"]\n[instance.b]\nprogram = \"/b\"\n\
                after = [\"c\"]\n[instance.c]\nprogram = \"/c\"\nrequires = [\"a\"]\n\
                [instance.d]\nprogram = \"/d\"\nrequires = [\"d\"]";
    bad(
        text,
        &[
            "1:11: it would have to wait for itself: a → b → c → a",
            "10:11: it would have to wait for itself: d → d",
        ],
    );
}

#[test]
fn variables() {
    bad_keys(
        "args = [\"ü ${NONE}\", \"$HOME\", \"${\"]",
        &[
            "3:12: the variable NONE is not set; set it, or write ${NONE:-default}",
            "3:23: `$HOME` is no variable; write ${HOME}, or $$HOME for the text itself",
            "3:32: `${` without a `}` after it; write ${NAME}, or $${ for the characters themselves",
        ],
    );
}

#[test]
fn versions() {
    bad(
        "version = 2",
        &["1:11: version 2 of the form is not known here; write version = 1, or upgrade this"],
    );
    bad("version = 0", &["1:11: 0 is not 1 to 18446744073709551615"]);
}

#[test]
fn includes() {
    let fake = Fake::new("include = [\"a.toml\", \"none.toml\", \"*/x.toml\", \"d/\"]")
        .with("/etc/a.toml", "include = [\"b.toml\"]\n[instance.x]\nprogram = \"/x\"")
        .with("/etc/b.toml", "include = [\"a.toml\"]\n[instance.x]\nprogram = \"/x\"\nbad = 1");
    let problems = problems(&fake);
    let expected = [
        "1:22: /etc/none.toml can't be read: entity not found",
        "1:35: only the last component of a path can have * and ?",
        "1:47: this is not the path of a file; write \"d/*.toml\"",
        "/etc/b.toml:1:12: a file can't include itself: /etc/a.toml → /etc/b.toml → /etc/a.toml",
        "/etc/b.toml:2:11: x is defined twice; first at /etc/a.toml:2:11",
        "/etc/b.toml:4:1: there is no key \"bad\" here; there are ",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (expected, problem) in expected.iter().zip(&problems) {
        assert!(problems.iter().any(|it| it.starts_with(expected)), "{expected}\n{problem}");
    }
}

#[test]
fn a_file_is_included_once() {
    let fake = Fake::new("include = [\"a.toml\", \"a.toml\"]").with("/etc/a.toml", "");
    let expected = "1:22: /etc/a.toml is included twice; first at 1:12";
    assert_eq!(problems(&fake), [expected]);
    let missing = Fake::default().read().unwrap_err().to_string();
    assert_eq!(missing, "/etc/orchestrator.toml: it can't be read: entity not found");
}

#[test]
fn more_problems_than_anybody_reads_are_counted() {
    let text: String = (0..1000).map(|i| format!("x{i} = 1\n")).collect();
    let problems = Fake::new(&text).read().unwrap_err();
    assert_eq!((problems.all.len(), problems.more), (MAX_PROBLEMS, 1000 - MAX_PROBLEMS));
    assert!(problems.to_string().ends_with("\nand 900 more"));
}

#[test]
fn sockets_that_can_not_be() {
    bad_keys(
        "listen = [\"tcp:80\", { tcp = \"1.2.3.4:5\", udp = \"1.2.3.4:5\" }, { name = \"a\" }]",
        &[
            "3:11: \"80\" is not an IP address with a port, such as 127.0.0.1:8080, [::1]:8080 or \
             0.0.0.0:8080",
            "3:42: a socket has only one of tcp, udp, unix, unix-datagram",
            "3:63: a socket has one of tcp, udp, unix, unix-datagram",
        ],
    );
    bad_keys(
        "listen = [{ tcp = \"1.2.3.4:5\", mode = \"0600\" }, { unix = \"\" }, \
         { unix = \"/a\", mode = \"999\" }]",
        &[
            "3:32: only a Unix socket has a mode",
            "3:58: a path can't be empty",
            "3:86: \"999\" is not a mode; write an octal number up to 0777, such as 0660",
        ],
    );
    bad_keys(
        "listen = \"tcp:1.2.3.4:5\"",
        &[
            "3:10: a list of sockets such as \"tcp:127.0.0.1:8080\" in brackets is expected here, not a text",
        ],
    );
    bad_keys(
        "listen = [\"tcp:1.2.3.4:5\", \"a=tcp:1.2.3.4:5\"]",
        &["3:10: the socket tcp:1.2.3.4:5 is given twice"],
    );
    bad(
        "[instance.a]\nprogram = \"/a\"\nlisten = [\"unix:x\"]\n[instance.b]\n\
         program = \"/b\"\nlisten = [\"n=unix:/etc/x,mode=0666\"]",
        &["4:11: unix:/etc/x is given twice; first at 1:11"],
    );
}

#[test]
fn schedules_that_are_none() {
    bad_keys(
        "schedule = \"61 3 * * *\"",
        &["3:12: \"61 3 * * *\" is not a schedule: minute \"61\": value must be in range 0..=59; \
           found 61"],
    );
    bad_keys(
        "schedule = \"@daily\"\ntime-zone = \"../x\"\noverlap = \"kill\"\ncatch-up = 1",
        &[
            "4:13: \"../x\" is not a time zone that this machine knows; write a name such as \
             Europe/Berlin or UTC, which are in /usr/share/zoneinfo",
            "5:11: \"kill\" is none of skip, queue, replace",
            "6:12: true or false is expected here, not a whole number",
        ],
    );
    bad_keys(
        "kind = \"schedule\"",
        &["3:1: `schedule` is missing: when it runs, as in \"30 3 * * *\""],
    );
    bad_keys(
        "kind = \"task\"\nschedule = \"@daily\"",
        &["4:1: what has a schedule is of the kind schedule"],
    );
    bad_keys("overlap = \"queue\"", &["3:1: `overlap` is for what has a `schedule`"]);
    bad_keys(
        "run-timeout = 5",
        &["3:1: a service runs for ever; `run-timeout` is for tasks and schedules"],
    );
    bad_keys(
        "schedule = \"@daily\"\nrestart = \"always\"",
        &["1:11: a schedule runs to its end each time; it can be restarted on-failure or never"],
    );
}

#[test]
fn sets_of_replicas_that_can_not_be() {
    bad_keys("replicas = 257", &["3:12: 257 is not 0 to 256"]);
    bad_keys("replicas = -1", &["3:12: -1 is not 0 to 256"]);
    bad_keys("replicas = \"3\"", &["3:12: a whole number is expected here, not a text"]);
    bad_keys(
        "replicas = 2\nlisten = [\"tcp:1.2.3.4:5\"]\nid = \"0195fc7b-33e6-70e3-bee1-ac515185fac7\"",
        &[
            "4:1: a socket can listen for one instance only, not for each replica of a set",
            "5:1: each replica has an id of its own, which the daemon chooses",
        ],
    );
    bad(
        "[instance.a]\nprogram = \"/a\"\nreplicas = 2\n[instance.\"a.7\"]\nprogram = \"/b\"",
        &["4:11: a.7 is the name of a replica of a; choose another one"],
    );
    let long = "x".repeat(61);
    bad(
        &format!("[instance.{long}]\nprogram = \"/a\"\nreplicas = 2"),
        &["1:11: the name of a set has 60 characters at most"],
    );
    let id = "0195fc7b-33e6-70e3-bee1-ac515185fac7";
    bad(
        &format!("[instance.{id}]\nprogram = \"/a\"\nreplicas = 2"),
        &["1:11: a set of replicas has a name, from which theirs are made"],
    );
    bad(
        "[instance.a]\nprogram = \"/a\"\nreplicas = 2\nrequires = [\"a.2\"]",
        &["1:11: it would have to wait for itself: a → a"],
    );
    let of_all = problems(&Fake::new("[defaults]\nreplicas = 2"));
    assert!(of_all[0].starts_with("2:1: there is no key \"replicas\" here; "), "{of_all:?}");
}
