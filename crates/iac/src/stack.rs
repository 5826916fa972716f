//! From files to the graph of resources, with every error at its place.
//!
//! The short form:
//!
//! ```yaml
//! stack: hello                 # the name of the stack: what it owns is kept under it
//! evdc:
//!   name: home
//!   nodes: 5                   # leases, each of the size below
//!   each: {cpu: 1, memory: 1Gi, storage: 4Gi}
//! gateway: atoll.test          # the domain under which it opens to the outside
//! apps:
//!   guestbook:                 # the release; `app` names the application if it is another
//!     values: {host: guestbook.atoll.test}
//! ```
//!
//! Every other document of the files is a Kubernetes object as it is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use crate::quantity;
use crate::resource::{Resource, ResourceId};
use crate::source::{self, Place, SourceError, SourceFile, Spot};

/// Most resources of one stack.
const RESOURCES_MAX: usize = 10_000;
/// Most leases of one eVDC.
const NODES_MAX: u64 = 1000;

/// Kinds that have no namespace. A kind that is not here and is not a custom one goes into `default` if it names none.
const CLUSTER_KINDS: [&str; 13] = [
    "Namespace",
    "Node",
    "PersistentVolume",
    "StorageClass",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "PriorityClass",
    "IngressClass",
    "RuntimeClass",
    "APIService",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
];

/// The applications that a stack may name.
pub trait Catalogue {
    /// The version that would be installed; `None` if there is no such application.
    fn version(&self, app: &str) -> Option<String>;
    /// All names, to suggest one.
    fn names(&self) -> Vec<String>;
}

/// What the files of a stack say.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// Its name.
    pub name: String,
    /// Its resources.
    pub resources: BTreeMap<ResourceId, Resource>,
}

