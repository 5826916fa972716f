//! What a request asks for: its path and query, as Kubernetes' clients write them.

use jiff::{SignedDuration, Timestamp};

use crate::pods::{Command, LogWish};
use crate::status::Problem;

/// Longest query: a command's words are in it. Linux takes arguments of 2 MiB, an HTTP server of the usual kind 8 KiB; clients see the API server's limit first.
const QUERY_BYTES_MAX: usize = 256 << 10;

/// A request that this server knows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A log.
    Logs(LogWish),
    /// A command.
    Exec(Command),
    /// Ports of a pod: namespace and name.
    Forward(String, String),
}

impl Wanted {
    /// Reads a request's path and query.
    pub(crate) fn parse(path: &str, query: &str, now: Timestamp) -> Result<Self, Problem> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(Problem::bad_request(format!("the request's query is longer than {QUERY_BYTES_MAX} bytes")));
        }
        let query = Query(form_urlencoded::parse(query.as_bytes()).into_owned().collect());
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match parts.as_slice() {
            ["containerLogs", namespace, pod, container] => {
                query.logs([namespace, pod, container], now).map(Self::Logs)
            }
            ["exec", namespace, pod, container] => query.exec([namespace, pod, container]).map(Self::Exec),
            ["portForward", namespace, pod] => Ok(Self::Forward((*namespace).to_owned(), (*pod).to_owned())),
            ["attach", ..] => Err(Problem::new(
                http::StatusCode::NOT_IMPLEMENTED,
                "NotImplemented",
                "attaching to a container is not offered: use kubectl exec, or kubectl logs -f",
            )),
            _ => Err(Problem::new(http::StatusCode::NOT_FOUND, "NotFound", "a node answers no such request")),
        }
    }
}

struct Query(Vec<(String, String)>);

impl Query {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn is_true(&self, name: &str) -> bool {
        matches!(self.text(name), Some("true" | "1" | "True"))
    }

    fn number(&self, name: &str) -> Result<Option<usize>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let number = text.parse().map(Some);
        number.map_err(|_| Problem::bad_request(format!("{name} must be a number from 0 on, not {text:?}")))
    }

    fn logs(&self, [namespace, pod, container]: [&str; 3], now: Timestamp) -> Result<LogWish, Problem> {
        if let Some(other) = self.text("stream").filter(|stream| *stream != "All") {
            return Err(Problem::bad_request(format!(
                "stream can only be All, not {other:?}: output and errors are one log"
            )));
        }
        let seconds = self.number("sinceSeconds")?.map(|it| i64::try_from(it).unwrap_or(i64::MAX));
        let since = match (seconds, self.text("sinceTime")) {
            (Some(_), Some(_)) => return Err(Problem::bad_request("give sinceTime or sinceSeconds, not both")),
            (Some(seconds), None) => {
                Some(now.saturating_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN))
            }
            (None, Some(time)) => {
                let time = time.parse().map(Some);
                time.map_err(|error| Problem::bad_request(format!("sinceTime is no time: {error}")))?
            }
            (None, None) => None,
        };
        Ok(LogWish {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
            previous: self.is_true("previous"),
            follow: self.is_true("follow"),
            tail: self.number("tailLines")?,
            since,
            timestamps: self.is_true("timestamps"),
            bytes_max: self.number("limitBytes")?,
        })
    }

    fn exec(&self, [namespace, pod, container]: [&str; 3]) -> Result<Command, Problem> {
        let args: Vec<String> =
            self.0.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
        if args.is_empty() {
            return Err(Problem::bad_request("you must specify at least one command"));
        }
        let terminal = self.is_true("tty");
        let command = Command {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
            args,
            terminal,
            stdin: self.is_true("stdin"),
            stdout: self.is_true("stdout"),
            stderr: self.is_true("stderr") && !terminal,
        };
        if !(command.stdin || command.stdout || command.stderr) {
            return Err(Problem::bad_request("you must specify at least one of stdin, stdout, stderr"));
        }
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn parse(path: &str, query: &str) -> Result<Wanted, String> {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        Wanted::parse(path, query, now).map_err(|problem| format!("{problem:?}"))
    }

    #[test]
    fn requests_are_read_as_kubectl_writes_them() {
        let query = "follow=true&tailLines=3&sinceSeconds=60&timestamps=true&limitBytes=9&previous=true";
        let Wanted::Logs(wish) = parse("/containerLogs/a/b/c", query).unwrap() else { panic!("it is a log") };
        assert_eq!((wish.namespace.as_str(), wish.pod.as_str(), wish.container.as_str()), ("a", "b", "c"));
        assert_eq!((wish.tail, wish.bytes_max, wish.follow, wish.previous), (Some(3), Some(9), true, true));
        assert_eq!(wish.since.unwrap().to_string(), "2026-01-01T00:00:00Z");
        let query = "command=sh&command=-c&command=echo+%22a%26b%22&stdin=true&stdout=true&stderr=true&tty=true";
        let Wanted::Exec(command) = parse("/exec/a/b/c", query).unwrap() else { panic!("it is a command") };
        assert_eq!(command.args, ["sh", "-c", "echo \"a&b\""]);
        assert!(command.terminal && command.stdin && command.stdout && !command.stderr, "a terminal has one output");
        assert_eq!(parse("/portForward/a/b", "ports=80").unwrap(), Wanted::Forward("a".into(), "b".into()));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |path: &str, query: &str, why: &str| {
            let error = parse(path, query).unwrap_err();
            assert!(error.contains(why), "{path}?{query}: {error}");
        };
        check("/exec/a/b/c", "stdout=true", "at least one command");
        check("/exec/a/b/c", "command=ls", "stdin, stdout, stderr");
        check("/containerLogs/a/b/c", "tailLines=-1", "tailLines must be a number");
        check("/containerLogs/a/b/c", "sinceTime=yesterday", "sinceTime is no time");
        check("/containerLogs/a/b/c", "stream=Stderr", "stream can only be All");
        check("/attach/a/b/c", "stdout=true", "kubectl exec");
        check("/pods", "", "no such request");
    }
}
