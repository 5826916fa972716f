//! Pod interfaces, routes between nodes, Service addresses as nftables maps.
