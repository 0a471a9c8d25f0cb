//! `orchestrator-cli`: drives an orchestrator daemon over its control socket.
#![forbid(unsafe_code)]

mod action;
mod add;
mod cli;
mod complete;
mod daemon;
mod docs;
mod doctor;
mod events;
mod execution;
mod failure;
mod format;
mod glob;
mod interrupt;
mod link;
mod list;
mod logs;
mod manifest;
mod output;
mod plan;
mod record;
mod replay;
mod replicas;
mod runtime;
mod schedule;
mod screen;
mod send;
mod session;
mod settle;
mod status;
mod supervision;
mod table;
mod tap;
mod top;
mod types;
mod wait;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use cli::{ApplyArgs, Cli, Command, DiffArgs};
use failure::{Exit, Failure};
use orchestrator_proto::manifest::Manifest;
use output::Output;

fn main() -> ExitCode {
    complete::answer();
    interrupt::end_at_once();
    let cli = Cli::parse();
    let mut out = Output::new(cli.global.json, cli.global.color);
    let exit = match run(cli, &mut out).and_then(|exit| out.flush().map(|()| exit)) {
        Ok(exit) => exit,
        Err(Failure::OutputClosed) => Exit::Ok,
        Err(Failure::Report(report)) => {
            out.report(&report);
            report.exit
        }
    };
    exit.into()
}

fn run(cli: Cli, out: &mut Output) -> Result<Exit, Failure> {
    match cli.command {
        Command::Completions { shell } => complete::script(out, shell),
        Command::Man { directory } => docs::man(out, directory.as_deref()),
        Command::Validate(args) => manifest::validate(out, &args.files),
        Command::Schema => manifest::schema(out),
        command => {
            // One thread is enough to wait for one socket, and starts faster than several.
            let tokio = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::io("can't set up I/O", &error))?;
            tokio.block_on(drive(command, cli.global, out))
        }
    }
}

async fn drive(command: Command, global: cli::Global, out: &mut Output) -> Result<Exit, Failure> {
    // A manifest that is wrong is said to be so with and without a daemon.
    let manifest = match &command {
        Command::Apply(ApplyArgs { file, .. }) | Command::Diff(DiffArgs { file, .. }) => {
            manifest::read(out, file)?
        }
        _ => Manifest::default(),
    };
    if matches!(command, Command::Doctor) {
        return doctor::doctor(out, global.socket).await;
    }
    if matches!(command, Command::Top) {
        return top::top(out, global.socket).await;
    }
    let client = session::connect(global.socket).await?;
    match command {
        Command::Apply(args) => manifest::apply(&client, out, manifest, args).await,
        Command::Diff(args) => manifest::diff(&client, out, manifest, args.prune).await,
        Command::Export => manifest::export(&client, out).await,
        Command::Version => status::version(&client, out),
        Command::Status => status::status(&client, out).await,
        Command::Runtime(command) => runtime::run(client, out, command).await,
        Command::Link(command) => link::run(client, out, command).await,
        Command::Type(command) => types::run(&client, out, command).await,
        Command::Daemon(command) => daemon::run(&client, out, command).await,
        Command::Clear { force } => action::clear(client, out, force).await,
        Command::Events(args) => events::events(&client, out, args).await,
        // They were served without a daemon, or with one that comes and goes.
        Command::Completions { .. }
        | Command::Man { .. }
        | Command::Doctor
        | Command::Top
        | Command::Validate(_)
        | Command::Schema => Ok(Exit::Ok),
    }
}
