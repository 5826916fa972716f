//! Commands about the cloud: what peers lend, eVDCs, the gateway.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use atoll_control::{
    Amount, EvdcRequest, EvdcStatus, GatewayRequest, GatewayStatus, ImageStatus, LoadRequest, OfferStatus,
    SampleRequest,
};

use super::Context;
use crate::args::{EvdcCommand, EvdcCreate, GatewayCommand, ImageCommand};
use crate::output::{print, print_text, table};

pub(super) async fn offers(context: &Context) -> anyhow::Result<()> {
    let offers = context.client().offers().await?;
    print(context.output, &offers, |offers| {
        if offers.is_empty() {
            return "no peer lends anything; `atoll status` shows the peers\n".into();
        }
        let row = |offer: &OfferStatus| {
            vec![
                offer.node.short().to_string(),
                offer.name.clone().unwrap_or_else(|| "-".into()),
                offer.owner.short().to_string(),
                of(cores(offer.free), cores(offer.total)),
                of(offer.free.memory.to_string(), offer.total.memory.to_string()),
                of(offer.free.storage.to_string(), offer.total.storage.to_string()),
                of(offer.free.pods.to_string(), offer.total.pods.to_string()),
                price(offer),
            ]
        };
        let rows: Vec<_> = offers.iter().map(row).collect();
        table(&["NODE", "NAME", "OWNER", "CORES FREE", "MEMORY FREE", "STORAGE FREE", "PODS FREE", "PRICE"], &rows)
    })
}

fn of(free: String, total: String) -> String {
    format!("{free} of {total}")
}

fn cores(amount: Amount) -> String {
    format!("{}", f64::from(amount.cpu_milli) / 1000.0)
}

fn price(offer: &OfferStatus) -> String {
    match offer.micro_per_hour {
        0 => "free".into(),
        // Six digits: millionths.
        micro => format!("{}.{:06} {}/h", micro / 1_000_000, micro % 1_000_000, offer.currency),
    }
}

pub(super) async fn evdc(context: &Context, command: &EvdcCommand) -> anyhow::Result<()> {
    let client = context.client();
    match command {
        EvdcCommand::Create(create) => {
            let made = client.create_evdc(&create.name, &request(create)?).await?;
            print(context.output, &made, describe)
        }
        EvdcCommand::Ls => {
            let all = client.evdcs().await?;
            print(context.output, &all, |all| {
                let row = |evdc: &EvdcStatus| {
                    let state = if evdc.ready { "ready" } else { "not ready" };
                    let api = evdc.api.clone().unwrap_or_else(|| "-".into());
                    vec![evdc.name.clone(), state.into(), evdc.members.len().to_string(), api]
                };
                table(&["NAME", "STATE", "NODES", "API"], &all.iter().map(row).collect::<Vec<_>>())
            })
        }
        EvdcCommand::Show { name } => {
            let evdc = client.evdc(name).await?;
            print(context.output, &evdc, describe)
        }
        EvdcCommand::Rm { name } => {
            let warnings = client.remove_evdc(name).await?;
            warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            print(context.output, &serde_json::json!({"removed": name, "warnings": warnings}), |_| {
                format!("{name} was given back\n")
            })
        }
    }
}

fn request(create: &EvdcCreate) -> anyhow::Result<EvdcRequest> {
    let gateway = match (&create.gateway, &create.domain) {
        (Some(node), Some(domain)) => Some(GatewayRequest { node: *node, domain: domain.clone() }),
        (None, None) => None,
        _ => anyhow::bail!("--gateway and --domain go together: which node, and the domain whose names it gives"),
    };
    let each = Amount { cpu_milli: create.cpu, memory: create.memory, storage: create.storage, pods: create.pods };
    Ok(EvdcRequest { nodes: create.nodes, each, price_max: create.price_max, gateway })
}

