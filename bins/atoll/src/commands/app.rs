//! Commands about applications: the catalogue, and what is installed of it.

use anyhow::Context as _;
use atoll_apps::sample;
use atoll_chart::{parse_values, set_value};
use atoll_control::{
    AppObject, AppStatus, CatalogueApp, Events, InstallRequest, RemovedApp, RollbackRequest, Summary, UninstallRequest,
};
use serde_json::Value as Json;

use super::Context;
use crate::args::{AppCommand, AppValues};
use crate::output::{print, table};
use crate::progress::Progress;

/// Largest values file; a release record holds 1 MiB packed.
const VALUES_BYTES_MAX: u64 = 4 << 20;

pub(super) async fn run(context: &Context, command: &AppCommand) -> anyhow::Result<()> {
    match command {
        AppCommand::Search { word } => search(context, word.as_deref().unwrap_or("")).await,
        AppCommand::Show { name } => show(context, name).await,
        AppCommand::List { evdc } => list(context, evdc.as_deref()).await,
        AppCommand::Install { app, name, at, values } => {
            let release = name.as_deref().unwrap_or(app);
            let (app, values) = (Some(app.clone()), read(values)?);
            let request = InstallRequest { app, namespace: at.namespace.clone(), values, upgrade: false };
            installed(context, context.client().install(&at.evdc, release, &request).await?, "installing").await
        }
        AppCommand::Upgrade { release, at, values } => {
            let values = read(values)?;
            let request = InstallRequest { app: None, namespace: at.namespace.clone(), values, upgrade: true };
            installed(context, context.client().install(&at.evdc, release, &request).await?, "upgrading").await
        }
        AppCommand::Rollback { release, revision, at } => {
            let request = RollbackRequest { namespace: at.namespace.clone(), revision: *revision };
            installed(context, context.client().roll_back(&at.evdc, release, &request).await?, "rolling back").await
        }
        AppCommand::Status { release, at } => {
            let status = context.client().app(&at.evdc, &at.namespace, release).await?;
            print(context.output, &status, describe)
        }
        AppCommand::Rm { release, at, data } => {
            let request = UninstallRequest { namespace: at.namespace.clone(), data: *data };
            let events = context.client().uninstall(&at.evdc, release, &request).await?;
            let Summary::RemovedApp(removed) = follow(events, "removing").await? else {
                anyhow::bail!("the node answered a removal with something else");
            };
            print(context.output, &removed, |removed| gone(removed, &at.evdc))
        }
    }
}

/// Runs one of the catalogue's servers until it is told to stop.
pub(super) async fn sample(name: &str) -> anyhow::Result<()> {
    Ok(sample::run(name, &|variable| std::env::var(variable).ok()).await?)
}

/// Shows what a job says, and gives what it did.
pub(super) async fn follow(events: Events, doing: &str) -> anyhow::Result<Summary> {
    let progress = Progress::new("");
    progress.begin(doing);
    let summary = events.finish(|event| progress.event(event)).await?;
    progress.finish();
    Ok(summary)
}

async fn installed(context: &Context, events: Events, doing: &str) -> anyhow::Result<()> {
    let Summary::App(status) = follow(events, doing).await? else {
        anyhow::bail!("the node answered with something else than a release");
    };
    print(context.output, &status, describe)
}

/// Files first, then what is set one by one, which wins.
fn read(values: &AppValues) -> anyhow::Result<Json> {
    let mut read = Json::Object(serde_json::Map::new());
    for path in &values.values {
        let shown = path.display();
        let bytes = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.len();
        anyhow::ensure!(bytes <= VALUES_BYTES_MAX, "{shown} has {bytes} bytes; {VALUES_BYTES_MAX} are read");
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        merge(&mut read, parse_values(&text).with_context(|| format!("{shown} has no values"))?);
    }
    for assignment in &values.set {
        set_value(&mut read, assignment)?;
    }
    Ok(read)
}

