//! Functions that run SQL: whether their roles have logins that may do no more than a guest, and what everybody may do.
//!
//! Invariant: without a function that is granted SQL nothing is said.

use std::collections::BTreeSet;

use crate::store::Store;
use crate::store::control::ControlPlane;
use crate::store::guest::Guests;

use super::Findings;

pub(super) async fn look(store: &Store, guests: &Guests, tables: &ControlPlane, findings: &mut Findings) {
    let granted = tables.functions.iter().filter(|version| version.current);
    let roles: BTreeSet<&str> =
        granted.filter_map(|version| version.spec.grants.sql.as_ref()).map(|grant| grant.role.as_str()).collect();
    if roles.is_empty() {
        return;
    }
    for role in &roles {
        match guests.check(role).await {
            Ok(()) => findings.ok("sql", format!("functions with the role {role} have a login of their own")),
            Err(words) => {
                findings.bad(
                    "sql",
                    format!("functions with the role {role} cannot run statements: {words}"),
                    "see above",
                );
            }
        }
    }
    let facts = match store.guest_facts().await {
        Ok(facts) => facts,
        Err(error) => return findings.bad("sql", error.to_string(), "look at the server's log"),
    };
    if facts.superuser {
        let text = "the node's own database user is a superuser; it needs no more than to own the schema oncue";
        findings.warn("sql", text, "name another user in DATABASE_URL: docs/operating.md has its rights");
    }
    let mut fix = String::new();
    if facts.temporary {
        fix.push_str(&format!("revoke temporary on database {} from public;\n", facts.database));
    }
    for function in &facts.functions {
        fix.push_str(&format!("revoke execute on function {function} from public;\n"));
        // Migrations take such a lock.
        fix.push_str(&format!("grant execute on function {function} to {};\n", facts.user));
    }
    if !fix.is_empty() {
        let text = "everybody, and so each function that runs SQL, may use up what all sessions share (locks, \
                    temporary and large objects); take it from public, and grant it to the roles that need it";
        findings.warn("sql", text, fix.trim_end());
    }
}
