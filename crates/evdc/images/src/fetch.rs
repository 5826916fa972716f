//! Speaking to a registry: the OCI distribution protocol's reading half, with its ways to sign in.
//!
//! Answers are limited while they are read. Credentials go to the registry and to the token service that it names, which must be HTTPS
//! unless the registry itself was allowed to be without; a redirect to another host (where blobs often are) takes none along.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Certificate, Client, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::error::ImageError;
use crate::reference::Reference;

/// Until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte: a registry that is silent for so long is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer of a token service; a token has a few kilobytes.
const TOKEN_BYTES_MAX: u64 = 256 << 10;
/// As much of an error's text as is shown.
const MESSAGE_BYTES_MAX: u64 = 500;

/// How to sign in to a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Auth {
    /// Not at all; public images need no more.
    #[default]
    Anonymous,
    /// With a name and a password, directly or to get a token.
    Basic {
        /// Name.
        user: String,
        /// Password or access token.
        password: String,
    },
    /// With a token that is there already.
    Bearer(String),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { user, .. } => write!(f, "Basic({user}, …)"),
            Self::Bearer(_) => f.write_str("Bearer(…)"),
        }
    }
}

/// How to pull.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// How to sign in.
    pub auth: Auth,
    /// HTTP without TLS: for a registry on this machine or inside a trusted network.
    pub plain_http: bool,
    /// Further certificate authorities in PEM, for a registry with one of its own.
    pub extra_roots_pem: Option<Vec<u8>>,
}

/// What a registry says about how to sign in: the `WWW-Authenticate` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token from a service.
    Bearer {
        /// Where.
        realm: String,
        /// For whom.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads the header. `None` if it asks for something unknown.
    pub fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        let mut rest = rest.trim();
        while let Some((key, after)) = rest.split_once('=') {
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(',').unwrap_or(after.len())),
            };
            match key.trim().to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                "scope" => scope = Some(value.to_owned()),
                _ => {}
            }
            rest = after.trim_start_matches([',', ' ']);
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// A repository at a registry.
pub(crate) struct Repository {
    client: Client,
    base: String,
    registry: String,
    options: PullOptions,
    /// The header that worked last.
    authorization: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl Repository {
    pub(crate) fn new(reference: &Reference, options: &PullOptions) -> Result<Self, ImageError> {
        // The process's one implementation of cryptography; an error says that it is set already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let registry = reference.registry().to_owned();
        let unreachable = |message: String| ImageError::Unreachable { registry: registry.clone(), message };
        let mut builder = Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT);
        if !options.plain_http {
            builder = builder.https_only(true);
        }
        if let Some(pem) = &options.extra_roots_pem {
            let roots = Certificate::from_pem_bundle(pem).map_err(|error| unreachable(chain(&error)))?;
            builder = builder.tls_certs_merge(roots);
        }
        let client = builder.build().map_err(|error| unreachable(chain(&error)))?;
        let scheme = if options.plain_http { "http" } else { "https" };
        let base = format!("{scheme}://{}/v2/{}", reference.registry_host(), reference.repository());
        let authorization = match &options.auth {
            Auth::Bearer(token) => Some(bearer(token, &registry)?),
            _ => None,
        };
        Ok(Self { client, base, registry, options: options.clone(), authorization: Mutex::new(authorization) })
    }

    fn unreachable(&self, error: &reqwest::Error) -> ImageError {
        ImageError::Unreachable { registry: self.registry.clone(), message: chain(error) }
    }

    fn denied(&self, what: &str, message: &str) -> ImageError {
        let (registry, what, message) = (self.registry.clone(), what.to_owned(), message.to_owned());
        ImageError::Registry { registry, status: 401, what, message }
    }

