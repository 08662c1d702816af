//! Follows the control plane: every change becomes a new immutable rule set within two seconds.
//!
//! Invariant: a load never fails as a whole: what does not compile is left out and its error is written to its row.
//! LISTEN tells of changes at once; the version is polled as well, because a notification can be missed. What changed
//! is read and nothing else, as long as the connection that tells of changes holds; after that, everything is. Neither
//! a notification nor many of them make a node read anything but the version: only a version that differs does.

mod verdicts;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::dispatch::functions::Version;
use crate::rules::{Changes, Rule, RuleSet, Target};
use crate::store::StoreError;
use crate::store::control::{ControlPlane, NotGone};
use crate::store::listen::{self, Told};
use crate::telemetry;

use self::verdicts::Verdicts;
use super::{Shared, outbox};

/// How often the version is asked for: below the two seconds in which a change must be seen.
const POLL: Duration = Duration::from_millis(1_500);

/// Functions that are fetched and loaded at once; each may hold the bytes of a component.
const LOADS: usize = 16;
/// How often the control plane is looked at, at most: far below the two seconds, and little work whatever is notified.
const LOOK_GAP: Duration = Duration::from_millis(200);

/// What was loaded, as far as the next load needs it.
struct Loaded {
    version: i64,
    snapshot: String,
    verdicts: Verdicts,
}

/// Loads the control plane and follows it until the node has finished.
pub(super) async fn follow(shared: Shared, planes: watch::Sender<Option<ControlPlane>>) {
    let finished = shared.drain.token().finished;
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let next = Instant::now();
    let mut follower = Follower { shared, planes, changes: None, loaded: None, current: false, failed: false, next };
    loop {
        tokio::select! {
            () = finished.cancelled() => return,
            () = follower.catch_up() => {}
        }
        tokio::select! {
            () = finished.cancelled() => return,
            told = follower.told() => if !follower.take_word(told) {
                poll.tick().await;
            },
            _ = poll.tick() => follower.pulse().await,
        }
    }
}

/// Where this node stands.
struct Follower {
    shared: Shared,
    planes: watch::Sender<Option<ControlPlane>>,
    changes: Option<listen::Changes>,
    loaded: Option<Loaded>,
    /// Whether nothing was told since the last look.
    current: bool,
    /// Whether the last load did not come to its end, so that the version that it read says nothing.
    failed: bool,
    /// When the control plane may be looked at again.
    next: Instant,
}

impl Follower {
    /// Listens if it does not yet; after a word that something changed, looks whether it did, and loads it.
    async fn catch_up(&mut self) {
        if self.changes.is_none() {
            // Listen first, then load: nothing falls between.
            self.changes = self.shared.store.changes().await.ok();
            (self.loaded, self.current) = (None, false);
        }
        if self.current || !self.rest().await {
            return;
        }
        self.next = Instant::now() + LOOK_GAP;
        if self.is_unchanged().await {
            self.current = true;
            return;
        }
        let loaded = load(&self.shared, &self.planes, self.loaded.as_mut()).await;
        self.failed = loaded.is_err();
        match loaded {
            Ok(Some(all)) => (self.loaded, self.current) = (Some(all), true),
            Ok(None) => self.current = true,
            Err(error) => tracing::warn!(%error, "cannot load the rules; matching against those that are loaded"),
        }
    }

    /// Takes every notification until the control plane may be looked at. False when the connection was lost for good.
    async fn rest(&mut self) -> bool {
        match &mut self.changes {
            Some(changes) => {
                let told = changes.drain_until(self.next).await;
                self.take_word(told)
            }
            None => {
                tokio::time::sleep_until(self.next).await;
                true
            }
        }
    }

    /// Whether what is loaded is what is in the tables. A notification alone says nothing: anybody may send one.
    async fn is_unchanged(&self) -> bool {
        let Some(loaded) = self.loaded.as_ref().filter(|_| !self.failed) else { return false };
        self.shared.store.ruleset_version().await.is_ok_and(|version| version == loaded.version)
    }

    /// Waits for the next word; for ever while nobody listens.
    async fn told(&mut self) -> Result<Told, StoreError> {
        match &mut self.changes {
            Some(changes) => changes.changed().await,
            None => std::future::pending().await,
        }
    }

    /// False when the connection is lost and another must be made.
    fn take_word(&mut self, told: Result<Told, StoreError>) -> bool {
        let told = told.ok();
        self.current = false;
        match told {
            Some(Told::Change) => {}
            Some(Told::Reconnected) => self.loaded = None,
            None => self.changes = None,
        }
        self.changes.is_some()
    }

