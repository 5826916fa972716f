//! The server: what it is made of, opening it on existing state, and one request from identity to answer.

use std::{
    net::Ipv6Addr,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use atoll_kv::{Condition, KvError, Watch};
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, request::Parts};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    addresses,
    auth::{
        self, User, bootstrap,
        ca::{Authority, CaError, ClientCertificate},
        node::Decision,
        rbac::{Attributes, Rules},
        token::TokenKey,
    },
    discovery,
    error::ApiError,
    kinds::{Registry, Resource, custom},
    object::{meta, name, namespace as namespace_of, new_uid, now},
    openapi,
    path::{Query, Target},
    proxy::NodeProxy,
    respond::{self, Accept, ResponseBody},
    store::Store,
    verbs,
};

/// Body of a request, from the network or from a client in this process.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Namespaces that are there from the beginning.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// The resources that rights are made of.
const RBAC: &str = "rbac.authorization.k8s.io";

/// How long a request waits for a place before it is refused with 429.
const QUEUE_WAIT_MAX: Duration = Duration::from_secs(10);

/// How an API server is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for the keys of the certificate authority and of tokens; made with mode 0700.
    pub dir: PathBuf,
    /// What all keys in the store begin with; several servers may share a store under different prefixes.
    pub prefix: String,
    /// Addresses of Services: the network and its length in bits (64 to 120).
    pub service_range: (Ipv6Addr, u8),
    /// Names and addresses that clients dial besides `localhost` and `kubernetes.default.svc`; they stand in the server's certificate.
    pub names: Vec<String>,
    /// Most requests worked on at the same time, watches apart.
    pub requests_max: usize,
    /// Most watches, and open streams to nodes, at the same time.
    pub watches_max: usize,
}

impl Config {
    /// Everything at its default, with keys in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            prefix: "kube/".to_owned(),
            // A ULA of nobody: whoever runs an eVDC gives one out of its own /48.
            service_range: (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0xffff, 0, 0), 112),
            names: Vec::new(),
            requests_max: 400,
            watches_max: 10_000,
        }
    }
}

/// Why an API server could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its folder could not be made.
    #[error("cannot make the folder {} of the Kubernetes API: {source}", dir.display())]
    Dir {
        /// The folder.
        dir: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Its keys could not be opened or made.
    #[error(transparent)]
    Keys(#[from] CaError),
    /// The addresses for Services are no network of 64 to 120 bits.
    #[error("the addresses for Services must be a network of 64 to 120 bits, not one of {0}")]
    ServiceRange(u8),
    /// The objects could not be read, or the first ones not written.
    #[error("cannot open the objects of the Kubernetes API: {0}")]
    Objects(#[from] ApiError),
}

/// A Kubernetes API server; cheap to clone, all clones are the same server.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) server: Arc<Server>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("config", &self.server.config).finish_non_exhaustive()
    }
}

pub(crate) struct Server {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) authority: Authority,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) tokens: TokenKey,
    registry: RwLock<Arc<Registry>>,
    rules: RwLock<Arc<Rules>>,
    proxy: RwLock<Option<Arc<dyn NodeProxy>>>,
    requests: Semaphore,
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) closing: CancellationToken,
    pub(crate) connections: TaskTracker,
}

