//! The products: which there are, which of them are on this machine, and in which versions.

mod atoll;
mod nebula;
mod raw;
mod tinc;
mod wireguard;
mod yggdrasil;

pub(crate) use atoll::NAME as ATOLL;
pub(crate) use raw::NAME as RAW;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::Options;
use crate::product::Product;

/// Where Debian's packages put programs.
const DEBIAN: [&str; 2] = ["/usr/bin", "/usr/sbin"];

/// What a product is started by, and what else it needs.
struct Kind {
    name: &'static str,
    programs: &'static [&'static str],
    /// Its package in Debian.
    package: &'static str,
    make: fn(name: String, programs: Vec<PathBuf>) -> Box<dyn Product>,
}

const KINDS: [Kind; 4] = [
    Kind { name: "wireguard-go", programs: &["wireguard-go"], package: "wireguard-go", make: wireguard::make },
    Kind { name: "yggdrasil", programs: &["yggdrasil"], package: "yggdrasil", make: yggdrasil::make },
    Kind { name: "nebula", programs: &["nebula", "nebula-cert"], package: "nebula", make: nebula::make },
    Kind { name: "tinc", programs: &["tincd"], package: "tinc", make: tinc::make },
];

/// What [`find`] finds.
pub(crate) struct Found {
    /// What is to be measured, raw veth first and Atoll next.
    pub(crate) products: Vec<Box<dyn Product>>,
    /// What would be if it were installed.
    pub(crate) missing: Vec<String>,
}

/// Looks for what the options ask for.
pub(crate) fn find(options: &Options) -> Result<Found> {
    let mut products: Vec<Box<dyn Product>> = vec![Box::new(raw::Raw)];
    let mut missing = Vec::new();
    if let Some(program) = &options.atoll {
        products.push(Box::new(atoll::Atoll::new(program, options.atoll_set.clone())?));
    }
    let wanted = |name: &str| options.peers.is_empty() || options.peers.iter().any(|peer| name.starts_with(peer));
    for kind in KINDS.iter().filter(|kind| wanted(kind.name)) {
        if kind.name == "wireguard-go" && !runs("wg") {
            missing.push("wireguard-go: it is configured by `wg` (apt-get install wireguard-tools)".to_owned());
            continue;
        }
        match kind.programs.iter().map(|program| in_debian(program)).collect::<Option<Vec<PathBuf>>>() {
            Some(programs) => {
                let name = format!("{} {} (Debian)", kind.name, debian_version(kind.package));
                products.push((kind.make)(name, programs));
            }
            None => missing.push(format!("Debian's {0} (apt-get install {1})", kind.name, kind.package)),
        }
        let current: Vec<PathBuf> = kind.programs.iter().map(|program| options.peers_dir.join(program)).collect();
        if current.iter().all(|path| path.is_file()) {
            let name = format!("{} {}", kind.name, go_version(&current[0]));
            products.push((kind.make)(name, current));
        } else if kind.name != "tinc" {
            missing.push(format!("a current {} (scripts/peers.sh)", kind.name));
        }
    }
    if wanted("mycelium") {
        missing.push(
            "Mycelium (it is published as source only; the `mycelium` of crates.io is another program)".to_owned(),
        );
    }
    ensure!(products.len() > 1 || !options.peers.is_empty(), "there is nothing to measure: name a program by --atoll");
    Ok(Found { products, missing })
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn in_debian(program: &str) -> Option<PathBuf> {
    DEBIAN.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}

/// The upstream version of an installed package.
fn debian_version(package: &str) -> String {
    let asked = Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).output();
    let version = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let upstream = version.rsplit_once('-').map_or(version.as_str(), |(upstream, _)| upstream);
    upstream.split('+').next().unwrap_or_default().to_owned()
}

/// The version that a program of Go was built from, as it stands in the program.
fn go_version(program: &Path) -> String {
    let asked = Command::new("go").args(["version", "-m"]).arg(program).output();
    let text = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    module_version(&text).unwrap_or("of unknown version").to_owned()
}

/// From what `go version -m` prints.
fn module_version(text: &str) -> Option<&str> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("mod\t"))?;
    let version = line.split('\t').nth(1)?.trim_start_matches('v');
    // A version without a release is the time and commit of its source: the time says enough.
    Some(version.rsplit_once('-').filter(|(_, commit)| commit.len() == 12).map_or(version, |(at, _)| at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_go_say_their_version() {
        let check = |line: &str, expected: Option<&str>| {
            let text = format!("/usr/local/bin/x: go1.26.8\n\tpath\texample.org/x/cmd/x\n{line}\n\tdep\ta\tv1\n");
            assert_eq!(module_version(&text), expected);
        };
        check("\tmod\texample.org/x\tv0.5.12\th1:abc=", Some("0.5.12"));
        check("\tmod\texample.org/x\tv0.0.0-20250521234502-f333402bd9cb\th1:a=", Some("0.0.0-20250521234502"));
        check("", None);
    }
}
