//! Completion of command lines: commands and flags from their definition, names from the daemon.
//!
//! A shell's script, which `completions SHELL` prints, calls this program with [`VARIABLE`] set and
//! the words of the command line behind `--`. The answer comes within [`PATIENCE`] and some
//! milliseconds; without a daemon there is none for a name, and no word of complaint, which would
//! be in the way of the line that is typed.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::time::Duration;

use clap::{CommandFactory, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;
use orchestrator_proto::control::{
    LinkInfo, ReplicaSetInfo, Reply, Request, RuntimeInfo, TargetInfo, Transport,
};

use crate::cli::{Cli, CompletedShell};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::session;

/// Has this program complete the command line behind `--`, for the shell that it names.
const VARIABLE: &str = "_ORCHESTRATOR_CLI_COMPLETE";

/// How long the daemon may take.
const PATIENCE: Duration = Duration::from_millis(80);

/// The most names that are offered.
const MAX_OFFERED: usize = 1000;

/// Completes a command line and ends the program, if a shell has asked for that.
pub(crate) fn answer() {
    if std::env::var_os(VARIABLE).is_some() {
        CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
    }
}

/// `completions SHELL`
pub(crate) fn script(out: &mut Output, shell: CompletedShell) -> Result<Exit, Failure> {
    let unknown = || Failure::io("can't complete", &std::io::ErrorKind::Unsupported.into());
    let value = shell.to_possible_value().ok_or_else(unknown)?;
    let shell = Shells::builtins();
    let shell = shell.completer(value.get_name()).ok_or_else(unknown)?;
    let mut script = Vec::new();
    let written = shell
        .write_registration(
            VARIABLE,
            "orchestrator-cli",
            "orchestrator-cli",
            &program(),
            &mut script,
        )
        .and_then(|()| script.flush());
    written.map_err(|error| Failure::io("can't write the script", &error))?;
    out.bytes(&script)?;
    Ok(Exit::Ok)
}

/// What the script is to call: this program by its name, if that is how it was found, else by its
/// path.
fn program() -> String {
    let called = std::env::args_os().next().unwrap_or_else(|| "orchestrator-cli".into());
    let is_path = called.to_string_lossy().contains('/');
    let path = std::path::absolute(&called).ok().filter(|_| is_path);
    path.map_or(called, Into::into).to_string_lossy().into_owned()
}

/// Completes names of instances, ids of those that have none, and names of sets of replicas.
pub(crate) fn instances() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let replies = ask_all([Request::ReplicaSets, Request::RuntimeList]);
        offer(current, replies.iter().flat_map(words))
    })
}

/// Completes names of sets of replicas.
pub(crate) fn sets() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        offer(current, ask_all([Request::ReplicaSets]).iter().flat_map(words))
    })
}

/// Completes names of instances that have a schedule.
pub(crate) fn schedules() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| match ask(Request::RuntimeList) {
        Some(Reply::Runtimes(all)) => {
            offer(current, all.iter().filter(|info| info.schedule.is_some()).map(instance))
        }
        _ => Vec::new(),
    })
}

/// What a list of sets or of instances has to offer.
fn words(reply: &Reply) -> Vec<(String, String)> {
    match reply {
        Reply::ReplicaSets(all) => all.iter().map(set).collect(),
        Reply::Runtimes(all) => all.iter().map(instance).collect(),
        _ => Vec::new(),
    }
}

fn set(set: &ReplicaSetInfo) -> (String, String) {
    (set.name.clone(), crate::format::count(set.replicas.0.into(), "replica"))
}

/// Completes names of message types.
pub(crate) fn types() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| match ask(Request::TypeList) {
        Some(Reply::Types(list)) => {
            let mut names: Vec<_> = list.types.into_iter().map(|it| it.name).collect();
            // The same name may have been declared with several schemas.
            names.dedup();
            offer(current, names.into_iter().map(|name| (name, "message type".to_owned())))
        }
        _ => Vec::new(),
    })
}

/// Completes numbers of links.
pub(crate) fn links() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| match ask(Request::LinkList) {
        Some(Reply::Links(all)) => offer(current, all.iter().map(link)),
        _ => Vec::new(),
    })
}

