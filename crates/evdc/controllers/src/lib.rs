//! What makes objects true, as Kubernetes clients: workloads, endpoints, volumes, garbage collection; drives the scheduler.
