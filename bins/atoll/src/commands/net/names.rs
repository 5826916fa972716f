//! Commands about names of nodes: what there is, what a name stands for, giving names.

use atoll_control::{NameRequest, NameStatus, NamesStatus, ResolvedName};

use crate::args::NameCommand;
use crate::commands::Context;
use crate::output::{print, table};

pub(super) async fn list(context: &Context) -> anyhow::Result<()> {
    print(context.output, &context.client().names().await?, names_text)
}

pub(super) async fn resolve(context: &Context, name: &str) -> anyhow::Result<()> {
    print(context.output, &context.client().resolve(name).await?, resolved_text)
}

pub(super) async fn change(context: &Context, command: &NameCommand) -> anyhow::Result<()> {
    match command {
        NameCommand::Set { name, target } => {
            context.client().give_name(name, &NameRequest { target: target.clone() }).await?;
            print(context.output, &serde_json::json!({ "set": name }), |_| format!("{name} was set\n"))
        }
        NameCommand::Remove { name } => {
            context.client().take_name_back(name).await?;
            print(context.output, &serde_json::json!({ "removed": name }), |_| format!("{name} was removed\n"))
        }
    }
}

fn names_text(status: &NamesStatus) -> String {
    let mut text = format!("server  {}\n", status.server.as_deref().unwrap_or("none"));
    text.push_str(&format!("asked   {}\n", status.note));
    if !status.upstreams.is_empty() {
        text.push_str(&format!("asks    {}\n", status.upstreams.join(" ")));
    }
    if !status.names.is_empty() {
        let row = |name: &NameStatus| {
            let owner = name.owner.map_or_else(|| "-".to_owned(), |owner| owner.short().to_string());
            vec![name.name.clone(), name.kind.clone(), name.address.clone(), name.node.short().to_string(), owner]
        };
        let rows: Vec<_> = status.names.iter().map(row).collect();
        text.push_str(&format!("\n{}", table(&["NAME", "KIND", "ADDRESS", "NODE", "OWNER"], &rows)));
    }
    if !status.owners.is_empty() {
        let rows: Vec<_> = status.owners.iter().map(|it| vec![it.name.clone(), it.owner.to_string()]).collect();
        text.push_str(&format!("\n{}", table(&["OWNER'S NAME", "OWNER"], &rows)));
    }
    text
}

fn resolved_text(resolved: &ResolvedName) -> String {
    let line = |node: &atoll_control::NamedNode| match &node.name {
        Some(name) => format!("{} {name}\n", node.address),
        None => format!("{}\n", node.address),
    };
    resolved.nodes.iter().map(line).collect()
}
