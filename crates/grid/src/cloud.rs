//! The thread through everything, shown on one machine: five machines of three owners rented by a fourth, an application on them that outlives the deaths of
//! two, rolled over and taken away again.
//!
//! Every step goes through the program and the programs of others (kubectl, curl, ping), as a person would do it. A step that does not hold ends
//! the story with an error; nothing is reported that was not seen.

mod figures;
mod hunt;
mod machines;
mod needs;
mod network;
mod objects;
mod spectator;
mod visitor;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use atoll_control::FsMounted;
use serde::Serialize;

pub use figures::Idle;
use hunt::Hunt;
pub use machines::Machines;
use machines::{ATTIC_NAME, FIVE, HOME_NAME, MACHINES, STRANGER_NAME, said};
pub use needs::missing;
use network::Place;
use spectator::Spectator;
use visitor::{HOST, Visitor};

use crate::GridError;
use crate::demo::{Step, Tell};

/// What is planned and applied: the repository's own example.
const STACK: &str = include_str!("../../../examples/hello/stack.yaml");

/// The name of its eVDC.
const EVDC: &str = "home";

/// The image's tag in it, and the one that it is rolled over to.
const TAGS: [&str; 2] = ["1.0.0", "1.1.0"];

/// How its volume is to be dispersed: any two nodes may die.
const POLICY: &str = "4+2";

/// Entries written before anything is killed.
const ENTRIES: usize = 12;

/// A machine is missed after 15 s, its pods start elsewhere 10 s later at the latest, and the volume is mounted there: the rest is for a busy machine.
const BACK_WITHIN: Duration = Duration::from_secs(75);

/// What else is allowed where a further node is killed meanwhile.
const HUNTED_WITHIN: Duration = Duration::from_secs(60);

/// Volumes make again what was on a machine that is gone for 30 s, looking every 10 s.
const HEALED_WITHIN: Duration = Duration::from_secs(150);

/// A heal of so little takes no longer between two shards.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// What a person waits for: images fetched, containers started.
const PATIENCE: Duration = Duration::from_secs(120);

const PAUSE: Duration = Duration::from_millis(500);

/// The exit status of `atoll plan --detailed-exitcode` that says there is something to do.
const DIFFERS: i32 = 2;

/// What to show.
#[derive(Debug, Clone)]
pub struct CloudConfig {
    /// The `atoll` program.
    pub program: PathBuf,
    /// Where the machines keep their data; it is removed at the end.
    pub folder: PathBuf,
    /// Leave everything running instead of destroying it at the end.
    pub keep: bool,
    /// Also kill the program of some node in the middle of every step and start it again, drawn by this number.
    pub hunt: Option<u64>,
}

/// What the story saw.
#[derive(Debug, Clone, Serialize)]
pub struct CloudReport {
    /// The steps in order.
    pub steps: Vec<Step>,
    /// What the five nodes use together while the application runs and nothing is asked of it.
    pub idle: Idle,
    /// Seconds from two deaths until the page came again with every entry.
    pub back_seconds: f64,
    /// Requests while the application was rolled over; none failed, unless nodes were killed meanwhile.
    pub requests_rolling: u64,
    /// Nodes that were killed in the middle of steps and started again, in that order.
    pub struck: Vec<String>,
    /// Where everything was left running, and the script that ends it.
    pub kept: Option<Kept>,
}

/// What is left running.
#[derive(Debug, Clone, Serialize)]
pub struct Kept {
    /// The tenant's data directory.
    pub home: PathBuf,
    /// The network namespace that the tenant's node is in.
    pub namespace: String,
    /// A kubeconfig, to be used in that namespace.
    pub kubeconfig: PathBuf,
    /// Ends it all.
    pub end: PathBuf,
}

