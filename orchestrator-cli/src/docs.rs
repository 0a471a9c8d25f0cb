//! Manual pages.

use std::path::Path;
use std::{fs, io};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::cli::Cli;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Prints the manual of all commands as one page, or writes a page for each into a directory.
pub(crate) fn man(out: &mut Output, directory: Option<&Path>) -> Result<Exit, Failure> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    match directory {
        Some(directory) => {
            let written = fs::create_dir_all(directory).and_then(|()| pages(&command, directory));
            let message = || format!("can't write manual pages into {}", directory.display());
            written.map_err(|error| Failure::io(message(), &error))?;
        }
        None => out.bytes(one_page(&command).as_bytes())?,
    }
    Ok(Exit::Ok)
}

/// Writes the page of this command and of those below it.
fn pages(command: &Command, directory: &Path) -> io::Result<()> {
    let man = Man::new(command.clone());
    let page = roff(|page| man.render(page));
    fs::write(directory.join(man.get_filename()), page)?;
    command.get_subcommands().try_for_each(|sub| pages(sub, directory))
}

/// The program's own page, and each command as a section of it.
fn one_page(command: &Command) -> String {
    let main = Man::new(command.clone());
    let mut page = roff(|page| main.render(page));
    for sub in command.get_subcommands() {
        section(sub, &mut page);
    }
    page
}

fn section(command: &Command, page: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    page.push_str(&format!(".SH \"{}\"\n", name.to_uppercase()));
    // Flags that every command takes are at the top of the page already.
    let own = command.clone().mut_args(|arg| {
        let known = arg.is_global_set() || arg.get_id() == "help";
        arg.hide(known)
    });
    let man = Man::new(own);
    let parts = roff(|parts| {
        man.render_description_section(parts)?;
        man.render_synopsis_section(parts)?;
        if command.get_arguments().any(|arg| !arg.is_global_set() && arg.get_id() != "help") {
            man.render_options_section(parts)?;
        }
        man.render_extra_section(parts)
    });
    // Their headings are of a lower rank here. What comes before the first one only sets up
    // the page, which was done.
    let first = parts.find(".SH ").unwrap_or(0);
    page.push_str(&parts[first..].replace(".SH ", ".SS "));
    for sub in command.get_subcommands() {
        section(sub, page);
    }
}

/// What clap wrote, with a heading that says what is under it.
fn roff(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> String {
    let mut text = Vec::new();
    // A vector takes everything.
    let _ = render(&mut text);
    let text = String::from_utf8_lossy(&text);
    let heading = if text.contains("Exit codes:") {
        ".SH \"EXIT CODES AND EXAMPLES\""
    } else {
        ".SH EXAMPLES"
    };
    text.replace(".SH EXTRA", heading)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_command_and_the_exit_codes() {
        let mut command = Cli::command();
        command.build();
        let page = one_page(&command);
        for heading in ["RUNTIME STDOUT", "LINK TAP", "EVENTS", "CLEAR"] {
            let heading = format!(".SH \"ORCHESTRATOR-CLI {heading}\"");
            assert!(page.contains(&heading), "{heading}");
        }
        assert!(page.contains(".SH \"EXIT CODES AND EXAMPLES\""));
        assert!(page.contains("can\\*(Aqt be reached"));
    }

    #[test]
    fn one_page_per_command() {
        let dir = tempfile::tempdir().unwrap();
        let mut out = Output::new(false, crate::cli::ColorWhen::Never);
        man(&mut out, Some(dir.path())).unwrap();
        for name in ["orchestrator-cli.1", "orchestrator-cli-runtime-add.1"] {
            assert!(dir.path().join(name).is_file(), "{name}");
        }
    }
}
