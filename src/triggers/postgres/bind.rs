//! Binds a feed to its server, publication and slot before each connection.
//!
//! Invariant: the publication is there before the slot is made: what is written between the two could never be decoded.
//! Nothing of the source is created, changed or dropped but where the trigger says `create`, in `oncue dev`, or where an
//! operator accepted a gap.

use crate::bus::postgres::{Publication, Server, SourceError, TableName, add_statement, create_statement};
use crate::lsn::Lsn;
use crate::store::feeds::{BackfillRequest, Feed};
use crate::triggers::{Failure, FeedStart};

use super::compare::{Decision, Known, compare};
use super::lease::Tenure;
use super::{Follower, store_failure};

/// A feed that can be followed.
pub(super) struct Bound {
    /// Where it is.
    pub(super) feed: Feed,
    /// The server.
    pub(super) server: Server,
}

fn source(error: &SourceError) -> Failure {
    Failure::Again(error.to_string())
}

impl Follower {
    /// Looks at the server and the slot, and makes what may be made.
    pub(super) async fn bind(&self, tenure: &Tenure) -> Result<Bound, Failure> {
        let name = &self.context.name;
        let server = self.bus.fit_server().await.map_err(|e| source(&e))?;
        self.check_bound(&server)?;
        let feed = self.feeds.feed(name).await.map_err(|e| store_failure(&e))?;
        let slot_name = self.spec.slot(name);
        let slot = self.bus.slot(&slot_name).await.map_err(|e| source(&e))?;
        let decision = compare(Known {
            feed: feed.as_ref(),
            server: &server,
            slot_name: &slot_name,
            slot: slot.as_ref(),
            snapshot: self.spec.start == FeedStart::Snapshot,
        });
        match (decision, feed) {
            (Decision::Refuse(text), _) => Err(Failure::Again(text)),
            (Decision::Gap { reason, to }, feed) => {
                let from = feed.map(|feed| feed.settled_lsn);
                Err(self.gap(from, to, reason).await)
            }
            (Decision::Follow, Some(feed)) => {
                let feed = self.check_publication(feed, &server, tenure).await?;
                Ok(Bound { feed, server })
            }
            (Decision::Adopt, Some(feed)) => {
                tracing::warn!(trigger = %name, from = feed.timeline, to = server.timeline, "the server was promoted; its failover slot goes on");
                let feed = Feed { timeline: server.timeline.unwrap_or(feed.timeline), ..feed };
                self.write(&feed, &[], tenure).await?;
                let feed = self.check_publication(feed, &server, tenure).await?;
                Ok(Bound { feed, server })
            }
            (Decision::Begin { replace, snapshot }, feed) => {
                let accepted = feed.is_some();
                let there = slot.filter(|_| !replace).and_then(|slot| slot.confirmed_flush);
                if replace {
                    self.bus.drop_slot(&slot_name).await.map_err(|e| source(&e))?;
                    tracing::warn!(trigger = %name, slot = slot_name, "dropped a slot that cannot be read any more");
                }
                self.begin(server, Beginning { there, snapshot, accepted }, tenure).await
            }
            // Only a feed that was there is followed or adopted.
            (Decision::Follow | Decision::Adopt, None) => Err(Failure::Again("the feed's row is gone".to_owned())),
        }
    }

    /// Records the gap, and makes the words that halt the trigger.
    pub(super) async fn gap(&self, from: Option<Lsn>, to: Option<Lsn>, reason: String) -> Failure {
        let name = &self.context.name;
        if let Err(error) = self.feeds.record_gap(name, from, to, &reason).await {
            return store_failure(&error);
        }
        Failure::Gap(format!(
            "{reason}; `oncue trigger resume {name} --accept-gap` goes on without what is missing, `oncue trigger resume \
             {name} --resnapshot` also reads the tables again"
        ))
    }

    /// A slot without a bound can fill the disk of the server that people's work depends on.
    fn check_bound(&self, server: &Server) -> Result<(), Failure> {
        if server.slot_wal_max.is_some() || self.bus.accept_unbounded_wal() || self.context.dev {
            return Ok(());
        }
        let bus = self.bus.name();
        Err(Failure::Again(format!(
            "max_slot_wal_keep_size is -1 on bus \"{bus}\": while this trigger cannot read, its slot keeps WAL until the \
             server's disk is full; run `alter system set max_slot_wal_keep_size = '50GB'` and `select \
             pg_reload_conf()`, or set accept_unbounded_wal = true on [bus.{bus}]"
        )))
    }