/// Tells the story. Whatever happens, nothing of it is left, unless it is to be kept.
///
/// # Errors
/// The first thing that did not hold.
pub async fn run(config: &CloudConfig, tell: &mut (dyn FnMut(Tell<'_>) + Send)) -> Result<CloudReport, GridError> {
    let began = Instant::now();
    let on_step = |step: &str| tell(Tell::Begin(step));
    let mut machines = Machines::raise(&config.program, &config.folder, config.keep, on_step).await?;
    machines.hunted = config.hunt.is_some();
    let hunt = config.hunt.map(Hunt::new);
    let (steps, struck, stack) = (Vec::new(), Mutex::default(), config.folder.join("hello"));
    let mut story = Story { machines, tell, steps, stack, hunt, struck };
    match story.through(began, config.keep).await {
        Ok(mut report) => {
            report.kept = story.finish(config.keep).await?;
            Ok(report)
        }
        Err(error) => match story.machines.save_logs() {
            Ok(logs) => Err(GridError::Wrong(format!("{error}; what the nodes logged is kept in {}", logs.display()))),
            Err(_) => Err(error),
        },
    }
}

struct Story<'a> {
    machines: Machines,
    tell: &'a mut (dyn FnMut(Tell<'_>) + Send),
    steps: Vec<Step>,
    /// The folder of the stack.
    stack: PathBuf,
    hunt: Option<Hunt>,
    /// Whom it met.
    struck: Mutex<Vec<String>>,
}

