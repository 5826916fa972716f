//! Releases of the catalogue's applications in an eVDC.

use atoll_apps::App;
use atoll_chart::lifecycle::{self, LifecycleError, Plan};
use atoll_chart::{Chart, ObjectRef, Release, RenderOptions, Status, parse_values};
use atoll_iac::{FieldChange, differences};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::Deploy;
use crate::error::{DeployError, doing};
use crate::objects::Objects;
use crate::tell::{Note, Tell};
use crate::{images, rollout};

/// The label by which a chart's objects name their release, claims of its volumes too.
const INSTANCE: &str = "app.kubernetes.io/instance";

/// What to install.
#[derive(Debug, Clone, PartialEq)]
pub struct Install {
    /// The application.
    pub app: String,
    /// What to call it.
    pub release: String,
    /// Where.
    pub namespace: String,
    /// What is given.
    pub values: Json,
    /// Whether it is there already: then what is given is laid over what was given before.
    pub upgrade: bool,
}

/// A release as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AppState {
    /// Its name.
    pub release: String,
    /// Its namespace.
    pub namespace: String,
    /// The application.
    pub app: String,
    /// Version of its chart.
    pub version: String,
    /// The revision, from 1.
    pub revision: u64,
    /// `deployed`, `failed`, `pending-install`, …
    pub status: String,
    /// When this revision was installed (RFC 3339).
    pub updated: String,
    /// What was given.
    pub values: Json,
    /// What the application says to whoever installed it.
    pub notes: String,
    /// What it consists of; empty in listings.
    pub objects: Vec<ObjectState>,
}

/// One object of a release.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ObjectState {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// `2/2 ready`, `there`, `missing`.
    pub state: String,
    /// Whether it is as it should be.
    pub good: bool,
}

/// What became of a removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The release.
    pub release: String,
    /// Claims of volumes that are kept with their data.
    pub kept: Vec<String>,
}

fn find(name: &str) -> Result<&'static App, DeployError> {
    let known = || atoll_apps::catalogue().iter().map(|it| it.name.to_owned()).collect();
    atoll_apps::find(name).ok_or_else(|| DeployError::NoApp { name: name.to_owned(), known: known() })
}

impl Deploy {
    /// Makes the built-in image with this tag, or finds it.
    ///
    /// # Errors
    /// [`DeployError::Image`]
    pub async fn sample_image(&self, tag: &str) -> Result<atoll_images::Image, DeployError> {
        images::sample(&self.images, tag).await
    }

    /// The releases of an eVDC.
    ///
    /// # Errors
    /// [`DeployError`]
    pub async fn apps(&self, evdc: &str) -> Result<Vec<AppState>, DeployError> {
        let objects = self.objects(evdc).await?;
        Ok(lifecycle::list(&objects, None).await?.iter().map(state).collect())
    }

    /// One release, with what it consists of.
    ///
    /// # Errors
    /// [`DeployError`]
    pub async fn app(&self, evdc: &str, namespace: &str, release: &str) -> Result<AppState, DeployError> {
        let objects = self.objects(evdc).await?;
        let last = last(&objects, namespace, release).await?;
        let mut found = state(&last);
        for object in lifecycle::objects(&last)? {
            found.objects.push(object_state(&objects, namespace, &object).await?);
        }
        Ok(found)
    }

    /// Installs an application, or upgrades it, and waits until it has come up.
    ///
    /// # Errors
    /// [`DeployError`]; the same call goes on where it ended.
    pub async fn install(&self, evdc: &str, install: &Install, tell: &Tell) -> Result<AppState, DeployError> {
        let objects = self.objects(evdc).await?;
        let mut install = install.clone();
        if install.upgrade {
            let last = last(&objects, &install.namespace, &install.release).await?;
            let before = Json::Object(last.config.unwrap_or_default());
            install.values = overlay(before, &install.values);
        }
        self.put(&objects, &install, tell).await?;
        self.app(evdc, &install.namespace, &install.release).await
    }

    /// Returns a release to an earlier revision, by default the one before.
    ///
    /// # Errors
    /// [`DeployError`]
    pub async fn roll_back(
        &self,
        evdc: &str,
        (namespace, release): (&str, &str),
        revision: Option<u64>,
        tell: &Tell,
    ) -> Result<AppState, DeployError> {
        let objects = self.objects(evdc).await?;
        let plan = lifecycle::plan_rollback(&objects, namespace, release, revision).await?;
        self.execute(&objects, plan, namespace, tell).await?;
        self.app(evdc, namespace, release).await
    }

