//! The Runtime trait and the embedded OCI runtime behind it (namespaces, cgroups), as a single-threaded helper process.
