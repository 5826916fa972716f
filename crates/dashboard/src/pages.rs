//! The pages: from a snapshot to HTML.

use atoll_control::{Amount, HealingStatus, NodeStatus, PeerStatus, VolumeStatus};
use atoll_ids::ByteCount;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::map::map;
use crate::snapshot::Snapshot;

/// One page per part of the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The node and everything around it, at a glance.
    Overview,
    /// Peers and the ways to them.
    Network,
    /// What is lent and stored.
    Storage,
    /// Offers and eVDCs.
    Cloud,
    /// Applications and pods in them.
    Apps,
    /// What is answered to the outside.
    Gateway,
}

/// The style of all pages. Follows the system's light or dark scheme.
const STYLE: &str = "
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); --good: #1a7f4b; --bad: #c2362b; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; }
header { display: flex; gap: 1.5rem; align-items: baseline; padding: .8rem 2rem; border-bottom: 1px solid var(--line); flex-wrap: wrap; }
header b { font-size: 1.1rem; } nav a { margin-right: 1rem; color: inherit; text-decoration: none; opacity: .7; }
nav a[aria-current] { opacity: 1; font-weight: 600; border-bottom: 2px solid currentColor; }
main { padding: 1.2rem 2rem 3rem; max-width: 72rem; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; opacity: .7; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
code { font: 13px ui-monospace, monospace; } .good { color: var(--good); } .bad { color: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 1rem; }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; } .card b { display: block; font-size: 1.5rem; font-weight: 600; }
.bar { height: .5rem; background: var(--line); border-radius: .25rem; overflow: hidden; margin-top: .4rem; } .bar i { display: block; height: 100%; background: var(--good); }
.empty { opacity: .6; } .still { color: var(--bad); }
";

/// Keeps the open page up to date. When the node goes away, the page says so instead of showing what no longer holds.
const SCRIPT: &str = "
const main = document.querySelector('main'), state = document.getElementById('state');
const events = new EventSource('/live/' + document.body.dataset.page);
events.onmessage = event => { main.innerHTML = event.data; state.textContent = ''; };
events.onerror = () => { state.textContent = 'the node does not answer; this is what was last seen'; };
";

impl Page {
    /// All of them, in the order of the menu.
    pub const ALL: [Self; 6] = [Self::Overview, Self::Network, Self::Storage, Self::Cloud, Self::Apps, Self::Gateway];

    /// Its name in URLs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Network => "network",
            Self::Storage => "storage",
            Self::Cloud => "cloud",
            Self::Apps => "apps",
            Self::Gateway => "gateway",
        }
    }

    /// The page of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|page| page.name() == name)
    }

    fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Network => "Network",
            Self::Storage => "Storage",
            Self::Cloud => "eVDCs",
            Self::Apps => "Applications",
            Self::Gateway => "Gateway",
        }
    }

    /// Whether it shows offers, for which peers have to be asked.
    #[must_use]
    pub fn needs_offers(self) -> bool {
        self == Self::Cloud
    }

    /// Whether it shows what runs in eVDCs, for which their APIs have to be asked.
    #[must_use]
    pub fn needs_workloads(self) -> bool {
        self == Self::Apps
    }

    /// The whole page.
    pub(crate) fn whole(self, snapshot: &Snapshot) -> Markup {
        let name = snapshot.node.name.clone().unwrap_or_else(|| snapshot.node.node.short().to_string());
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title()) " · " (name) " · atoll" }
                    style { (PreEscaped(STYLE)) }
                }
                body data-page=(self.name()) {
                    header {
                        b { "atoll" } span { (name) }
                        nav {
                            @for page in Self::ALL {
                                a href={ "/" (page.name()) } aria-current=[(page == self).then_some("page")] { (page.title()) }
                            }
                        }
                        span.still #state role="status" {}
                    }
                    main { (self.main(snapshot)) }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        }
    }

    /// The part that changes.
    pub(crate) fn main(self, snapshot: &Snapshot) -> Markup {
        match self {
            Self::Overview => overview(snapshot),
            Self::Network => network(&snapshot.node),
            Self::Storage => storage(snapshot),
            Self::Cloud => cloud(snapshot),
            Self::Apps => apps(snapshot),
            Self::Gateway => gateway(snapshot),
        }
    }
}

