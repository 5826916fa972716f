//! Offers, leases, memberships: signed statements and their protocol.
