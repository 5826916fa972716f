//! Infrastructure as code: a *stack* is a folder of YAML files that say what should be there. This crate reads them, compares them with
//! what is there, says exactly what would change, does it in the order of dependencies, and knows afterwards what it owns.
//!
//! A stack has one definition in the short form (nodes to rent, applications to run) and any number of Kubernetes objects as they are.
//! From them comes a graph of resources: leases → the eVDC on them → applications and objects in it.
//!
//! The core is pure: [`Stack::read`], [`plan`], [`destroy`] and [`drift`] are functions of what they are given. What is there comes in
//! through, and changes go out through, the trait [`Cloud`]; [`engine`] drives it. [`Inventory`] is what makes removal possible:
//! whatever is taken out of the files is deleted because the inventory says that this stack made it, and what it did not make is never
//! touched.

pub mod engine;

mod diff;
mod inventory;
mod plan;
mod quantity;
mod resource;
mod source;
mod stack;

pub use diff::{FieldChange, differences};
pub use inventory::{Inventory, InventoryError, Owned};
pub use plan::{Change, Drift, Live, Plan, PlanError, destroy, drift, drift_json, drift_text, plan};
pub use resource::{Resource, ResourceId};
pub use source::{Place, SourceError, SourceFile};
pub use stack::{Catalogue, Stack};

pub use engine::{Cloud, CloudError, EngineError};
