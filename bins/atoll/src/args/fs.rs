//! What can be typed after `atoll fs`.

use std::path::PathBuf;

use atoll_ids::ByteCount;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum FsCommand {
    /// Make a file system
    Create {
        /// Its name: 1 to 63 of a-z 0-9 -
        name: String,
        /// Data and parity shards of each stripe
        #[arg(long, default_value = "4+2", value_name = "K+M")]
        policy: String,
        /// The most that its files may hold [default: what the nodes take]
        #[arg(long, value_name = "BYTES")]
        capacity: Option<ByteCount>,
    },
    /// List file systems
    Ls,
    /// Show one: where it is mounted, what it holds, what is not stored yet
    Show {
        /// Its name
        name: String,
    },
    /// Remove one that is not mounted, with everything in it
    Rm {
        /// Its name
        name: String,
    },
    /// Mount one on a directory of this machine, now and whenever the node starts
    Mount {
        /// Its name
        name: String,
        /// A directory
        dir: PathBuf,
    },
    /// Store what was written and unmount; programs that have files open there lose them
    Umount {
        /// Its name, or the directory where it is mounted
        place: String,
    },
}
