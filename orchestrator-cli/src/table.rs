//! Tables: with borders and fitted to the width on a terminal, plain aligned columns elsewhere.

use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, presets};
use orchestrator_proto::InstanceId;

use crate::format;
use crate::output::Output;

/// The fewest characters of a shortened id: the part of a UUIDv7 that is its time.
const SHORT_ID: usize = 13;

/// Columns of a terminal from which on the first column of a table is never wrapped.
const ROOM_FOR_IDS: u16 = 60;

/// How a field is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Bad,
    Busy,
    Faint,
}

/// A field of a table.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    text: String,
    tone: Tone,
}

impl Field {
    /// Other people's text in this tone; nothing is shown as `-`.
    pub(crate) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        let text = text.as_ref();
        let text = if text.is_empty() { "-" } else { text };
        Self { text: format::line(text).into_owned(), tone }
    }
}

impl<T: AsRef<str>> From<T> for Field {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// A number, or `-`.
pub(crate) fn number(number: Option<impl ToString>) -> Field {
    number.map_or_else(String::new, |number| number.to_string()).into()
}

/// How ids are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ids {
    length: usize,
}

impl Ids {
    const FULL: Self = Self { length: 36 };

    /// The shortest length at which these ids are still told apart, and some more.
    fn short(ids: &[InstanceId]) -> Self {
        let mut texts: Vec<_> = ids.iter().map(ToString::to_string).collect();
        texts.sort_unstable();
        texts.dedup();
        let same = |pair: &[String]| {
            let (a, b) = (pair[0].bytes(), pair[1].bytes());
            a.zip(b).take_while(|(a, b)| a == b).count()
        };
        let needed = texts.windows(2).map(same).max().unwrap_or(0) + 1;
        Self { length: needed.max(SHORT_ID) }
    }

    /// The id, or its prefix.
    pub(crate) fn show(self, id: InstanceId) -> String {
        let mut text = id.to_string();
        text.truncate(self.length);
        text
    }
}

/// Lays out a table. `row` is asked for each of `items`, with how it is to show ids. On a
/// terminal that is too narrow, ids are shortened to prefixes that are unique among `ids`.
pub(crate) fn render<T>(
    out: &Output,
    head: &[&str],
    ids: &[InstanceId],
    items: &[T],
    row: impl Fn(&T, Ids) -> Vec<Field>,
) -> String {
    let look = Look {
        width: out.is_terminal().then(|| Table::new().width()).flatten(),
        borders: out.is_terminal(),
        color: out.is_coloured(),
    };
    let rows = |ids| items.iter().map(|item| row(item, ids)).collect::<Vec<_>>();
    let mut table = look.table(head, rows(Ids::FULL));
    if look.width.is_some_and(|width| natural_width(&table) > usize::from(width)) {
        table = look.table(head, rows(Ids::short(ids)));
    }
    table.trim_fmt()
}

/// A column of a table that is fitted to the terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    /// Where there is no room for all, those with the lowest numbers are left out first; none is
    /// never.
    rank: Option<u8>,
}

impl Column {
    /// The first one, of ids, which are shortened before anything is left out, and go last.
    pub(crate) const fn id(title: &'static str) -> Self {
        Self { title, rank: Some(u8::MAX) }
    }

    pub(crate) const fn kept(title: &'static str) -> Self {
        Self { title, rank: None }
    }

    pub(crate) const fn dropped(title: &'static str, rank: u8) -> Self {
        Self { title, rank: Some(rank) }
    }
}

/// Lays out a table as [`render`] does, but on a terminal that is too narrow columns are left
/// out instead of wrapped. All of them are there where there is no terminal, and if it is to be
/// `wide`, however long the lines are.
pub(crate) fn fitted<T>(
    out: &Output,
    columns: &[Column],
    ids: &[InstanceId],
    items: &[T],
    wide: bool,
    row: impl Fn(&T, Ids) -> Vec<Field>,
) -> String {
    let width = out.is_terminal().then(|| Table::new().width()).flatten();
    let look = Look {
        width: width.filter(|_| !wide),
        borders: out.is_terminal(),
        color: out.is_coloured(),
    };
    fit(&look, columns, ids, items, row)
}

