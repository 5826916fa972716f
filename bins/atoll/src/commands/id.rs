//! Commands about keys. They read the key files themselves: a phrase never crosses a socket.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::Path;

use atoll_keys::{KeyFileError, NodeKey, OwnerKey};
use atoll_node::{DataDir, NODE_KEY, OWNER_KEY};
use serde::Serialize;

use super::Context;
use crate::args::IdCommand;
use crate::failure::advise;
use crate::output::print;

#[derive(Serialize)]
struct Identity {
    node: String,
    planetary_address: String,
    owner: String,
}

pub(super) fn run(context: &Context, command: &IdCommand) -> anyhow::Result<()> {
    match command {
        IdCommand::Show => show(context),
        IdCommand::Phrase => phrase(context),
        IdCommand::Restore => restore(context),
    }
}

fn show(context: &Context) -> anyhow::Result<()> {
    let node = load(&context.data_dir.join(NODE_KEY), NodeKey::load)?.id();
    let owner = load(&context.data_dir.join(OWNER_KEY), OwnerKey::load)?.id();
    let identity = Identity {
        node: node.to_string(),
        planetary_address: node.planetary_address().to_string(),
        owner: owner.to_string(),
    };
    print(context.output, &identity, |identity| {
        let Identity { node, planetary_address, owner } = identity;
        format!("node     {node}\naddress  {planetary_address}\nowner    {owner}\n")
    })
}

#[derive(Serialize)]
struct Words {
    phrase: String,
}

fn phrase(context: &Context) -> anyhow::Result<()> {
    let key = load(&context.data_dir.join(OWNER_KEY), OwnerKey::load)?;
    if std::io::stdout().is_terminal() {
        eprintln!("These words are the key to everything you own. Write them on paper; show them to nobody.\n");
    }
    let words = Words { phrase: key.phrase().to_text().to_string() };
    print(context.output, &words, |words| format!("{}\n", words.phrase))
}

fn restore(context: &Context) -> anyhow::Result<()> {
    // Holding the lock, no node can start with the old key meanwhile.
    let directory = DataDir::lock(&context.data_dir)?;
    let path = directory.owner_key();
    if std::io::stdin().is_terminal() {
        eprintln!("Type the 24 words, then Enter:");
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let key = OwnerKey::from_phrase(&line)?;
    match OwnerKey::load(&path) {
        Ok(existing) if existing.id() == key.id() => {}
        Err(KeyFileError::NotFound { .. }) => key.save(&path)?,
        Ok(existing) => {
            let message = format!("{} holds the key of another owner ({})", path.display(), existing.id());
            return Err(advise(message, "keep that phrase safe (`atoll id phrase`), then move the file away"));
        }
        Err(error) => return Err(error.into()),
    }
    print(context.output, &serde_json::json!({ "owner": key.id() }), |_| format!("owner    {}\n", key.id()))
}

fn load<K>(path: &Path, load: impl FnOnce(&Path) -> Result<K, KeyFileError>) -> anyhow::Result<K> {
    load(path).map_err(|error| match error {
        KeyFileError::NotFound { .. } => {
            advise(format!("there is no key {}", path.display()), "`atoll up` makes the keys at its first start")
        }
        other => other.into(),
    })
}