    /// Asks for the version, and for what other parts of the node wait for.
    async fn pulse(&mut self) {
        match self.shared.store.pulse().await {
            Ok(pulse) => {
                self.current &= self.loaded.as_ref().is_some_and(|loaded| loaded.version == pulse.ruleset_version);
                self.shared.dispatcher.due_in_ms(pulse.next_due_ms);
                outbox::due_in_ms(&self.shared, pulse.outbox_due_ms);
                self.shared.backfills.send_replace(pulse.open_backfills);
            }
            Err(error) => tracing::debug!(%error, "cannot ask for the version of the rules"),
        }
    }
}

/// Loads everything, or what changed since `before`, which is brought up to date.
async fn load(
    shared: &Shared,
    planes: &watch::Sender<Option<ControlPlane>>,
    before: Option<&mut Loaded>,
) -> Result<Option<Loaded>, StoreError> {
    telemetry::rules_read();
    if let Some(before) = before {
        let known = |name: &str| before.verdicts.knows(name);
        let (plane, there) = shared.store.control_plane_since(&before.snapshot, &known, before.verdicts.len()).await?;
        // A version that falls is that of a database that was restored: nothing that was read before counts.
        if plane.version >= before.version {
            let gone = match there {
                NotGone::All => Vec::new(),
                NotGone::Only(names) => before.verdicts.gone(&names),
            };
            (before.version, before.snapshot) = (plane.version, plane.snapshot.clone());
            take(shared, planes, plane, Some(gone), &before.verdicts).await?;
            return Ok(None);
        }
    }
    let plane = shared.store.control_plane().await?;
    let (version, snapshot, verdicts) = (plane.version, plane.snapshot.clone(), Verdicts::default());
    take(shared, planes, plane, None, &verdicts).await?;
    Ok(Some(Loaded { version, snapshot, verdicts }))
}

/// Matches against the rules of `plane`, or against those of before with its changes if `gone` are gone.
async fn take(
    shared: &Shared,
    planes: &watch::Sender<Option<ControlPlane>>,
    plane: ControlPlane,
    gone: Option<Vec<String>>,
    verdicts: &Verdicts,
) -> Result<(), StoreError> {
    let version = plane.version;
    shared.dispatcher.functions().refresh(&plane);
    let (read, removed) = (plane.rules.len(), gone.as_ref().map_or(0, Vec::len));
    verdicts.read(version, &plane.rules, gone.as_deref().unwrap_or_default());
    let (set, mut errors) = compiled(shared, &plane, gone).await;
    name_unreadable(&set, &plane, &mut errors);
    for (rule, error) in verdicts.unlogged(&errors) {
        tracing::warn!(rule, error, "rule quarantined");
    }
    telemetry::rules_loaded(set.len(), errors.len(), version);
    let all = set.len();
    tracing::info!(version, rules = all, read, removed, quarantined = errors.len(), "rules loaded");
    shared.dispatcher.set_rules(set);
    planes.send_replace(Some(plane));
    let rules = shared.dispatcher.rules();
    write(shared, &rules, errors.clone(), verdicts).await?;
    warm(shared, errors, verdicts.clone());
    shared.reloaded.notify_one();
    merge(shared, &rules).await;
    Ok(())
}

/// The rule set, and the errors of the rules that it lacks. Compiling takes a while, so it is done beside the executor.
async fn compiled(
    shared: &Shared,
    plane: &ControlPlane,
    gone: Option<Vec<String>>,
) -> (RuleSet, Vec<(String, String)>) {
    let version = plane.version;
    let current: HashMap<String, u32> =
        plane.functions.iter().filter(|f| f.current).map(|f| (f.function.clone(), f.version)).collect();
    let rules: Vec<Rule> = plane.rules.iter().map(|row| row.rule.clone()).collect();
    let before = shared.dispatcher.rules();
    let compile = move || match gone {
        Some(gone) => before.with(version, Changes { rules, gone }, &current),
        None => RuleSet::compile(version, rules, &current),
    };
    let (set, refused) = tokio::task::spawn_blocking(compile).await.expect("compiling rules does not panic");
    (set, refused.into_iter().map(|(name, error)| (name, error.to_string())).collect())
}

/// Puts the patterns in order again, if changes have made looking them up slower.
async fn merge(shared: &Shared, rules: &Arc<RuleSet>) {
    if rules.wants_merge() {
        let before = Arc::clone(rules);
        let merged = tokio::task::spawn_blocking(move || before.merged()).await;
        shared.dispatcher.set_rules(merged.expect("merging rules does not panic"));
    }
}