    /// Removes a release; claims of its volumes stay with their data unless `data` says otherwise.
    ///
    /// # Errors
    /// [`DeployError`]
    pub async fn remove(
        &self,
        evdc: &str,
        (namespace, release): (&str, &str),
        data: bool,
        tell: &Tell,
    ) -> Result<Removed, DeployError> {
        let objects = self.objects(evdc).await?;
        uninstall(&objects, namespace, release, tell).await?;
        let selector = format!("{INSTANCE}={release}");
        let claims = objects.list("v1", "PersistentVolumeClaim", Some(namespace), &selector).await;
        let mut kept = Vec::new();
        for claim in claims.map_err(doing("reading claims"))? {
            let of = ObjectRef::of(&claim);
            match data {
                true => drop(objects.delete(&of, namespace).await.map_err(doing(format!("deleting {of}")))?),
                false => kept.push(of.name),
            }
        }
        Ok(Removed { release: release.to_owned(), kept })
    }

    /// Makes a release be what is asked, whatever it is now.
    pub(crate) async fn put(&self, objects: &Objects, install: &Install, tell: &Tell) -> Result<(), DeployError> {
        let chart = find(&install.app)?.chart()?;
        let capabilities = objects.capabilities().await.map_err(doing("asking what the API can do"))?;
        let history = lifecycle::history(objects, &install.namespace, &install.release).await?;
        check_app(&history, install)?;
        let random = |buffer: &mut [u8]| getrandom::fill(buffer).map_err(|it| it.to_string());
        let options = RenderOptions {
            name: &install.release,
            namespace: &install.namespace,
            revision: 1,
            upgrade: install.upgrade,
            capabilities: &capabilities,
            lookup: None,
            random: Some(&random),
            limits: Default::default(),
            strict: false,
        };
        let plan = lifecycle::plan(objects, &chart, &install.values, options).await?;
        self.execute(objects, plan, &install.namespace, tell).await
    }

    async fn execute(&self, objects: &Objects, plan: Plan, namespace: &str, tell: &Tell) -> Result<(), DeployError> {
        for warning in &plan.warnings {
            tell(Note::Warning(warning.clone()));
        }
        // Before the pods are there that ask for them.
        images::provide(&self.images, &plan.apply, tell).await?;
        let applied = plan.apply.clone();
        plan.execute(objects, Timestamp::now()).await?;
        rollout::wait(objects, &applied, namespace, tell).await
    }
}

fn check_app(history: &[Release], install: &Install) -> Result<(), DeployError> {
    let found = history.last().and_then(|it| it.chart.metadata.as_ref()).map(|it| &it.name);
    match found {
        Some(found) if *found != install.app => Err(DeployError::OtherApp {
            release: install.release.clone(),
            found: found.clone(),
            wanted: install.app.clone(),
        }),
        _ => Ok(()),
    }
}

async fn last(objects: &Objects, namespace: &str, release: &str) -> Result<Release, DeployError> {
    let history = lifecycle::history(objects, namespace, release).await?;
    history.into_iter().next_back().ok_or_else(|| LifecycleError::Missing(release.to_owned()).into())
}

/// Whether a release has to be upgraded rather than installed: it has been up once.
pub(crate) fn is_up(history: &[Release]) -> bool {
    let live = history.last().is_some_and(|it| it.info.status != Status::Uninstalled);
    live && history.iter().any(|it| matches!(it.info.status, Status::Deployed | Status::Superseded))
}

/// Removes a release, if it is there.
pub(crate) async fn uninstall(
    objects: &Objects,
    namespace: &str,
    release: &str,
    tell: &Tell,
) -> Result<(), DeployError> {
    let plan = lifecycle::plan_uninstall(objects, namespace, release).await?;
    for warning in &plan.warnings {
        tell(Note::Warning(warning.clone()));
    }
    plan.execute(objects, Timestamp::now()).await?;
    Ok(())
}

fn state(release: &Release) -> AppState {
    let metadata = release.chart.metadata.as_ref();
    AppState {
        release: release.name.clone(),
        namespace: release.namespace.clone(),
        app: metadata.map(|it| it.name.clone()).unwrap_or_default(),
        version: metadata.map(|it| it.version.clone()).unwrap_or_default(),
        revision: release.version,
        status: release.info.status.word().to_owned(),
        updated: release.info.last_deployed.clone(),
        values: Json::Object(release.config.clone().unwrap_or_default()),
        notes: release.info.notes.clone(),
        objects: Vec::new(),
    }
}

async fn object_state(objects: &Objects, namespace: &str, object: &Json) -> Result<ObjectState, DeployError> {
    let of = ObjectRef::of(object);
    let found = objects.get(&of, namespace).await.map_err(doing(format!("reading {of}")))?;
    let (state, good) = match found.as_ref().map(|it| (rollout::progress(it), it)) {
        None => ("missing".to_owned(), false),
        Some((Some(progress), _)) => (format!("{}/{} ready", progress.ready, progress.wanted), progress.done),
        Some((None, object)) => (shown(object), true),
    };
    Ok(ObjectState { kind: of.kind, name: of.name, state, good })
}

/// What there is to say of an object that is there.
fn shown(object: &Json) -> String {
    let hosts = object["spec"]["rules"].as_array().into_iter().flatten().filter_map(|it| it["host"].as_str());
    match object["kind"].as_str() {
        Some("Ingress") => hosts.map(|host| format!("https://{host}/")).collect::<Vec<_>>().join(" "),
        _ => "there".to_owned(),
    }
}

