//! The project of `oncue dev`: builds what changed, makes streams, applies the manifest, again after each change.
//!
//! Invariant: after the start nothing here ends the command: a failed build or apply is printed, and the tables stay
//! as they were.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bus::{inspect, nats};
use crate::cli::output::printable;
use crate::cli::{Context, apply};
use crate::config::{Action, Config};
use crate::dev::build::{Buildable, Freshness};
use crate::dev::watch::{Change, WatchConfig, WatchedFunction, Watcher};
use crate::dev::{Servers, streams};
use crate::rules::Target;
use crate::triggers::spec::TriggerSpec;

/// How long what functions publish is kept when nobody else stores it.
const OUT_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The manifest and what is built from it.
pub(super) struct Project<'a> {
    context: &'a Context,
    servers: &'a Servers,
    folder: &'a Path,
    builds: bool,
}

impl<'a> Project<'a> {
    pub(super) fn new(context: &'a Context, servers: &'a Servers, folder: &'a Path, builds: bool) -> Self {
        Self { context, servers, folder, builds }
    }

    /// Builds what is missing or old, makes streams, applies.
    ///
    /// # Errors
    /// A manifest with mistakes.
    pub(super) async fn begin(&self) -> anyhow::Result<()> {
        let config = self.context.config()?;
        for function in buildables(config) {
            match function.freshness(self.folder) {
                Freshness::Fresh => self.remember(&function),
                _ if self.builds => self.build(&function).await,
                Freshness::Missing => self.note(&format!("{}: no component; build it", function.name)),
                Freshness::Stale => {}
            }
        }
        self.apply(self.context).await;
        Ok(())
    }

    /// Follows the files for ever.
    ///
    /// # Errors
    /// None: what cannot be watched is printed.
    pub(super) async fn follow(&self) -> anyhow::Result<()> {
        let mut current = self.context.with(self.context.environment.clone());
        loop {
            let config = match current.config() {
                Ok(config) => config,
                Err(error) => return Err(error),
            };
            let Some(path) = &config.path else { return std::future::pending().await };
            let mut watcher = match Watcher::start(&watched(config, path)) {
                Ok(watcher) => watcher,
                Err(error) => {
                    self.note(&format!("files are not watched: {error}"));
                    return std::future::pending().await;
                }
            };
            current = self.until_manifest(&mut watcher, current).await;
        }
    }

    /// Acts on changes until the manifest was changed to a good one: gives that.
    async fn until_manifest(&self, watcher: &mut Watcher, current: Context) -> Context {
        loop {
            match watcher.next().await {
                Change::Manifest => {
                    let next = current.with(current.environment.clone());
                    match next.config() {
                        Ok(config) => {
                            self.compare(&current, config);
                            self.apply(&next).await;
                            return next;
                        }
                        Err(error) => self.note(&format!("the manifest was not applied: {error:#}")),
                    }
                }
                Change::Function(name) if self.builds => {
                    if let Some(function) = find(&current, &name) {
                        self.build(&function).await;
                    }
                }
                Change::Function(_) => {}
                Change::Component(name) => {
                    if let Some(function) = find(&current, &name) {
                        self.remember(&function);
                    }
                    self.apply(&current).await;
                }
            }
        }
    }

    /// Says what only a restart brings into effect.
    fn compare(&self, old: &Context, new: &Config) {
        if let Ok(old) = old.config()
            && (old.node != new.node || old.buses != new.buses)
        {
            self.note("[node] or [bus] changed: restart `oncue dev` to use it");
        }
    }

    async fn build(&self, function: &Buildable) {
        self.note(&format!("{}: building with `{}`", function.name, function.command));
        match function.build().await {
            Ok(took) => {
                self.note(&format!("{}: built in {:.1} s", function.name, took.as_secs_f64()));
                self.remember(function);
            }
            Err(error) => {
                let goes_on = if function.component.is_file() { "; the component of before is used" } else { "" };
                self.note(&format!("{}: not built{goes_on}: {error}", function.name));
            }
        }
    }

    fn remember(&self, function: &Buildable) {
        if let Err(error) = function.remember(self.folder) {
            self.note(&format!("{}: cannot remember what it was built from: {error}", function.name));
        }
    }