    fn may_create(&self) -> bool {
        self.spec.create || self.context.dev
    }

    /// A feed that goes on needs the publication that its slot decodes with. Gives it with that one noted.
    async fn check_publication(&self, feed: Feed, server: &Server, tenure: &Tenure) -> Result<Feed, Failure> {
        let name = self.spec.publication(&self.context.name);
        let oid = self.look_at_publication(&feed, server, feed.settled_lsn).await?;
        if feed.publication_oid == Some(oid) && feed.publication == name {
            return Ok(feed);
        }
        let noted = self.feeds.note_publication(&self.context.name, &name, oid, &tenure.fence).await;
        noted.map_err(|e| store_failure(&e))?;
        Ok(Feed { publication: name, publication_oid: Some(oid), ..feed })
    }

    /// Looks whether the publication is there, is the one that the feed is decoded with, and has the tables; it was so
    /// when everything up to `settled` was settled. Gives its number.
    pub(super) async fn look_at_publication(&self, feed: &Feed, server: &Server, settled: Lsn) -> Result<u32, Failure> {
        let name = self.spec.publication(&self.context.name);
        let Some(publication) = self.bus.publication(&name).await.map_err(|e| source(&e))? else {
            let reason = format!(
                "the publication \"{name}\" was dropped: what was committed after {settled} cannot be decoded any more"
            );
            return Err(self.gap(Some(settled), None, reason).await);
        };
        if server.skips_lost_publications() && feed.publication_oid.is_some_and(|oid| oid != publication.oid) {
            let reason = format!(
                "the publication \"{name}\" was dropped and made again, or the trigger named another one: what was \
                 committed after {settled} and before it was there was passed over"
            );
            return Err(self.gap(Some(settled), None, reason).await);
        }
        self.check_tables(&publication).await?;
        Ok(publication.oid)
    }

    async fn check_tables(&self, publication: &Publication) -> Result<(), Failure> {
        let missing = publication.missing(&self.tables()?);
        if missing.is_empty() {
            return Ok(());
        }
        // One that was dropped or renamed cannot be added.
        self.check_exist(&missing).await?;
        if self.context.dev {
            self.check_identities(&missing).await?;
            return self.bus.add_tables(&publication.name, &missing).await.map_err(|e| source(&e));
        }
        let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
        Err(Failure::Again(format!(
            "the publication \"{}\" does not have {}; run `{}`",
            publication.name,
            list.join(", "),
            add_statement(&publication.name, &missing)
        )))
    }

    /// The tables that the trigger follows; none for all of its publication.
    pub(super) fn tables(&self) -> Result<Vec<TableName>, Failure> {
        let read = |text: &String| text.parse::<TableName>();
        self.spec.tables.iter().map(read).collect::<Result<_, _>>().map_err(|e| Failure::Again(format!("tables: {e}")))
    }

    async fn begin(&self, server: Server, beginning: Beginning, tenure: &Tenure) -> Result<Bound, Failure> {
        let name = &self.context.name;
        let (slot, publication) = (self.spec.slot(name), self.spec.publication(name));
        let (oid, published) = self.ensure_publication(&publication, beginning.accepted).await?;
        let at = match beginning.there {
            Some(at) => at,
            None if beginning.accepted || self.may_create() => {
                let at = self.bus.create_slot(&slot, self.spec.failover).await.map_err(|e| source(&e))?;
                tracing::info!(trigger = %name, slot, %at, "created a replication slot");
                at
            }
            None => {
                return Err(Failure::Again(format!(
                    "there is no slot \"{slot}\"; run `select pg_create_logical_replication_slot('{slot}', 'pgoutput')`, \
                     or set create = true on [trigger.{name}]"
                )));
            }
        };
        let feed = Feed {
            slot,
            publication,
            publication_oid: Some(oid),
            system_id: server.system_id.clone(),
            timeline: server.timeline.unwrap_or(0),
            database: server.database.clone(),
            settled_lsn: at,
            read_until: at,
            restart: None,
        };
        let mut tables = match self.tables()? {
            named if named.is_empty() => published,
            named => named,
        };
        tables.retain(|table| !table.holds_keys());
        let read = |table: TableName| BackfillRequest {
            schema: table.schema,
            table: table.name,
            filter: None,
            rows_per_second: self.spec.rows_per_second,
        };
        let snapshots: Vec<_> = if beginning.snapshot { tables.into_iter().map(read).collect() } else { Vec::new() };
        self.write(&feed, &snapshots, tenure).await?;
        Ok(Bound { feed, server })
    }

