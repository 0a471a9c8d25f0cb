//! The command line.

use std::path::PathBuf;

use crate::machine::Regime;

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effort {
    /// To be published.
    Full,
    /// To see whether something is far off.
    Quick,
}

impl Effort {
    /// One of two counts.
    pub(crate) fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }

    /// How often contenders take turns.
    pub(crate) fn rounds(self) -> usize {
        self.pick(9, 3)
    }
}

/// See the crate's documentation.
pub(crate) struct Options {
    groups: Vec<String>,
    regime: Option<Regime>,
    pub(crate) effort: Effort,
    pub(crate) markdown: bool,
    /// The file that the chart of the transports goes to.
    pub(crate) chart: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments; an error is what to tell the user.
    pub(crate) fn parse(
        mut args: impl Iterator<Item = String>,
        groups: &[&str],
    ) -> Result<Self, String> {
        let mut options = Self {
            groups: Vec::new(),
            regime: None,
            effort: Effort::Full,
            markdown: false,
            chart: None,
        };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                // Cargo says this to every benchmark.
                "--bench" => {}
                "--quick" => options.effort = Effort::Quick,
                "--markdown" => options.markdown = true,
                "--regime" => {
                    let name = args.next().unwrap_or_default();
                    let regime = Regime::named(&name);
                    options.regime = Some(
                        regime.ok_or(format!("{name:?} is not pinned, free, apart or spinning"))?,
                    );
                }
                "--chart" => {
                    let path = args.next().ok_or("--chart needs the name of a file to write")?;
                    options.chart = Some(PathBuf::from(path));
                }
                group if groups.contains(&group) => options.groups.push(arg),
                other => {
                    return Err(format!(
                        "{other:?} is not an option; there are --quick, --markdown, \
                         --regime pinned|free|apart|spinning, --chart FILE (of transports), and the \
                         groups {}",
                        groups.join(", ")
                    ));
                }
            }
        }
        Ok(options)
    }

    /// Whether a group is meant; when none is named, all are but those that want to be.
    pub(crate) fn wants(&self, group: &str, only_named: bool) -> bool {
        let named = self.groups.iter().any(|wanted| wanted == group);
        named || (self.groups.is_empty() && !only_named)
    }

    pub(crate) fn wants_regime(&self, regime: Regime) -> bool {
        self.regime.is_none_or(|wanted| wanted == regime)
    }

    /// Prints a result. Leaves the standard output to the Markdown if that is wanted.
    pub(crate) fn say(&self, text: &str) {
        if self.markdown {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }
}
