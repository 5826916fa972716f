//! The planetary interface: packets between a TUN device and other nodes, through a filter that is closed by default.