impl ApiServer {
    /// Opens the server on the objects in `kv` and the keys in `config.dir`, making what is missing. `kv` must keep a history.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(kv: Arc<dyn Watch>, config: Config) -> Result<Self, OpenError> {
        let (_, bits) = config.service_range;
        if !(64..=120).contains(&bits) {
            return Err(OpenError::ServiceRange(bits));
        }
        let dir = config.dir.clone();
        make_dir(&dir).map_err(|source| OpenError::Dir { dir: dir.clone(), source })?;
        let authority = Authority::open(&dir)?;
        // Pods know it by the address of its Service.
        let own = addresses::own(config.service_range).to_string();
        let names: Vec<String> = config.names.iter().cloned().chain([own]).collect();
        let server = Arc::new(Server {
            tls: authority.server_config(&names)?,
            tokens: TokenKey::open(&dir)?,
            authority,
            store: Store::new(kv, config.prefix.clone()),
            registry: RwLock::new(Arc::new(Registry::builtin())),
            rules: RwLock::default(),
            proxy: RwLock::default(),
            requests: Semaphore::new(config.requests_max),
            watches: Arc::new(Semaphore::new(config.watches_max)),
            closing: CancellationToken::new(),
            connections: TaskTracker::new(),
            config,
        });
        server.bootstrap().await?;
        server.reload_definitions().await?;
        server.reload_rules().await?;
        Ok(Self { server })
    }

    /// A certificate by which a client is this user, in one group or none (such as [`MASTERS`](crate::MASTERS) or `system:nodes`).
    ///
    /// # Errors
    /// When a name cannot stand in a certificate, or more than one group is given.
    pub fn issue_client(&self, user: &str, groups: &[&str], valid: Duration) -> Result<ClientCertificate, CaError> {
        self.server.authority.issue(user, groups, valid)
    }

    /// The certificate of the authority that signed the server's, as PEM: what clients check it against.
    pub fn authority_pem(&self) -> &str {
        self.server.authority.certificate_pem()
    }

    /// A kubeconfig for a client certificate and the URL at which the client reaches this server.
    pub fn kubeconfig(&self, context: &str, server_url: &str, client: &ClientCertificate) -> String {
        let base64 = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": context,
            "clusters": [{"name": context, "cluster": {
                "server": server_url, "certificate-authority-data": base64(self.authority_pem())}}],
            "users": [{"name": context, "user": {
                "client-certificate-data": base64(&client.certificate_pem), "client-key-data": base64(&client.key_pem)}}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context, "namespace": "default"}}],
        });
        // JSON is YAML; kubectl reads it.
        format!("{config:#}\n")
    }

    /// Who opens streams to pods on their nodes (logs, exec, attach, port-forward). Until this is called they are refused.
    pub fn set_node_proxy(&self, proxy: Arc<dyn NodeProxy>) {
        *self.server.proxy.write().unwrap_or_else(PoisonError::into_inner) = Some(proxy);
    }

    /// Ends watches and connections, and waits for them up to `deadline`. Returns whether all ended in time.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.server.closing.cancel();
        self.server.connections.close();
        tokio::time::timeout(deadline, self.server.connections.wait()).await.is_ok()
    }
}

fn make_dir(dir: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// A request that has been read as far as its URL.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) user: User,
    pub(crate) method: Method,
    pub(crate) verb: &'static str,
    pub(crate) target: Target,
    pub(crate) query: Query,
    pub(crate) accept: Accept,
    pub(crate) media_type: String,
    pub(crate) user_agent: String,
    pub(crate) resource: Arc<Resource>,
    pub(crate) registry: Arc<Registry>,
}

