//! The daemon's command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, ValueEnum};
use ipnet::IpNet;

use crate::process::CgroupChoice;

const EXAMPLES: &str = "\
Examples:
  orchestrator
      Listen on the default socket, keep state in the default directory.

  orchestrator --socket /run/robot/control.socket --state-dir /var/lib/robot
      A daemon of its own; clients find it with the same --socket.

  ORCHESTRATOR_LOG=debug orchestrator --log-format json
      Everything, for machines to read.

  orchestrator --ipc-socket 127.0.0.1:9000
      Take messages of another orchestrator on this machine.

  orchestrator --manifest /etc/orchestrator.toml
      Run what this file says; SIGHUP applies it again.

Signals: SIGTERM and SIGINT stop all instances and end the daemon; a second one kills them. SIGHUP
applies the manifest again, if there is one, and does the same as SIGTERM if there is none. (To
replace the daemon: orchestrator-cli daemon upgrade.)";

/// Of the manual: commands of system administration, see man-pages(7).
const SECTION: &str = "8";

/// Supervises programs and routes typed messages between them.
///
/// One daemon per machine. It is driven over its control socket by `orchestrator-cli`.
#[derive(Parser, Debug)]
#[command(name = "orchestrator", version, after_help = EXAMPLES)]
pub struct Options {
    /// The control socket. Default: $XDG_RUNTIME_DIR/orchestrator.socket, or
    /// /run/orchestrator/orchestrator.socket for root, or a private directory under the
    /// directory for temporary files
    #[arg(long, value_name = "PATH", env = "ORCHESTRATOR_SOCKET")]
    pub socket: Option<PathBuf>,

    /// Where instances, links, events, logs and programs are kept. Default: /var/lib/orchestrator for root, else
    /// $XDG_STATE_HOME/orchestrator or ~/.local/state/orchestrator
    #[arg(long, value_name = "DIR", env = "ORCHESTRATOR_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// Instances and links to be there when the orchestrator has started, see `orchestrator-cli
    /// apply`: nothing that the file does not name is removed. SIGHUP applies it again, as it is
    /// then. If it is wrong, nothing is changed, and `orchestrator-cli status` says so; an
    /// orchestrator without any instances does not start then
    #[arg(long, value_name = "FILE", env = "ORCHESTRATOR_MANIFEST")]
    pub manifest: Option<PathBuf>,

    /// When a start and a stop are answered: once they survive the end of the daemon, and a power
    /// cut 100 ms later (soon), or once they survive a power cut too (full). What is added, linked
    /// and removed always survives one
    #[arg(long, value_name = "WHEN", default_value = "soon")]
    pub sync: Sync,

    /// Where cgroups (version 2) of instances are made, which hold their limits and make sure that
    /// nothing of a stopped instance is left: below the one that the orchestrator is started in
    /// (auto), below a directory such as /sys/fs/cgroup/robot, or nowhere (none). If it may make
    /// none there it goes on without, and says which limits of instances are not in force
    #[arg(long, value_name = "auto|none|DIR", env = "ORCHESTRATOR_CGROUP", default_value = "auto",
          value_parser = parse_cgroup)]
    pub cgroup: CgroupChoice,

    /// What the daemon's own log says, as EnvFilter directives: a level (error, warn, info,
    /// debug, trace), or levels by module such as `info,orchestrator::route=trace`
    #[arg(long, value_name = "DIRECTIVES", env = "ORCHESTRATOR_LOG", default_value = "info")]
    pub log: String,

    /// How the daemon's own log is written to standard error
    #[arg(long, value_name = "FORMAT", default_value = "pretty")]
    pub log_format: LogFormat,

    /// Bytes of one file of an instance's log, where the instance has no --log-max-size
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20,
          value_parser = clap::value_parser!(u64).range(65_536..))]
    pub instance_log_bytes: u64,

    /// Files of an instance's log that are kept, where it has no --log-keep; the oldest goes first
    #[arg(long, value_name = "COUNT", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub instance_log_files: u32,

    /// Forward telemetry of Veecle OS runtimes to this server, as JSON lines over TCP
    #[arg(long, value_name = "HOST:PORT")]
    pub telemetry: Option<String>,

    /// Take messages of other orchestrators as datagrams on this address. The datagrams are
    /// neither authenticated nor acknowledged: anybody who can send from an allowed address
    /// can send messages, and messages get lost. Use it on loopback or on a network where you
    /// trust every machine
    #[arg(long, value_name = "IP:PORT")]
    pub ipc_socket: Option<SocketAddr>,

    /// Listen to datagrams from these addresses only (repeatable; an address or a network such
    /// as 192.168.7.0/24). Default: loopback
    #[arg(long, value_name = "ADDRESS", value_parser = parse_net, requires = "ipc_socket")]
    pub ipc_allow: Vec<IpNet>,

    /// The largest program that a client may send, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub max_upload_mib: u32,

    /// Drop a client that has not read what it is told for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub client_timeout: u64,

    /// Print the manual page, for man(1), and end
    #[arg(long)]
    pub man: bool,
}

impl Options {
    /// The manual page, in the form that man(1) reads.
    #[must_use]
    pub fn manual() -> String {
        let page = clap_mangen::Man::new(Self::command()).section(SECTION);
        let mut text = Vec::new();
        // A vector takes everything.
        let _ = page.render(&mut text);
        let text = String::from_utf8_lossy(&text);
        let see = ".SH \"SEE ALSO\"\n.BR orchestrator\\-cli (1)\n";
        text.replace(".SH EXTRA", ".SH \"EXAMPLES AND SIGNALS\"") + see
    }
}

/// See [`Options::sync`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Sync {
    /// Answered when it is written, synced soon after.
    Soon,
    /// Answered when it is synced.
    Full,
}

/// See [`Options::log_format`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// One line each, in colours on a terminal.
    Pretty,
    /// One short line each.
    Compact,
    /// One JSON object each.
    Json,
}

fn parse_cgroup(text: &str) -> Result<CgroupChoice, String> {
    match text {
        "auto" => Ok(CgroupChoice::Own),
        "none" => Ok(CgroupChoice::Nowhere),
        path if path.starts_with('/') => Ok(CgroupChoice::Below(path.into())),
        _ => Err(format!("{text:?} is neither auto nor none nor an absolute path")),
    }
}

fn parse_net(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is neither an address nor a network such as 10.0.0.0/8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn the_manual_page_has_every_option() {
        let page = Options::manual();
        assert!(page.contains(".TH orchestrator 8 "), "{page}");
        for option in Options::command().get_arguments().filter_map(|it| it.get_long()) {
            let shown = option.replace('-', "\\-");
            assert!(page.contains(&format!("\\fB\\-\\-{shown}\\fR")), "{option}: {page}");
        }
        assert!(page.contains("EXAMPLES AND SIGNALS") && !page.contains(".SH EXTRA"));
    }

    #[test]
    fn addresses_and_networks() {
        assert_eq!(parse_net("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert_eq!(parse_net("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert!(parse_net("10.0.0.0/99").is_err());
    }
}
