//! The streams that a project needs in its private NATS: those of its triggers, and one for what functions publish.
//!
//! Invariant: pure; no stream is planned whose subjects overlap with those of another one, because the server refuses
//! it. What is left out has a reason.

use std::collections::BTreeMap;

use crate::bus::inspect::{covers, overlaps};

/// The stream that stores what functions publish and no other stream takes.
pub const OUT: &str = "ONCUE_OUT";

/// A stream to make, or to give more subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamWish {
    /// Its name.
    pub name: String,
    /// All of its subjects.
    pub subjects: Vec<String>,
}

/// What is to be done, and what cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamPlan {
    /// Streams to make.
    pub create: Vec<StreamWish>,
    /// Streams to give more subjects: `OUT` only.
    pub widen: Vec<StreamWish>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

/// Plans for streams that exist (name, subjects), streams that triggers read (name, subjects), and the subject
/// patterns that functions and rules may publish to.
#[must_use]
pub fn plan(
    existing: &[(String, Vec<String>)],
    triggers: &[(String, Vec<String>)],
    published: &[String],
) -> StreamPlan {
    let mut plan = StreamPlan::default();
    let mut known: BTreeMap<String, Vec<String>> = existing.iter().cloned().collect();
    for (name, subjects) in triggers {
        let here = known.get(name).cloned();
        if here.is_some() && !plan.create.iter().any(|w| w.name == *name) {
            continue;
        }
        let mut all = here.unwrap_or_default();
        plan.add(&known, name, subjects, &mut all);
        if all.is_empty() {
            plan.left_out.push(format!("stream {name}: its trigger names no subjects, so it cannot be made"));
            continue;
        }
        known.insert(name.clone(), all.clone());
        match plan.create.iter_mut().find(|w| w.name == *name) {
            Some(wish) => wish.subjects = all,
            None => plan.create.push(StreamWish { name: name.clone(), subjects: all }),
        }
    }
    plan.out(&known, published);
    plan
}

impl StreamPlan {
    /// The stream of what is published and nobody stores.
    fn out(&mut self, known: &BTreeMap<String, Vec<String>>, published: &[String]) {
        let had = known.get(OUT).cloned();
        let mut subjects = had.clone().unwrap_or_default();
        self.add(known, OUT, published, &mut subjects);
        let wish = StreamWish { name: OUT.to_owned(), subjects };
        match had {
            None if wish.subjects.is_empty() => {}
            None => self.create.push(wish),
            Some(had) if had == wish.subjects => {}
            Some(_) => self.widen.push(wish),
        }
    }

    /// Adds those of `wanted` to `subjects` that no stream has yet.
    fn add(
        &mut self,
        known: &BTreeMap<String, Vec<String>>,
        name: &str,
        wanted: &[String],
        subjects: &mut Vec<String>,
    ) {
        for subject in wanted {
            let others = known.iter().filter(|(other, _)| *other != name);
            let mut others = others.flat_map(|(other, theirs)| theirs.iter().map(move |s| (other, s)));
            if subjects.iter().any(|s| covers(s, subject)) || others.clone().any(|(_, s)| covers(s, subject)) {
                continue;
            }
            if let Some((other, theirs)) = others.find(|(_, s)| overlaps(s, subject)) {
                self.left_out.push(format!(
                    "{subject}: the stream {other} has {theirs}, which is a part of it, so {name} cannot have it"
                ));
                continue;
            }
            // A wider subject takes the place of those that it covers.
            subjects.retain(|s| !covers(subject, s));
            if let Some(half) = subjects.iter().find(|s| overlaps(s, subject)) {
                self.left_out.push(format!("{subject}: it overlaps with {half} in {name}"));
                continue;
            }
            subjects.push(subject.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|t| (*t).to_owned()).collect()
    }

    fn stream(name: &str, subjects: &[&str]) -> (String, Vec<String>) {
        (name.to_owned(), list(subjects))
    }

    fn wish(name: &str, subjects: &[&str]) -> StreamWish {
        StreamWish { name: name.to_owned(), subjects: list(subjects) }
    }

    #[test]
    fn triggers_get_their_streams_and_the_rest_goes_to_one() {
        let triggers = [stream("APP", &["user.>"]), stream("APP", &["order.*"])];
        let published = list(&["mail.*", "mail.welcome", "user.created"]);
        let made = plan(&[], &triggers, &published);
        assert_eq!(made.create, [wish("APP", &["user.>", "order.*"]), wish(OUT, &["mail.*"])]);
        assert!(made.left_out.is_empty() && made.widen.is_empty());
        let existing = [stream("APP", &["user.>", "order.*"]), stream(OUT, &["mail.*"])];
        assert_eq!(plan(&existing, &triggers, &published), StreamPlan::default());
        let more = plan(&existing, &triggers, &list(&["mail.*", "sms"]));
        assert_eq!(more.widen, [wish(OUT, &["mail.*", "sms"])]);
    }

    #[test]
    fn what_would_overlap_is_left_out_with_the_reason() {
        let made = plan(&[stream("APP", &["user.created"])], &[], &list(&["user.>"]));
        assert!(made.create.is_empty());
        assert!(made.left_out[0].contains("the stream APP has user.created"), "{:?}", made.left_out);
        let made = plan(&[], &[stream("ALL", &[])], &list(&["a.*", "*.b"]));
        assert_eq!(made.create, [wish(OUT, &["a.*"])]);
        assert_eq!(made.left_out.len(), 2);
    }
}
