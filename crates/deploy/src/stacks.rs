//! Stacks: what their files say, planned against what is there, and made so.

use std::time::Instant;

use atoll_iac::{Catalogue, Change, Drift, Inventory, Plan, ResourceId, SourceFile, Stack, engine};
use serde::Serialize;
use tokio::sync::OnceCell;

use crate::error::DeployError;
use crate::stack_cloud::StackCloud;
use crate::tell::{Note, Tell};
use crate::{Deploy, apps, inventories};

/// Which stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StackName {
    /// The one that these files say.
    Files(Vec<SourceFile>),
    /// The one of this name, as it was last applied.
    Named(String),
}

/// What is wanted of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// That it is as its files say.
    AsWritten(Vec<SourceFile>),
    /// That nothing is left of it.
    Gone(StackName),
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Applied {
    /// The stack.
    pub stack: String,
    /// Resources made.
    pub created: u64,
    /// Changed.
    pub changed: u64,
    /// Made anew.
    pub replaced: u64,
    /// Deleted.
    pub deleted: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// The applications that stacks may name.
struct BuiltIn;

impl Catalogue for BuiltIn {
    fn version(&self, app: &str) -> Option<String> {
        apps::version(app)
    }

    fn names(&self) -> Vec<String> {
        atoll_apps::catalogue().iter().map(|it| it.name.to_owned()).collect()
    }
}

/// A wish that was read.
enum Read {
    Stack(Stack),
    Gone(String),
}

impl Deploy {
    /// The names of all stacks that have made something.
    ///
    /// # Errors
    /// [`DeployError::Store`]
    pub async fn stacks(&self) -> Result<Vec<String>, DeployError> {
        Ok(inventories::names(&*self.kv).await?)
    }

    /// What would be done.
    ///
    /// # Errors
    /// [`DeployError`]
    pub async fn plan(&self, wanted: &Wanted, tell: &Tell) -> Result<Plan, DeployError> {
        let read = read(wanted)?;
        let cloud = self.cloud(&read, tell).await?;
        plan(&cloud, &read).await
    }

    /// Does what is to be done, one after the other. `shown` is the [`digest`] of the plan that somebody agreed to: another one is not carried out.
    ///
    /// # Errors
    /// [`DeployError`]; what was done until then stays, and the same call goes on from there.
    pub async fn apply(&self, wanted: &Wanted, shown: Option<&str>, tell: &Tell) -> Result<Applied, DeployError> {
        let began = Instant::now();
        let read = read(wanted)?;
        let _one_at_a_time = match self.changing.try_lock() {
            Ok(free) => free,
            Err(_) => {
                tell(Note::Waiting("another change of a stack to end".to_owned()));
                self.changing.lock().await
            }
        };
        let cloud = self.cloud(&read, tell).await?;
        let plan = plan(&cloud, &read).await?;
        if shown.is_some_and(|shown| shown != digest(&plan)) {
            return Err(DeployError::OtherPlan(plan.stack));
        }
        let mut applied = Applied { stack: plan.stack.clone(), ..Applied::default() };
        let visible = |change: &Change| !matches!(change, Change::Record { .. });
        let of = plan.changes.iter().filter(|it| visible(it)).count() as u64;
        let number = std::sync::atomic::AtomicU64::new(0);
        let report = |change: &Change| {
            if visible(change) {
                let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                tell(Note::Step { number, of, what: describe(change) });
            }
        };
        engine::apply(&cloud, &plan, &report).await?;
        for change in &plan.changes {
            match change {
                Change::Create { .. } => applied.created += 1,
                Change::Update { .. } => applied.changed += 1,
                Change::Replace { .. } => applied.replaced += 1,
                Change::Delete { .. } => applied.deleted += 1,
                Change::Record { .. } => {}
            }
        }
        applied.seconds = began.elapsed().as_secs_f64();
        Ok(applied)
    }

    /// What has moved since it was last written.
    ///
    /// # Errors
    /// [`DeployError`]
    pub async fn drift(&self, stack: &StackName, tell: &Tell) -> Result<Vec<Drift>, DeployError> {
        let name = name(stack)?;
        let cloud = self.cloud(&Read::Gone(name.clone()), tell).await?;
        let cloud = StackCloud { destroying: false, ..cloud };
        Ok(engine::drift(&cloud, &name).await?)
    }

    async fn cloud<'a>(&'a self, read: &Read, tell: &'a Tell) -> Result<StackCloud<'a>, DeployError> {
        let (evdc, destroying) = match read {
            Read::Stack(stack) => (evdc_among(stack.resources.keys()), false),
            Read::Gone(stack) => {
                let stored = inventories::load(&*self.kv, stack).await?;
                let inventory = stored.map(|it| Inventory::from_json(&it)).transpose();
                let inventory = inventory.map_err(atoll_iac::EngineError::from)?;
                (inventory.and_then(|it| evdc_among(it.owned.keys())), true)
            }
        };
        Ok(StackCloud { deploy: self, evdc, destroying, tell, api: OnceCell::new() })
    }
}

/// The eVDC of a stack; one whose creation was broken off is known by its leases.
fn evdc_among<'a>(mut ids: impl Iterator<Item = &'a ResourceId>) -> Option<String> {
    ids.find_map(|id| match id {
        ResourceId::Evdc(name) | ResourceId::Lease { evdc: name, .. } => Some(name.clone()),
        _ => None,
    })
}

fn read(wanted: &Wanted) -> Result<Read, DeployError> {
    Ok(match wanted {
        Wanted::AsWritten(files) => Read::Stack(Stack::read(files, &BuiltIn)?),
        Wanted::Gone(stack) => Read::Gone(name(stack)?),
    })
}