    /// Asks for `manifests/…` or `blobs/…`, signing in when the registry wants it. `accept` is empty for blobs.
    pub(crate) async fn get(&self, path: &str, accept: &str) -> Result<Response, ImageError> {
        let authorization = self.authorization.lock().await.clone();
        let response = self.send(path, accept, authorization).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.successful(path, response).await;
        }
        let challenges = response.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenges.iter().filter_map(|header| Challenge::parse(header.to_str().ok()?)).next_back();
        let authorization = self.answer(path, challenge).await?;
        *self.authorization.lock().await = Some(authorization.clone());
        let response = self.send(path, accept, Some(authorization)).await?;
        self.successful(path, response).await
    }

    async fn send(&self, path: &str, accept: &str, authorization: Option<HeaderValue>) -> Result<Response, ImageError> {
        let mut request = self.client.get(format!("{}/{path}", self.base));
        if !accept.is_empty() {
            request = request.header(ACCEPT, accept);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await.map_err(|error| self.unreachable(&error))
    }

    async fn successful(&self, what: &str, response: Response) -> Result<Response, ImageError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        // Its text is a courtesy; without it the status has to do.
        let message = self.body(response, MESSAGE_BYTES_MAX).await.unwrap_or_default();
        let message = String::from_utf8_lossy(&message).trim().to_owned();
        let (registry, what) = (self.registry.clone(), what.to_owned());
        Err(ImageError::Registry { registry, status: status.as_u16(), what, message })
    }

    async fn answer(&self, what: &str, challenge: Option<Challenge>) -> Result<HeaderValue, ImageError> {
        match (challenge, &self.options.auth) {
            (Some(Challenge::Basic), Auth::Basic { user, password }) => basic(user, password, &self.registry),
            (Some(Challenge::Bearer { realm, service, scope }), Auth::Anonymous | Auth::Basic { .. }) => {
                let url = self.token_url(what, &realm, service.as_deref(), scope.as_deref())?;
                let mut request = self.client.get(url);
                if let Auth::Basic { user, password } = &self.options.auth {
                    request = request.header(AUTHORIZATION, basic(user, password, &self.registry)?);
                }
                let response = request.send().await.map_err(|error| self.unreachable(&error))?;
                let response = self.successful("a token", response).await?;
                let body = self.body(response, TOKEN_BYTES_MAX).await?;
                let token: Token =
                    serde_json::from_slice(&body).map_err(|_| self.denied(what, "its token is not readable"))?;
                let token = token.token.or(token.access_token);
                bearer(&token.ok_or_else(|| self.denied(what, "its token service gave no token"))?, &self.registry)
            }
            (_, Auth::Anonymous) => Err(self.denied(what, "it wants a name and a password")),
            _ => Err(self.denied(what, "it does not accept these credentials")),
        }
    }

    fn token_url(
        &self,
        what: &str,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<Url, ImageError> {
        let mut url = Url::parse(realm).map_err(|_| self.denied(what, "its token service has no usable address"))?;
        if !self.options.plain_http && url.scheme() != "https" {
            return Err(self.denied(what, "its token service is not HTTPS, so it gets no credentials"));
        }
        let pairs = [("service", service), ("scope", scope)];
        url.query_pairs_mut().extend_pairs(pairs.iter().filter_map(|(key, value)| value.map(|value| (*key, value))));
        Ok(url)
    }

    /// All of a short answer; longer than `bytes_max` is refused (an error's text is cut).
    pub(crate) async fn body(&self, mut response: Response, bytes_max: u64) -> Result<Vec<u8>, ImageError> {
        let is_error = !response.status().is_success();
        let announced = response.headers().get(CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
        let mut body = Vec::new();
        let too_long =
            || ImageError::refused(format!("an answer of {}", self.registry), format!("over {bytes_max} bytes"));
        if !is_error && announced.is_some_and(|length| length > bytes_max) {
            return Err(too_long());
        }
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > bytes_max {
                if is_error {
                    body.truncate(usize::try_from(bytes_max).unwrap_or(usize::MAX));
                    break;
                }
                return Err(too_long());
            }
        }
        Ok(body)
    }

    /// The next piece of a blob.
    pub(crate) async fn chunk(&self, response: &mut Response) -> Result<Option<impl AsRef<[u8]> + use<>>, ImageError> {
        response.chunk().await.map_err(|error| self.unreachable(&error))
    }
}

/// The whole story of an error: reqwest's own text leaves out why.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn basic(user: &str, password: &str, registry: &str) -> Result<HeaderValue, ImageError> {
    let pair = data_encoding::BASE64.encode(format!("{user}:{password}").as_bytes());
    secret(&format!("Basic {pair}"), registry)
}

fn bearer(token: &str, registry: &str) -> Result<HeaderValue, ImageError> {
    secret(&format!("Bearer {token}"), registry)
}

fn secret(text: &str, registry: &str) -> Result<HeaderValue, ImageError> {
    let value = HeaderValue::from_str(text);
    let mut value = value
        .map_err(|_| ImageError::refused(format!("credentials for {registry}"), "they have control characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let [service, scope] = [service, scope].map(|it| it.map(str::to_owned));
            Some(Challenge::Bearer { realm: realm.to_owned(), service, scope })
        };
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        for (header, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (hub, bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull,push"))),
            ("Bearer realm=https://x/t, service=y", bearer("https://x/t", Some("y"), None)),
            ("Bearer service=y", None),
            ("Bearer realm=\"open", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }
}
