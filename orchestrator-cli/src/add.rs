//! `runtime add`

use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use orchestrator_proto::client::Client;
use orchestrator_proto::control::{Listen, Program, Reply, Request, RuntimeSpec};
use tokio::fs::File;

use crate::action;
use crate::cli::RuntimeAdd;
use crate::failure::{Exit, Failure};
use crate::format;
use crate::output::Output;

/// `runtime add`
pub(crate) async fn add(
    client: &Client,
    out: &mut Output,
    args: RuntimeAdd,
) -> Result<Exit, Failure> {
    let path = absolute(&args.program)?;
    let hint = path_hint(&args.program, &path);
    let copy = args.copy;
    let supervision = args.supervision.into_supervision(args.stop_signal, args.stop_timeout);
    let supervision = supervision.map_err(Failure::usage)?;
    let listen = args.listen.into_iter().map(at_absolute).collect::<Result<_, _>>()?;
    let spec = RuntimeSpec {
        id: args.id,
        name: args.name,
        args: args.args.into_iter().map(Into::into).collect(),
        env: args.env.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        cwd: args.cwd.as_deref().map(absolute).transpose()?.map(Into::into),
        privileged: args.privileged,
        supervision,
        log: args.log.into_rules(),
        execution: args.execution.into_execution().into(),
        limits: args.limits.into_limits().into(),
        listen,
        replicas: args.replicas,
        ..RuntimeSpec::new(path.clone())
    };
    let reply = if copy {
        upload(client, out, spec, &path, hint.clone()).await?
    } else {
        client.request(Request::RuntimeAdd(spec)).await?
    };
    let exit = action::tell(out, &reply, false)?;
    if let Some(hint) = hint.filter(|_| !out.is_json()) {
        out.hint(&hint);
    }
    Ok(exit)
}

/// As the daemon needs it: it has another working directory. Symbolic links stay, so that one
/// that is changed later leads to another program.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        let message = format!("can't make {} absolute", path.display());
        Failure::io(message, &error)
    })
}

/// The same with an absolute path, if it has one.
fn at_absolute(listen: Listen) -> Result<Listen, Failure> {
    let made = listen.with_path(|path| {
        std::path::absolute(path)
            .map_err(|error| format!("can't make {} absolute: {error}", path.display()))
    });
    made.and_then(|listen| listen.check().map(|()| listen)).map_err(Failure::invalid)
}

async fn upload(
    client: &Client,
    out: &Output,
    mut spec: RuntimeSpec,
    path: &Path,
    hint: Option<String>,
) -> Result<Reply, Failure> {
    let failed = |error: io::Error| {
        let message = format!("can't read {}", format::line(&path.to_string_lossy()));
        let mut failure = Failure::io(message, &error);
        if let Failure::Report(report) = &mut failure {
            report.hint = hint.clone();
        }
        failure
    };
    let file = File::open(path).await.map_err(failed)?;
    let metadata = file.metadata().await.map_err(failed)?;
    if !metadata.is_file() {
        let kind = io::ErrorKind::InvalidInput;
        return Err(failed(io::Error::new(kind, "it is not a regular file")));
    }
    let size = metadata.len();
    spec.program = Program::Upload { file_name: path.file_name().unwrap_or_default().into(), size };
    let bar = progress_bar(size, io::stderr().is_terminal() && !out.is_json());
    let reply = client.upload(spec, file, |sent| bar.set_position(sent)).await;
    // Before anything else is printed on the same line.
    bar.finish_and_clear();
    Ok(reply?)
}

fn progress_bar(size: u64, shown: bool) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let template = "uploading {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let bar = ProgressBar::new(size);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// What to tell somebody who gave the name of a command where a path is wanted.
fn path_hint(given: &Path, absolute: &Path) -> Option<String> {
    if given.as_os_str().as_bytes().contains(&b'/') || absolute.symlink_metadata().is_ok() {
        return None;
    }
    let found = find_in(std::env::var_os("PATH")?.as_os_str(), given)?;
    Some(format!(
        "{} does not exist, and $PATH is not searched; did you mean {}?",
        format::line(&absolute.to_string_lossy()),
        format::line(&found.to_string_lossy()),
    ))
}

fn find_in(search_path: &OsStr, name: &Path) -> Option<PathBuf> {
    std::env::split_paths(search_path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| {
            let metadata = file.metadata();
            metadata.is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_looked_up_for_the_hint_only() {
        let found = find_in(OsStr::new("relative:/nonexistent:/bin:/usr/bin"), Path::new("sh"));
        assert!(found.is_some_and(|path| path.is_absolute() && path.ends_with("sh")));
        assert_eq!(find_in(OsStr::new("/etc"), Path::new("passwd")), None);
        assert_eq!(path_hint(Path::new("./sh"), Path::new("/nonexistent/sh")), None);
        assert_eq!(path_hint(Path::new("sh"), Path::new("/bin/sh")), None);
        let hint = path_hint(Path::new("sh"), Path::new("/nonexistent/sh"));
        assert!(hint.is_some_and(|hint| hint.starts_with("/nonexistent/sh does not exist")));
    }

    #[test]
    fn paths_keep_their_symbolic_links() {
        let path = absolute(Path::new("/proc/self/./exe")).unwrap();
        assert_eq!(path, Path::new("/proc/self/exe"));
        assert!(absolute(Path::new("x")).unwrap().is_absolute());
    }
}
