//! `apply`, `diff`, `export`, `validate`, `schema`

use std::path::{Path, PathBuf};

use orchestrator_proto::client::Client;
use orchestrator_proto::control::{Plan, Reply, Request};
use orchestrator_proto::manifest::{self, Manifest, Problem, Problems};
use serde::Serialize;

use crate::cli::ApplyArgs;
use crate::failure::{Exit, Failure, Report};
use crate::output::Output;
use crate::{format, plan, settle};

/// Reads a manifest, and tells everything that is wrong with it.
pub(crate) fn read(out: &mut Output, file: &Path) -> Result<Manifest, Failure> {
    match Manifest::read(file) {
        Ok(manifest) => {
            if !out.is_json() {
                for warning in &manifest.warnings {
                    out.warning(&warning.to_string());
                }
            }
            Ok(manifest)
        }
        Err(problems) => Err(tell(out, file, &problems)),
    }
}

/// Tells all of them; the answer is what is told last.
fn tell(out: &mut Output, file: &Path, problems: &Problems) -> Failure {
    let mut causes = Vec::new();
    for problem in &problems.all {
        if out.is_json() {
            causes.push(problem.to_string());
        } else {
            let Problem { help, .. } = problem;
            let message = Problem { help: None, ..problem.clone() }.to_string();
            let report = Report::new(Exit::Failed, "invalid-manifest", message, None);
            out.report(&Report { hint: help.clone(), ..report });
        }
    }
    let count = (problems.all.len() + problems.more) as u64;
    let (file, errors) = (file.to_string_lossy(), format::count(count, "error"));
    let message = format!("{} has {errors}", format::line(&file));
    Report { causes, ..Report::new(Exit::Failed, "invalid-manifest", message, None) }.into()
}

/// `validate`
pub(crate) fn validate(out: &mut Output, files: &[PathBuf]) -> Result<Exit, Failure> {
    let mut exit = Exit::Ok;
    for file in files {
        match read(out, file) {
            Ok(manifest) if out.is_json() => out.json_line(&Valid::of(&manifest))?,
            Ok(manifest) => {
                let set = &manifest.set;
                let instances = format::count(set.instances.len() as u64, "instance");
                let links = format::count(set.links.len() as u64, "link");
                let file = file.to_string_lossy();
                out.line(&format!("{} is good: {instances}, {links}", format::line(&file)))?;
            }
            Err(Failure::Report(report)) => {
                out.report(&report);
                exit = Exit::Failed;
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(exit)
}

/// A manifest without an error, as JSON.
#[derive(Serialize)]
struct Valid {
    files: Vec<PathBuf>,
    instances: usize,
    links: usize,
    warnings: Vec<String>,
}

impl Valid {
    fn of(manifest: &Manifest) -> Self {
        Self {
            files: manifest.files.clone(),
            instances: manifest.set.instances.len(),
            links: manifest.set.links.len(),
            warnings: manifest.warnings.iter().map(ToString::to_string).collect(),
        }
    }
}

/// `schema`
pub(crate) fn schema(out: &mut Output) -> Result<Exit, Failure> {
    let text = serde_json::to_string_pretty(&manifest::json_schema());
    let text = text.map_err(|error| Failure::io("can't print the schema", &error.into()))?;
    out.line(&text)?;
    Ok(Exit::Ok)
}

/// `apply`
pub(crate) async fn apply(
    client: &Client,
    out: &mut Output,
    manifest: Manifest,
    args: ApplyArgs,
) -> Result<Exit, Failure> {
    let before = if args.wait { settle::list(client).await? } else { Vec::new() };
    let plan = ask(client, out, &manifest, args.prune, args.dry_run).await?;
    // What was done is seen at once, even when it takes long to settle.
    out.flush()?;
    if args.wait {
        settle::wait(client, &manifest.set, &plan, &before, args.timeout).await?;
    }
    Ok(Exit::Ok)
}

/// `diff`
pub(crate) async fn diff(
    client: &Client,
    out: &mut Output,
    manifest: Manifest,
    prune: bool,
) -> Result<Exit, Failure> {
    let plan = ask(client, out, &manifest, prune, true).await?;
    Ok(if plan.is_empty() { Exit::Ok } else { Exit::Differs })
}

async fn ask(
    client: &Client,
    out: &mut Output,
    manifest: &Manifest,
    prune: bool,
    dry_run: bool,
) -> Result<Plan, Failure> {
    let set = manifest.set.clone();
    let reply = client.request(Request::Apply { set, prune, dry_run }).await?;
    let Reply::Plan(plan) = &reply else {
        return Err(Failure::unexpected_reply());
    };
    if out.is_json() {
        out.json(&reply)?;
    } else {
        plan::show(out, plan, &manifest.set)?;
        for warning in &plan.warnings {
            out.warning(warning);
        }
    }
    Ok(Plan::clone(plan))
}

/// `export`
pub(crate) async fn export(client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    let reply = client.request(Request::Export).await?;
    let Reply::Exported(exported) = &reply else {
        return Err(Failure::unexpected_reply());
    };
    if out.is_json() {
        out.json(&reply)?;
        return Ok(Exit::Ok);
    }
    let text = manifest::write(&exported.set).map_err(|error| {
        let report = Report::new(Exit::Failed, "not-text", error.to_string(), None);
        let hint = "use --json for all others, or give that instance other bytes".to_owned();
        Failure::from(Report { hint: Some(hint), ..report })
    })?;
    out.bytes(text.as_bytes())?;
    for warning in &exported.warnings {
        out.warning(warning);
    }
    Ok(Exit::Ok)
}
