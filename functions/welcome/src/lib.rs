//! Greets a new user: one `mail.welcome` event for every event whose data has an `email`.
//!
//! It knows two shapes of data: the user itself, and a row change of the Postgres feed with the user under `after`.
//! It sends no mail; whatever is subscribed to `mail.welcome` does, once per `delivery`.

mod arena;

wit_bindgen::generate!({ path: "../wit", world: "function", generate_all });

use exports::oncue::function::handler::{Error, Event, Guest};
use oncue::function::context;
use serde::{Deserialize, Serialize};
use wasi::config::store;
use wasi::logging::logging::{Level, log};

struct Welcome;

export!(Welcome);

impl Guest for Welcome {
    fn handle(event: Event) -> Result<Vec<Event>, Error> {
        let user = user(&event.data)?;
        if user.email.rsplit_once('@').is_some_and(|(_, domain)| domain == failing_domain()) {
            return Err(Error::Retry("the mail server said 451".into()));
        }

        let delivery = context::get().delivery_id;
        log(Level::Info, "welcome", &format!("greeting the user of event {}, delivery {delivery}", event.id));
        let mail = Mail { to: &user.email, subject: subject(user.name.as_deref())?, delivery: &delivery };
        Ok(vec![mail.into_event()?])
    }
}

/// A domain that cannot be reached, to see what becomes of a failure: the configuration key `failing_domain`.
fn failing_domain() -> String {
    store::get("failing_domain").ok().flatten().unwrap_or_else(|| "fail.example".into())
}

#[derive(Deserialize)]
struct Data {
    email: Option<String>,
    name: Option<String>,
    /// The row as it is now, in a change event.
    after: Option<Row>,
}

#[derive(Deserialize)]
struct Row {
    email: Option<String>,
    name: Option<String>,
}

struct User {
    email: String,
    name: Option<String>,
}

/// Bad data stays bad, so it is rejected: a retry would only delay the dead letter.
fn user(data: &[u8]) -> Result<User, Error> {
    let data: Data =
        serde_json::from_slice(data).map_err(|error| Error::Reject(format!("data is not a user: {error}")))?;
    let row = data.after.unwrap_or(Row { email: data.email, name: data.name });
    // The address becomes an attribute of an event, and those have no control characters.
    let email = row.email.filter(|email| !email.is_empty() && !email.contains(char::is_control));
    let email = email.ok_or_else(|| Error::Reject("no email in data".into()))?;
    Ok(User { email, name: row.name.filter(|name| !name.is_empty()) })
}

/// `Welcome, Ada`, or what the configuration key `greeting` has in place of `Welcome`.
fn subject(name: Option<&str>) -> Result<String, Error> {
    let greeting = store::get("greeting").map_err(|error| Error::Retry(format!("reading greeting: {error}")))?;
    let greeting = greeting.unwrap_or_else(|| "Welcome".into());
    Ok(name.map_or_else(|| greeting.clone(), |name| format!("{greeting}, {name}")))
}

#[derive(Serialize)]
struct Mail<'a> {
    to: &'a str,
    subject: String,
    /// The same on each attempt, so that the mailer can drop what it has already sent.
    delivery: &'a str,
}

impl Mail<'_> {
    /// `id` and `source` stay empty: the host fills them in, the same on each attempt.
    fn into_event(self) -> Result<Event, Error> {
        let data = serde_json::to_vec(&self).map_err(|error| Error::Reject(format!("writing the mail: {error}")))?;
        Ok(Event {
            id: String::new(),
            source: String::new(),
            type_: "mail.welcome".into(),
            subject: Some(self.to.into()),
            time: None,
            content_type: Some("application/json".into()),
            extensions: Vec::new(),
            data,
        })
    }
}
