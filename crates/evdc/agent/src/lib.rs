//! Makes the pods bound to this node run, and reports on them.