    async fn write(&self, feed: &Feed, snapshots: &[BackfillRequest], tenure: &Tenure) -> Result<(), Failure> {
        let written = self.feeds.begin(&self.context.name, feed, snapshots, &tenure.fence).await;
        match written.map_err(|e| store_failure(&e))? {
            true => Ok(()),
            false => {
                tenure.lost.cancel();
                Err(Failure::Again("the feed's lease has passed on".to_owned()))
            }
        }
    }

    /// Finds or makes the publication, and gives its number and its tables.
    async fn ensure_publication(&self, name: &str, accepted: bool) -> Result<(u32, Vec<TableName>), Failure> {
        if let Some(found) = self.bus.publication(name).await.map_err(|e| source(&e))? {
            self.check_tables(&found).await?;
            return Ok((found.oid, if found.named.is_empty() { found.tables } else { found.named }));
        }
        let tables = self.tables()?;
        if tables.is_empty() && !self.spec.follows_messages_only() {
            return Err(Failure::Again(format!("there is no publication \"{name}\", and the trigger names no tables")));
        }
        self.check_exist(&tables).await?;
        if !(accepted || self.may_create()) {
            return Err(Failure::Again(format!(
                "there is no publication \"{name}\"; run `{}`, or set create = true on [trigger.{}]",
                create_statement(name, &tables),
                self.context.name
            )));
        }
        self.check_identities(&tables).await?;
        self.bus.create_publication(name, &tables).await.map_err(|e| source(&e))?;
        tracing::info!(trigger = %self.context.name, publication = name, "created a publication");
        match self.bus.publication(name).await.map_err(|e| source(&e))? {
            Some(made) => Ok((made.oid, tables)),
            None => Err(Failure::Again(format!("the publication \"{name}\" was dropped as soon as it was created"))),
        }
    }

    async fn check_exist(&self, tables: &[TableName]) -> Result<(), Failure> {
        let facts = self.bus.tables(tables).await.map_err(|e| source(&e))?;
        match facts.iter().find(|facts| !facts.is_publishable()) {
            Some(facts) if facts.oid.is_none() => Err(Failure::Again(format!(
                "there is no table {} on bus \"{}\"; create it, or mend `tables` of [trigger.{}]",
                facts.table,
                self.bus.name(),
                self.context.name
            ))),
            Some(facts) => Err(Failure::Again(format!(
                "{} cannot be published: only ordinary and partitioned tables that are logged are in the WAL",
                facts.table
            ))),
            None => Ok(()),
        }
    }

    /// A publication of such a table would make the application's own updates and deletes fail.
    async fn check_identities(&self, tables: &[TableName]) -> Result<(), Failure> {
        let facts = self.bus.tables(tables).await.map_err(|e| source(&e))?;
        match facts.iter().find(|facts| facts.breaks_updates()) {
            Some(facts) => {
                let table = facts.table.quoted();
                Err(Failure::Again(format!(
                    "{} has no primary key and no replica identity: once it is published, every UPDATE and DELETE of \
                     it fails; add a primary key, run `alter table {table} replica identity full`, or create the \
                     publication yourself with (publish = 'insert')",
                    facts.table
                )))
            }
            None => Ok(()),
        }
    }
}

/// How a feed begins.
struct Beginning {
    /// Where the slot is, if it is to be kept.
    there: Option<Lsn>,
    snapshot: bool,
    /// Whether an operator accepted a gap: then what is missing may be made.
    accepted: bool,
}
