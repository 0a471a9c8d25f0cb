//! The same from a manifest.

use std::fs;

use tests::{Daemon, processes};

use super::{stat, status, text};

#[test]
fn a_manifest_says_the_same_and_a_change_is_a_restart() {
    let daemon = Daemon::start();
    let manifest = daemon.dir().join("m.toml");
    fs::write(daemon.dir().join("vars"), "A=1\n").unwrap();
    let write = |nice: i32| {
        let text = format!(
            "version = 1\n[defaults]\nrlimit.core = 0\nrlimit.nofile = 50\n\
             [instance.nap]\nprogram = \"/bin/sleep\"\nargs = [\"1000\"]\nnice = {nice}\n\
             umask = 0o027\ncpus = \"0\"\nno-new-privs = true\nenv-file = [\"vars\", \"-none\"]\n\
             inherit-env = [\"DISPLAY\"]\nrlimit.nofile = \"100:200\"\nstdin = \"file:vars\"\n"
        );
        fs::write(&manifest, text).unwrap();
    };
    write(3);
    daemon.ok(["apply", text(&manifest)]);
    let pid = tests::eventually("it runs", || daemon.info("nap").observed.pid());
    assert_eq!((stat(pid, 19).as_str(), status(pid, "Umask").as_str()), ("3", "0027"));
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let has = |name: &str, soft: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line[name.len()..].split_whitespace().next(), Some(soft), "{line}");
    };
    has("Max open files", "100");
    has("Max core file size", "0");
    // What is exported is the same again.
    let exported = daemon.ok(["export"]);
    for line in
        ["nice = 3", "umask = \"0027\"", "rlimit.core = \"0\"", "inherit-env = [\"DISPLAY\"]"]
    {
        assert!(exported.lines().any(|it| it == line), "{line} in {exported}");
    }
    let again = daemon.dir().join("again.toml");
    fs::write(&again, &exported).unwrap();
    let diff = daemon.cli(["diff", text(&again)]);
    assert_eq!(diff.code, Some(0), "{diff:?}");
    // A change needs a restart, which is said before it is done.
    write(4);
    let diff = daemon.cli(["diff", text(&manifest)]);
    assert!(diff.stdout.contains("nice") && diff.stdout.contains("restart"), "{diff:?}");
    daemon.ok(["apply", text(&manifest)]);
    tests::eventually("it runs with the new nice value", || {
        let pid = daemon.info("nap").observed.pid()?;
        // The one before may just be ending.
        (processes::nice(pid) == Some(4)).then_some(())
    });
}

#[test]
fn what_is_wrong_in_a_manifest_is_told_with_its_place() {
    let daemon = Daemon::start();
    let manifest = daemon.dir().join("m.toml");
    let cases = [
        ("umask = 27", "a umask is octal"),
        ("umask = \"9\"", "write it in octal"),
        ("nice = -21", "-21 is not -20 to 19"),
        ("rlimit.files = 1", "there is no key \"files\" here"),
        ("rlimit.nofile = \"2:1\"", "is no limit"),
        ("keep-caps = [\"X\"]", "is not a capability"),
        ("keep-caps = []\ndrop-caps = []", "not both"),
        ("cpus = \"x\"", "are no processors"),
        ("io-class = \"x\"", "is not a class"),
        ("realtime = \"other:1\"", "is not a real-time policy"),
        ("stdin = \"x\"", "can't be read from"),
        ("inherit-env = [\"A=B\"]", "is not the name of a variable"),
        ("user = \"\"", "a name can't be empty"),
        ("env_file = \"x\"", "did you mean `env-file`?"),
    ];
    for (line, told) in cases {
        let text_of = format!("version = 1\n[instance.a]\nprogram = \"/bin/true\"\n{line}\n");
        fs::write(&manifest, text_of).unwrap();
        let said = daemon.cli(["diff", text(&manifest)]);
        assert!(said.code != Some(0) && said.stderr.contains(told), "{line}: {said:?}");
        let place = format!("m.toml:{}:", 3 + line.lines().count());
        assert!(said.stderr.contains(&place), "{place} in {said:?}");
    }
}
