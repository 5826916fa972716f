//! Drives a [`Cloud`]: looks, plans, and makes the changes one after the other.
//!
//! The inventory is written before a resource is (so that an interrupted write is owned and can be gone on with or removed) and after.
//! Every step can be repeated without harm, so after a failure the same command goes on.

use std::future::Future;

use serde_json::Value as Json;

use crate::inventory::{Inventory, InventoryError, Owned};
use crate::plan::{self, Change, Drift, Live, Plan, PlanError};
use crate::resource::{Resource, ResourceId};
use crate::stack::Stack;

/// What the cloud answered instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// Try again.
    #[error("does not answer now: {0}")]
    Unavailable(String),
    /// It does not want to: the definition must change.
    #[error("was refused: {0}")]
    Refused(String),
}

/// Why a stack could not be planned or changed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The inventory cannot be read.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// The inventory cannot be fetched or kept.
    #[error("the inventory: {0}")]
    Storage(CloudError),
    /// A resource could not be read, written or deleted. What was done before it stays done.
    #[error("{id} {source}")]
    Resource {
        /// Which.
        id: ResourceId,
        /// What was said.
        source: CloudError,
    },
}

/// What there is to change: leases, eVDCs, applications, objects.
pub trait Cloud: Sync {
    /// What is there of a resource, in the shape of [`Resource::spec`] (a server's own fields may be in it); `None` if it is not
    /// there, also if what it needs is not there. Of an application, `moved` may list [`FieldChange`](crate::FieldChange)s of what it consists of:
    /// from as it is, to as it was made.
    fn get(&self, id: &ResourceId) -> impl Future<Output = Result<Option<Json>, CloudError>> + Send;

    /// Makes or changes a resource and returns when it can be built upon. `last` is what was written the last time, so that fields
    /// that are not written any more can be taken away.
    fn apply(&self, resource: &Resource, last: Option<&Json>) -> impl Future<Output = Result<(), CloudError>> + Send;

    /// Removes a resource and returns when it is gone; one that is not there is gone.
    fn delete(&self, id: &ResourceId) -> impl Future<Output = Result<(), CloudError>> + Send;

    /// The stored inventory of a stack.
    fn load(&self, stack: &str) -> impl Future<Output = Result<Option<Json>, CloudError>> + Send;

    /// Stores the inventory durably; `None` forgets it.
    fn store(&self, stack: &str, inventory: Option<&Json>) -> impl Future<Output = Result<(), CloudError>> + Send;
}

/// What is told while changes are made.
pub type Report<'a> = &'a (dyn Fn(&Change) + Sync);

/// The inventory of a stack, empty if there is none.
///
/// # Errors
/// It cannot be fetched or read.
pub async fn inventory<C: Cloud>(cloud: &C, stack: &str) -> Result<Inventory, EngineError> {
    match cloud.load(stack).await.map_err(EngineError::Storage)? {
        Some(json) => Ok(Inventory::from_json(&json)?),
        None => Ok(Inventory::new(stack)),
    }
}

async fn look<C: Cloud>(cloud: &C, ids: impl Iterator<Item = &ResourceId>) -> Result<Live, EngineError> {
    let mut live = Live::new();
    for id in ids {
        if live.contains_key(id) {
            continue;
        }
        let found = cloud.get(id).await.map_err(|source| EngineError::Resource { id: id.clone(), source })?;
        live.extend(found.map(|it| (id.clone(), it)));
    }
    Ok(live)
}

/// Looks and plans.
///
/// # Errors
/// The cloud does not answer, or there is no plan.
pub async fn plan<C: Cloud>(cloud: &C, stack: &Stack) -> Result<Plan, EngineError> {
    let inventory = inventory(cloud, &stack.name).await?;
    let live = look(cloud, stack.resources.keys().chain(inventory.owned.keys())).await?;
    Ok(plan::plan(stack, &live, &inventory)?)
}

/// Plans the removal of everything that a stack made.
///
/// # Errors
/// The cloud does not answer.
pub async fn plan_destroy<C: Cloud>(cloud: &C, stack: &str) -> Result<Plan, EngineError> {
    let inventory = inventory(cloud, stack).await?;
    let live = look(cloud, inventory.owned.keys()).await?;
    Ok(plan::destroy(&live, &inventory)?)
}

/// What has moved since it was last written.
///
/// # Errors
/// The cloud does not answer.
pub async fn drift<C: Cloud>(cloud: &C, stack: &str) -> Result<Vec<Drift>, EngineError> {
    let inventory = inventory(cloud, stack).await?;
    let live = look(cloud, inventory.owned.keys()).await?;
    Ok(plan::drift(&live, &inventory))
}

/// Makes the changes of a plan. `report` is called before each.
///
/// # Errors
/// A change fails; those before it are made and recorded.
pub async fn apply<C: Cloud>(cloud: &C, plan: &Plan, report: Report<'_>) -> Result<(), EngineError> {
    let mut inventory = inventory(cloud, &plan.stack).await?;
    for change in &plan.changes {
        report(change);
        let id = change.id();
        let failed = |source| EngineError::Resource { id: id.clone(), source };
        match (change, plan.wanted.get(id)) {
            (Change::Delete { .. }, _) => {
                cloud.delete(id).await.map_err(failed)?;
                inventory.owned.remove(id);
            }
            (Change::Record { .. }, None) => drop(inventory.owned.remove(id)),
            (Change::Record { .. }, Some(resource)) => drop(inventory.owned.insert(id.clone(), owned(resource))),
            (_, Some(resource)) => {
                let last = begin(cloud, &mut inventory, resource).await?;
                if let Change::Replace { .. } = change {
                    cloud.delete(id).await.map_err(failed)?;
                }
                cloud.apply(resource, last.as_ref()).await.map_err(failed)?;
                inventory.owned.insert(id.clone(), owned(resource));
            }
            // A plan holds what its changes write.
            (_, None) => return Err(failed(CloudError::Refused("is not in the plan".into()))),
        }
        keep(cloud, &inventory).await?;
    }
    Ok(())
}

fn owned(resource: &Resource) -> Owned {
    Owned { spec: resource.spec.clone(), needs: resource.needs.clone(), pending: false }
}

/// Says in the inventory that a resource is being written; returns what was written the last time.
async fn begin<C: Cloud>(
    cloud: &C,
    inventory: &mut Inventory,
    resource: &Resource,
) -> Result<Option<Json>, EngineError> {
    let last = inventory.owned.get(&resource.id).map(|it| it.spec.clone());
    // Until it is known how the write ended, every field of either is ours: one that is not wanted later is then taken away.
    let mut spec = last.clone().unwrap_or(Json::Null);
    overlay(&mut spec, &resource.spec);
    let entry = Owned { spec, needs: resource.needs.clone(), pending: true };
    inventory.owned.insert(resource.id.clone(), entry);
    keep(cloud, inventory).await?;
    Ok(last)
}

/// Lays `new` over `old`; fields that only `old` has stay.
fn overlay(old: &mut Json, new: &Json) {
    match (old, new) {
        (Json::Object(old), Json::Object(new)) => {
            for (key, value) in new {
                overlay(old.entry(key.clone()).or_insert(Json::Null), value);
            }
        }
        (old, new) => *old = new.clone(),
    }
}

async fn keep<C: Cloud>(cloud: &C, inventory: &Inventory) -> Result<(), EngineError> {
    let json = (!inventory.owned.is_empty()).then(|| inventory.to_json());
    cloud.store(&inventory.stack, json.as_ref()).await.map_err(EngineError::Storage)
}