fn describe(evdc: &EvdcStatus) -> String {
    let mut text = format!("{} {}\n", evdc.name, if evdc.ready { "is ready" } else { "is not ready" });
    if let Some(problem) = &evdc.problem {
        text.push_str(&format!("  {problem}\n"));
    }
    let Amount { memory, storage, pods, .. } = evdc.each;
    let cores = cores(evdc.each);
    text.push_str(&format!("  each node: {cores} cores, {memory} of memory, {storage} of storage, {pods} pods\n"));
    if let Some(api) = &evdc.api {
        text.push_str(&format!(
            "  Kubernetes API at {api}; `atoll kubeconfig {}` prints what kubectl needs\n",
            evdc.name
        ));
    }
    if let Some(gateway) = &evdc.gateway {
        text.push_str(&format!("  names below {} by gateway {}\n", gateway.domain, gateway.node.short()));
    }
    let row = |member: &atoll_control::MemberStatus| {
        let until = member.until.and_then(|at| i64::try_from(at).ok());
        let until = until.and_then(|at| jiff::Timestamp::from_second(at).ok());
        vec![
            member.name.clone(),
            member.node.short().to_string(),
            member.owner.short().to_string(),
            if member.control {
                "API, pods"
            } else if member.storage_only {
                "storage"
            } else {
                "pods"
            }
            .to_owned(),
            until.map_or_else(|| "not rented yet".to_owned(), |at| at.to_string()),
            if member.told { "yes" } else { "no" }.to_owned(),
        ]
    };
    text.push_str(&table(
        &["NAME", "NODE", "OWNER", "SERVES", "RENTED UNTIL", "TOLD"],
        &evdc.members.iter().map(row).collect::<Vec<_>>(),
    ));
    text
}

pub(super) async fn kubeconfig(context: &Context, name: &str, file: Option<&Path>) -> anyhow::Result<()> {
    let config = context.client().kubeconfig(name).await?;
    let Some(file) = file else {
        return print(context.output, &config, |config| config.kubeconfig.clone());
    };
    // It holds a key: nobody else may read it, also not for a moment.
    let opened = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
    let written = opened.and_then(|mut file| file.write_all(config.kubeconfig.as_bytes()));
    written.with_context(|| format!("cannot write {}", file.display()))?;
    print(context.output, &serde_json::json!({"written": file}), |_| format!("export KUBECONFIG={}\n", file.display()))
}

pub(super) async fn image(context: &Context, command: &ImageCommand) -> anyhow::Result<()> {
    let client = context.client();
    let images = match command {
        ImageCommand::Ls => client.images().await?,
        ImageCommand::Load { path, name } => {
            // The node's current directory is not ours.
            let path = std::path::absolute(path)?;
            let path = path.to_str().context("the path is not UTF-8")?.to_owned();
            client.load_image(&LoadRequest { path, name: name.clone() }).await?
        }
        ImageCommand::Sample { tag } => vec![client.sample_image(&SampleRequest { tag: tag.clone() }).await?],
        ImageCommand::Rm { name } => {
            client.remove_image(name).await?;
            return print(context.output, &serde_json::json!({"removed": name}), |_| format!("{name} was removed\n"));
        }
    };
    print(context.output, &images, |images| {
        let row = |image: &ImageStatus| {
            let id: String = image.id.chars().take("sha256:".len() + 12).collect();
            vec![image.name.clone(), id, image.size.to_string()]
        };
        table(&["NAME", "ID", "SIZE"], &images.iter().map(row).collect::<Vec<_>>())
    })
}

pub(super) async fn gateway(context: &Context, command: &GatewayCommand) -> anyhow::Result<()> {
    let status = context.client().gateway().await?;
    match command {
        GatewayCommand::Ca => print_text(&status.authority),
        GatewayCommand::Status => print(context.output, &status, show_gateway),
    }
}

fn show_gateway(status: &GatewayStatus) -> String {
    let mut text = format!(
        "names below {}, HTTPS at {}, {} nodes have dialled in, {} requests, {} failed\n",
        status.domain,
        status.https.join(" "),
        status.nodes.len(),
        status.requests,
        status.failed,
    );
    let row = |route: &atoll_control::GatewayRoute| {
        let kind = if route.exact { "exact" } else { "prefix" };
        vec![route.host.clone(), route.path.clone(), kind.to_owned(), route.replicas.to_string()]
    };
    text.push_str(&table(&["HOST", "PATH", "KIND", "REPLICAS"], &status.routes.iter().map(row).collect::<Vec<_>>()));
    text
}