/// Lays what is given now over what was given before: tables merge, everything else is replaced, null takes away.
fn overlay(before: Json, given: &Json) -> Json {
    match (before, given) {
        (Json::Object(mut before), Json::Object(given)) => {
            for (key, value) in given {
                let merged = overlay(before.remove(key).unwrap_or(Json::Null), value);
                before.insert(key.clone(), merged);
            }
            Json::Object(before)
        }
        (_, given) => given.clone(),
    }
}

/// The version of a catalogue's application, and what the plan compares with it.
pub(crate) fn version(app: &str) -> Option<String> {
    atoll_apps::find(app)?.chart().ok().map(|it: Chart| it.metadata.version)
}

/// A release as a plan sees it. One that is not up differs in its version, so that it is made anew.
pub(crate) fn live(release: &Release) -> Json {
    let state = state(release);
    let version = match release.info.status {
        Status::Deployed => state.version,
        status => format!("{}, {}", state.version, status.word()),
    };
    json!({ "app": state.app, "version": version, "values": state.values })
}

/// In what the objects of a release differ from what it made: what a server-side apply would change now. The API itself says so, with all its defaults.
pub(crate) async fn moved(objects: &Objects, release: &Release) -> Result<Vec<FieldChange>, DeployError> {
    let (namespace, mut moved) = (&release.namespace, Vec::new());
    for object in lifecycle::objects(release)? {
        let of = ObjectRef::of(&object);
        let name = format!("{}/{}", of.kind, of.name);
        let there = objects.get(&of, namespace).await.map_err(doing(format!("reading {of}")))?;
        let Some(there) = there else {
            moved.push(FieldChange { path: name, from: None, to: Some("there".into()) });
            continue;
        };
        let wanted = objects.apply(&object, namespace, true).await.map_err(doing(format!("comparing {of}")))?;
        moved.extend(in_object(&name, wanted, &there));
    }
    Ok(moved)
}

fn in_object(name: &str, mut wanted: Json, there: &Json) -> Vec<FieldChange> {
    for (part, own) in [("", &["status"][..]), ("metadata", &["resourceVersion", "generation", "uid"])] {
        let at = if part.is_empty() { &mut wanted } else { &mut wanted[part] };
        if let Some(table) = at.as_object_mut() {
            table.retain(|key, _| !own.contains(&key.as_str()));
        }
    }
    let secret = wanted["kind"] == "Secret";
    let hide = |value: Option<Json>| if secret { value.map(|_| "(secret)".into()) } else { value };
    let changes = differences(&wanted, there).into_iter();
    changes
        .map(|it| FieldChange { path: format!("{name} {}", it.path), from: hide(it.from), to: hide(it.to) })
        .collect()
}

/// Reads values as a file has them.
///
/// # Errors
/// [`DeployError::Values`]
pub fn values(text: &str) -> Result<Json, DeployError> {
    Ok(parse_values(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_again_stays() {
        let check = |before: Json, given: Json, expect: Json| assert_eq!(overlay(before, &given), expect, "{given}");
        check(json!({"a": 1, "b": {"c": 2, "d": 3}}), json!({"b": {"c": 4}}), json!({"a": 1, "b": {"c": 4, "d": 3}}));
        check(json!({"l": [1, 2]}), json!({"l": [3]}), json!({"l": [3]}));
        check(json!({}), json!({"a": null}), json!({"a": null}));
        check(json!({"a": {"b": 1}}), json!({"a": 2}), json!({"a": 2}));
    }

    #[test]
    fn what_moved_in_an_object_is_named() {
        let check = |kind: &str, there: Json, expect: &[&str]| {
            let wanted =
                json!({"kind": kind, "metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": {"x": 1}});
            let said = in_object("D/web", wanted, &there).into_iter();
            let said: Vec<String> = said.map(|it| format!("{} {:?} {:?}", it.path, it.from, it.to)).collect();
            assert_eq!(said, expect, "{there}");
        };
        let there =
            |replicas: u64| json!({"metadata": {"generation": 1}, "spec": {"replicas": replicas, "paused": true}});
        check("Deployment", json!({"kind": "Deployment", "spec": {"replicas": 2}}), &[]);
        let expect = format!("D/web spec.replicas {:?} {:?}", Some(json!(1)), Some(json!(2)));
        check(
            "Deployment",
            {
                let mut it = there(1);
                it["kind"] = "Deployment".into();
                it
            },
            &[&expect],
        );
        let expect = format!("D/web spec.replicas {:?} {:?}", Some(json!("(secret)")), Some(json!("(secret)")));
        check(
            "Secret",
            {
                let mut it = there(1);
                it["kind"] = "Secret".into();
                it
            },
            &[&expect],
        );
    }

    #[test]
    fn every_application_has_a_version() {
        assert!(atoll_apps::catalogue().iter().all(|it| version(it.name).is_some()));
        assert_eq!(version("nonsense"), None);
    }
}
