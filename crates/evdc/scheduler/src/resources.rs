//! What pods ask for and nodes have.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::api::resource::Quantity as Text,
};

use crate::quantity::Quantity;

/// Amounts by resource: thousandths for `cpu`, whole units for all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources(BTreeMap<String, i64>);

impl Resources {
    /// Reads a list such as `requests`; an amount that cannot be read counts as nothing, since the API server refuses those.
    #[must_use]
    pub fn of(list: Option<&BTreeMap<String, Text>>) -> Self {
        let amount = |name: &str, text: &Text| {
            let quantity: Quantity = text.0.parse().unwrap_or_default();
            if name == "cpu" { quantity.milli() } else { quantity.value() }
        };
        Self(list.into_iter().flatten().map(|(name, text)| (name.clone(), amount(name, text))).collect())
    }

    /// What a pod asks for: its containers together, or an init container alone if that is more; sidecars run beside both.
    #[must_use]
    pub fn requested(pod: &PodSpec) -> Self {
        let of = |container: &Container| {
            let resources = container.resources.as_ref();
            let mut requests = Self::of(resources.and_then(|it| it.requests.as_ref()));
            // Without a request, the limit is one.
            for (name, amount) in Self::of(resources.and_then(|it| it.limits.as_ref())).0 {
                requests.0.entry(name).or_insert(amount);
            }
            requests
        };
        let mut sidecars = Self::default();
        let mut starting = Self::default();
        for container in pod.init_containers.iter().flatten() {
            let mut peak = of(container);
            peak.add(&sidecars);
            if container.restart_policy.as_deref() == Some("Always") {
                sidecars.add(&of(container));
            }
            starting.raise_to(&peak);
        }
        let mut running = sidecars;
        pod.containers.iter().for_each(|container| running.add(&of(container)));
        running.raise_to(&starting);
        running.add(&Self::of(pod.overhead.as_ref()));
        running
    }

    /// The amount of one resource.
    #[must_use]
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let own = self.0.entry(name.clone()).or_default();
            *own = own.saturating_add(*amount);
        }
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let own = self.0.entry(name.clone()).or_default();
            *own = own.saturating_sub(*amount);
        }
    }

    fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let own = self.0.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }
}