fn card(what: &str, figure: impl std::fmt::Display, note: impl std::fmt::Display) -> Markup {
    html! { div.card { (what) b { (figure) } span.empty { (note) } } }
}

fn yes(good: bool, yes: &str, no: &str) -> Markup {
    html! { @if good { span.good { (yes) } } @else { span.bad { (no) } } }
}

fn overview(snapshot: &Snapshot) -> Markup {
    let node = &snapshot.node;
    let reachable = node.peers.iter().filter(|peer| peer.reachable).count();
    let lent = node.peers.iter().filter_map(|peer| peer.storage).map(|it| it.capacity.0).sum::<u64>();
    let ready = snapshot.evdcs.iter().filter(|evdc| evdc.ready).count();
    html! {
        div.cards {
            (card("Peers", format_args!("{reachable} of {}", node.peers.len()), "answer"))
            (card("Storage of peers", ByteCount(lent), "lent in all"))
            (card("eVDCs", format_args!("{ready} of {}", snapshot.evdcs.len()), "ready"))
            (card("Up for", duration(node.uptime_seconds), format_args!("version {}", node.version)))
        }
        h2 { "This node" }
        table {
            tr { th { "Id" } td { code { (node.node) } } }
            tr { th { "Owner" } td { code { (node.owner) } } }
            tr { th { "Planetary address" } td { code { (node.planetary_address) } } }
            tr { th { "Reachable at" } td { @for address in &node.addresses { code { (address) } " " } } }
        }
        h2 { "Roles" }
        table {
            @for role in &node.roles {
                tr { td { (role.role) } td { (yes(role.active, "on", "off")) } td { (role.note.as_deref().unwrap_or("")) } }
            }
        }
    }
}

fn network(node: &NodeStatus) -> Markup {
    html! {
        (map(node))
        h2 { "Peers" }
        @if node.peers.is_empty() { p.empty { "None yet: " code { "atoll invite" } " prints a ticket, " code { "atoll join" } " takes one." } }
        @else {
            table {
                tr { th { "Node" } th { "Owner" } th { "State" } th.n { "Round trip" } th { "Planetary address" } th { "Addresses" } }
                @for peer in &node.peers { (peer_row(peer)) }
            }
        }
    }
}

fn peer_row(peer: &PeerStatus) -> Markup {
    let seen = peer.last_seen_seconds.map(|seconds| format!("silent for {}", duration(seconds)));
    html! {
        tr {
            td { (peer.name.as_deref().unwrap_or("")) " " code { (peer.node.short()) } }
            td { @if let Some(owner) = &peer.owner { code { (owner.short()) } } }
            td { (yes(peer.reachable, "answers", seen.as_deref().unwrap_or("never seen"))) }
            td.n { @if let Some(rtt) = peer.rtt_ms { (format_args!("{rtt:.1} ms")) } }
            td { code { (peer.node.planetary_address().ip()) } }
            td { @for address in &peer.addresses { code { (address) } " " } }
        }
    }
}

