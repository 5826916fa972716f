//! `atoll sample guestbook-web`: the guestbook's page. It keeps nothing itself: entries come from and go to the database.
//!
//! A form carries an id drawn at random when the page was made, and the database writes an id once: so a request to it can be repeated
//! while the database moves to another node, and so can the visitor's.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Form, State};
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::guestbook_db::Page;
use super::store::{Entry, NAME_BYTES_MAX, TEXT_BYTES_MAX};
use super::{Ready, SampleError, VERSION, Variables, probes};

/// How long a visitor waits while the database cannot be reached: a new version of it stops, lets go of its volume and starts within this, and gateways
/// wait for a minute.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// Largest answer of the database that is read: a thousand entries of the longest.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Room for a form with every byte escaped.
const FORM_BYTES_MAX: usize = 16 << 10;

/// What the page shows and where the entries are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `host:port` of the database, an IPv6 address in brackets.
    pub db: String,
    /// The page's title.
    pub title: String,
    /// The version it shows.
    pub version: String,
}

impl Config {
    /// From `GUESTBOOK_DB_URL`, or the variables that Kubernetes sets for the service (`GUESTBOOK_DB_SERVICE_HOST` and `_PORT`, or those
    /// of the prefix in `GUESTBOOK_DB_PREFIX`); `GUESTBOOK_TITLE`; the version is the image's [`VERSION`].
    ///
    /// # Errors
    /// Nothing says where the database is.
    pub fn from_env(variables: Variables<'_>) -> Result<Self, SampleError> {
        let title = variables("GUESTBOOK_TITLE").unwrap_or_else(|| "Guestbook".into());
        let version = variables(VERSION).unwrap_or_else(|| env!("CARGO_PKG_VERSION").into());
        Ok(Self { db: database(variables)?, title, version })
    }
}

fn database(variables: Variables<'_>) -> Result<String, SampleError> {
    const URL: &str = "GUESTBOOK_DB_URL";
    if let Some(url) = variables(URL) {
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(SampleError::Environment {
                variable: URL.into(),
                message: format!("{url:?} is no http:// URL"),
            });
        };
        let authority = rest.split('/').next().unwrap_or(rest);
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        return Ok(if has_port { authority.to_owned() } else { format!("{authority}:80") });
    }
    let prefix = variables("GUESTBOOK_DB_PREFIX").unwrap_or_else(|| "GUESTBOOK_DB".into());
    let variable = format!("{prefix}_SERVICE_HOST");
    let Some(host) = variables(&variable) else {
        let message = format!("is not set, and neither is {URL}: where is the database?");
        return Err(SampleError::Environment { variable, message });
    };
    let port = variables(&format!("{prefix}_SERVICE_PORT")).unwrap_or_else(|| "8080".into());
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
    Ok(format!("{host}:{port}"))
}

/// The server.
pub fn router(config: Config, ready: Ready) -> Router {
    let sign = post(sign).layer(DefaultBodyLimit::max(FORM_BYTES_MAX));
    Router::new().route("/", get(page)).route("/sign", sign).with_state(config).merge(probes(ready))
}

#[derive(Deserialize)]
struct Signed {
    id: String,
    name: String,
    text: String,
}

async fn page(State(config): State<Config>) -> Response {
    let answer = match ask(&config.db, Method::GET, "/entries?last=100", Bytes::new()).await {
        Ok((StatusCode::OK, body)) => serde_json::from_slice::<Page>(&body).map_err(|it| it.to_string()),
        Ok((status, _)) => Err(format!("it answered {status}")),
        Err(it) => Err(it),
    };
    match (answer, new_id()) {
        (Ok(entries), Ok(id)) => (no_cache(), Html(html(&config, &entries, &id))).into_response(),
        (Err(it), _) | (_, Err(it)) => unavailable(&it),
    }
}

async fn sign(State(config): State<Config>, Form(form): Form<Signed>) -> Response {
    let entry = Entry { id: form.id, name: form.name, text: form.text };
    let Ok(body) = serde_json::to_vec(&entry) else { return StatusCode::BAD_REQUEST.into_response() };
    match ask(&config.db, Method::POST, "/entries", body.into()).await {
        Ok((StatusCode::CREATED, _)) => Redirect::to("/").into_response(),
        Ok((StatusCode::BAD_REQUEST, body)) => {
            (StatusCode::BAD_REQUEST, String::from_utf8_lossy(&body).into_owned()).into_response()
        }
        Ok((status, _)) => unavailable(&format!("it answered {status}")),
        Err(it) => unavailable(&it),
    }
}

fn no_cache() -> [(header::HeaderName, HeaderValue); 1] {
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}

