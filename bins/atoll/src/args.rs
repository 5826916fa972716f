//! What can be typed. Help texts are part of the product; a test compares them with `tests/help`.

mod bus;
mod fs;
mod proxy;
mod rules;

use std::path::PathBuf;

use atoll_ids::{BucketName, ByteCount, NodeId};
pub(crate) use bus::{BusCommand, BusPayload, BusReceive, BusReply, BusSend};
use clap::{Args, Parser, Subcommand, ValueEnum};
pub(crate) use fs::FsCommand;
pub(crate) use proxy::{NetConnect, NetProxy};
pub(crate) use rules::{NetAllow, NetCheck, NetDeny};

/// One peer-to-peer cloud out of anyone's Linux machines.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, about, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Where the node keeps everything [default: $XDG_DATA_HOME/atoll]
    #[arg(long, global = true, env = "ATOLL_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// How to print results
    #[arg(long, global = true, value_enum, default_value_t = Output::Text, value_name = "FORM")]
    pub(crate) output: Output,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run this machine's node until it is told to stop
    Up(Up),
    /// Stop the node
    Down(Down),
    /// Show the node, its roles, its peers and what they lend
    Status,
    /// The node's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The keys of this node and its owner
    #[command(subcommand)]
    Id(IdCommand),
    /// Print a ticket by which another node joins this one
    Invite(Invite),
    /// Join the node that made a ticket
    Join {
        /// What `atoll invite` printed
        ticket: String,
    },
    /// Forget a peer
    Forget {
        /// The peer's id
        node: NodeId,
    },
    /// The planetary network: the interface, paths to peers, what may come in
    #[command(subcommand)]
    Net(NetCommand),
    /// Buckets: what objects lie in
    #[command(subcommand)]
    Bucket(BucketCommand),
    /// Store files, directories or standard input
    Put(Put),
    /// Read objects back into files or standard output
    Get(Get),
    /// List objects
    Ls(Ls),
    /// Remove objects
    Rm(Rm),
    /// Show everything known about one object
    Stat {
        /// BUCKET/KEY
        object: Place,
    },
    /// Show how much is stored under a prefix
    Du {
        /// BUCKET or BUCKET/PREFIX
        place: Place,
    },
    /// Find lost and rotten shards and make them again
    Heal(Heal),
    /// File systems: ordinary files, dispersed like objects
    #[command(subcommand)]
    Fs(FsCommand),
    /// Show what the peers lend
    Offers,
    /// Edge virtual data centres: machines rented from peers, with a Kubernetes API
    #[command(subcommand)]
    Evdc(EvdcCommand),
    /// Print what kubectl needs for an eVDC (it holds a key)
    Kubeconfig {
        /// The eVDC's name
        name: String,
        /// Write it to this file, readable by you alone, instead of printing it
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Images on this node; members of its owner's eVDCs fetch them from here
    #[command(subcommand)]
    Image(ImageCommand),
    /// Show what would be done to make a stack as its files say
    Plan(Plan),
    /// Make a stack as its files say
    Apply(Apply),
    /// Remove everything that a stack made
    Destroy(Destroy),
    /// Show what has moved since a stack was applied
    Drift(Drift),
    /// Applications: the catalogue, and what is installed of it
    #[command(subcommand)]
    App(AppCommand),
    /// This node as a gateway
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// Show on this machine what Atoll does: a cloud on rented machines, or a directory stored; nodes are killed, nothing is lost
    Demo(Demo),
    /// Run one of the catalogue's small servers: guestbook-web, guestbook-db, website (in its container; configured by the environment)
    Sample {
        /// Which
        name: String,
    },
}