fn storage(snapshot: &Snapshot) -> Markup {
    let node = &snapshot.node;
    let homes = node.peers.iter().filter_map(|peer| Some((peer, peer.storage?)));
    html! {
        @if let Some(own) = node.storage {
            h2 { "Lent by this node" }
            p { (own.used) " of " (own.capacity) ", " (own.shards) " shards" (bar(own.used, own.capacity)) }
        }
        @if let Some(healing) = &node.healing { (whole(healing)) }
        @if !node.volumes.is_empty() { (volumes(&node.volumes)) }
        h2 { "Lent by peers" }
        table {
            tr { th { "Node" } th { "State" } th.n { "Used" } th.n { "Capacity" } th.n { "Shards" } th {} }
            @for (peer, home) in homes {
                tr {
                    td { (peer.name.as_deref().unwrap_or("")) " " code { (peer.node.short()) } }
                    td { (yes(peer.reachable, "answers", "silent")) }
                    td.n { (home.used) } td.n { (home.capacity) } td.n { (home.shards) }
                    td { (bar(home.used, home.capacity)) }
                }
            }
        }
        h2 { "Buckets" }
        @if snapshot.buckets.is_empty() { p.empty { "None yet: " code { "atoll bucket create" } " makes one." } }
        @else { table { @for bucket in &snapshot.buckets { tr { td { (bucket.name) } td { (bucket.policy) } } } } }
    }
}

/// How whole the owner's data is, and what is done about it.
fn whole(healing: &HealingStatus) -> Markup {
    let (below, lost) = (healing.below_full(), healing.beyond_repair);
    html! {
        h2 { "Wholeness" }
        p {
            @if healing.running { span.bad { "healing now" } }
            @else if let Some(seconds) = healing.looked_seconds { "last looked " (duration(seconds)) " ago" }
            @else { "not looked yet" }
            ": " (yes(below == 0, "no stripe", &format!("{below} of {} stripes", healing.stripes))) " below full, "
            (yes(lost == 0, "nothing", &lost.to_string())) " beyond repair"
            @if healing.unplaced > 0 { ", " span.bad { (healing.unplaced) " shards for which there is no node" } }
            ". " (healing.rebuilt) " shards (" (healing.rebuilt_bytes) ") made again since the start."
        }
        @if let Some(problem) = &healing.problem { p.bad { (problem) } }
        @for away in &healing.away {
            p {
                span.bad { (away.name.as_deref().unwrap_or("")) " " code { (away.node.short()) } " is away" }
                " for " (duration(away.seconds))
                @let left = healing.after_seconds.saturating_sub(away.seconds);
                @if left > 0 { "; what it keeps is made again elsewhere in " (duration(left)) }
            }
        }
    }
}

/// Volumes of tenants that pods on this node use.
fn volumes(volumes: &[VolumeStatus]) -> Markup {
    html! {
        h2 { "Volumes mounted here" }
        table {
            tr { th { "Volume" } th.n { "Holds" } th.n { "Not stored yet" } th.n { "Parts below full" } th.n { "Shards made again" } th { "State" } }
            @for VolumeStatus { name, mounted } in volumes {
                tr {
                    td { code { (name) } } td.n { (mounted.used) } td.n { (mounted.dirty) }
                    td.n { (mounted.degraded) } td.n { (mounted.rebuilt) }
                    td {
                        @if let Some(why) = &mounted.failing { span.bad { (why) } }
                        @else if mounted.beyond_repair > 0 { span.bad { (mounted.beyond_repair) " stripes beyond repair" } }
                        @else { span.good { "stores" } }
                    }
                }
            }
        }
    }
}

fn bar(used: ByteCount, capacity: ByteCount) -> Markup {
    let percent = used.0.saturating_mul(100).checked_div(capacity.0).unwrap_or(0).min(100);
    html! { div.bar { i style={ "width:" (percent) "%" } {} } }
}

