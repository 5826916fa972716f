//! How a failure is shown: what happened, why, and what to do.

use std::process::ExitCode;

use atoll_control::ClientError;

/// Something to do about an error, carried in its chain.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Advice {
    /// What happened.
    pub(crate) message: String,
    /// What to do.
    pub(crate) help: String,
}

/// An error with advice.
pub(crate) fn advise(message: impl Into<String>, help: impl Into<String>) -> anyhow::Error {
    Advice { message: message.into(), help: help.into() }.into()
}

/// Prints an error on standard error.
pub(crate) fn print(error: &anyhow::Error) -> ExitCode {
    let mut shown = error.to_string();
    eprintln!("error: {shown}");
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Many errors repeat their cause in their own text.
        if !shown.contains(&cause) {
            eprintln!("  because: {cause}");
            shown = cause;
        }
    }
    if let Some(help) = error.chain().find_map(help) {
        eprintln!("  help: {help}");
    }
    ExitCode::FAILURE
}

fn help(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(advice) = cause.downcast_ref::<Advice>() {
        return Some(advice.help.clone());
    }
    match cause.downcast_ref::<ClientError>()? {
        ClientError::NotRunning { data_dir } => {
            Some(format!("start it with `atoll up --data-dir {}`, or name another with --data-dir", data_dir.display()))
        }
        ClientError::Api(error) => error.help.clone(),
        ClientError::Socket { .. } => Some("run this command as the user who runs the node".into()),
        ClientError::Gone(_) => Some("look into the node's log, and start it again with `atoll up`".into()),
        ClientError::Malformed(_) => None,
    }
}
