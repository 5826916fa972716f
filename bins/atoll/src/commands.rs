//! The commands, a module for each group.

mod app;
mod bus;
mod cloud;
mod demo;
mod fs;
mod id;
mod net;
mod node;
mod proxy;
mod rules;
mod stack;
mod store;

use std::path::PathBuf;
use std::process::ExitCode;

use atoll_control::Client;
use atoll_node::DataDir;

use crate::args::{Cli, Command, NetCommand, Output};

/// What every command needs.
pub(crate) struct Context {
    /// Where the node keeps its data.
    pub(crate) data_dir: PathBuf,
    /// How to print.
    pub(crate) output: Output,
}

impl Context {
    /// Speaks to the running node.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.data_dir)
    }
}

/// Runs the command that was typed.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let data_dir = match cli.data_dir {
        Some(path) => std::path::absolute(path)?,
        None => DataDir::default_path(|name| std::env::var(name).ok())?,
    };
    let context = Context { data_dir, output: cli.output };
    let done = match cli.command {
        // What differs, or does not pass, is told by the exit status.
        Command::Net(NetCommand::Check(check)) => return rules::check(&context, &check).await,
        Command::Plan(plan) => return stack::plan(&context, &plan).await,
        Command::Drift(drift) => return stack::drift(&context, &drift).await,
        Command::Apply(apply) => stack::apply(&context, &apply).await,
        Command::Destroy(destroy) => stack::destroy(&context, &destroy).await,
        Command::App(command) => app::run(&context, &command).await,
        Command::Sample { name } => app::sample(&name).await,
        Command::Up(up) => Box::pin(node::up(&context, &up)).await,
        Command::Down(down) => node::down(&context, &down).await,
        Command::Status => node::status(&context).await,
        Command::Config(command) => node::config(&context, &command).await,
        Command::Id(command) => id::run(&context, &command),
        Command::Invite(invite) => node::invite(&context, &invite).await,
        Command::Join { ticket } => node::join(&context, ticket).await,
        Command::Forget { node } => node::forget(&context, node).await,
        Command::Net(command) => net::run(&context, &command).await,
        Command::Bucket(command) => store::bucket(&context, &command).await,
        Command::Put(put) => store::put(&context, &put).await,
        Command::Get(get) => store::get(&context, &get).await,
        Command::Ls(ls) => store::ls(&context, &ls).await,
        Command::Rm(rm) => store::rm(&context, &rm).await,
        Command::Stat { object } => store::stat(&context, &object).await,
        Command::Du { place } => store::du(&context, &place).await,
        Command::Heal(heal) => store::heal(&context, &heal).await,
        Command::Fs(command) => fs::run(&context, &command).await,
        Command::Offers => cloud::offers(&context).await,
        Command::Evdc(command) => cloud::evdc(&context, &command).await,
        Command::Kubeconfig { name, file } => cloud::kubeconfig(&context, &name, file.as_deref()).await,
        Command::Image(command) => cloud::image(&context, &command).await,
        Command::Gateway(command) => cloud::gateway(&context, &command).await,
        Command::Demo(demo) => demo::run(&context, &demo).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