impl Stack {
    /// Reads the files of a stack.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn read(files: &[SourceFile], catalogue: &dyn Catalogue) -> Result<Self, SourceError> {
        let nowhere = Place { file: files.first().map_or("stack", |it| &it.name).to_owned(), line: 1, column: 1 };
        let (mut short, mut objects) = (None, Vec::new());
        for file in files {
            for document in source::documents(file)? {
                match (document.get("stack").is_some(), &short) {
                    (true, None) => short = Some(document),
                    (true, Some(_)) => return document.fail("there is a second stack: a folder holds one"),
                    (false, _) => objects.push(document),
                }
            }
        }
        let Some(short) = short else {
            let message = "no document has the key stack, which names the stack".to_owned();
            return Err(SourceError { place: nowhere, message });
        };
        let mut stack = Self { name: short.need("the stack", "stack")?.name("stack")?, resources: BTreeMap::new() };
        let evdc = stack.short(&short, catalogue)?;
        for object in &objects {
            stack.object(object, &evdc)?;
        }
        stack.order_objects();
        Ok(stack)
    }

    fn add(&mut self, resource: Resource) -> Result<(), SourceError> {
        let fail = |message| Err(SourceError { place: resource.place.clone(), message });
        if let Some(known) = self.resources.get(&resource.id) {
            return fail(format!("{} is defined already at {}", resource.id, known.place));
        }
        if self.resources.len() >= RESOURCES_MAX {
            return fail(format!("a stack has at most {RESOURCES_MAX} resources"));
        }
        self.resources.insert(resource.id.clone(), resource);
        Ok(())
    }

    /// The short form; returns the eVDC, on which everything else stands.
    fn short(&mut self, short: &Spot, catalogue: &dyn Catalogue) -> Result<ResourceId, SourceError> {
        short.fields("the stack", &["stack", "evdc", "gateway", "apps"])?;
        let evdc = short.need("the stack", "evdc")?;
        evdc.fields("evdc", &["name", "nodes", "each"])?;
        let name = evdc.need("evdc", "name")?.name("evdc.name")?;
        let nodes = evdc.need("evdc", "nodes")?.number("evdc.nodes", 1, NODES_MAX)?;
        let each = evdc.need("evdc", "each")?;
        let size = size(each)?;
        let mut leases = BTreeSet::new();
        for index in 1..=nodes {
            let id = ResourceId::Lease { evdc: name.clone(), index };
            leases.insert(id.clone());
            self.add(Resource { id, spec: size.clone(), needs: BTreeSet::new(), place: each.place.clone() })?;
        }
        let gateway = match short.get("gateway") {
            Some(it) => Json::String(domain(it)?),
            None => Json::Null,
        };
        let id = ResourceId::Evdc(name);
        let names: Vec<String> = leases.iter().map(ToString::to_string).collect();
        let spec = json!({ "leases": names, "gateway": gateway });
        self.add(Resource { id: id.clone(), spec, needs: leases, place: evdc.place.clone() })?;
        if let Some(apps) = short.get("apps") {
            for (name, place, app) in apps.entries("apps")? {
                self.app(name, place, app, &id, catalogue)?;
            }
        }
        Ok(id)
    }

    fn app(
        &mut self,
        name: &str,
        place: &Place,
        app: &Spot,
        evdc: &ResourceId,
        catalogue: &dyn Catalogue,
    ) -> Result<(), SourceError> {
        if !source::is_name(name) {
            let message = format!("{name:?}: {}", source::NAME_RULE);
            return Err(SourceError { place: place.clone(), message });
        }
        // `guestbook:` with nothing behind it is an application as it comes.
        let empty = matches!(app.tree, source::Tree::Scalar(Json::Null));
        if !empty {
            app.fields(&format!("apps.{name}"), &["app", "namespace", "values"])?;
        }
        let (kind, at) = match app.get("app") {
            Some(it) => (it.text("app")?, &it.place),
            None => (name, place),
        };
        let Some(version) = catalogue.version(kind) else {
            let names = catalogue.names();
            let near = source::nearest(kind, names.iter().map(String::as_str));
            let hint =
                near.map_or_else(|| format!("there are {}", names.join(", ")), |it| format!("did you mean {it}?"));
            return Err(SourceError { place: at.clone(), message: format!("no application {kind}: {hint}") });
        };
        let namespace = app.get("namespace").map_or(Ok("default".to_owned()), |it| it.name("namespace"))?;
        let values = match app.get("values") {
            Some(it) => it.entries("values").map(|_| it.json())?,
            None => json!({}),
        };
        self.add(Resource {
            id: ResourceId::App { namespace, name: name.to_owned() },
            spec: json!({ "app": kind, "version": version, "values": values }),
            needs: BTreeSet::from([evdc.clone()]),
            place: place.clone(),
        })
    }

    fn object(&mut self, object: &Spot, evdc: &ResourceId) -> Result<(), SourceError> {
        let entries = object.entries("a document")?;
        if object.get("apiVersion").is_none() && object.get("kind").is_none() {
            let keys = entries.iter().map(|(key, ..)| key.as_str());
            let typo = keys.clone().find(|it| source::nearest(it, ["stack"]).is_some());
            let hint = typo.map_or(String::new(), |it| format!(" (is {it} meant to be stack?)"));
            return object.fail(format!("a document is a stack or a Kubernetes object with apiVersion and kind{hint}"));
        }
        let api_version = object.need("the object", "apiVersion")?.text("apiVersion")?.to_owned();
        let kind = object.need("the object", "kind")?.text("kind")?.to_owned();
        let metadata = object.need("the object", "metadata")?;
        let name = metadata.need("metadata", "name")?;
        let text = name.text("metadata.name")?.to_owned();
        let fits = |it: &str| !it.is_empty() && it.len() <= 253 && !it.contains(['/', ' ']);
        if !fits(&text) || !fits(&kind) || !fits(&api_version.replacen('/', "", 1)) {
            return name.fail("apiVersion, kind and name must be words that Kubernetes takes");
        }
        let namespace = match metadata.get("namespace") {
            Some(it) => Some(it.name("metadata.namespace")?),
            None if CLUSTER_KINDS.contains(&kind.as_str()) => None,
            None => Some("default".to_owned()),
        };
        let mut spec = object.json();
        if let Some(namespace) = &namespace {
            spec["metadata"]["namespace"] = Json::String(namespace.clone());
        }
        if let Some(map) = spec.as_object_mut() {
            map.remove("status");
        }
        let id = ResourceId::Object { api_version, kind, namespace, name: text };
        self.add(Resource { id, spec, needs: BTreeSet::from([evdc.clone()]), place: object.place.clone() })
    }

    /// What is in a namespace needs it, what is of a custom kind needs its definition, if this stack makes them.
    fn order_objects(&mut self) {
        let ids: Vec<ResourceId> = self.resources.keys().cloned().collect();
        let definitions: Vec<(String, ResourceId)> = self
            .resources
            .values()
            .filter(|it| it.spec["kind"] == "CustomResourceDefinition")
            .filter_map(|it| Some((it.spec["spec"]["names"]["kind"].as_str()?.to_owned(), it.id.clone())))
            .collect();
        for resource in self.resources.values_mut() {
            let (namespace, kind) = match &resource.id {
                ResourceId::App { namespace, .. } => (Some(namespace), ""),
                ResourceId::Object { namespace, kind, .. } => (namespace.as_ref(), kind.as_str()),
                _ => continue,
            };
            let own = ids.iter().filter(|it| {
                matches!(it, ResourceId::Object { kind, name, .. } if kind == "Namespace" && Some(name) == namespace)
            });
            let definition = definitions.iter().filter(|(it, _)| it == kind).map(|(_, id)| id);
            resource.needs.extend(own.chain(definition).cloned());
        }
    }
}

fn size(each: &Spot) -> Result<Json, SourceError> {
    each.fields("each", &["cpu", "memory", "storage"])?;
    let quantity = |key: &str, read: fn(&str) -> Option<u64>, example: &str| {
        let spot = each.need("each", key)?;
        let text = match &spot.tree {
            source::Tree::Scalar(Json::String(it)) => it.clone(),
            source::Tree::Scalar(it @ Json::Number(_)) => it.to_string(),
            _ => String::new(),
        };
        match read(&text) {
            Some(it) if it > 0 => Ok(it),
            _ => spot.fail(format!("each.{key} must be a quantity such as {example}")),
        }
    };
    Ok(json!({
        "cpuMillis": quantity("cpu", quantity::thousandths, "2 or 500m")?,
        "memoryBytes": quantity("memory", quantity::units, "1Gi")?,
        "storageBytes": quantity("storage", quantity::units, "10Gi")?,
    }))
}

fn domain(spot: &Spot) -> Result<String, SourceError> {
    let text = spot.text("gateway")?;
    let fits = text.len() <= 253 && text.split('.').all(source::is_name);
    if fits { Ok(text.to_owned()) } else { spot.fail(format!("gateway {text:?} must be a domain such as example.org")) }
}