impl Server {
    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn proxy(&self) -> Option<Arc<dyn NodeProxy>> {
        self.proxy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers a request of this user; never fails, but says so.
    pub(crate) fn handle(
        self: Arc<Self>,
        user: User,
        request: Request<RequestBody>,
    ) -> BoxFuture<'static, Response<ResponseBody>> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            match self.route(user, parts, body).await {
                Ok(response) => response,
                Err(error) => respond::error(&error),
            }
        })
    }

    async fn route(
        self: &Arc<Self>,
        user: User,
        parts: Parts,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, ApiError> {
        let path = parts.uri.path().to_owned();
        if parts.headers.contains_key("impersonate-user") {
            return Err(ApiError::new(403, "Forbidden", "impersonation is not supported by this server"));
        }
        let Some(target) = Target::parse(&path) else { return self.route_path(&user, &path, &parts).await };
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let verb = target.verb(&parts.method, &query)?;
        let attributes = Attributes {
            // Reading a log is reading; the other streams act on the pod, whatever the method.
            verb: if target.is_stream() && target.subresource != "log" { "create" } else { verb }.to_owned(),
            group: target.group.clone(),
            resource: target.plural.clone(),
            subresource: target.subresource.clone(),
            // Rights on a namespace itself may be given within it.
            namespace: if target.is_namespace() { &target.name } else { &target.namespace }.clone(),
            name: target.name.clone(),
            path: None,
        };
        self.authorize_here(&user, &attributes, &query).await?;
        let registry = self.registry();
        let resource = target.resource(&registry)?;
        let header = |name: http::HeaderName| {
            parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let context = Context {
            user,
            verb,
            query,
            accept: Accept::parse(&header(http::header::ACCEPT))?,
            media_type: crate::body::media_type(&parts.headers).to_owned(),
            user_agent: header(http::header::USER_AGENT),
            method: parts.method.clone(),
            target,
            resource,
            registry,
        };
        if context.verb == "watch" || context.target.is_stream() {
            return verbs::stream(self, context, parts).await;
        }
        let _place = self.place().await?;
        verbs::dispatch(self, context, body).await
    }

    async fn place(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        match tokio::time::timeout(QUEUE_WAIT_MAX, self.requests.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(ApiError::new(429, "TooManyRequests", "the server has too many requests; try again later")),
        }
    }

    /// Paths that name no resource.
    async fn route_path(&self, user: &User, path: &str, parts: &Parts) -> Result<Response<ResponseBody>, ApiError> {
        let attributes = Attributes { verb: "get".to_owned(), path: Some(path.to_owned()), ..Attributes::default() };
        self.authorize(user, &attributes)?;
        if parts.method != Method::GET && parts.method != Method::HEAD {
            return Err(ApiError::method_not_allowed());
        }
        let trimmed = path.trim_end_matches('/');
        match trimmed {
            "/healthz" | "/livez" | "/readyz" | "/healthz/ping" => {
                self.store.revision().await?;
                Ok(respond::text("ok"))
            }
            "/version" => Ok(respond::json(200, &discovery::version())),
            _ if trimmed.starts_with("/openapi/") => openapi::serve(&self.registry(), trimmed, parts),
            _ => discovery::serve(&self.registry(), trimmed, parts),
        }
    }

    /// The same for a request for a resource: a node may what its pods need.
    async fn authorize_here(self: &Arc<Self>, user: &User, wanted: &Attributes, query: &Query) -> Result<(), ApiError> {
        if let Some(node) = auth::node::node_of(user) {
            let may = match auth::node::decide(node, wanted, query.text("fieldSelector")) {
                Decision::Yes => true,
                Decision::No => false,
                Decision::IfNeeded => auth::node::needed(self, node, wanted).await?,
            };
            if may {
                return Ok(());
            }
        }
        self.authorize(user, wanted)
    }

    pub(crate) fn authorize(&self, user: &User, wanted: &Attributes) -> Result<(), ApiError> {
        if self.rules().allow(user, wanted) {
            return Ok(());
        }
        let about = crate::error::About { group: &wanted.group, plural: &wanted.resource, kind: "" };
        Err(match &wanted.path {
            Some(_) => ApiError::new(403, "Forbidden", format!("forbidden: {}", wanted.refusal(user))),
            None => ApiError::forbidden(about, &wanted.name, &wanted.refusal(user)),
        })
    }

    /// What has to be read anew after an object of this resource was written.
    pub(crate) async fn written(&self, resource: &Resource) -> Result<(), ApiError> {
        if resource.group == RBAC {
            self.reload_rules().await?;
        }
        if resource.is("apiextensions.k8s.io", "CustomResourceDefinition") {
            self.reload_definitions().await?;
        }
        Ok(())
    }

    async fn reload_rules(&self) -> Result<(), ApiError> {
        let rules = Rules {
            cluster_roles: self.all_of("clusterroles").await?,
            cluster_role_bindings: self.all_of("clusterrolebindings").await?,
            roles: self.all_of("roles").await?,
            role_bindings: self.all_of("rolebindings").await?,
        };
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        Ok(())
    }

    /// All RBAC objects of this kind.
    async fn all_of(&self, plural: &str) -> Result<Vec<Value>, ApiError> {
        let resource = self.registry().get(RBAC, "v1", plural).ok_or_else(ApiError::no_route)?;
        self.store.all(&resource, "").await
    }

    async fn reload_definitions(&self) -> Result<(), ApiError> {
        let mut registry = Registry::builtin();
        if let Some(resource) = registry.get("apiextensions.k8s.io", "v1", "customresourcedefinitions") {
            let definitions = self.store.all(&resource, "").await?;
            registry.extend(definitions.iter().flat_map(custom::resources));
        }
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
        Ok(())
    }

    /// Writes the objects that are there from the beginning, where they are missing. Those that are there stay as they are.
    async fn bootstrap(&self) -> Result<(), ApiError> {
        let registry = Registry::builtin();
        let namespace = |name: &&str| {
            let labels = json!({"kubernetes.io/metadata.name": name});
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
            ("", "namespaces", object)
        };
        let role = |mut object: Value| {
            let plural = if object["kind"] == "ClusterRole" { "clusterroles" } else { "clusterrolebindings" };
            object["apiVersion"] = "rbac.authorization.k8s.io/v1".into();
            (RBAC, plural, object)
        };
        let (service, allocation) = addresses::own_service(self);
        let service = ("", "services", service);
        let wanted =
            NAMESPACES.iter().map(namespace).chain([service]).chain(bootstrap::bootstrap().into_iter().map(role));
        for (group, plural, mut object) in wanted {
            let resource = registry.get(group, "v1", plural).ok_or_else(ApiError::no_route)?;
            let key = self.store.key(&resource, namespace_of(&object), name(&object));
            meta(&mut object).insert("uid".to_owned(), new_uid().into());
            meta(&mut object).insert("creationTimestamp".to_owned(), now().into());
            let absent = vec![Condition::Absent { key }];
            let mut writes = vec![self.store.put(&resource, &object)];
            writes.extend(resource.is("", "Service").then(|| allocation.clone()));
            match self.store.commit(absent, writes).await {
                Ok(_) | Err(KvError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
