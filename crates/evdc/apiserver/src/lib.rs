//! The Kubernetes API: kinds as data over generic storage, watch, patch, discovery.
