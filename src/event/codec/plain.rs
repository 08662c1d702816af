//! A message that is no CloudEvent: the transport gives it its attributes, its headers become extensions.
//!
//! Invariant: no header of a plain message can make it an error, save a forged hop count; what does not fit is left
//! out. A header is carried under its name in lower case without `-` and `_` (`Nats-Msg-Id` becomes `natsmsgid`) if
//! that is a valid extension name, the first of its name, at most 8 KiB and free of control characters.

use super::{CONTENT_TYPE, Defaults, Message, check};
use crate::event::{AttributeValue, Event};

/// Most headers that are carried: room for what producers set, too little to make every event a burden.
const MAX_CARRIED: usize = 32;

/// The event that a plain message is.
pub(super) fn decode(message: &Message<'_>, defaults: &Defaults<'_>) -> Event {
    let mut event = Event {
        id: defaults.id.to_owned(),
        source: defaults.source.to_owned(),
        ty: defaults.ty.to_owned(),
        subject: defaults.subject.map(str::to_owned),
        time: defaults.time.filter(|time| check::writable(*time)),
        datacontenttype: message.header(CONTENT_TYPE).filter(|v| check::is_text(v)).map(str::to_owned),
        dataschema: None,
        extensions: Vec::new(),
        data: message.payload.clone(),
    };
    for (name, value) in message.headers {
        let name = extension_name(name);
        let fits = check::is_extension_name(&name) && check::is_text(value) && event.extensions.len() < MAX_CARRIED;
        if fits && name != "contenttype" && event.extension(&name).is_none() {
            event.extensions.push((name, AttributeValue::String(value.clone())));
        }
    }
    event
}

fn extension_name(header: &str) -> String {
    header.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect()
}
