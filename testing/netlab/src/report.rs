//! The tables and the JSON.
//!
//! Each cell is the median of the rounds with the least and the most in brackets. What is derived from two products (a share of raw veth, what is added to
//! its ping, how many times another's figure Atoll reaches) is computed within each round first.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::figures::{Figures, Spread};
use crate::measures::crowd_figures;
use crate::product::Product;
use crate::products::{ATOLL, RAW};

/// Where and how the figures came about.
#[derive(Debug, Serialize)]
pub(crate) struct About {
    machine: String,
    date: String,
    command: String,
    /// What was not there to be measured.
    missing: Vec<String>,
}

impl About {
    pub(crate) fn this_machine(command: String, missing: Vec<String>) -> Self {
        let line = |path: &str, key: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let found = text.lines().find_map(|line| line.strip_prefix(key));
            found.map(|rest| rest.trim_start_matches([':', ' ', '\t']).trim().to_owned()).unwrap_or_default()
        };
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let machine = format!(
            "{}, {cores} cores, {} of memory, Linux {}, load {} at the end",
            line("/proc/cpuinfo", "model name"),
            line("/proc/meminfo", "MemTotal"),
            kernel.trim(),
            std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or_default()
        );
        let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
        let date = date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        Self { machine, date, command, missing }
    }
}

/// How a cell comes about.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// The product's own figure.
    Itself,
    /// Its share of raw veth's.
    OfRaw,
    /// What it is above raw veth's.
    AboveRaw,
    /// How many times this Atoll's is.
    Atoll,
}

struct Column {
    head: String,
    figure: String,
    from: Source,
}

struct Table {
    title: String,
    columns: Vec<Column>,
}

fn column(head: &str, figure: &str, from: Source) -> Column {
    Column { head: head.to_owned(), figure: figure.to_owned(), from }
}

fn tables(figures: &Figures) -> Vec<Table> {
    let table = |title: &str, columns: Vec<Column>| Table { title: title.to_owned(), columns };
    let tcp = |figure: &str| {
        let [there, back] = ["there", "back"].map(|way| format!("{figure}.{way}"));
        vec![
            column("there", &there, Source::Itself),
            column("of raw", &there, Source::OfRaw),
            column("Atoll is × this", &there, Source::Atoll),
            column("back", &back, Source::Itself),
            column("of raw", &back, Source::OfRaw),
            column("Atoll is × this", &back, Source::Atoll),
        ]
    };
    let ping = |state: &str| {
        let figure = |name: &str| format!("ping.{state}.{name}");
        let mut columns: Vec<Column> =
            ["median", "p99", "max"].iter().map(|name| column(name, &figure(name), Source::Itself)).collect();
        let added = ["median", "p99", "max"].iter();
        columns.extend(added.map(|name| column(&format!("added, {name}"), &figure(name), Source::AboveRaw)));
        columns.push(column("lost", &figure("lost"), Source::Itself));
        columns
    };
    let mut tables = vec![
        table("One TCP connection between two nodes, Gbit/s", tcp("tcp")),
        table("One TCP connection over a line of five nodes, Gbit/s", tcp("line")),
        table("Ping, idle, ms", ping("idle")),
        table("Ping beside a TCP connection that takes all it can get, ms", ping("load")),
        table(
            "The link that is used goes silent, s without an answer",
            vec![
                column("by itself", "outage.by_itself", Source::Itself),
                column("Atoll is × this", "outage.by_itself", Source::Atoll),
                column("else, once the link is back", "outage.after_return", Source::Itself),
            ],
        ),
    ];
    tables.push(table(
        "Two TCP connections while what carries them is restarted in turn",
        vec![
            column("connections lost", "restarts.lost", Source::Itself),
            column("restarts", "restarts.count", Source::Itself),
            column("longest standstill, s", "restarts.longest", Source::Itself),
            column("Gbit/s, both", "restarts.rate", Source::Itself),
        ],
    ));
    for (nodes, [contact, other, idle, memory]) in crowd_figures(figures) {
        tables.push(table(
            &format!("A node joins; {nodes} nodes then"),
            vec![
                column("first answer of whom it was told of, s", &contact, Source::Itself),
                column("of another, s", &other, Source::Itself),
                column("Atoll is × this (the first)", &contact, Source::Atoll),
                column("idle: bytes/s sent per node", &idle, Source::Itself),
                column("memory per node, MiB", &memory, Source::Itself),
            ],
        ));
    }
    tables
}

