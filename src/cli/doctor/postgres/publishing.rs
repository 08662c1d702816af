//! Publishing through a Postgres bus: whether it is installed, who takes the events, and who could forge them.
//!
//! Invariant: nobody's key is read here, only who may read it.

use crate::bus::inspect::overlaps;
use crate::bus::postgres::{PostgresBus, Signing, SourceError, grants, quoted};

use super::super::Findings;
use super::Feed;

const LOG: &str = "look at the server's log";

/// Whether events can be published, who takes them, and whether they can be forged.
pub(super) async fn look(bus: &PostgresBus, feeds: &[Feed<'_>], about: &str, findings: &mut Findings) {
    let takers: Vec<&Feed<'_>> = feeds.iter().filter(|feed| !feed.spec.messages.is_empty()).collect();
    let install =
        format!("oncue migrate --bus {0}, and oncue migrate --bus {0} --grant ROLE for each role", bus.name());
    match bus.signing().await {
        Ok(Signing::Absent) if takers.is_empty() => {}
        Ok(Signing::Absent) => {
            let text = "oncue.publish is not installed: applications cannot publish in their transactions";
            findings.warn(about, text, install);
        }
        Ok(Signing::Outdated) => findings.bad(about, bus.outdated(), format!("oncue migrate --bus {}", bus.name())),
        Ok(Signing::Unreadable) if takers.is_empty() => findings.warn(about, bus.unreadable(), ours(bus)),
        Ok(Signing::Unreadable) => findings.bad(about, bus.unreadable(), ours(bus)),
        Ok(Signing::Ready) => findings.ok(about, "oncue.publish is installed and signs what is published"),
        Err(error) => findings.bad(about, error.to_string(), LOG),
    }
    if let Err(error) = forgers(bus, about, findings).await {
        findings.bad(about, error.to_string(), LOG);
    }
    doubly_taken(&takers, about, findings);
}

fn ours(bus: &PostgresBus) -> String {
    grants(&bus.replication().user)
}

/// Who else has the keys.
async fn forgers(bus: &PostgresBus, about: &str, findings: &mut Findings) -> Result<(), SourceError> {
    for role in bus.key_readers().await? {
        let text = format!("the role {role} may read oncue.publish_keys, and so forge events of every role");
        let fix = format!(
            "revoke all on oncue.publish_keys from {0};  -- unless it follows feeds or publishes for a node",
            quoted(&role)
        );
        findings.warn(about, text, fix);
    }
    for publication in bus.key_publications().await? {
        let text = format!("the publication {publication} has oncue.publish_keys: whoever subscribes can forge events");
        let fix = "create a publication that names its tables, or schemas without oncue, then: select \
                   oncue.rotate_publish_key(); select oncue.retire_publish_keys();";
        findings.warn(about, text, fix);
    }
    Ok(())
}

fn doubly_taken(takers: &[&Feed<'_>], about: &str, findings: &mut Findings) {
    for (at, feed) in takers.iter().enumerate() {
        let both =
            |other: &&&Feed<'_>| feed.spec.messages.iter().any(|a| other.spec.messages.iter().any(|b| overlaps(a, b)));
        if let Some(other) = takers[at + 1..].iter().find(both) {
            let (one, two) = (&feed.row.name, &other.row.name);
            let text = format!("the triggers {one} and {two} both take messages of the same types: each is two events");
            findings.warn(about, text, "`messages = []` on one of them, or patterns that differ, if not meant so");
        }
    }
}