fn cloud(snapshot: &Snapshot) -> Markup {
    html! {
        h2 { "eVDCs" }
        @if snapshot.evdcs.is_empty() { p.empty { "None yet: " code { "atoll evdc create" } " rents one." } }
        @for evdc in &snapshot.evdcs {
            h2 { (evdc.name) " " (yes(evdc.ready, "ready", "not ready")) }
            @if let Some(problem) = &evdc.problem { p.bad { (problem) } }
            @if let Some(api) = &evdc.api { p { "Kubernetes API at " code { (api) } } }
            table {
                tr { th { "Name" } th { "Node" } th { "Owner" } th { "Serves" } th { "Knows the members" } }
                @for member in &evdc.members {
                    tr {
                        td { (member.name) } td { code { (member.node.short()) } } td { code { (member.owner.short()) } }
                        td { @if member.control { "API" } } td { (yes(member.told, "yes", "not yet")) }
                    }
                }
            }
        }
        h2 { "Offers" }
        table {
            tr { th { "Node" } th { "Owner" } th.n { "Cores" } th.n { "Memory" } th.n { "Storage" } th.n { "Price per hour" } }
            @for offer in &snapshot.offers {
                tr {
                    td { (offer.name.as_deref().unwrap_or("")) " " code { (offer.node.short()) } }
                    td { code { (offer.owner.short()) } }
                    td.n { (cores(offer.free)) " of " (cores(offer.total)) }
                    td.n { (offer.free.memory) " of " (offer.total.memory) }
                    td.n { (offer.free.storage) " of " (offer.total.storage) }
                    td.n { @if offer.micro_per_hour == 0 { "free" } @else {
                        (format_args!("{}.{:06} {}", offer.micro_per_hour / 1_000_000, offer.micro_per_hour % 1_000_000, offer.currency))
                    } }
                }
            }
        }
    }
}

fn apps(snapshot: &Snapshot) -> Markup {
    html! {
        @if snapshot.workloads.is_empty() { p.empty { "Nothing runs yet: " code { "atoll evdc create" } " rents machines, " code { "atoll app install" } " puts an application on them." } }
        @for evdc in &snapshot.workloads {
            h2 { (evdc.evdc) }
            @if let Some(problem) = &evdc.problem { p.bad { (problem) } }
            @if !evdc.apps.is_empty() {
                table {
                    tr { th { "Release" } th { "Application" } th { "Version" } th.n { "Revision" } th { "State" } th { "Updated" } }
                    @for app in &evdc.apps {
                        tr {
                            td { (app.release) } td { (app.app) } td { (app.version) } td.n { (app.revision) }
                            td { (yes(app.status == "deployed", &app.status, &app.status)) } td { (app.updated) }
                        }
                    }
                }
            }
            table {
                tr { th { "Pod" } th { "Namespace" } th { "Member" } th { "State" } th { "Takes requests" } th.n { "Restarts" } }
                @for pod in &evdc.pods {
                    tr {
                        td { (pod.name) } td { (pod.namespace) } td { (pod.node.as_deref().unwrap_or("none yet")) }
                        td { (yes(pod.state == "Running", &pod.state, &pod.state)) } td { (yes(pod.ready, "yes", "no")) }
                        td.n { (pod.restarts) }
                    }
                }
            }
        }
    }
}

fn cores(amount: Amount) -> f64 {
    f64::from(amount.cpu_milli) / 1000.0
}

fn gateway(snapshot: &Snapshot) -> Markup {
    let Some(gateway) = &snapshot.gateway else {
        return html! { p.empty { "This node is no gateway: set " code { "gateway.domain" } " and start it again." } };
    };
    html! {
        div.cards {
            (card("Names below", &gateway.domain, gateway.https.join(" ")))
            (card("Nodes dialled in", gateway.nodes.len(), "none of them listens"))
            (card("Requests", gateway.requests, format_args!("{} failed here", gateway.failed)))
        }
        h2 { "Answered" }
        table {
            tr { th { "Host" } th { "Path" } th { "Kind" } th.n { "Replicas" } }
            @for route in &gateway.routes {
                tr {
                    td { (route.host) } td { code { (route.path) } } td { @if route.exact { "exact" } @else { "prefix" } }
                    td.n { (route.replicas) }
                }
            }
        }
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_for_people() {
        for (seconds, text) in [(59, "59 s"), (60, "1 min"), (3700, "1 h 1 min"), (90_000, "1 d 1 h")] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn every_page_has_a_name_of_its_own() {
        for page in Page::ALL {
            assert_eq!(Page::named(page.name()), Some(page));
        }
        assert_eq!(Page::named("nothing"), None);
    }
}
