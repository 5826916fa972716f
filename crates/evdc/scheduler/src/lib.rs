//! Which node a pod goes to (pure).
