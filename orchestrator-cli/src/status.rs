//! `version`, `status`

use orchestrator_proto::client::Client;
use orchestrator_proto::control::{Reply, Request, Status};

use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::{format, table};

/// `version`: what the daemon said in its hello, so no request is needed.
pub(crate) fn version(client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    let version = client.server_version();
    if out.is_json() {
        out.json(&serde_json::json!({"version": {"server": version}}))?;
    } else {
        out.line(&format!("server version: {}", format::line(&version)))?;
    }
    Ok(Exit::Ok)
}

/// `status`
pub(crate) async fn status(client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    let reply = client.request(Request::Status).await?;
    let Reply::Status(status) = &reply else {
        return Err(Failure::unexpected_reply());
    };
    if out.is_json() {
        out.json(&reply)?;
    } else {
        out.line(&table::facts(&facts(status, format::now_ms())))?;
        for warning in &status.warnings {
            out.warning(warning);
        }
    }
    Ok(Exit::Ok)
}

/// What the daemon warns of, where a person might wonder.
pub(crate) async fn warn(client: &Client, out: &mut Output) -> Result<(), Failure> {
    if let Reply::Status(status) = client.request(Request::Status).await? {
        for warning in &status.warnings {
            out.warning(warning);
        }
    }
    Ok(())
}

fn facts(status: &Status, now_ms: u64) -> Vec<(&'static str, String)> {
    let runtimes = format::count(status.runtimes, "instance");
    let datagrams = status.ipc.as_ref().map_or_else(String::new, |ipc| {
        format!(
            "{}: {} received, {} unrouted, {} malformed, {} refused",
            ipc.address, ipc.received, ipc.unrouted, ipc.malformed, ipc.refused
        )
    });
    let telemetry = status.telemetry.as_ref().map_or_else(String::new, |telemetry| {
        format!(
            "{} ({}): {} sent, {} dropped",
            telemetry.address,
            if telemetry.connected { "connected" } else { "not connected" },
            telemetry.sent,
            telemetry.dropped
        )
    });
    vec![
        ("version", format!("{} (protocol {})", status.version, status.protocol)),
        ("process", format!("{} (holder {})", status.pid, status.holder_pid)),
        ("started", format::time_and_ago(status.started_ms, now_ms)),
        ("socket", status.socket.to_string()),
        ("state", status.state_dir.to_string()),
        ("runtimes", format!("{runtimes}, {} running", status.running)),
        ("links", status.links.to_string()),
        ("datagrams", datagrams),
        ("telemetry", telemetry),
    ]
}
