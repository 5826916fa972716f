//! `atoll sample website`: the files of a folder over HTTP. A path never leads out of the folder: only plain names are followed, and
//! none that begins with a dot.

use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{Ready, probes};

/// Largest file served; a ConfigMap holds 1 MiB.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The server over a folder.
pub fn router(folder: PathBuf, ready: Ready) -> Router {
    Router::new().fallback(get(file)).with_state(folder).merge(probes(ready))
}

async fn file(State(folder): State<PathBuf>, uri: Uri) -> Response {
    let Some(path) = below(&folder, uri.path()) else { return StatusCode::NOT_FOUND.into_response() };
    let path = match tokio::fs::metadata(&path).await {
        Ok(it) if it.is_dir() => path.join("index.html"),
        _ => path,
    };
    match tokio::fs::metadata(&path).await {
        Ok(it) if it.is_file() && it.len() <= FILE_BYTES_MAX => {}
        _ => return StatusCode::NOT_FOUND.into_response(),
    }
    match tokio::fs::read(&path).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, content_type(&path))], bytes).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The file that a path of a request names; names are taken as they stand, without escapes.
fn below(folder: &Path, path: &str) -> Option<PathBuf> {
    let mut found = folder.to_owned();
    for name in path.split('/').filter(|it| !it.is_empty()) {
        let plain = !name.starts_with('.') && name.chars().all(|it| it.is_ascii_alphanumeric() || "-_.~".contains(it));
        if !plain {
            return None;
        }
        found.push(name);
    }
    Some(found)
}

fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|it| it.to_str()).unwrap_or_default() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" | "md" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out() {
        let check = |path: &str, expect: Option<&str>| {
            assert_eq!(below(Path::new("/s"), path), expect.map(PathBuf::from), "{path}");
        };
        check("/", Some("/s"));
        check("/a/b.css", Some("/s/a/b.css"));
        check("//a", Some("/s/a"));
        check("/../etc/passwd", None);
        check("/..data/x", None);
        check("/%2e%2e/x", None);
        check("/a\\b", None);
    }
}
