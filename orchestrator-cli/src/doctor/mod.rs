//! `doctor`: what this machine and this installation allow, and what to do about each gap.
//!
//! What is the same for everybody on the machine, and the way to the daemon, is looked at here;
//! the daemon tells of its rights, its limits and its directories.

mod machine;
mod socket;

use std::ffi::OsString;

use clap::builder::styling::AnsiColor;
use orchestrator_proto::client::ClientError;
use orchestrator_proto::control::{Finding, Level, Reply, Request};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::{format, session};

/// `doctor`: exit code 1 when anything is a problem.
pub(crate) async fn doctor(out: &mut Output, socket: Option<OsString>) -> Result<Exit, Failure> {
    let mut findings = daemon(socket).await;
    // What the daemon says of the same thing says more.
    let known = |check: &str| findings.iter().any(|finding| finding.check == check);
    let more: Vec<_> = machine::examine().into_iter().filter(|it| !known(&it.check)).collect();
    findings.extend(more);
    if out.is_json() {
        out.json(&Reported { findings: &findings })?;
    } else {
        for finding in &findings {
            print(out, finding)?;
        }
        out.line(&summary(&findings))?;
    }
    let is_well = findings.iter().all(|finding| finding.level < Level::Problem);
    Ok(if is_well { Exit::Ok } else { Exit::Failed })
}

#[derive(Serialize)]
struct Reported<'a> {
    findings: &'a [Finding],
}

/// The way to the daemon, and what it says.
async fn daemon(socket: Option<OsString>) -> Vec<Finding> {
    let path = match session::path(socket) {
        Ok(path) => path,
        Err(Failure::Report(report)) => {
            let advice = report.hint.unwrap_or_default();
            return vec![Finding::problem("socket", report.message, advice)];
        }
        Err(Failure::OutputClosed) => return Vec::new(),
    };
    let mut findings = vec![socket::directory(&path)];
    let client = match session::open(&path).await {
        Ok(client) => client,
        Err(error) => {
            findings.push(socket::unreachable(&path, &error));
            findings.extend(socket::program());
            return findings;
        }
    };
    let message = format!("the daemon answers at {}", path.display());
    findings.push(Finding::ok("daemon", message));
    findings.push(version(&client.server_version()));
    match client.request(Request::Doctor).await {
        Ok(Reply::Findings(all)) => findings.extend(all),
        Ok(_) => {}
        Err(error) => findings.push(unanswered(&error)),
    }
    findings
}

fn version(daemon: &str) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    if daemon == own {
        return Finding::ok("client", format!("this program and the daemon are of version {own}"));
    }
    Finding::warning(
        "client",
        format!("this program is of version {own}, and the daemon of version {daemon}"),
        "if both were upgraded, have the daemon replaced: orchestrator-cli daemon upgrade",
    )
}

fn unanswered(error: &ClientError) -> Finding {
    Finding::warning(
        "client",
        format!("the daemon does not say how it is: {error}"),
        "it may be older than this program: orchestrator-cli daemon upgrade",
    )
}

fn print(out: &mut Output, finding: &Finding) -> Result<(), Failure> {
    let color = match finding.level {
        Level::Ok => AnsiColor::Green,
        Level::Warning => AnsiColor::Yellow,
        Level::Problem => AnsiColor::Red,
    };
    let level = out.paint(color, &format!("{:8}", finding.level));
    let check = format::line(&finding.check);
    out.line(&format!("{level} {check:16} {}", format::line(&finding.message)))?;
    if finding.advice.is_empty() {
        return Ok(());
    }
    out.line(&format!("{:25} -> {}", "", format::line(&finding.advice)))
}

fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|it| it.level == level).count() as u64;
    match (count(Level::Problem), count(Level::Warning)) {
        (0, 0) => "all is well".to_owned(),
        (0, warnings) => format!("no problem, {}", format::count(warnings, "warning")),
        (problems, warnings) => {
            let problems = format::count(problems, "problem");
            format!("{problems}, {}", format::count(warnings, "warning"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts() {
        let ok = Finding::ok("a", "b");
        let (warning, problem) = (Finding::warning("a", "b", "c"), Finding::problem("a", "b", "c"));
        assert_eq!(summary(std::slice::from_ref(&ok)), "all is well");
        assert_eq!(summary(&[ok.clone(), warning.clone()]), "no problem, 1 warning");
        assert_eq!(summary(&[ok, warning, problem.clone(), problem]), "2 problems, 1 warning");
    }

    #[test]
    fn another_version_is_a_warning() {
        assert_eq!(version(env!("CARGO_PKG_VERSION")).level, Level::Ok);
        assert_eq!(version("0.0.1").level, Level::Warning);
    }
}