/// Completes which way the messages of a link go.
pub(crate) fn transports() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let word = |transport, help: &str| (Transport::to_string(&transport), help.to_owned());
        let all = [
            word(Transport::Auto, "directly where that is possible"),
            word(Transport::Routed, "through the daemon, always"),
            word(Transport::Direct, "as auto; `link list` says why where it is not"),
            word(Transport::Shm, "through memory that both ends share"),
        ];
        offer(current, all.into_iter())
    })
}

fn instance(info: &RuntimeInfo) -> (String, String) {
    let name = info.name.clone().unwrap_or_else(|| info.id.to_string());
    (name, info.observed.word().to_owned())
}

fn link(link: &LinkInfo) -> (String, String) {
    let from = match (&link.from_name, link.from) {
        (Some(name), _) => name.clone(),
        (None, Some(id)) => id.to_string(),
        (None, None) => "any".to_owned(),
    };
    let to = match &link.to {
        TargetInfo::Instance { name: Some(name), .. } => name.clone(),
        TargetInfo::Instance { id, name: None } => id.to_string(),
        TargetInfo::Udp { address } => format!("udp:{address}"),
        TargetInfo::Set { name } => name.clone(),
    };
    (link.id.to_string(), format!("{from} -> {to}, {}", link.type_name))
}

fn offer(current: &OsStr, all: impl Iterator<Item = (String, String)>) -> Vec<CompletionCandidate> {
    let begin = current.to_string_lossy();
    let begun = all.filter(|(word, _)| word.starts_with(&*begin));
    // Other people's text must not steer the terminal.
    let plain = begun.filter(|(word, _)| !word.chars().any(char::is_control));
    plain
        .map(|(word, help)| {
            let help = crate::format::line(&help).into_owned();
            CompletionCandidate::new(word).help(Some(help.into()))
        })
        .take(MAX_OFFERED)
        .collect()
}

/// Asks the daemon of the command line that is completed.
fn ask(request: Request) -> Option<Reply> {
    ask_all([request]).pop()
}

/// The same, for several things at once: what is answered in time.
fn ask_all<const N: usize>(requests: [Request; N]) -> Vec<Reply> {
    let socket = socket(std::env::args_os())
        .or_else(|| std::env::var_os(orchestrator_proto::paths::ENV_CONTROL_SOCKET));
    let Ok(tokio) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let mut replies = Vec::new();
    tokio.block_on(async {
        let asked = async {
            let client = session::connect(socket).await.ok()?;
            for request in requests {
                replies.extend(client.request(request).await);
            }
            Some(())
        };
        let _ = tokio::time::timeout(PATIENCE, asked).await;
    });
    replies
}

/// What `--socket` says in a command line.
fn socket(words: impl Iterator<Item = OsString>) -> Option<OsString> {
    let mut words = words.skip_while(|word| word != "--").skip(1);
    let mut found = None;
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        // What stands behind this belongs to the program of an instance.
        if text == "--" {
            break;
        } else if text == "--socket" {
            found = words.next();
        } else if let Some(path) = text.strip_prefix("--socket=") {
            found = Some(path.to_owned().into());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_the_line_is_the_one_that_is_asked() {
        let of = |line: &str| socket(line.split(' ').map(OsString::from));
        assert_eq!(of("x -- x --socket /a runtime stop"), Some("/a".into()));
        assert_eq!(of("x -- x runtime stop --socket=/b"), Some("/b".into()));
        assert_eq!(of("x -- x runtime add y -- --socket /c"), None);
        assert_eq!(of("x -- x runtime stop --socket"), None);
        assert_eq!(of("x --socket /d"), None);
    }

    #[test]
    fn what_begins_like_the_word_is_offered() {
        let all = ["ping", "pong", "a\u{1b}"].map(|name| (name.to_owned(), "ready".to_owned()));
        let offered = |begin: &str| {
            let all = offer(OsStr::new(begin), all.clone().into_iter());
            all.iter().map(|it| it.get_value().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(offered("p"), ["ping", "pong"]);
        assert_eq!(offered("pi"), ["ping"]);
        assert_eq!(offered("a"), Vec::<String>::new());
    }
}
