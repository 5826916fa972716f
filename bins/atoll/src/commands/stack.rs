//! Commands about stacks: a folder of files is planned, applied, destroyed, and compared with what is there.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use atoll_control::{StackFile, StackPlan, StackRequest, StackSummary, Summary};

use super::Context;
use super::app::follow;
use crate::args::{StackApply, StackLook, StackPlace};
use crate::failure::advise;
use crate::output::print;

/// What is asked for differs from what is there: the exit status of `--detailed-exitcode`, as Terraform and OpenTofu have it.
const DIFFERS: u8 = 2;

/// Largest file of a stack; the node refuses larger ones, too.
const FILE_BYTES_MAX: u64 = 4 << 20;

pub(super) async fn plan(context: &Context, look: &StackLook) -> anyhow::Result<ExitCode> {
    let plan = context.client().plan_stack(&request(&look.place, false)?).await?;
    let json = serde_json::json!({"stack": plan.stack, "empty": plan.empty, "changes": plan.changes});
    print(context.output, &json, |_| plan.text.clone())?;
    Ok(exit(look, !plan.empty))
}

pub(super) async fn drift(context: &Context, look: &StackLook) -> anyhow::Result<ExitCode> {
    let drift = context.client().stack_drift(&request(&look.place, false)?).await?;
    print(context.output, &drift.moved, |_| drift.text.clone())?;
    Ok(exit(look, drift.moved.as_array().is_some_and(|moved| !moved.is_empty())))
}

fn exit(look: &StackLook, differs: bool) -> ExitCode {
    if look.detailed_exitcode && differs { ExitCode::from(DIFFERS) } else { ExitCode::SUCCESS }
}

pub(super) async fn apply(context: &Context, apply: &StackApply, destroy: bool) -> anyhow::Result<()> {
    let client = context.client();
    let mut request = request(&apply.place, destroy)?;
    let plan = client.plan_stack(&request).await?;
    if !apply.yes {
        agree(&plan, destroy)?;
        request.shown = Some(plan.digest.clone());
    }
    let events = client.apply_stack(&request).await?;
    let Summary::Stack(summary) = follow(events, if destroy { "destroying" } else { "applying" }).await? else {
        anyhow::bail!("the node answered with something else than what became of a stack");
    };
    print(context.output, &summary, |summary| done(summary, &plan))
}

/// Asks whether a plan shall be carried out; one that does nothing needs no asking.
fn agree(plan: &StackPlan, destroy: bool) -> anyhow::Result<()> {
    if plan.empty {
        return Ok(());
    }
    let what = if destroy { "destroy" } else { "apply" };
    if !std::io::stdin().is_terminal() {
        let message = format!("standard input is no terminal, so nobody can agree to {what} stack {}", plan.stack);
        return Err(advise(message, format!("look at `atoll plan`, then run `atoll {what} --yes`")));
    }
    eprint!("{}\n{what} stack {}? Only yes is taken: ", plan.text, plan.stack);
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    anyhow::ensure!(answer.trim() == "yes", "nothing was done");
    Ok(())
}

fn done(summary: &StackSummary, plan: &StackPlan) -> String {
    if plan.empty {
        return plan.text.clone();
    }
    let StackSummary { stack, created, changed, replaced, deleted, seconds } = summary;
    format!(
        "{stack}: {created} created, {changed} changed, {replaced} replaced, {deleted} deleted, in {seconds:.1} s\n"
    )
}

fn request(place: &StackPlace, destroy: bool) -> anyhow::Result<StackRequest> {
    if let Some(name) = &place.stack {
        return Ok(StackRequest { name: Some(name.clone()), destroy, ..StackRequest::default() });
    }
    let files = read(&place.dir)?;
    Ok(StackRequest { files, destroy, ..StackRequest::default() })
}

/// The YAML files of a folder by name, or the one file.
fn read(place: &Path) -> anyhow::Result<Vec<StackFile>> {
    let shown = place.display();
    let mut paths = Vec::new();
    if place.is_dir() {
        for entry in std::fs::read_dir(place).with_context(|| format!("cannot list {shown}"))? {
            let path = entry.with_context(|| format!("cannot list {shown}"))?.path();
            let is_yaml = path.extension().is_some_and(|it| it == "yaml" || it == "yml");
            if is_yaml && path.is_file() {
                paths.push(path);
            }
        }
        paths.sort();
    } else {
        paths.push(place.to_path_buf());
    }
    if paths.is_empty() {
        return Err(advise(format!("{shown} has no .yaml files"), "name the folder of the stack: atoll plan DIR"));
    }
    paths.iter().map(read_file).collect()
}

fn read_file(path: &PathBuf) -> anyhow::Result<StackFile> {
    let shown = path.display();
    let bytes = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.len();
    anyhow::ensure!(bytes <= FILE_BYTES_MAX, "{shown} has {bytes} bytes; {FILE_BYTES_MAX} are read");
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    Ok(StackFile { name: shown.to_string(), text })
}
