//! `cargo xtask <chore>`: the command line of the chores in the library.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy(),
        _ => bail!("usage: cargo xtask tidy    checks the rules that no compiler checks"),
    }
}

fn tidy() -> Result<ExitCode> {
    let problems = xtask::tidy::run(&workspace_root()?)?;
    for problem in &problems {
        eprintln!("{problem}");
    }
    if problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{} problems; the rules are explained in xtask/src/tidy.rs", problems.len());
    Ok(ExitCode::FAILURE)
}

/// The workspace cargo runs this in; asked at run time, since a build may be shared between check-outs.
fn workspace_root() -> Result<PathBuf> {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").context("run this as \"cargo xtask\"")?;
    let root = Path::new(&manifest_dir).parent().context("xtask lies in the workspace")?;
    Ok(root.to_owned())
}