fn unavailable(why: &str) -> Response {
    tracing::warn!(why, "the database cannot be reached");
    let again = [(header::RETRY_AFTER, HeaderValue::from_static("2"))];
    (StatusCode::SERVICE_UNAVAILABLE, again, "The guestbook's database cannot be reached just now. Try again.\n")
        .into_response()
}

fn new_id() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|it| it.to_string())?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

/// Asks the database, again and again while it cannot be reached or says that it cannot now.
async fn ask(db: &str, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let attempt = timeout(ATTEMPT, ask_once(db, method.clone(), path, body.clone()));
        let failure = match timeout_at(deadline, attempt).await {
            Ok(Ok(Ok((status, _)))) if status.is_server_error() => format!("{db} answered {status}"),
            Ok(Ok(Ok(answer))) => return Ok(answer),
            Ok(Ok(Err(it))) => format!("{db}: {it}"),
            Ok(Err(_)) | Err(_) => format!("{db} does not answer"),
        };
        if Instant::now() + PAUSE >= deadline {
            return Err(failure);
        }
        sleep(PAUSE).await;
    }
}

async fn ask_once(db: &str, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
    let stream = TcpStream::connect(db).await.map_err(|it| it.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|it| it.to_string())?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, db)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|it| it.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|it| it.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|it| it.to_string())?;
        Ok((status, body.to_bytes()))
    };
    // The connection is driven beside the exchange and dropped with it.
    tokio::select! {
        biased;
        answer = exchange => answer,
        ended = connection => Err(ended.err().map_or_else(|| "closed the connection".to_owned(), |it| it.to_string())),
    }
}

fn html(config: &Config, page: &Page, id: &str) -> String {
    let (title, version) = (escape(&config.title), escape(&config.version));
    let entries: String = page
        .entries
        .iter()
        .rev()
        .map(|it| format!("<li><b>{}</b> <span>{}</span></li>\n", escape(&it.name), escape(&it.text)))
        .collect();
    format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 18px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem; }}
input, textarea, button {{ font: inherit; width: 100%; box-sizing: border-box; margin: .2rem 0; padding: .4rem; }}
ul {{ list-style: none; padding: 0; }} li {{ padding: .5rem 0; border-top: 1px solid #ccc; }}
li span {{ white-space: pre-wrap; overflow-wrap: anywhere; }} footer {{ color: #666; font-size: .8rem; }}
</style>
<h1>{title}</h1>
<form method="post" action="/sign">
<input type="hidden" name="id" value="{id}">
<input name="name" placeholder="Your name" maxlength="{NAME_BYTES_MAX}" required>
<textarea name="text" placeholder="Your message" maxlength="{TEXT_BYTES_MAX}" required></textarea>
<button>Sign</button>
</form>
<p>{count} entries</p>
<ul>
{entries}</ul>
<footer>version {version}</footer>
</html>
"#,
        count = page.count,
    )
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            it => out.push(it),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_database_is_found_in_the_environment() {
        let check = |given: &[(&str, &str)], expect: Option<&str>| {
            let variables = |name: &str| given.iter().find(|(key, _)| *key == name).map(|(_, it)| (*it).to_owned());
            assert_eq!(database(&variables).ok().as_deref(), expect, "{given:?}");
        };
        check(
            &[("GUESTBOOK_DB_SERVICE_HOST", "fd00::5"), ("GUESTBOOK_DB_SERVICE_PORT", "8080")],
            Some("[fd00::5]:8080"),
        );
        check(&[("GUESTBOOK_DB_SERVICE_HOST", "10.0.0.5")], Some("10.0.0.5:8080"));
        check(&[("GUESTBOOK_DB_PREFIX", "X_DB"), ("X_DB_SERVICE_HOST", "10.0.0.5")], Some("10.0.0.5:8080"));
        check(&[("GUESTBOOK_DB_URL", "http://[fd00::5]:90/")], Some("[fd00::5]:90"));
        check(&[("GUESTBOOK_DB_URL", "http://db")], Some("db:80"));
        check(&[("GUESTBOOK_DB_URL", "https://db")], None);
        check(&[], None);
    }

    #[test]
    fn what_visitors_write_is_no_html() {
        let entry = Entry { id: "1".into(), name: "<b>".into(), text: "\"&'".into() };
        let config = Config { db: String::new(), title: "T".into(), version: "1".into() };
        let html = html(&config, &Page { count: 1, entries: vec![entry] }, "id");
        assert!(html.contains("<b>&lt;b&gt;</b> <span>&quot;&amp;&#39;</span>"));
    }
}