/// Says of rules whose function version is there and cannot be read what is wrong with it.
fn name_unreadable(set: &RuleSet, plane: &ControlPlane, errors: &mut [(String, String)]) {
    for (name, error) in errors {
        let rule = set.left_out().find(|rule| rule.name == *name);
        let Some(Target::Run { function, .. }) = rule.map(|rule| &rule.target) else { continue };
        if let Some((_, version, why)) = plane.unreadable.iter().find(|(f, ..)| f == function) {
            *error = format!("run: the spec of {function}@{version} cannot be read: {why}; deploy it again");
        }
    }
}

/// Loads the functions that the rules run, off the event path, and tells what cannot be loaded.
fn warm(shared: &Shared, errors: Vec<(String, String)>, verdicts: Verdicts) {
    let task = shared.clone();
    shared.drain.spawn("function loading", async move {
        let rules = task.dispatcher.rules();
        let functions = task.dispatcher.functions();
        let stop = task.drain.token().stop_reading;
        let run = |rule: &Rule, version: Option<u32>| match (&rule.target, version) {
            (Target::Run { function, .. }, Some(version)) => Some((function.clone(), version)),
            _ => None,
        };
        let run: BTreeSet<(String, u32)> = rules.rules().filter_map(|rule| run(&rule.rule, rule.version)).collect();
        let run: Vec<_> = run.into_iter().filter_map(|(f, v)| functions.version(&f, v).map(|v| (f, v))).collect();
        warm_buses(&task, &rules, run.iter().map(|(_, version)| &**version)).await;
        let load = async |(function, version): (String, Arc<Version>)| {
            if let Err(error) = functions.load(&version).await {
                tracing::error!(function, error, "a function that rules run cannot be loaded");
                say(&task, &rules, errors.clone(), &verdicts).await;
            }
        };
        // Not one by one: one that takes its whole time to compile would hold up the others.
        let loads = futures::stream::iter(run).for_each_concurrent(LOADS, load);
        tokio::select! {
            // What compiles ends with this.
            () = stop.cancelled() => {}
            () = loads => say(&task, &rules, errors.clone(), &verdicts).await,
        }
    });
}

/// Readies the buses that rules and the versions that they run publish to.
async fn warm_buses(shared: &Shared, rules: &RuleSet, run: impl Iterator<Item = &Version>) {
    let publish = rules.rules().filter_map(|rule| match &rule.rule.target {
        Target::Publish { bus, .. } => Some(bus.clone()),
        Target::Run { .. } => None,
    });
    let mut buses: BTreeSet<String> = publish.collect();
    buses.extend(run.flat_map(|version| version.spec.grants.buses()).map(str::to_owned));
    for bus in buses {
        if let Err(error) = shared.dispatcher.outputs().warm(&bus).await {
            tracing::warn!(bus, %error, "events cannot be published to this bus");
        }
    }
}

async fn say(shared: &Shared, rules: &RuleSet, errors: Vec<(String, String)>, verdicts: &Verdicts) {
    if let Err(error) = write(shared, rules, errors, verdicts).await {
        tracing::warn!(%error, "cannot write the errors of the rules");
    }
}

/// Writes what is to be said of the rules and is not in their rows, unless others took their place.
async fn write(
    shared: &Shared,
    rules: &RuleSet,
    errors: Vec<(String, String)>,
    verdicts: &Verdicts,
) -> Result<(), StoreError> {
    let _turn = verdicts.turn().await;
    if shared.dispatcher.rules().version != rules.version {
        return Ok(());
    }
    let differing = verdicts.differing(rules, with_broken(shared, errors));
    if !differing.verdicts.is_empty() {
        shared.store.set_rule_verdicts(&differing.verdicts).await?;
    }
    verdicts.written(differing);
    Ok(())
}

/// `errors`, and those of rules whose function is known not to load.
fn with_broken(shared: &Shared, mut errors: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut known: HashMap<(String, u32), Option<String>> = HashMap::new();
    for rule in shared.dispatcher.rules().rules() {
        let (Target::Run { function, .. }, Some(version)) = (&rule.rule.target, rule.version) else { continue };
        let error = known.entry((function.clone(), version)).or_insert_with(|| {
            let version = shared.dispatcher.functions().version(function, version)?;
            version.error()
        });
        if let Some(error) = error {
            errors.push((rule.rule.name.clone(), format!("run: {function}@{version}: {error}")));
        }
    }
    errors
}