/// The files of a stack.
#[derive(Debug, Args)]
pub(crate) struct StackFiles {
    /// The folder of the stack's YAML files, or one file
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// A stack, also one without files.
#[derive(Debug, Args)]
pub(crate) struct StackPlace {
    #[command(flatten)]
    pub(crate) files: StackFiles,
    /// The name of a stack whose files are gone, instead
    #[arg(long, value_name = "NAME", conflicts_with = "dir")]
    pub(crate) stack: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) files: StackFiles,
    /// Exit with 2 if there is something to do
    #[arg(long)]
    pub(crate) detailed_exitcode: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Drift {
    #[command(flatten)]
    pub(crate) place: StackPlace,
    /// Exit with 2 if something has moved
    #[arg(long)]
    pub(crate) detailed_exitcode: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) files: StackFiles,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Destroy {
    #[command(flatten)]
    pub(crate) place: StackPlace,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AppCommand {
    /// List what is installed
    List {
        /// Only in this eVDC
        #[arg(long, value_name = "NAME")]
        evdc: Option<String>,
    },
    /// List the catalogue
    Search {
        /// Only applications whose name or description has this word
        word: Option<String>,
    },
    /// Show what an application is, what it needs and what it asks for
    Show {
        /// Its name in the catalogue
        name: String,
    },
    /// Install an application and wait until it has come up
    Install {
        /// Its name in the catalogue
        app: String,
        /// What to call the release [default: the application's name]
        #[arg(long, value_name = "RELEASE")]
        name: Option<String>,
        #[command(flatten)]
        at: AppPlace,
        #[command(flatten)]
        values: AppValues,
    },
    /// Change the values of a release, or its application's version; what is not given stays
    Upgrade {
        /// The release
        release: String,
        #[command(flatten)]
        at: AppPlace,
        #[command(flatten)]
        values: AppValues,
    },
    /// Return a release to an earlier revision
    Rollback {
        /// The release
        release: String,
        /// The revision [default: the one before]
        revision: Option<u64>,
        #[command(flatten)]
        at: AppPlace,
    },
    /// Show a release and what it consists of
    Status {
        /// The release
        release: String,
        #[command(flatten)]
        at: AppPlace,
    },
    /// Remove a release; its volumes are kept
    Rm {
        /// The release
        release: String,
        #[command(flatten)]
        at: AppPlace,
        /// Delete its volumes, too
        #[arg(long)]
        data: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AppPlace {
    /// The eVDC
    #[arg(long, value_name = "NAME")]
    pub(crate) evdc: String,
    /// The namespace in it
    #[arg(long, default_value = "default", value_name = "NAMESPACE")]
    pub(crate) namespace: String,
}

#[derive(Debug, Args)]
pub(crate) struct AppValues {
    /// A file of values; later ones win
    #[arg(long, value_name = "FILE")]
    pub(crate) values: Vec<PathBuf>,
    /// One value, such as image.tag=1.1.0; wins over files
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Configuration file [default: <data-dir>/atoll.toml if it exists]
    #[arg(long, value_name = "FILE", env = "ATOLL_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: SettingFlags,
    /// Stop when standard input closes (for whoever starts nodes and must not leave them behind)
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Also end the containers that outlive the node, and remove their networks, mounts and limits; works on a node that was killed, too
    #[arg(long)]
    pub(crate) clear: bool,
}

/// Settings on the command line: they win over environment and file.
#[derive(Debug, Args)]
pub(crate) struct SettingFlags {
    /// Name of the node, for people
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// How much storage to lend
    #[arg(long, value_name = "BYTES")]
    pub(crate) capacity: Option<String>,
    /// Socket address for connections from other nodes
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) bind: Option<String>,
    /// Any other setting, as `atoll config show` names it
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting, its value and where that comes from
    Show {
        /// Configuration file [default: <data-dir>/atoll.toml if it exists]
        #[arg(long, value_name = "FILE", env = "ATOLL_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        settings: SettingFlags,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum IdCommand {
    /// Print the ids of this node and its owner
    Show,
    /// Print the 24 words that are the owner's key: whoever has them has everything
    Phrase,
    /// Make the owner's key from its 24 words, read from standard input
    Restore,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Show the interface, the peers' addresses and paths, and nodes seen on the local network
    Status,
    /// Show the peers: their addresses, the paths to them, and what was carried since the node was started
    Peers,
    /// Show, again and again, what is being carried to and from each peer, the busiest first
    Top {
        /// Time between two looks, in whole seconds
        #[arg(long, default_value = "2s", value_parser = parse_duration, value_name = "TIME")]
        every: u64,
        /// End after so many looks instead of by Ctrl-C
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Print the rules for what peers may begin, and where each comes from
    Rules,
    /// Let a peer begin something with this node, from now on
    Allow(NetAllow),
    /// Take back what `allow` gave; what was begun under it ends
    Deny(NetDeny),
    /// Say whether something would pass between this node and a peer, and why
    Check(NetCheck),
    /// Show the ways to a peer: direct ones and relays, what was measured of them, which one is used and why
    Path {
        /// The peer's name, id or planetary address
        node: String,
    },
    /// Look up among nodes where a node is, peer or not
    Find {
        /// The node's id or planetary address; or a peer's name
        node: String,
    },
    /// List the names of nodes, and say how programs come to ask this node for them
    Names,
    /// Show what a name or a planetary address stands for
    Resolve {
        /// A name such as web1.anna.atoll, with or without .atoll; or an address
        name: String,
    },
    /// Give names to owners and nodes
    #[command(subcommand)]
    Name(NameCommand),
    /// Show the proxy for programs of this machine and how to use it, or choose the exit for what lies outside the network
    Proxy(NetProxy),
    /// Connect standard input and output to a port of a node (for ssh: -o ProxyCommand='atoll net connect %h %p')
    Connect(NetConnect),
    #[command(flatten)]
    Bus(BusCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum NameCommand {
    /// Give one: `anna OWNER` makes their nodes ….anna.atoll, `wiki.mine NODE` makes a node wiki.mine.atoll
    Set {
        /// An owner's name, which has no dot, or a node's, which ends in .mine
        name: String,
        /// The owner's id; or the node's id or a name that it has now
        target: String,
    },
    /// Take one back
    Remove {
        /// The name
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Invite {
    /// How long the ticket can be used (30s, 10m, 2h, 7d)
    #[arg(long, default_value = "1h", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) ttl: u64,
    /// How many nodes may join by it
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) uses: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvdcCommand {
    /// Rent nodes and start the Kubernetes API on one of them
    Create(EvdcCreate),
    /// List eVDCs
    Ls,
    /// Show one, with its nodes
    Show {
        /// Its name
        name: String,
    },
    /// Give one back, with everything that runs in it
    Rm {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EvdcCreate {
    /// Its name: 1 to 63 of a-z 0-9 -
    pub(crate) name: String,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) nodes: usize,
    /// Processor cores of each: 2, 0.5 or 500m
    #[arg(long, default_value = "1", value_parser = parse_cores, value_name = "CORES")]
    pub(crate) cpu: u32,
    /// Memory of each
    #[arg(long, default_value = "512M", value_name = "BYTES")]
    pub(crate) memory: ByteCount,
    /// Room for volumes on each
    #[arg(long, default_value = "2G", value_name = "BYTES")]
    pub(crate) storage: ByteCount,
    /// Pods on each
    #[arg(long, default_value_t = 30, value_name = "N")]
    pub(crate) pods: u32,
    /// The most to pay for an hour of a node, in millionths of the currency's unit
    #[arg(long, default_value_t = 0, value_name = "MICRO")]
    pub(crate) price_max: u64,
    /// The gateway through which it is reached from outside
    #[arg(long, value_name = "NODE")]
    pub(crate) gateway: Option<NodeId>,
    /// The domain below which that gateway gives names
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) domain: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images
    Ls,
    /// Take in an OCI layout or archive, or what `docker save` wrote
    Load {
        /// The archive or folder
        path: PathBuf,
        /// What to call the image instead of the name in the archive
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Make the image of the catalogue's own servers out of this program; applications that ask for one get it by themselves
    Sample {
        /// Its tag: the version that the servers report
        #[arg(long, value_name = "TAG")]
        tag: String,
    },
    /// Remove an image
    Rm {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum GatewayCommand {
    /// Show what it answers for and who has dialled in
    Status,
    /// Print the certificate of its own authority, to be trusted by browsers
    Ca,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BucketCommand {
    /// Make a bucket
    Create {
        /// Its name: 3 to 63 of a-z 0-9 . -
        name: BucketName,
        /// Data and parity shards of each stripe: 4+2 survives any two nodes and stores 1.5 times the bytes
        #[arg(long, default_value = "4+2", value_name = "K+M")]
        policy: String,
    },
    /// List buckets
    Ls,
    /// Remove an empty bucket
    Rm {
        /// Its name
        name: BucketName,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Put {
    /// Files and directories (with a trailing slash: what is in the directory), then BUCKET/KEY or BUCKET/PREFIX/; `-` is standard input
    #[arg(required = true, num_args = 2.., value_names = ["PATH", "DESTINATION"])]
    pub(crate) arguments: Vec<String>,
    /// Store again what is there already with the same size and time of change
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// BUCKET/KEY for one object, BUCKET or BUCKET/PREFIX/ for all below
    pub(crate) source: Place,
    /// File or directory to write; `-` is standard output [default: the current directory]
    pub(crate) destination: Option<PathBuf>,
    /// Write again what is there already with the same size and time of change
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// BUCKET or BUCKET/PREFIX; buckets are listed without it
    pub(crate) place: Option<Place>,
    /// Everything below, not one level
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// Sizes and times too
    #[arg(long, short)]
    pub(crate) long: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// BUCKET/KEY, or with --recursive BUCKET or BUCKET/PREFIX
    pub(crate) place: Place,
    /// Everything that starts with it
    #[arg(long, short)]
    pub(crate) recursive: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Heal {
    /// Only this bucket
    pub(crate) bucket: Option<BucketName>,
    /// Only look, change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Have every shard read again and checked on its node
    #[arg(long)]
    pub(crate) deep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// The directory to store [default: one that is made up]
    pub(crate) path: Option<PathBuf>,
    /// What to show [default: the cloud where this machine can, and the store where not, or where it is told what to store]
    #[arg(long, value_enum, value_name = "PART")]
    pub(crate) part: Option<DemoPart>,
    /// How much to make up for the store to keep [default: 512M]
    #[arg(long, value_name = "BYTES")]
    pub(crate) bytes: Option<ByteCount>,
    /// How many files to make up [default: 3000]
    #[arg(long, value_name = "N")]
    pub(crate) files: Option<usize>,
    /// Where the nodes keep their data [default: a new folder in the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// Leave the nodes running at the end and say how to use them
    #[arg(long)]
    pub(crate) keep: bool,
    /// In the cloud's part, also kill a node in the middle of each step and start it again; which and when is drawn by this number
    #[arg(long, value_name = "SEED")]
    pub(crate) hunt: Option<u64>,
}

/// What the demo shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoPart {
    /// A directory dispersed over nodes, nodes killed, every byte read back
    Store,
    /// Machines rented, an application on them that outlives two of them, rolled over and removed; takes root
    Cloud,
}

/// `BUCKET`, `BUCKET/KEY` or `BUCKET/PREFIX/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) bucket: BucketName,
    pub(crate) key: String,
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (bucket, key) = text.split_once('/').unwrap_or((text, ""));
        let bucket = bucket.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { bucket, key: key.to_owned() })
    }
}

impl Place {
    /// Whether it names everything below a prefix rather than one object.
    pub(crate) fn is_prefix(&self) -> bool {
        self.key.is_empty() || self.key.ends_with('/')
    }
}

/// `90`, `30s`, `10m`, `2h`, `7d` in seconds.
fn parse_duration(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        Some((at, 'd')) => (&text[..at], 86400),
        _ => (text, 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    seconds.filter(|&seconds| seconds > 0).ok_or_else(|| "a time is a number and s, m, h or d: 30s, 10m, 2h, 7d".into())
}

/// More cores than a machine has: who writes that means thousandths.
const CORES_MAX: f64 = 1024.0;

/// `2`, `0.5` or `500m`, as Kubernetes writes processor time, in thousandths of a core.
fn parse_cores(text: &str) -> Result<u32, String> {
    let (number, scale) = text.strip_suffix('m').map_or((text, 1000.0), |millis| (millis, 1.0));
    let is_plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let millis = number.parse::<f64>().ok().filter(|_| is_plain).map(|number| (number * scale).round());
    match millis {
        Some(millis) if millis > CORES_MAX * 1000.0 => {
            Err(format!("more than {CORES_MAX} cores; thousandths of a core are written with an m: 500m"))
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and CORES_MAX * 1000")]
        Some(millis) if millis >= 1.0 => Ok(millis as u32),
        _ => Err("processor time is a number of cores, or of thousandths with an m: 2, 0.5, 500m".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(parse_duration(text).ok(), expected, "{text}");
        check("90", Some(90));
        check("30s", Some(30));
        check("10m", Some(600));
        check("2h", Some(7200));
        check("7d", Some(604_800));
        check("0s", None);
        check("", None);
        check("h", None);
        check("-1h", None);
        check("99999999999999999999d", None);
    }

    #[test]
    fn cores() {
        let check = |text: &str, expected: Option<u32>| assert_eq!(parse_cores(text).ok(), expected, "{text}");
        check("2", Some(2000));
        check("0.5", Some(500));
        check("500m", Some(500));
        check("1024", Some(1_024_000));
        for wrong in ["", "m", "0", "0m", "-1", "nan", "inf", "1e3", "1.2.3", "2 ", "1025", "2000000m"] {
            check(wrong, None);
        }
    }

    #[test]
    fn places() {
        let check = |text: &str, expected: Option<(&str, &str, bool)>| {
            let place = text.parse::<Place>().ok();
            let found = place.as_ref().map(|place| (place.bucket.as_str(), place.key.as_str(), place.is_prefix()));
            assert_eq!(found, expected, "{text}");
        };
        check("photos", Some(("photos", "", true)));
        check("photos/", Some(("photos", "", true)));
        check("photos/2026/", Some(("photos", "2026/", true)));
        check("photos/2026/a.jpg", Some(("photos", "2026/a.jpg", false)));
        check("/x", None);
        check("UPPER/x", None);
    }
}
