//! The tables and the publication of a change feed.
//!
//! Invariant: what would make the application's own statements fail is an error, whoever made it so.

use crate::bus::postgres::{
    Identity, Publication, Restriction, SourceError, TableFacts, TableName, add_statement, create_statement, quoted,
};
use crate::triggers::spec::FeedStart;

use super::{Feed, Findings, Look};

impl Look<'_> {
    /// Looks at the publication, and at the tables that it has or shall have.
    pub(super) async fn published(&self, feed: &Feed<'_>, findings: &mut Findings) -> Result<(), SourceError> {
        let about = format!("trigger {}", feed.row.name);
        let named: Vec<TableName> = feed.spec.tables.iter().filter_map(|text| text.parse().ok()).collect();
        let name = feed.spec.publication(&feed.row.name);
        let publication = self.bus.publication(&name).await?;
        let wanted = match &publication {
            Some(publication) if named.is_empty() => publication.tables.clone(),
            _ => named.clone(),
        };
        let facts = self.bus.tables(&wanted).await?;
        match &publication {
            Some(publication) => there(publication, &named, &about, findings),
            None => missing(feed, &name, &named, &about, findings),
        }
        for facts in &facts {
            self.table(feed, facts, publication.as_ref(), &about, findings);
        }
        for restriction in publication.iter().flat_map(|publication| &publication.restricted) {
            let facts = facts.iter().find(|facts| facts.table == restriction.table);
            restricted(restriction, facts, publication.as_ref(), &about, findings);
        }
        Ok(())
    }

    fn table(
        &self,
        feed: &Feed<'_>,
        facts: &TableFacts,
        publication: Option<&Publication>,
        about: &str,
        findings: &mut Findings,
    ) {
        let table = &facts.table;
        if facts.oid.is_none() {
            let text = format!("there is no table {table}");
            return findings.bad(about, text, "create it, or take it out of `tables`");
        }
        if !facts.is_publishable() {
            let text = format!("{table} cannot be published: only ordinary and partitioned tables that are logged can");
            return findings.bad(about, text, "take it out of `tables`, or `alter table … set logged`");
        }
        let changes = publication.is_none_or(|p| p.update || p.delete);
        if facts.breaks_updates() && changes {
            let text = if publication.is_some_and(|p| p.has(table)) {
                format!("{table} is published without a replica identity: every UPDATE and DELETE of it fails")
            } else {
                format!("{table} has no replica identity: once it is published, every UPDATE and DELETE of it fails")
            };
            let full = format!("alter table {} replica identity full;  -- or add a primary key", table.quoted());
            findings.bad(about, text, full);
        } else {
            findings.ok(about, format!("{table}: {}", identity(facts)));
        }
        let reads = feed.spec.start == FeedStart::Snapshot;
        let mut lacks = |text: String, fix: String| {
            if reads { findings.bad(about, text, fix) } else { findings.warn(about, text, fix) }
        };
        if facts.key.is_empty() {
            let text = format!("{table} has no primary key: its rows cannot be read whole (snapshot, backfill)");
            lacks(text, format!("alter table {} add primary key (…);", table.quoted()));
        }
        if !facts.can_select {
            let text = format!("the role may not read {table}: snapshots and backfills of it fail");
            lacks(text, format!("grant select on {} to {};", table.quoted(), quoted(&self.server.role)));
        }
    }
}

/// What events of the table carry.
fn identity(facts: &TableFacts) -> String {
    match facts.identity {
        Identity::Full => "replica identity full: updates and deletes carry the whole row of before".to_owned(),
        _ if facts.identity_columns.is_empty() => "no replica identity: only inserts are published".to_owned(),
        _ => format!("deletes carry {} of before", facts.identity_columns.join(", ")),
    }
}

fn there(publication: &Publication, named: &[TableName], about: &str, findings: &mut Findings) {
    let missing = publication.missing(named);
    if missing.is_empty() {
        findings.ok(about, format!("publication {}, {} tables", publication.name, publication.tables.len()));
    } else {
        let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let text = format!("the publication {} does not have {}", publication.name, list.join(", "));
        findings.bad(about, text, format!("{};", add_statement(&publication.name, &missing)));
    }
    let kinds = [(publication.insert, "inserts"), (publication.update, "updates"), (publication.delete, "deletes")];
    let left_out: Vec<&str> = kinds.iter().filter(|(published, _)| !published).map(|(_, kind)| *kind).collect();
    if !left_out.is_empty() && !publication.tables.is_empty() {
        let text = format!("the publication {} leaves out {}", publication.name, left_out.join(", "));
        let all = "insert, update, delete, truncate";
        let fix = format!("alter publication {} set (publish = '{all}');", quoted(&publication.name));
        findings.warn(about, text, fix);
    }
}

fn missing(feed: &Feed<'_>, name: &str, named: &[TableName], about: &str, findings: &mut Findings) {
    let statement = format!("{};", create_statement(name, named));
    if feed.spec.create {
        let text = format!("there is no publication {name} yet: the feed makes the publication when it begins");
        findings.warn(about, text, format!("`oncue serve`, or {statement}"));
    } else {
        findings.bad(about, format!("there is no publication {name}"), statement);
    }
}

/// A publication of a part of a table: said, and wrong where it breaks updates.
fn restricted(
    restriction: &Restriction,
    facts: Option<&TableFacts>,
    publication: Option<&Publication>,
    about: &str,
    findings: &mut Findings,
) {
    let table = &restriction.table;
    let Some(facts) = facts else { return };
    let changes = publication.is_some_and(|p| p.update || p.delete);
    let full = facts.identity == Identity::Full;
    if let Some(rows) = &restriction.rows {
        let text = format!("{table}: rows that do not meet {rows} are not published");
        findings.warn(about, text, "nothing, if it is meant so; a rule's pattern filters without it");
        let outside: Vec<&str> = restriction
            .row_columns
            .iter()
            .filter(|column| !facts.identity_columns.contains(column))
            .map(String::as_str)
            .collect();
        if changes && !full && !outside.is_empty() {
            let text = format!(
                "{table}: the row filter {rows} has {} that the replica identity does not have: every UPDATE and DELETE \
                 of it fails",
                outside.join(", ")
            );
            findings.bad(about, text, format!("alter table {} replica identity full;", table.quoted()));
        }
    }
    if restriction.columns.is_empty() {
        return;
    }
    let list = restriction.columns.join(", ");
    findings.warn(about, format!("{table}: only {list} are published"), "nothing, if it is meant so");
    let lacks = facts.identity_columns.iter().any(|column| !restriction.columns.contains(column));
    if changes && lacks {
        let text = format!(
            "{table}: the column list leaves out some of the replica identity: every UPDATE and DELETE of it fails"
        );
        findings.bad(about, text, "publish the columns of the replica identity too, or all");
    }
}