fn fit<T>(
    look: &Look,
    columns: &[Column],
    ids: &[InstanceId],
    items: &[T],
    row: impl Fn(&T, Ids) -> Vec<Field>,
) -> String {
    let rows = |ids| items.iter().map(|item| row(item, ids)).collect::<Vec<_>>();
    let head: Vec<_> = columns.iter().map(|column| column.title).collect();
    let full = look.table(&head, rows(Ids::FULL));
    let Some(width) = look.width.map(usize::from).filter(|width| natural_width(&full) > *width)
    else {
        return full.trim_fmt();
    };
    let short = Ids::short(ids);
    let mut widths: Vec<_> =
        full.column_max_content_widths().into_iter().map(usize::from).collect();
    if let Some(first) = widths.first_mut() {
        *first = (*first).min(short.length.max(head.first().map_or(0, |title| title.len())));
    }
    let mut is_there = vec![true; columns.len()];
    let needed = |is_there: &[bool]| {
        let there = widths.iter().zip(is_there).filter(|(_, is_there)| **is_there);
        there.map(|(width, _)| width + 3).sum::<usize>() + 1
    };
    while needed(&is_there) > width {
        let there = columns.iter().zip(0..).filter(|(_, at)| is_there[*at]);
        let next = there.filter_map(|(column, at)| Some((column.rank?, at))).min();
        let Some((_, at)) = next else { break };
        is_there[at] = false;
    }
    let keep = |row: Vec<Field>| {
        let fields = row.into_iter().zip(&is_there);
        fields.filter(|(_, is_there)| **is_there).map(|(field, _)| field).collect()
    };
    let head: Vec<_> =
        head.iter().zip(&is_there).filter(|(_, is_there)| **is_there).map(|it| *it.0).collect();
    look.table(&head, rows(short).into_iter().map(keep).collect()).trim_fmt()
}

struct Look {
    /// Columns of the terminal, if it is one.
    width: Option<u16>,
    borders: bool,
    color: bool,
}

impl Look {
    fn table(&self, head: &[&str], rows: Vec<Vec<Field>>) -> Table {
        let mut table = Table::new();
        if self.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let head = head.iter().map(|title| Cell::new(title).add_attribute(Attribute::Bold));
        table.set_header(head);
        for row in rows {
            table.add_row(row.into_iter().map(cell));
        }
        if self.borders {
            table.load_style(presets::UTF8_FULL_CONDENSED.with_rounded_corners());
        } else {
            table.load_style(presets::NOTHING);
            for column in table.column_iter_mut() {
                column.set_padding((0, 2));
            }
        }
        match self.width {
            Some(width) => {
                table.set_width(width);
                // An id is copied with the mouse, so it stays in one piece if anything fits
                // beside it.
                if let Some(ids) = table.column_mut(0).filter(|_| width >= ROOM_FOR_IDS) {
                    ids.set_constraint(ColumnConstraint::ContentWidth);
                }
                table.set_content_arrangement(ContentArrangement::Dynamic);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        table
    }
}

fn cell(field: Field) -> Cell {
    let cell = Cell::new(field.text);
    match field.tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Busy => cell.fg(Color::Yellow),
        Tone::Faint => cell.add_attribute(Attribute::Dim),
    }
}

/// Columns of the terminal that the table would need if nothing were wrapped.
fn natural_width(table: &Table) -> usize {
    let content = table.column_max_content_widths();
    // Each column has a space on both sides and a border on its right; the first also on its left.
    content.iter().map(|width| usize::from(*width) + 3).sum::<usize>() + 1
}

/// Names and values below each other, aligned. Values that are empty are left out.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let shown = facts.iter().filter(|(_, value)| !value.is_empty());
    let lines: Vec<_> = shown
        .map(|(name, value)| format!("{:width$} {}", format!("{name}:"), format::line(value)))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(last: u8) -> InstanceId {
        let mut bytes = [0x11; 16];
        bytes[15] = last;
        InstanceId::from_bytes(bytes)
    }

