//! The daemon's command. See the library for what it does.

use std::io::{IsTerminal, Write};
use std::process::{ExitCode, exit};
use std::time::Duration;

use clap::Parser;
use orchestrator::daemon::Ended;
use orchestrator::holder::Role;
use orchestrator::log::Log;
use orchestrator::options::{LogFormat, Options};
use orchestrator::{daemon, holder, logs};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    if let Some(ended) = logs::capture_role() {
        return ended;
    }
    let holder = match holder::role() {
        Role::Holder => return holder::run(),
        Role::Daemon(holder) => holder,
    };
    let options = Options::parse();
    if options.man {
        return match std::io::stdout().write_all(Options::manual().as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: cannot print the manual page: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let filter = match EnvFilter::try_new(&options.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("error: {:?} is no log filter: {error}", options.log);
            return ExitCode::from(2);
        }
    };
    let (writer, flush_at_end) = Log::start(options.log_format == LogFormat::Json);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    match options.log_format {
        LogFormat::Pretty => log.init(),
        LogFormat::Compact => log.compact().with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(daemon::run(options, holder));
    let code = match ended {
        Ok(Ended::Over(code)) => code,
        // Nothing is undone.
        Ok(Ended::Replaced) => {
            drop(flush_at_end);
            exit(0);
        }
        Err(error) => {
            drop(flush_at_end);
            eprintln!("error: {error:#}");
            exit(1);
        }
    };
    // Whatever still waits for a disk or a name server is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    drop(flush_at_end);
    code
}
