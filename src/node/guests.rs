//! Where the statements of functions go: the node's own database, as another user.

use crate::bus::postgres::{Replication, SslMode};
use crate::store::guest::{Address, Verify};

/// The server and the database of `url`. User and password are not taken over: each role has its own login.
///
/// # Errors
/// What of the address cannot be read, in words for whoever grants SQL to a function.
pub(super) fn address(url: &str) -> Result<Address, String> {
    let read = Replication::of_url(url);
    let read = read.map_err(|why| {
        format!("functions cannot run statements: the address of the database in [node] cannot be read: {why}")
    })?;
    let verify = match read.tls.mode {
        SslMode::Disable => Verify::Off,
        SslMode::Prefer => Verify::Prefer,
        SslMode::Require => Verify::Require,
        SslMode::VerifyCa => Verify::Ca,
        SslMode::VerifyFull => Verify::Full,
    };
    Ok(Address {
        host: read.host,
        port: read.port,
        socket: read.socket,
        database: read.database,
        verify,
        ca: read.tls.ca,
        identity: read.tls.cert.zip(read.tls.key),
    })
}
