//! An address as people may see it: of a URL only scheme, host, port and database.
//!
//! Invariant: what stands before an `@`, and parameters, are never shown; neither is an address that has no such form, since
//! a password with a character that is not encoded ends up anywhere in it.

/// What stands in the place of an address that is none.
pub const HIDDEN: &str = "(not a valid address)";

/// `url`, or each of several separated by commas, without users, passwords, tokens and parameters.
#[must_use]
pub fn shown(url: &str) -> String {
    let servers: Vec<&str> = url.split(',').map(str::trim).collect();
    // A comma may be one of a password: what follows has an @ then, and no scheme, and what stands before may be its beginning.
    let may_be_cut = |pair: &[&str]| {
        let begins = pair[0].contains("://") || !pair[0].contains('@');
        begins && !pair[1].contains("://") && pair[1].contains('@')
    };
    let has_parameters = servers.len() > 1 && url.contains(['?', '#']);
    if has_parameters || servers.windows(2).any(may_be_cut) {
        return HIDDEN.to_owned();
    }
    servers.into_iter().map(one).collect::<Vec<_>>().join(",")
}

fn one(server: &str) -> String {
    let (scheme, rest) = server.split_once("://").map_or((None, server), |(scheme, rest)| (Some(scheme), rest));
    let (rest, parameters) = rest.split_once(['?', '#']).unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if path.contains('@') || parameters.contains('@') {
        // Of a password with a character that is not encoded nobody knows where it ends.
        return HIDDEN.to_owned();
    }
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_postgres = matches!(scheme, Some("postgres" | "postgresql"));
    let is_scheme = scheme.is_none_or(|scheme| !scheme.is_empty() && scheme.chars().all(plain));
    let is_database = path.chars().all(|c| plain(c) || c == '%');
    if !is_scheme || !is_place(place, plain) || (is_postgres && !is_database) {
        return HIDDEN.to_owned();
    }
    let database = if is_postgres && !path.is_empty() { format!("/{path}") } else { String::new() };
    scheme.map_or_else(|| place.to_owned(), |scheme| format!("{scheme}://{place}{database}"))
}

/// `host`, `host:port`, `[::1]:port`; a host may be empty, as in `postgres:///shop`.
fn is_place(place: &str, plain: impl Fn(char) -> bool) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    if let Some(rest) = place.strip_prefix('[') {
        let Some((host, after)) = rest.split_once(']') else { return false };
        let is_host = host.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'));
        return is_host && (after.is_empty() || after.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port)));
    // A socket's directory is percent-encoded.
    host.chars().all(|c| plain(c) || c == '%') && port.is_none_or(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        let table = [
            ("nats://me:secret@host:4222", "nats://host:4222"),
            ("nats://host:4222", "nats://host:4222"),
            ("token@a:1, tls://u:p@b:2", "a:1,tls://b:2"),
            ("nats://host:4222/?token=hush#hush", "nats://host:4222"),
            ("nats://me:hu@sh@[::1]:4222/x", "nats://[::1]:4222"),
            ("nats://me:hu/sh@host:4222", HIDDEN),
            ("nats://host?password=hu@sh", HIDDEN),
            ("nats://me:hush", HIDDEN),
            ("nats://me:hu,sh@b:2", HIDDEN),
            ("nats://12,sh@b:2", HIDDEN),
            ("postgres://u@h/d?password=hu,sh", HIDDEN),
            ("postgres://me:hush@db:5432/shop?password=hush", "postgres://db:5432/shop"),
            ("postgres://me:1/hush@db/shop", HIDDEN),
            ("postgres:///shop?host=/run/pg", "postgres:///shop"),
            ("hush hush", HIDDEN),
        ];
        for (given, expected) in table {
            assert_eq!(shown(given), expected, "{given}");
        }
    }
}
