//! The daemon's command. See the library for what it does.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use orchestrator::options::{LogFormat, Options};
use orchestrator::{daemon, holder};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let options = Options::parse();
    let filter = match EnvFilter::try_new(&options.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("error: {:?} is no log filter: {error}", options.log);
            return ExitCode::from(2);
        }
    };
    if !holder::attach() {
        return holder::run();
    }
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
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
    let ended = runtime.block_on(daemon::run(options));
    holder::leave();
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
