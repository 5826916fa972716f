//! `atoll demo`: runs the demo, shows it, and cleans up, also after Ctrl-C.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use atoll_grid::cloud::{CloudConfig, CloudReport, missing as missing_for_cloud, run as tell_story};
use atoll_grid::demo::{DemoConfig, DemoReport, Step, Tell, run as run_demo};
use atoll_grid::{Grid, TreeSpec};
use atoll_ids::ByteCount;

use super::Context;
use crate::args::{Demo, DemoPart, Output};
use crate::failure::advise;
use crate::output::{print_line, print_text, rate, table};
use crate::progress::Progress;

/// Killed processes are gone in milliseconds.
const REMOVE_WITHIN: Duration = Duration::from_secs(10);

/// What is made up unless told otherwise: enough to last some seconds.
const FILES: usize = 3000;
const BYTES: u64 = 512 << 20;

/// Any seed does; a fixed one makes two runs comparable.
const SEED: u64 = 0x0a70;

pub(super) async fn run(context: &Context, demo: &Demo) -> anyhow::Result<()> {
    let stores = demo.path.is_some() || demo.bytes.is_some() || demo.files.is_some();
    match (demo.part, stores) {
        (Some(DemoPart::Cloud), true) => {
            let help = "leave out what is to be stored, or --part cloud";
            return Err(advise("the cloud's part of the demo stores no directory", help));
        }
        (Some(DemoPart::Store), _) | (None, true) if demo.hunt.is_some() => {
            return Err(advise("--hunt goes with the cloud's part of the demo", "leave it out, or say --part cloud"));
        }
        (Some(DemoPart::Store), _) => {}
        (None, true) => eprintln!("the cloud's part is left out for what is to be stored; `atoll demo` alone shows it"),
        (part, false) => match missing_for_cloud().first() {
            None => return run_story(context, demo).await,
            Some(why) if part.is_some() => anyhow::bail!("the cloud cannot be shown here: {why}"),
            Some(why) => eprintln!("the cloud's part is left out here: {why}"),
        },
    }
    run_store(context, demo).await
}

async fn run_store(context: &Context, demo: &Demo) -> anyhow::Result<()> {
    let folder = prepare_folder(demo)?;
    let config = DemoConfig {
        program: std::env::current_exe().context("cannot find this program's own file")?,
        source: demo.path.clone(),
        spec: TreeSpec {
            files: demo.files.unwrap_or(FILES),
            bytes: demo.bytes.map_or(BYTES, |bytes| bytes.0),
            seed: SEED,
        },
        folder: folder.clone(),
        keep: demo.keep,
        stop: Arc::default(),
    };
    let progress = Progress::new("raising a grid");
    let mut tell = |tell: Tell<'_>| match tell {
        Tell::Begin(step) => progress.begin(step),
        Tell::Progress(event) => progress.event(event),
        Tell::End(step) => progress.say(&step_line(step)),
    };
    let outcome = tokio::select! {
        outcome = run_demo(&config, &mut tell) => Some(outcome),
        _ = tokio::signal::ctrl_c() => None,
    };
    progress.finish();
    let (report, grid) = match outcome {
        Some(Ok(done)) => done,
        Some(Err(error)) => {
            return Err(advise(error.to_string(), format!("the nodes' logs are below {}", folder.display())));
        }
        None => {
            config.stop.store(true, Ordering::Relaxed);
            remove(&folder).await?;
            anyhow::bail!("interrupted; the nodes are stopped and their data is removed");
        }
    };
    match context.output {
        Output::Json => print_line(&report)?,
        Output::Text => print_text(&report_text(&report))?,
    }
    end(grid, demo.keep, &folder).await
}

async fn run_story(context: &Context, demo: &Demo) -> anyhow::Result<()> {
    let folder = prepare_folder(demo)?.canonicalize()?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let config = CloudConfig { program, folder: folder.clone(), keep: demo.keep, hunt: demo.hunt };
    let progress = Progress::new("raising machines");
    let mut tell = |tell: Tell<'_>| match tell {
        Tell::Begin(step) => progress.begin(step),
        Tell::Progress(event) => progress.event(event),
        Tell::End(step) => progress.say(&step_line(step)),
    };
    // The machines go with the story, however it ends.
    let outcome = tokio::select! {
        outcome = tell_story(&config, &mut tell) => Some(outcome),
        _ = tokio::signal::ctrl_c() => None,
    };
    progress.finish();
    match outcome {
        None => anyhow::bail!("interrupted; the machines are gone with everything on them"),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(report)) => match context.output {
            Output::Json => print_line(&report),
            Output::Text => print_text(&story_text(&report)),
        },
    }
}