impl Story<'_> {
    /// Does a step; in a story that is hunted a node is killed meanwhile, and started again before the step is over.
    async fn hunted<T>(
        &self,
        spared: &[&str],
        work: impl Future<Output = Result<T, GridError>>,
    ) -> Result<T, GridError> {
        let Some(hunt) = &self.hunt else { return work.await };
        let (done, victim) = tokio::join!(work, hunt.strike(&self.machines, spared));
        let victim = victim?;
        self.struck.lock().unwrap_or_else(PoisonError::into_inner).push(victim.to_owned());
        done.map_err(|error| match error {
            GridError::Wrong(what) => GridError::Wrong(format!("{what}; {victim} was killed meanwhile")),
            other => other,
        })
    }

    fn begin(&mut self, step: &str) -> Instant {
        (self.tell)(Tell::Begin(step));
        Instant::now()
    }

    fn end(&mut self, began: Instant, step: &str, seen: String) {
        let seconds = began.elapsed().as_secs_f64();
        let step = Step { step: step.to_owned(), files: None, bytes: None, seconds, seen };
        (self.tell)(Tell::End(&step));
        self.steps.push(step);
    }

    /// Everything, up to the end or the first thing that does not hold.
    async fn through(&mut self, began: Instant, keep: bool) -> Result<CloudReport, GridError> {
        self.machines.join().await?;
        self.end(
            began,
            "raise machines",
            format!("{} nodes of 5 owners, each in a network of its own", MACHINES.len()),
        );
        self.network().await?;
        self.plan_and_apply().await?;
        self.kubectl_lists().await?;
        self.page_opens().await?;
        let idle = self.idle().await?;
        let back = self.two_die().await?;
        let requests_rolling = self.roll_over().await?;
        if !keep {
            self.destroy().await?;
        }
        let steps = std::mem::take(&mut self.steps);
        let struck = std::mem::take(&mut *self.struck.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(CloudReport { steps, idle, back_seconds: back.as_secs_f64(), requests_rolling, struck, kept: None })
    }

    async fn finish(self, keep: bool) -> Result<Option<Kept>, GridError> {
        let machines = self.machines;
        if !keep {
            machines.end().await?;
            return Ok(None);
        }
        let (home, kubeconfig) = (machines.dir(HOME_NAME), machines.folder().join("kubeconfig"));
        let namespace = machines.host(HOME_NAME).namespace().to_owned();
        Ok(Some(Kept { home, namespace, kubeconfig, end: machines.leave()? }))
    }

    async fn network(&mut self) -> Result<(), GridError> {
        let began = self.begin("every machine pings every other, and speaks TCP with it");
        let mut places = Vec::new();
        for name in FIVE {
            let address = self.machines.node(name).status().await?.planetary_address;
            places.push(Place::new(name, self.machines.host(name).clone(), &address)?);
        }
        let stranger = self.machines.host(STRANGER_NAME).clone();
        let checked = async {
            let checked = tokio::task::spawn_blocking(move || network::check(&places, &stranger)).await;
            checked.map_err(|error| GridError::Wrong(error.to_string()))?
        };
        let pairs = self.hunted(&[], checked).await?;
        self.end(
            began,
            "planetary network",
            format!("{pairs} of {pairs} pairs ping and speak TCP, a stranger with none"),
        );
        Ok(())
    }

    async fn plan_and_apply(&mut self) -> Result<(), GridError> {
        let began = self.begin("planning examples/hello");
        self.write_stack(TAGS[0])?;
        if !self.differs().await? {
            return Err(GridError::Wrong("the plan of a stack that is not there is empty".into()));
        }
        let lines = STACK.lines().filter(|line| !line.is_empty()).count();
        self.end(began, "atoll plan", format!("{lines} lines of YAML, nothing of it there yet"));
        let began = self.begin("applying it: leases, the Kubernetes API, the application");
        let applied = self.hunted(&[], self.apply("apply")).await?;
        if self.differs().await? {
            return Err(GridError::Wrong("a second plan is not empty".into()));
        }
        self.end(began, "atoll apply", format!("{applied}; a second plan is empty"));
        Ok(())
    }

    fn write_stack(&self, tag: &str) -> Result<(), GridError> {
        let io = |source| GridError::Io { what: format!("cannot write {}", self.stack.display()), source };
        std::fs::create_dir_all(&self.stack).map_err(io)?;
        std::fs::write(self.stack.join("stack.yaml"), STACK.replace(TAGS[0], tag)).map_err(io)
    }

    /// Whether there is something to do for the stack.
    async fn differs(&self) -> Result<bool, GridError> {
        self.machines.again(async || self.differs_now().await).await
    }

    async fn differs_now(&self) -> Result<bool, GridError> {
        let mut plan = self.machines.command(HOME_NAME, self.machines.program());
        plan.arg("--data-dir")
            .arg(self.machines.dir(HOME_NAME))
            .arg("plan")
            .arg(&self.stack)
            .arg("--detailed-exitcode");
        let ran = plan.stdin(Stdio::null()).output().await;
        let ran = ran.map_err(|source| GridError::Io { what: "cannot run atoll plan".into(), source })?;
        match ran.status.code() {
            Some(0) => Ok(false),
            Some(DIFFERS) => Ok(true),
            _ => Err(GridError::Wrong(format!("`atoll plan` failed: {}", String::from_utf8_lossy(&ran.stderr).trim()))),
        }
    }

    async fn apply(&self, verb: &str) -> Result<String, GridError> {
        let stack = self.stack.display().to_string();
        self.machines.atoll(HOME_NAME, &[verb, "--yes", &stack]).await
    }

    async fn kubectl(&self, arguments: &[&str]) -> Result<String, GridError> {
        self.machines.again(async || self.kubectl_now(arguments).await).await
    }

    async fn kubectl_now(&self, arguments: &[&str]) -> Result<String, GridError> {
        let mut kubectl = self.machines.command(HOME_NAME, "kubectl");
        kubectl.arg("--kubeconfig").arg(self.machines.folder().join("kubeconfig")).args(arguments);
        said(&format!("kubectl {}", arguments.join(" ")), kubectl, "").await
    }

    /// The nodes that the pods of a component are on, as far as they are not on their way out.
    async fn nodes_of(&self, component: &str) -> Result<Vec<String>, GridError> {
        let label = format!("app.kubernetes.io/component={component}");
        let pods = self.kubectl(&["get", "pods", "-l", &label, "-o", "json"]).await?;
        objects::nodes_of_pods(&pods)
    }

    /// Fails unless the database's volume is dispersed as it should be.
    async fn dispersed(&self) -> Result<(), GridError> {
        let secrets = self.kubectl(&["get", "secrets", "-n", "kube-system", "-o", "json"]).await?;
        let policies = objects::policies_of_volumes(&secrets)?;
        if policies != [POLICY] {
            return Err(GridError::Wrong(format!("the volume is dispersed {policies:?}, not {POLICY}")));
        }
        Ok(())
    }

    async fn kubectl_lists(&mut self) -> Result<(), GridError> {
        let began = self.begin("kubectl lists the nodes");
        let file = self.machines.folder().join("kubeconfig").display().to_string();
        self.machines.atoll(HOME_NAME, &["kubeconfig", EVDC, "--file", &file]).await?;
        self.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"]).await?;
        let nodes = self.hunted(&[], self.kubectl(&["get", "nodes", "-o", "name"])).await?.lines().count();
        if nodes != FIVE.len() {
            return Err(GridError::Wrong(format!("kubectl lists {nodes} nodes, not {}", FIVE.len())));
        }
        self.end(began, "kubectl get nodes", format!("{nodes} nodes, all Ready"));
        Ok(())
    }

    async fn page_opens(&mut self) -> Result<(), GridError> {
        let began = self.begin("opening the page through the gateway, and signing it");
        let visitor = Visitor::new(&self.machines).await?;
        let (page, _) = visitor.page_when(PATIENCE, "the page", |page| page.version() == TAGS[0]).await?;
        let version = page.version().to_owned();
        let signed = async {
            for number in 0..ENTRIES {
                visitor.sign("A visitor", &entry(number)).await?;
            }
            Ok(())
        };
        self.hunted(&[], signed).await?;
        let page = visitor.page().await?;
        if !(0..ENTRIES).all(|number| page.shows(&entry(number))) {
            return Err(GridError::Wrong("an entry that was written is not on the page".into()));
        }
        let on: std::collections::BTreeSet<String> = self.nodes_of("web").await?.into_iter().collect();
        if on.len() != 2 {
            return Err(GridError::Wrong(format!("the page's replicas are on {on:?}, not on 2 nodes")));
        }
        self.dispersed().await?;
        let seen = format!("https://{HOST}, version {version}, {ENTRIES} entries signed, kept {POLICY}");
        self.end(began, "open the page", seen);
        Ok(())
    }

    async fn idle(&mut self) -> Result<Idle, GridError> {
        let began = self.begin("looking at what the five nodes use while nothing is asked of them");
        let pids: Vec<u32> = FIVE.iter().filter_map(|name| self.machines.node(name).pid()).collect();
        let idle = Idle::of(&pids).await?;
        let memory = atoll_ids::ByteCount(idle.memory_bytes);
        self.end(began, "idle", format!("5 nodes: {memory} of memory, {:.1} % of a core", idle.core_percent));
        Ok(idle)
    }

    /// The machine that the database is on.
    async fn database(&self) -> Result<&'static str, GridError> {
        self.machines.again(async || self.database_now().await).await
    }

    async fn database_now(&self) -> Result<&'static str, GridError> {
        let nodes = self.nodes_of("db").await?;
        let evdc =
            self.machines.home().evdc(EVDC).await.map_err(|source| self.machines.node(HOME_NAME).control(source))?;
        let member = evdc.members.iter().find(|member| nodes == [member.name.as_str()]);
        let member =
            member.ok_or_else(|| GridError::Wrong(format!("the database is on {nodes:?}, which is no member")))?;
        if member.control {
            return Err(GridError::Wrong(
                "the database is beside the Kubernetes API, though there is room elsewhere".into(),
            ));
        }
        for name in FIVE {
            if self.machines.node(name).status().await?.node == member.node {
                return Ok(name);
            }
        }
        Err(GridError::Wrong(format!("{} is none of the five", member.name)))
    }

    async fn two_die(&mut self) -> Result<Duration, GridError> {
        let (victims, was_on) = ([self.database().await?, ATTIC_NAME], self.nodes_of("db").await?.concat());
        let mut spectator = Spectator::open(&self.machines, &[(HOME_NAME, "network"), (HOME_NAME, "apps")]);
        let began = self.begin(&format!("SIGKILL {} with the database, and {}", victims[0], victims[1]));
        for victim in victims {
            self.machines.node_mut(victim)?.kill().await?;
        }
        self.end(
            began,
            "SIGKILL two nodes",
            format!("{} with the database, {} which only keeps", victims[0], victims[1]),
        );
        let began = self.begin("waiting for the page with every entry");
        let visitor = Visitor::new(&self.machines).await?;
        let all = |page: &visitor::Page| (0..ENTRIES).all(|number| page.shows(&entry(number)));
        let within = if self.hunt.is_some() { BACK_WITHIN + HUNTED_WITHIN } else { BACK_WITHIN };
        let opened = visitor.page_when(within, "the page with every entry", all);
        let (_, back) = self.hunted(&[], opened).await?;
        let within = within.as_secs();
        self.end(began, "page again", format!("all {ENTRIES} entries, within the {within} s allowed"));
        self.healed(&victims, &mut spectator).await?;
        self.was_shown(victims, &was_on, &spectator).await?;
        let began = self.begin("writing with two nodes dead");
        let visitor = Visitor::new(&self.machines).await?;
        self.hunted(&[], visitor.sign("A visitor", &entry(ENTRIES))).await?;
        if !visitor.page().await?.shows(&entry(ENTRIES)) {
            return Err(GridError::Wrong("what was written with two nodes dead is not on the page".into()));
        }
        self.end(began, "write with two nodes dead", "it is on the page".into());
        self.they_return(&victims).await?;
        Ok(back)
    }

    /// What the database's volume says of itself, wherever it is mounted now.
    async fn volume(&self, dead: &[&str]) -> Result<Option<(&'static str, FsMounted)>, GridError> {
        for name in FIVE.iter().filter(|name| !dead.contains(name)) {
            let volumes = match self.machines.node(name).status().await {
                Ok(status) => status.volumes,
                // It was killed just now.
                Err(_) if self.hunt.is_some() => continue,
                Err(error) => return Err(error),
            };
            if let Some(volume) = volumes.into_iter().next() {
                return Ok(Some((name, volume.mounted)));
            }
        }
        Ok(None)
    }

    /// Waits until the volume has made shards again, misses none and makes no more.
    async fn healed(&mut self, dead: &[&str], spectator: &mut Spectator) -> Result<(), GridError> {
        let began = self.begin("waiting until what was on the dead nodes is made again elsewhere");
        // Who makes it again counts from its start: another one is killed.
        let holder = self.volume(dead).await?.map(|(name, _)| name);
        if let Some(holder) = holder {
            spectator.follow(&self.machines, holder, "storage");
        }
        let rebuilt = self.hunted(holder.as_slice(), self.made_again(dead)).await?;
        self.end(began, "heal", format!("{rebuilt} shards made again, none missing, none beyond repair"));
        Ok(())
    }

    /// Fails unless the dashboards showed, while it happened, what the steps before saw in other ways.
    async fn was_shown(&mut self, dead: [&str; 2], was_on: &str, pages: &Spectator) -> Result<(), GridError> {
        let began = self.begin("what the dashboards showed of it");
        let mut silent = Duration::ZERO;
        for name in dead {
            let is_silent = |row: &str| row.starts_with(name) && row.contains("silent for");
            silent = silent.max(pages.shown("network", &format!("{name} as silent"), is_silent).await?);
        }
        let is_elsewhere = |row: &str| row.contains("-db-0 ") && !row.contains(was_on) && row.contains(" Running yes ");
        let elsewhere = pages.shown("apps", "the database on another machine", is_elsewhere).await?;
        let whole = pages.shown("storage", "the volume whole again", spectator::is_whole).await?;
        let [silent, elsewhere, whole] = [silent, elsewhere, whole].map(|it| it.as_secs());
        let seen = format!(
            "both silent after {silent} s, database elsewhere after {elsewhere} s, volume whole after {whole} s"
        );
        self.end(began, "dashboard", seen);
        Ok(())
    }

    async fn made_again(&self, dead: &[&str]) -> Result<u64, GridError> {
        let began = Instant::now();
        let (mut last, mut since) = (None, Instant::now());
        loop {
            let now = self.volume(dead).await?.map(|(_, it)| (it.rebuilt, it.degraded, it.beyond_repair));
            if now != last {
                (last, since) = (now, Instant::now());
            }
            match now {
                Some((_, _, 1..)) => return Err(GridError::Wrong("a part of the volume is beyond repair".into())),
                Some((rebuilt @ 1.., 0, 0)) if since.elapsed() >= SETTLED_AFTER => return Ok(rebuilt),
                _ if began.elapsed() > HEALED_WITHIN => {
                    return Err(GridError::Wrong(format!(
                        "the volume is not whole; (rebuilt, degraded, lost): {now:?}"
                    )));
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn they_return(&mut self, victims: &[&str]) -> Result<(), GridError> {
        let began = self.begin("the killed nodes are started again");
        for victim in victims {
            self.machines.node_mut(victim)?.start_again().await?;
        }
        let ready = self.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=90s"]);
        self.hunted(&[], ready).await?;
        self.end(began, "start them again", format!("{} nodes, all Ready", FIVE.len()));
        Ok(())
    }

    async fn roll_over(&mut self) -> Result<u64, GridError> {
        let began = self.begin("rolling over to another image while somebody looks at the page");
        self.write_stack(TAGS[1])?;
        if !self.differs().await? {
            return Err(GridError::Wrong("a changed tag is not planned".into()));
        }
        let visitor = Visitor::new(&self.machines).await?;
        let (stop, opened) = (AtomicBool::new(false), AtomicU64::new(0));
        let rolled = async {
            let applied = self.apply("apply").await;
            let new = match applied {
                Ok(_) => {
                    visitor.page_when(PATIENCE, "the new version", |page| page.version() == TAGS[1]).await.map(drop)
                }
                Err(error) => Err(error),
            };
            stop.store(true, Ordering::Relaxed);
            new
        };
        let (rolled, failed) = tokio::join!(self.hunted(&[], rolled), visitor.stay(&stop, &opened));
        rolled?;
        if let Some(failed) = failed.filter(|_| self.hunt.is_none()) {
            return Err(GridError::Wrong(format!("a request failed while the application was rolled over: {failed}")));
        }
        let page = visitor.page().await?;
        if !(0..=ENTRIES).all(|number| page.shows(&entry(number))) {
            return Err(GridError::Wrong("an entry was lost by the change of version".into()));
        }
        let opened = opened.load(Ordering::Relaxed);
        let failed = if self.hunt.is_some() { "" } else { ", none failed" };
        self.end(began, "roll over", format!("{} to {}, {opened} requests meanwhile{failed}", TAGS[0], TAGS[1]));
        Ok(opened)
    }

    async fn destroy(&mut self) -> Result<(), GridError> {
        let began = self.begin("destroying it");
        let removed = self.hunted(&[], self.apply("destroy")).await?;
        loop {
            let left = self.left()?;
            if left.is_empty() {
                break;
            }
            if began.elapsed() > PATIENCE {
                return Err(GridError::Wrong(format!("left behind: {}", left.join(", "))));
            }
            tokio::time::sleep(PAUSE).await;
        }
        let evdcs = self.machines.home().evdcs().await;
        let evdcs = evdcs.map_err(|source| self.machines.node(HOME_NAME).control(source))?;
        if !evdcs.is_empty() {
            return Err(GridError::Wrong("the eVDC is there still".into()));
        }
        self.end(began, "atoll destroy", format!("{removed}; no container, mount or member's folder left"));
        Ok(())
    }

    /// What of the application or its eVDC is still on the machines.
    fn left(&self) -> Result<Vec<String>, GridError> {
        let mut left = Vec::new();
        for name in FIVE {
            for folder in ["members", "runtime/containers", "runtime/sandboxes"] {
                let path = self.machines.dir(name).join(folder);
                if std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) {
                    left.push(path.display().to_string());
                }
            }
        }
        let mounts = std::fs::read_to_string("/proc/mounts");
        let mounts = mounts.map_err(|source| GridError::Io { what: "cannot read /proc/mounts".into(), source })?;
        let folder = self.machines.folder().display().to_string();
        left.extend(mounts.lines().filter(|line| line.contains(&folder)).map(|line| format!("mount {line}")));
        Ok(left)
    }
}

fn entry(number: usize) -> String {
    format!("entry {number} of the story")
}