    fn rows(ids: Ids) -> Vec<Vec<Field>> {
        vec![
            vec![ids.show(id(1)).into(), "a\u{1b}b".into()],
            vec![ids.show(id(0xf0)).into(), Field::toned("", Tone::Good)],
        ]
    }

    #[test]
    fn piped_tables_are_aligned_and_plain() {
        let look = Look { width: None, borders: false, color: false };
        let text = look.table(&["ID", "NAME"], rows(Ids::FULL)).trim_fmt();
        let expected = "\
ID                                    NAME
11111111-1111-1111-1111-111111111101  a\\u{1b}b
11111111-1111-1111-1111-1111111111f0  -";
        assert_eq!(text, expected);
    }

    #[test]
    fn colours_can_be_had_without_a_terminal() {
        let look = Look { width: None, borders: false, color: true };
        let text = look.table(&["ID", "NAME"], rows(Ids::FULL)).trim_fmt();
        assert!(text.contains("\u{1b}["));
    }

    #[test]
    fn terminal_tables_have_borders() {
        let look = Look { width: Some(80), borders: true, color: false };
        let table = look.table(&["ID", "NAME"], rows(Ids::FULL));
        let text = table.trim_fmt();
        let first = text.lines().next().unwrap();
        assert!(first.starts_with('╭'), "{text}");
        assert_eq!(first.chars().count(), natural_width(&table));
    }

    #[test]
    fn a_narrow_terminal_wraps_other_columns_than_the_id() {
        let look = Look { width: Some(60), borders: true, color: false };
        let row = |ids: Ids| vec![ids.show(id(1)).into(), Field::from("x".repeat(200))];
        let text = look.table(&["ID", "PROGRAM"], vec![row(Ids::FULL)]).trim_fmt();
        assert!(text.contains(&id(1).to_string()), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
    }

    #[test]
    fn columns_that_do_not_fit_are_left_out_and_not_wrapped() {
        const COLUMNS: [Column; 4] = [
            Column::id("ID"),
            Column::kept("NAME"),
            Column::dropped("PID", 2),
            Column::dropped("PROGRAM", 1),
        ];
        let show = |width, borders| {
            let look = Look { width, borders, color: false };
            let row = |_: &(), ids: Ids| {
                let program = "x".repeat(40);
                vec![ids.show(id(1)).into(), "name".into(), "4711".into(), program.into()]
            };
            fit(&look, &COLUMNS, &[id(1)], &[()], row)
        };
        let titles = |width| {
            let text = show(Some(width), true);
            assert!(text.lines().all(|line| line.chars().count() <= width.into()), "{text}");
            COLUMNS.map(|column| text.contains(column.title))
        };
        assert_eq!(titles(200), [true; 4]);
        assert_eq!(titles(80), [true, true, true, true]);
        assert_eq!(titles(60), [true, true, true, false]);
        assert_eq!(titles(30), [true, true, false, false]);
        assert_eq!(titles(20), [false, true, false, false]);
        assert!(show(None, false).contains(&id(1).to_string()));
    }

    #[test]
    fn short_ids_are_still_unique() {
        let short = Ids::short(&[id(1), id(2), id(0xf0), id(1)]);
        assert_eq!(short.show(id(1)).len(), 36);
        let mut other = *id(1).as_bytes();
        other[0] = 0x22;
        let other = InstanceId::from_bytes(other);
        assert_eq!(Ids::short(&[id(1), other]).show(other), "22111111-1111");
    }

    #[test]
    fn facts_are_aligned_and_only_those_that_are_known() {
        let text = facts(&[("a", "1".into()), ("none", String::new()), ("longer", "2".into())]);
        assert_eq!(text, "a:      1\nlonger: 2");
    }
}
