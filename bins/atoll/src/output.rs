//! Tables and JSON on standard output.

use std::io::Write as _;

use serde::Serialize;

use crate::args::Output;

/// Prints `value` as JSON, or what `text` makes of it.
pub(crate) fn print<T: Serialize>(output: Output, value: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    match output {
        Output::Json => print_text(&(serde_json::to_string_pretty(value)? + "\n")),
        Output::Text => print_text(&text(value)),
    }
}

/// Prints `value` as JSON on one line, for programs that read line by line.
pub(crate) fn print_line<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print_text(&(serde_json::to_string(value)? + "\n"))
}

/// Prints text as it is. A reader that has read enough and gone (`| head`) is no failure.
pub(crate) fn print_text(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Columns of equal width under a heading. The last column is not padded; a column whose every cell is a number or a size is
/// set flush right.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let right: Vec<bool> = (0..heading.len()).map(|column| flush_right(rows, column)).collect();
    let mut text = String::new();
    let heading = heading.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let cell = if right[column] { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line.push_str(if column == 0 { "" } else { "  " });
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn flush_right(rows: &[Vec<String>], column: usize) -> bool {
    let mut cells =
        rows.iter().filter_map(|row| row.get(column)).filter(|cell| !cell.is_empty() && *cell != "-").peekable();
    cells.peek().is_some()
        && cells.all(|cell| cell.starts_with(|first: char| first.is_ascii_digit()) && cell.len() < 16)
}

/// `1.50 GB/s`, in the decimal units that disks and networks are measured in.
pub(crate) fn rate(bytes: u64, seconds: f64) -> String {
    if bytes == 0 || seconds <= 0.0 {
        return "-".into();
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let per_second = bytes as f64 / seconds;
    match per_second {
        1e9.. => format!("{:.2} GB/s", per_second / 1e9),
        1e6.. => format!("{:.1} MB/s", per_second / 1e6),
        1e3.. => format!("{:.1} kB/s", per_second / 1e3),
        _ => format!("{per_second:.0} B/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows =
            vec![vec!["a".to_owned(), "1".into(), "x y".into()], vec!["long".into(), "1000".into(), String::new()]];
        assert_eq!(table(&["NAME", "N", "NOTE"], &rows), "NAME     N  NOTE\na        1  x y\nlong  1000\n");
        assert_eq!(table(&["NAME"], &[]), "NAME\n");
    }

    #[test]
    fn rates() {
        assert_eq!(rate(1_500_000_000, 1.0), "1.50 GB/s");
        assert_eq!(rate(3_000_000, 2.0), "1.5 MB/s");
        assert_eq!(rate(1_000_000, 2.0), "500.0 kB/s");
        assert_eq!(rate(20, 2.0), "10 B/s");
        assert_eq!(rate(0, 2.0), "-");
        assert_eq!(rate(5, 0.0), "-");
    }
}