fn merge(into: &mut Json, given: Json) {
    match (into, given) {
        (Json::Object(into), Json::Object(given)) => {
            for (key, value) in given {
                merge(into.entry(key).or_insert(Json::Null), value);
            }
        }
        (into, given) => *into = given,
    }
}

async fn search(context: &Context, word: &str) -> anyhow::Result<()> {
    let found = context.client().catalogue(word).await?;
    print(context.output, &found, |found| {
        if found.is_empty() {
            return format!("the catalogue has nothing about {word:?}; `atoll app search` lists all\n");
        }
        let row = |app: &CatalogueApp| vec![app.name.clone(), app.version.clone(), app.summary.clone()];
        table(&["NAME", "VERSION", "WHAT IT IS"], &found.iter().map(row).collect::<Vec<_>>())
    })
}

async fn show(context: &Context, name: &str) -> anyhow::Result<()> {
    let all = context.client().catalogue("").await?;
    let found = all.iter().find(|app| app.name == name);
    let found = found.ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|app| app.name.as_str()).collect();
        crate::failure::advise(format!("there is no application {name:?} in the catalogue"), names.join(", "))
    })?;
    print(context.output, found, page)
}

fn page(app: &CatalogueApp) -> String {
    let needs = &app.needs;
    let gateway = if needs.gateway { ", a gateway to be reached from outside" } else { "" };
    let mut text = format!("{} {}: {}\n\n{}\n", app.name, app.version, app.summary, app.page);
    text.push_str(&format!(
        "Needs {} nodes, {} MiB of memory, {} MiB of storage{gateway}.\n\n",
        needs.nodes, needs.memory_mib, needs.storage_mib
    ));
    let row = |ask: &atoll_control::AppAsk| {
        let default = match &ask.default {
            Json::String(text) if text.is_empty() => "-".to_owned(),
            Json::String(text) => text.clone(),
            Json::Object(_) | Json::Array(_) => "…".to_owned(),
            other => other.to_string(),
        };
        vec![ask.path.clone(), default, ask.what.clone()]
    };
    text.push_str(&table(&["VALUE", "DEFAULT", "WHAT"], &app.asks.iter().map(row).collect::<Vec<_>>()));
    text
}

async fn list(context: &Context, evdc: Option<&str>) -> anyhow::Result<()> {
    let client = context.client();
    let evdcs = match evdc {
        Some(evdc) => vec![evdc.to_owned()],
        None => client.evdcs().await?.into_iter().map(|evdc| evdc.name).collect(),
    };
    let mut found = Vec::new();
    for evdc in evdcs {
        found.extend(client.apps(&evdc).await?);
    }
    print(context.output, &found, |found| {
        let row = |app: &AppStatus| {
            let [evdc, namespace, release] = [&app.evdc, &app.namespace, &app.release].map(String::clone);
            let what = format!("{} {}", app.app, app.version);
            vec![evdc, namespace, release, what, app.revision.to_string(), app.status.clone(), app.updated.clone()]
        };
        let heading = ["EVDC", "NAMESPACE", "RELEASE", "APP", "REVISION", "STATUS", "UPDATED"];
        table(&heading, &found.iter().map(row).collect::<Vec<_>>())
    })
}

fn describe(app: &AppStatus) -> String {
    let AppStatus { release, evdc, version, revision, status, .. } = app;
    let mut text = format!("{release} in {evdc}: {} {version}, revision {revision}, {status}\n", app.app);
    let row = |object: &AppObject| vec![object.kind.clone(), object.name.clone(), object.state.clone()];
    text.push_str(&table(&["KIND", "NAME", "STATE"], &app.objects.iter().map(row).collect::<Vec<_>>()));
    let notes = app.notes.trim();
    if !notes.is_empty() {
        text.push_str(&format!("\n{notes}\n"));
    }
    text
}

fn gone(removed: &RemovedApp, evdc: &str) -> String {
    let mut text = format!("{} was removed from {evdc}\n", removed.release);
    if !removed.kept.is_empty() {
        text.push_str(&format!("  its data is kept in {} (--data deletes it)\n", removed.kept.join(", ")));
    }
    text
}
