//! Somebody outside with a browser: opens the page through the gateway, signs it, and counts what fails. By curl, on a machine that takes no part.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::process::Command;

use super::machines::{GATEWAY_NAME, Machines, said};
use crate::GridError;

/// The name under which the page opens, as the stack has it.
pub(super) const HOST: &str = "guestbook.atoll.test";

/// A visitor gives up after this, as a gateway does. A page that waits for its database is slow, and has not failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// One look at something that is waited for.
const LOOK: Duration = Duration::from_secs(5);

/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(250);

/// The page as it was answered.
#[derive(Debug, Clone)]
pub(super) struct Page(String);

impl Page {
    /// Whether an entry with this text is on it.
    pub(super) fn shows(&self, text: &str) -> bool {
        self.0.contains(&format!("<span>{text}</span>"))
    }

    /// The version that it gives.
    pub(super) fn version(&self) -> &str {
        between(&self.0, "<footer>version ", "</footer>").unwrap_or("unknown")
    }

    fn form_id(&self) -> Result<&str, GridError> {
        between(&self.0, "name=\"id\" value=\"", "\"").ok_or_else(|| GridError::Wrong("the page has no form".into()))
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

/// Knows where the gateway is, and whom it trusts.
pub(super) struct Visitor<'a> {
    machines: &'a Machines,
    authority: PathBuf,
}

impl<'a> Visitor<'a> {
    /// Takes the gateway's certificate to be trusted.
    pub(super) async fn new(machines: &'a Machines) -> Result<Self, GridError> {
        let authority = machines.folder().join("gateway-ca.pem");
        let pem = machines.atoll(GATEWAY_NAME, &["gateway", "ca"]).await?;
        std::fs::write(&authority, pem)
            .map_err(|source| GridError::Io { what: format!("cannot write {}", authority.display()), source })?;
        Ok(Self { machines, authority })
    }

    fn curl(&self, path: &str, patience: Duration) -> Command {
        let mut curl = self.machines.visitor("curl");
        let gateway = self.machines.host(GATEWAY_NAME).ipv4();
        curl.args(["-sS", "--fail", "--noproxy", "*", "--max-time", &patience.as_secs().to_string(), "--cacert"]);
        curl.arg(&self.authority).args(["--resolve", &format!("{HOST}:443:{gateway}")]);
        curl.arg(format!("https://{HOST}{path}"));
        curl
    }

    /// Opens the page.
    pub(super) async fn page(&self) -> Result<Page, GridError> {
        self.machines.again(async || self.open(PATIENCE).await).await
    }

    async fn open(&self, patience: Duration) -> Result<Page, GridError> {
        said("curl", self.curl("/", patience), "").await.map(Page)
    }

    /// Opens it until it comes and is as it should be; gives how long that took.
    pub(super) async fn page_when(
        &self,
        within: Duration,
        what: &str,
        fits: impl Fn(&Page) -> bool,
    ) -> Result<(Page, Duration), GridError> {
        let began = Instant::now();
        loop {
            let last = match self.open(LOOK).await {
                Ok(page) if fits(&page) => return Ok((page, began.elapsed())),
                Ok(_) => "it is not like that".to_owned(),
                Err(error) => error.to_string(),
            };
            if began.elapsed() > within {
                return Err(GridError::Wrong(format!("{what}: not within {} s; last: {last}", within.as_secs())));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Signs the page.
    pub(super) async fn sign(&self, name: &str, text: &str) -> Result<(), GridError> {
        let page = self.page().await?;
        // The form's number makes an entry that is sent twice one entry.
        self.machines.again(async || self.send(&page, name, text).await).await
    }

    async fn send(&self, page: &Page, name: &str, text: &str) -> Result<(), GridError> {
        let mut curl = self.curl("/sign", PATIENCE);
        let id = format!("id={}", page.form_id()?);
        for field in [id, format!("name={name}"), format!("text={text}")] {
            curl.args(["--data-urlencode", &field]);
        }
        said("curl", curl, "").await.map(drop)
    }

    /// Opens the page again and again until `stop`; gives how often it came, and what was said the first time that it did not.
    pub(super) async fn stay(&self, stop: &AtomicBool, opened: &AtomicU64) -> Option<String> {
        let mut failed = None;
        while !stop.load(Ordering::Relaxed) {
            match self.open(PATIENCE).await {
                Ok(_) => drop(opened.fetch_add(1, Ordering::Relaxed)),
                Err(error) => failed = failed.or_else(|| Some(error.to_string())),
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_page_is_read() {
        let page = Page(
            "<input type=\"hidden\" name=\"id\" value=\"ab12\"><li><b>A</b> <span>one</span></li><footer>version 1.0</footer>"
                .into(),
        );
        assert!(page.shows("one") && !page.shows("on"));
        assert_eq!((page.version(), page.form_id().unwrap()), ("1.0", "ab12"));
        assert!(Page(String::new()).form_id().is_err());
    }
}
