//! An API server in memory, as much of one as the agent speaks to: objects by path, list, watch, create, merge patch, delete, tokens.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

/// The tests of this crate are quick; a busy machine is not.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    revision: u64,
    /// Collection and name.
    objects: BTreeMap<(String, String), Value>,
    /// Revision, collection, what happened.
    log: Vec<(u64, String, Value)>,
    cut: bool,
    /// Others do not learn of pods.
    held: bool,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl Api {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), changed: watch::channel(0).0 }
    }

    pub(crate) fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// From now on no answer comes, or does again.
    pub(crate) fn cut(&self, cut: bool) {
        self.state.lock().unwrap().cut = cut;
    }

    /// From now on nobody learns of pods by their endpoints, or of all at last.
    pub(crate) fn hold_endpoints(&self, held: bool) {
        self.state.lock().unwrap().held = held;
        let objects = self.state.lock().unwrap().objects.clone();
        for ((collection, name), pod) in objects.into_iter().filter(|((of, _), _)| !held && of.ends_with("/pods")) {
            self.put(&collection, &name, pod, "MODIFIED");
        }
    }

    fn put(&self, collection: &str, name: &str, mut object: Value, kind: &str) -> Value {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let revision = state.revision;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let key = (collection.to_owned(), name.to_owned());
        if kind == "DELETED" {
            state.objects.remove(&key);
        } else {
            state.objects.insert(key, object.clone());
        }
        state.log.push((revision, collection.to_owned(), json!({"type": kind, "object": object})));
        // What others may know of a pod is another view of the same object.
        let namespaced = collection.strip_suffix("/pods").and_then(|it| it.strip_prefix("/api/v1"));
        if let Some(namespaced) = namespaced.filter(|_| !state.held) {
            let endpoints = format!("/apis/networking.atoll.cloud/v1{namespaced}/podendpoints");
            let metadata = object["metadata"].clone();
            let view = json!({"apiVersion": "networking.atoll.cloud/v1", "kind": "PodEndpoint", "metadata": metadata,
                "spec": {"nodeName": object["spec"]["nodeName"]}});
            let key = (endpoints.clone(), name.to_owned());
            if kind == "DELETED" {
                state.objects.remove(&key);
            } else {
                state.objects.insert(key, view.clone());
            }
            state.log.push((revision, endpoints, json!({"type": kind, "object": view})));
        }
        self.changed.send_replace(revision);
        object
    }

    pub(crate) fn create(&self, collection: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.put(collection, &name, object, "ADDED");
    }

    pub(crate) fn get(&self, collection: &str, name: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(&(collection.to_owned(), name.to_owned())).cloned()
    }

    pub(crate) fn change(&self, collection: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.get(collection, name).unwrap();
        change(&mut object);
        self.put(collection, name, object, "MODIFIED");
    }

    pub(crate) fn remove(&self, collection: &str, name: &str) {
        let object = self.get(collection, name).unwrap();
        self.put(collection, name, object, "DELETED");
    }

    pub(crate) async fn until(&self, collection: &str, name: &str, good: impl Fn(&Value) -> bool) -> Value {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                changed.borrow_and_update();
                if let Some(object) = self.get(collection, name).filter(|it| good(it)) {
                    return object;
                }
                changed.changed().await.unwrap();
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.unwrap_or_else(|_| panic!("{collection}/{name} is {:#?}", self.get(collection, name)))
    }

    pub(crate) async fn until_gone(&self, collection: &str, name: &str) {
        let mut changed = self.changed.subscribe();
        let wait = changed.wait_for(|_| self.get(collection, name).is_none());
        tokio::time::timeout(PATIENCE, wait).await.expect("it stays").unwrap();
    }

    pub(crate) async fn until_event(&self, reason: &str) {
        let mut changed = self.changed.subscribe();
        let wait = changed.wait_for(|_| self.event_reasons().iter().any(|it| it == reason));
        tokio::time::timeout(PATIENCE, wait).await.expect("nobody says so").unwrap();
    }

    pub(crate) fn event_reasons(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let events = state.objects.iter().filter(|((collection, _), _)| collection.ends_with("/events"));
        events.map(|(_, event)| event["reason"].as_str().unwrap().to_owned()).collect()
    }

    async fn answer(self, request: Request<Body>) -> Answer {
        if self.state.lock().unwrap().cut {
            std::future::pending::<()>().await;
        }
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let path = parts.uri.path().trim_end_matches('/').to_owned();
        let segments = path.split('/').filter(|it| !it.is_empty()).collect::<Vec<_>>();
        // /api/v1/[namespaces/NS/]KIND[/NAME[/SUB]], and one segment more below /apis.
        let rest = if segments[0] == "api" { 2 } else { 3 };
        let start = if segments[rest] == "namespaces" && segments.len() > rest + 2 { rest + 2 } else { rest };
        let collection = format!("/{}", segments[..=start].join("/"));
        let (name, sub) = (segments.get(start + 1).copied(), segments.get(start + 2).copied());
        match (parts.method, name, sub) {
            (Method::POST, Some(_), Some("token")) => whole(
                201,
                &json!({"spec": {"audiences": []}, "status":
                {"token": "a-token", "expirationTimestamp": "2027-01-01T00:00:00Z"}}),
            ),
            (Method::POST, None, _) => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                whole(201, &self.put(&collection, &name, body, "ADDED"))
            }
            (Method::GET, None, _) if query.contains("watch=true") => self.watch(collection, &query),
            (Method::GET, None, _) => self.list(&collection),
            (method, Some(name), _) => match (self.get(&collection, name), method) {
                (None, _) => missing(),
                (Some(object), Method::GET) => whole(200, &object),
                (Some(mut object), Method::PATCH) => {
                    let uid = &body["metadata"]["uid"];
                    if !uid.is_null() && *uid != object["metadata"]["uid"] {
                        return whole(
                            409,
                            &json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict"}),
                        );
                    }
                    merge(&mut object, &body);
                    whole(200, &self.put(&collection, name, object, "MODIFIED"))
                }
                (Some(object), Method::DELETE) => whole(200, &self.put(&collection, name, object, "DELETED")),
                (Some(_), method) => panic!("{method} {path}"),
            },
            (method, ..) => panic!("{method} {path}"),
        }
    }

    /// `/api/v1/pods` is the pods of all namespaces.
    fn belongs(object_in: &str, collection: &str) -> bool {
        let all = || {
            let (root, kind) = collection.rsplit_once('/').unwrap();
            object_in.starts_with(&format!("{root}/namespaces/")) && object_in.ends_with(&format!("/{kind}"))
        };
        object_in == collection || all()
    }

    fn list(&self, collection: &str) -> Answer {
        let state = self.state.lock().unwrap();
        let items = state.objects.iter().filter(|((of, _), _)| Self::belongs(of, collection)).map(|(_, it)| it);
        let items: Vec<&Value> = items.collect();
        whole(
            200,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": state.revision.to_string()}, "items": items}),
        )
    }

    fn watch(&self, collection: String, query: &str) -> Answer {
        let from = query.split('&').find_map(|it| it.strip_prefix("resourceVersion=")).and_then(|it| it.parse().ok());
        let position = (self.clone(), self.changed.subscribe(), from.unwrap_or(0_u64), collection);
        let stream = futures_util::stream::unfold(position, async |(api, mut changed, after, collection)| {
            loop {
                changed.borrow_and_update();
                let next = {
                    let state = api.state.lock().unwrap();
                    let mut log = state.log.iter();
                    log.find(|(revision, of, _)| *revision > after && Self::belongs(of, &collection)).cloned()
                };
                if let Some((revision, _, event)) = next {
                    let line = Bytes::from(format!("{event}\n"));
                    let frame = Ok::<_, Infallible>(Frame::data(line));
                    return Some((frame, (api, changed, revision, collection)));
                }
                changed.changed().await.ok()?;
            }
        });
        Response::new(UnsyncBoxBody::new(StreamBody::new(stream)))
    }
}

fn missing() -> Answer {
    whole(
        404,
        &json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "not found", "code": 404}),
    )
}

fn whole(status: u16, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string()));
    Response::builder().status(status).body(UnsyncBoxBody::new(body)).unwrap()
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

impl tower_service::Service<Request<Body>> for Api {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let api = self.clone();
        Box::pin(async move { Ok(api.answer(request).await) })
    }
}