fn name(stack: &StackName) -> Result<String, DeployError> {
    Ok(match stack {
        StackName::Files(files) => Stack::read(files, &BuiltIn)?.name,
        StackName::Named(name) => name.clone(),
    })
}

async fn plan(cloud: &StackCloud<'_>, read: &Read) -> Result<Plan, DeployError> {
    let plan = match read {
        Read::Stack(stack) => engine::plan(cloud, stack).await?,
        Read::Gone(name) => engine::plan_destroy(cloud, name).await?,
    };
    refuse(&plan)?;
    Ok(plan)
}

/// What a plan asks for and cannot be done yet is said before anything is done.
fn refuse(plan: &Plan) -> Result<(), DeployError> {
    let goes = |name: &String| {
        plan.changes.iter().any(|it| matches!(it, Change::Delete { id: ResourceId::Evdc(gone) } if gone == name))
    };
    let stands = |name: &String| {
        plan.changes.iter().all(|it| !matches!(it, Change::Create { id: ResourceId::Evdc(new), .. } if new == name))
    };
    for change in &plan.changes {
        let (Change::Delete { id } | Change::Replace { id, .. }) = change else { continue };
        let ResourceId::Lease { evdc, .. } = id else { continue };
        match change {
            Change::Replace { .. } => {
                return Err(DeployError::NotDone(format!(
                    "{id}: the size of rented nodes is not changed yet: destroy the stack and apply it again, or give the new eVDC another name"
                )));
            }
            _ if !goes(evdc) && stands(evdc) && !plan_is_removal(plan) => {
                return Err(DeployError::NotDone(format!(
                    "{id}: single nodes are not given back yet, as parts of the volumes lie on them: keep as many nodes, or destroy the stack"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether all that there is goes: then leases without an eVDC are the rest of a creation that was broken off.
fn plan_is_removal(plan: &Plan) -> bool {
    plan.changes.iter().all(|it| matches!(it, Change::Delete { .. } | Change::Record { .. }))
}

fn describe(change: &Change) -> String {
    match change {
        Change::Create { id, .. } => format!("creating {id}"),
        Change::Update { id, .. } => format!("changing {id}"),
        Change::Replace { id, .. } => format!("replacing {id}"),
        Change::Delete { id } => format!("deleting {id}"),
        Change::Record { id } => format!("recording {id}"),
    }
}

/// Tells one plan from another: what somebody agreed to is what is done.
#[must_use]
pub fn digest(plan: &Plan) -> String {
    // Secrets count, too, though they are not shown.
    let json = serde_json::to_string(plan).unwrap_or_default();
    blake3::hash(json.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeSet;

    use atoll_iac::{Live, Owned};

    use super::*;

    fn stack(nodes: usize, memory: &str) -> Stack {
        let text =
            format!("stack: s\nevdc: {{name: e, nodes: {nodes}, each: {{cpu: 1, memory: {memory}, storage: 1Gi}}}}\n");
        Stack::read(&[SourceFile { name: "s.yaml".into(), text }], &BuiltIn).unwrap()
    }

    /// What is there after a stack was applied, as far as `there` says so.
    fn applied(stack: &Stack, there: impl Fn(&ResourceId) -> bool) -> (Live, Inventory) {
        let (mut live, mut inventory) = (Live::new(), Inventory::new("s"));
        for (id, it) in stack.resources.iter().filter(|(id, _)| there(id)) {
            live.insert(id.clone(), it.spec.clone());
            let owned = Owned { spec: it.spec.clone(), needs: it.needs.clone(), pending: false };
            inventory.owned.insert(id.clone(), owned);
        }
        (live, inventory)
    }

    #[test]
    fn single_nodes_of_an_evdc_that_stands_stay() {
        let check = |before: &Stack, half: bool, after: Option<&Stack>, expect: Option<&str>| {
            let (live, inventory) = applied(before, |id| !half || !matches!(id, ResourceId::Evdc(_)));
            let plan = match after {
                Some(after) => atoll_iac::plan(after, &live, &inventory).unwrap(),
                None => atoll_iac::destroy(&live, &inventory).unwrap(),
            };
            let said = refuse(&plan).err().map(|it| it.to_string());
            assert_eq!(said.is_some(), expect.is_some(), "{said:?}");
            assert!(expect.is_none_or(|expect| said.unwrap().contains(expect)));
        };
        let (three, two, large) = (stack(3, "1Gi"), stack(2, "1Gi"), stack(3, "2Gi"));
        check(&two, false, Some(&three), None);
        check(&three, false, Some(&three), None);
        check(&three, false, Some(&two), Some("single nodes are not given back"));
        check(&three, false, Some(&large), Some("the size of rented nodes"));
        check(&three, false, None, None);
        // Its creation was broken off before it stood.
        check(&three, true, Some(&two), None);
        check(&three, true, None, None);
    }

    #[test]
    fn another_plan_has_another_digest() {
        let (live, inventory) = applied(&stack(2, "1Gi"), |_| true);
        let plan = |stack: &Stack| atoll_iac::plan(stack, &live, &inventory).unwrap();
        assert_eq!(digest(&plan(&stack(3, "1Gi"))), digest(&plan(&stack(3, "1Gi"))));
        assert_ne!(digest(&plan(&stack(3, "1Gi"))), digest(&plan(&stack(4, "1Gi"))));
        assert!(BuiltIn.names().iter().all(|name| BuiltIn.version(name).is_some()));
        assert_eq!(evdc_among(BTreeSet::from(["lease/e/1".parse().unwrap()]).iter()), Some("e".to_owned()));
    }
}
