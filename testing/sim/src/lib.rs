//! Networks of many nodes in one process: the pure cores of `atoll-find` and `atoll-route`, the very ones that nodes are built of, under a virtual
//! clock. A run depends on its seed alone and repeats exactly.
//!
//! What is real: every decision of a node, every message, its encoded size. What is a model: latency (places on a plane, or fixed), loss (a message comes a
//! round trip later, as connections repeat it), the cost of setting up a connection, who comes and goes when, and signatures (a field says that they are
//! valid: 100,000 nodes would spend their time on Ed25519).
//!
//! `tests/` runs small networks with every test run; `cargo bench -p atoll-sim --bench curves` prints the curves of `docs/network-simulation.md`.

mod finding;
mod queue;
mod random;
mod routing;
mod stats;

pub use finding::{Attack, FindReport, FindWorld, LookupReport, Setting, Traffic};
pub use routing::{RecoveryReport, RouteReport, RouteWorld, Shape, StretchReport};
pub use stats::Spread;
