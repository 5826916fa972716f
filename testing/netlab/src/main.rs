//! The network lab: Atoll and other overlay networks in the same namespaces, one after the other, in rounds.
//!
//! Every round raises each product anew on the same shapes of cables (see [`shape`]) and takes the same measures with the same programs (iperf3, ping, the
//! kernel's counters). Ratios are taken within a round, so what disturbs the machine disturbs both sides of them; what is printed is the median of
//! the rounds with the least and the most.
//!
//! ```sh
//! scripts/peers.sh                       # brings the others, pinned
//! cargo build --release -p atoll -p atoll-netlab
//! target/release/netlab --atoll target/release/atoll
//! target/release/netlab --only throughput,line --peers wireguard-go,yggdrasil
//! ```
//!
//! It takes root, iproute2, util-linux, nftables, iputils-ping and iperf3. What a product cannot do is said in its place in the table, and so is what is
//! not installed. However it ends, nothing of it is left: see [`atoll_lab`].

#![expect(clippy::print_stdout, reason = "it prints its results")]

mod figures;
mod measures;
mod product;
mod products;
mod report;
mod shape;
mod tools;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum as _};

use figures::Figures;
use measures::Measure;
use product::Product;

/// Measures Atoll and other overlay networks side by side in network namespaces.
#[derive(Debug, Parser)]
#[command(max_term_width = 110)]
struct Options {
    /// The program `atoll`; without it the others are measured alone
    #[arg(long, value_name = "PATH")]
    atoll: Option<PathBuf>,
    /// A further setting of Atoll's nodes
    #[arg(long, value_name = "KEY=VALUE")]
    atoll_set: Vec<String>,
    /// Where `scripts/peers.sh` put the current versions of the others
    #[arg(long, value_name = "DIR", default_value = "target/peers/bin")]
    peers_dir: PathBuf,
    /// Which others: names or their beginnings, separated by commas [default: all that are there]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    peers: Vec<String>,
    /// Which measures, separated by commas [default: all]
    #[arg(long, value_name = "MEASURES", value_delimiter = ',', value_enum)]
    only: Vec<Measure>,
    /// How often everything is done
    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: usize,
    /// How long one transfer or one series of pings lasts
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    seconds: u32,
    /// How long connections last while what carries them is restarted
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    restarts: u32,
    /// Sizes of the networks that a node joins
    #[arg(long, default_value = "2,10", value_name = "NUMBERS", value_delimiter = ',')]
    nodes: Vec<usize>,
    /// How long a network is left alone before its idle traffic is counted
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    settle: u32,
    /// How long idle traffic is counted
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    idle: u32,
    /// Also write the figures of every round to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the tables to this file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(
        options.nodes.iter().all(|nodes| (2..=shape::CROWD_MAX).contains(nodes)),
        "--nodes: 2 to {}",
        shape::CROWD_MAX
    );
    tools::check()?;
    let products::Found { products, missing } = products::find(&options)?;
    let figures = run(&options, &products)?;
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let about = report::About::this_machine(command, missing);
    let tables = report::markdown(&about, &products, &figures);
    println!("{tables}");
    if let Some(path) = &options.markdown {
        std::fs::write(path, &tables).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.json {
        let json = report::json(&about, &figures)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn run(options: &Options, products: &[Box<dyn Product>]) -> Result<Figures> {
    let measures = if options.only.is_empty() { Measure::value_variants() } else { &options.only };
    let mut figures = Figures::default();
    for round in 0..options.rounds {
        // Whoever is first meets a machine that just worked for somebody else's measure: that changes from round to round.
        let turn = (0..products.len()).map(|at| &products[(at + round) % products.len()]);
        for product in turn {
            for measure in measures {
                eprintln!("round {}: {}, {}", round + 1, measure.name(), product.name());
                measure.take(options, product.as_ref(), &mut figures.of(round, product.name()));
            }
        }
    }
    Ok(figures)
}