fn story_text(report: &CloudReport) -> String {
    let row = |step: &Step| vec![step.step.clone(), format!("{:.1} s", step.seconds), step.seen.clone()];
    let rows: Vec<_> = report.steps.iter().map(row).collect();
    let mut text = table(&["STEP", "TIME", "SEEN"], &rows);
    text.push_str(&format!(
        "\nThe page was back {:.1} s after two nodes were killed. Idle, the five nodes use {} of memory and {:.1} % of a core.\n",
        report.back_seconds,
        ByteCount(report.idle.memory_bytes),
        report.idle.core_percent,
    ));
    if let Some(kept) = &report.kept {
        text.push_str(&format!(
            "\nThe machines are left running. Speak to the tenant's node, and to the cluster from its network:\n\
             \x20 atoll --data-dir {} status\n\
             \x20 nsenter --net=/run/netns/{} -- kubectl --kubeconfig {} get pods -A\n\
             End it all:\n\
             \x20 sh {}\n",
            kept.home.display(),
            kept.namespace,
            kept.kubeconfig.display(),
            kept.end.display(),
        ));
    }
    text
}

/// The folder must be ours alone: it is removed at the end.
fn prepare_folder(demo: &Demo) -> anyhow::Result<PathBuf> {
    let folder = match &demo.folder {
        Some(folder) => std::path::absolute(folder)?,
        None => std::env::temp_dir().join(format!("atoll-demo-{}", std::process::id())),
    };
    if folder.exists() && std::fs::read_dir(&folder)?.next().is_some() {
        return Err(advise(format!("{} is not empty", folder.display()), "name a new folder with --folder"));
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

async fn end(mut grid: Grid, keep: bool, folder: &std::path::Path) -> anyhow::Result<()> {
    if keep {
        let home = grid.home.data_dir().display().to_string();
        let nodes = grid.nodes.iter().filter(|node| node.is_started());
        let nodes = nodes.map(|node| format!(" {}", node.data_dir().display())).collect::<String>();
        grid.leave_running();
        return print_text(&format!(
            "\nThe grid is left running. Speak to your node:\n\
             \x20 export ATOLL_DATA_DIR={home}\n\
             \x20 atoll status\n\
             \x20 atoll ls demo\n\
             Stop it and remove its data:\n\
             \x20 for node in {home}{nodes}; do atoll down --data-dir $node; done; rm -r {}\n",
            folder.display()
        ));
    }
    grid.home.stop().await?;
    for node in &mut grid.nodes {
        node.kill().await?;
    }
    drop(grid);
    remove(folder).await
}

/// Nodes that were just told to end may still write: tries until nothing comes after.
async fn remove(folder: &std::path::Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + REMOVE_WITHIN;
    loop {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done => return done.with_context(|| format!("cannot remove {}", folder.display())),
        }
    }
}

fn step_line(step: &Step) -> String {
    let moved = step.bytes.map(|bytes| format!(", {} at {}", ByteCount(bytes), rate(bytes, step.seconds)));
    format!("✓ {}: {}{} ({:.2} s)", step.step, step.seen, moved.unwrap_or_default(), step.seconds)
}

fn report_text(report: &DemoReport) -> String {
    let row = |step: &Step| {
        vec![
            step.step.clone(),
            step.files.map_or("-".into(), |files| files.to_string()),
            step.bytes.map_or("-".into(), |bytes| ByteCount(bytes).to_string()),
            format!("{:.2} s", step.seconds),
            step.bytes.map_or("-".into(), |bytes| rate(bytes, step.seconds)),
            step.seen.clone(),
        ]
    };
    let rows: Vec<_> = report.steps.iter().map(row).collect();
    let mut text = table(&["STEP", "FILES", "BYTES", "TIME", "RATE", "SEEN"], &rows);
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let overhead = report.stored_bytes as f64 / report.content_bytes.max(1) as f64;
    let memory = |bytes: Option<u64>| bytes.map_or("unknown".into(), |bytes| ByteCount(bytes).to_string());
    text.push_str(&format!(
        "\n{} of content take {} on the nodes: {overhead:.2} bytes stored for each.\n\
         Memory at its highest: your node {}, a storage node {}.\n",
        ByteCount(report.content_bytes),
        ByteCount(report.stored_bytes),
        memory(report.home_peak_bytes),
        memory(report.node_peak_bytes),
    ));
    text
}