/// The tables for people.
pub(crate) fn markdown(about: &About, products: &[Box<dyn Product>], figures: &Figures) -> String {
    let names: Vec<&str> = products.iter().map(|product| product.name()).collect();
    let mut text = format!("{}; {}. `{}`\n", about.date, about.machine, about.command);
    for missing in &about.missing {
        text += &format!("Not measured, because it is not here: {missing}.\n");
    }
    let taken = figures.names();
    for table in
        tables(figures).iter().filter(|table| table.columns.iter().any(|it| taken.contains(it.figure.as_str())))
    {
        text += &rendered(table, &names, figures);
    }
    text
}

fn rendered(table: &Table, names: &[&str], figures: &Figures) -> String {
    let mut text = format!("\n### {}\n\n| |", table.title);
    let mut notes: Vec<String> = Vec::new();
    for column in &table.columns {
        let _: std::fmt::Result = write!(text, " {} |", column.head);
    }
    text += &format!("\n|---|{}\n", "---|".repeat(table.columns.len()));
    for name in names {
        let _: std::fmt::Result = write!(text, "| {name} |");
        for column in &table.columns {
            let _: std::fmt::Result = write!(text, " {} |", cell(column, name, names, figures, &mut notes));
        }
        text += "\n";
    }
    if !notes.is_empty() {
        text += "\n";
    }
    for (at, note) in notes.iter().enumerate() {
        text += &format!("({}) {note}.\n", at + 1);
    }
    text
}

fn cell(column: &Column, name: &str, names: &[&str], figures: &Figures, notes: &mut Vec<String>) -> String {
    let figure = column.figure.as_str();
    let of_both =
        |one: &str, other: &str, of: fn(f64, f64) -> f64| Spread::of(figures.within_rounds(figure, one, other, of));
    let atoll = names.iter().find(|name| name.starts_with(ATOLL));
    let spread = match column.from {
        Source::Itself => Spread::of(figures.values(name, figure).into_values()),
        Source::OfRaw => of_both(name, RAW, |own, raw| own / raw).filter(|_| name != RAW),
        Source::AboveRaw => of_both(name, RAW, |own, raw| own - raw).filter(|_| name != RAW),
        Source::Atoll => match atoll {
            Some(atoll) if !name.starts_with(ATOLL) => of_both(atoll, name, |atoll, own| atoll / own),
            _ => None,
        },
    };
    // A product that failed in one round and not in another has both a value and a note.
    let why = figures.why_none(name, figure).filter(|_| matches!(column.from, Source::Itself));
    let note = why.map(|why| {
        let why = why.replace('\n', " ");
        let at = notes.iter().position(|note| *note == why).unwrap_or_else(|| {
            notes.push(why);
            notes.len() - 1
        });
        format!(" ({})", at + 1)
    });
    let value = spread.map_or_else(|| if why.is_some() { "n/a".to_owned() } else { "–".to_owned() }, shown);
    value + &note.unwrap_or_default()
}

fn shown(spread: Spread) -> String {
    let Spread { median, least, most } = spread;
    if least.to_bits() == most.to_bits() {
        return number(median);
    }
    format!("{} ({}–{})", number(median), number(least), number(most))
}

/// Three digits that count, and no more than three behind the point.
fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Every figure of every round, for programs.
pub(crate) fn json(about: &About, figures: &Figures) -> Result<String> {
    #[derive(Serialize)]
    struct Report<'a> {
        version: u32,
        about: &'a About,
        samples: &'a Figures,
    }
    Ok(serde_json::to_string_pretty(&Report { version: 1, about, samples: figures })? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let check = |value: f64, expected: &str| assert_eq!(number(value), expected);
        check(12_345.6, "12346");
        check(43.21, "43.2");
        check(4.321, "4.32");
        check(0.0432, "0.043");
        check(-0.0432, "-0.043");
    }

    #[test]
    fn a_table_has_ratios_within_rounds_and_says_what_is_not_there() {
        let mut figures = Figures::default();
        for (round, raw, atoll, other) in [(0, 40.0, 10.0, 5.0), (1, 20.0, 10.0, 2.0)] {
            figures.of(round, RAW).value("tcp.there", raw);
            figures.of(round, "Atoll 1").value("tcp.there", atoll);
            figures.of(round, "other").value("tcp.there", other);
            figures.of(round, "last").none("tcp.there", "it fell over");
        }
        let tables = tables(&figures);
        let text = rendered(&tables[0], &[RAW, "Atoll 1", "other", "last"], &figures);
        assert!(text.contains("| raw veth | 30.0 (20.0–40.0) | – |"), "{text}");
        assert!(text.contains("| Atoll 1 | 10.0 | 0.375 (0.250–0.500) | – |"), "{text}");
        assert!(text.contains("| other | 3.50 (2.00–5.00) | 0.113 (0.100–0.125) | 3.50 (2.00–5.00) |"), "{text}");
        assert!(text.contains("| last | n/a (1) | – | – |"), "{text}");
        assert!(text.contains("(1) it fell over."), "{text}");
    }
}