    /// Makes the streams and applies the manifest of `context`.
    async fn apply(&self, context: &Context) {
        let begin = Instant::now();
        if let Err(error) = self.make_streams(context).await {
            self.note(&format!("the streams could not be made: {error:#}"));
        }
        let Ok(config) = context.config() else { return };
        if config.path.is_none() {
            return;
        }
        let applied = async { apply::apply(context, &context.store().await?, false).await };
        match applied.await {
            Ok(applied) => self.note_changes(&applied, begin.elapsed()),
            Err(error) => self.note(&format!("not applied: {error:#}")),
        }
    }

    fn note_changes(&self, applied: &apply::Applied, took: Duration) {
        let changes = applied.plan.changes.iter().filter(|c| c.action != Action::Keep);
        let names: Vec<String> = changes
            .map(|c| match applied.versions.get(&c.name) {
                Some(version) => format!("{}@{version}", c.name),
                None => c.name.clone(),
            })
            .collect();
        if !names.is_empty() {
            self.note(&format!("applied {} in {:.0} ms", names.join(", "), took.as_secs_f64() * 1e3));
        }
    }

    /// Makes what is missing in the private NATS.
    async fn make_streams(&self, context: &Context) -> anyhow::Result<()> {
        let Some(private) = &self.servers.nats else { return Ok(()) };
        let config = context.config()?;
        let buses = config.buses.iter().filter(|(_, bus)| bus.url == private.url());
        for (name, bus_config) in buses {
            let bus = nats::connect(name, bus_config).await?;
            let existing = inspect::streams(&bus).await?;
            let existing: Vec<_> = existing.into_iter().map(|s| (s.name, s.subjects)).collect();
            let plan = streams::plan(&existing, &trigger_streams(config, name), &published(config, name));
            for wish in plan.create {
                let max_age = (wish.name == streams::OUT).then_some(OUT_MAX_AGE);
                let subjects = wish.subjects.join(", ");
                if inspect::create_stream(&bus, &wish.name, wish.subjects, max_age).await? {
                    self.note(&format!("made the stream {} for {subjects}", wish.name));
                }
            }
            for wish in plan.widen {
                self.note(&format!("gave the stream {} the subjects {}", wish.name, wish.subjects.join(", ")));
                inspect::set_subjects(&bus, &wish.name, wish.subjects).await?;
            }
            plan.left_out.iter().for_each(|why| self.note(why));
        }
        Ok(())
    }

    fn note(&self, text: &str) {
        self.context.output.note(&printable(text));
    }
}

fn root_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn buildables(config: &Config) -> Vec<Buildable> {
    let root = config.path.as_deref().map(root_of).unwrap_or_default();
    let built = config.manifest.functions.values().filter_map(|f| Some((f, f.build.as_ref()?)));
    built
        .map(|(f, build)| Buildable {
            name: f.name.clone(),
            command: build.command.clone(),
            sources: build.watch.clone(),
            component: f.file.clone(),
            root: root.clone(),
        })
        .collect()
}

fn find(context: &Context, name: &str) -> Option<Buildable> {
    buildables(context.config().ok()?).into_iter().find(|f| f.name == name)
}

fn watched(config: &Config, path: &Path) -> WatchConfig {
    let functions = config.manifest.functions.values().map(|f| WatchedFunction {
        name: f.name.clone(),
        component: PathBuf::from(&f.component),
        sources: f.build.as_ref().map(|b| b.watch.clone()).unwrap_or_default(),
    });
    WatchConfig {
        root: root_of(path),
        manifest: path.file_name().map(PathBuf::from).unwrap_or_default(),
        functions: functions.collect(),
    }
}

/// The streams that triggers of `bus` read.
fn trigger_streams(config: &Config, bus: &str) -> Vec<(String, Vec<String>)> {
    let triggers = config.manifest.triggers.values().filter(|t| t.bus == bus);
    let streams = triggers.filter_map(|t| match &t.spec {
        TriggerSpec::JetStream(spec) => Some((spec.stream.clone(), spec.subjects.clone())),
        TriggerSpec::Nats(_) | TriggerSpec::Kafka(_) | TriggerSpec::Postgres(_) => None,
    });
    streams.collect()
}

/// The subjects of `bus` that functions and rules may publish to.
fn published(config: &Config, bus: &str) -> Vec<String> {
    let grants = config.manifest.functions.values().flat_map(|f| &f.spec.grants.publish);
    let granted = grants.filter_map(|g| g.split_once('/')).filter(|(b, _)| *b == bus).map(|(_, s)| s.to_owned());
    let rules = config.manifest.rules.iter().filter_map(|r| match &r.rule.target {
        Target::Publish { bus: b, subject } if b == bus => Some(subject.clone()),
        _ => None,
    });
    granted.chain(rules).collect()
}
