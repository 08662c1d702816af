//! Compiled components on disk, so that a node starts without compiling.
//!
//! Invariant: `deserialize` only ever sees bytes that this program wrote for this engine on this CPU: the folder is
//! ours alone (0700), the file is ours and nobody else may write it, and the hash stored in it covers its key and its
//! content. Anything else is compiled again and replaced. Uploads never get here. Nothing is removed or changed but files
//! of our own names in a folder of our own name, which holds nothing else.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::compile::Artefact;
use super::{RuntimeError, hex};

/// The folder within the one that the operator names: that one may hold anything, and is left as it is.
pub(super) const FOLDER: &str = "oncue-components";

/// How a file begins; the number moves when the layout does.
const MAGIC: &[u8; 16] = b"oncue-compiled-1";
/// Magic and hash before the content.
const HEADER: usize = MAGIC.len() + 32;
const EXTENSION: &str = "compiled";
/// How the names of files end that a process leaves behind when it is killed at the wrong moment.
const PASSING: [&str; 2] = [".tmp", ".probe"];
/// A file that is written is done long before.
const PASSING_FOR: Duration = Duration::from_secs(3_600);

/// The cache in one directory.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    owner: u32,
    bytes_max: u64,
    /// Version, settings and CPU of the engine.
    engine: [u8; 32],
}

impl Cache {
    /// Opens the cache in its folder in `dir`; both are made if they are not there.
    pub(super) fn open(dir: &Path, bytes_max: u64, engine: &Engine) -> Result<Self, RuntimeError> {
        let dir = dir.join(FOLDER);
        let owner = own(&dir).map_err(|source| RuntimeError::CacheDir { dir: dir.clone(), source })?;
        let cache = Self { dir, owner, bytes_max, engine: engine_key(engine) };
        if let Err(error) = cache.trim() {
            tracing::warn!(path = %cache.dir.display(), error = %error, "cannot remove old compiled components");
        }
        Ok(cache)
    }

    /// The compiled form of the component with this digest, if it is there and whole.
    pub(super) fn get(&self, engine: &Engine, digest: &[u8; 32]) -> Option<Component> {
        let path = self.path(digest);
        let file = self.read(&path, digest)?;
        match deserialize(engine, &file[HEADER..]) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(path = %path.display(), error = %error, "compiled component refused; compiling again");
                None
            }
        }
    }

    /// Keeps the compiled form. A cache that cannot be written costs time, not events: it is logged and passed over.
    pub(super) fn put(&self, digest: &[u8; 32], artefact: &Artefact) {
        let path = self.path(digest);
        let written = self.write(&path, digest, artefact.bytes()).and_then(|()| self.trim());
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), error = %error, "cannot keep the compiled component");
        }
    }

    fn path(&self, digest: &[u8; 32]) -> PathBuf {
        self.dir.join(format!("{}-{}.{EXTENSION}", hex(digest), hex(&self.engine[..8])))
    }

    /// The whole file, if it is ours and its hash is right.
    fn read(&self, path: &Path, digest: &[u8; 32]) -> Option<Vec<u8>> {
        let mut file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        let mut bytes = Vec::new();
        let trusted = self.is_ours(&metadata) && file.read_to_end(&mut bytes).is_ok();
        let whole = trusted && bytes.len() > HEADER && bytes.starts_with(MAGIC);
        if !whole || bytes[MAGIC.len()..HEADER] != self.seal(digest, &bytes[HEADER..]) {
            tracing::warn!(path = %path.display(), "compiled component is damaged or not ours; compiling again");
            return None;
        }
        // The last use is what `trim` goes by. If it cannot be set the file is only removed sooner.
        drop(file.set_modified(SystemTime::now()));
        Some(bytes)
    }

    fn is_ours(&self, metadata: &Metadata) -> bool {
        metadata.is_file() && metadata.uid() == self.owner && metadata.mode() & 0o022 == 0
    }

    /// Covers the key as well, so that a file that was renamed to another component's name is refused.
    fn seal(&self, digest: &[u8; 32], content: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.engine).chain_update(digest).chain_update(content).finalize().into()
    }

    fn write(&self, path: &Path, digest: &[u8; 32], content: &[u8]) -> std::io::Result<()> {
        let temporary = path.with_extension(format!("{}.tmp", uuid::Uuid::new_v4().simple()));
        let mut file = create_private(&temporary)?;
        let written = [MAGIC.as_slice(), &self.seal(digest, content), content]
            .into_iter()
            .try_for_each(|part| file.write_all(part))
            .and_then(|()| std::fs::rename(&temporary, path));
        if written.is_err() {
            drop(std::fs::remove_file(&temporary));
        }
        written
    }

    /// Removes the files that were used longest ago, until the rest is within the limit, and what was never finished.
    /// Other nodes may do the same in the same folder: what is gone already is no error.
    fn trim(&self) -> std::io::Result<()> {
        let now = SystemTime::now();
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Some(metadata) = still_there(entry.metadata())? else { continue };
            let name = entry.file_name();
            if !metadata.is_file() || !name.to_str().is_some_and(is_ours) {
                continue;
            }
            let modified = metadata.modified()?;
            let old = now.duration_since(modified).is_ok_and(|age| age > PASSING_FOR);
            match name.to_str().is_some_and(is_passing) {
                true if old => drop(still_there(std::fs::remove_file(entry.path()))?),
                true => {}
                false => files.push((modified, metadata.len(), entry.path())),
            }
        }
        files.sort();
        let mut sum: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if sum <= self.bytes_max {
                break;
            }
            still_there(std::fs::remove_file(path))?;
            sum -= len;
        }
        Ok(())
    }
}

fn still_there<T>(done: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// `<digest>-<engine>.compiled`, `<digest>-<engine>.<unique>.tmp`, `<unique>.probe`.
fn is_ours(name: &str) -> bool {
    let hex = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
    let (stem, rest) = name.split_once('.').unwrap_or((name, ""));
    let component = stem.split_once('-').is_some_and(|(digest, engine)| hex(digest, 64) && hex(engine, 16));
    match rest {
        EXTENSION => component,
        "probe" => hex(stem, 32),
        rest => component && rest.strip_suffix(".tmp").is_some_and(|unique| hex(unique, 32)),
    }
}

fn is_passing(name: &str) -> bool {
    PASSING.iter().any(|end| name.ends_with(end))
}

/// Makes the folder `dir`, or takes it if it is our own and holds nothing else. Gives the user that we are.
fn own(dir: &Path) -> std::io::Result<u32> {
    if let Some(above) = dir.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(above)?;
    }
    let refused = |text: String| Err(std::io::Error::other(text));
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    // Not through a link: where that leads, others may have put their own.
    let metadata = std::fs::symlink_metadata(dir)?;
    if !metadata.is_dir() {
        return refused("it is no folder: move it away".to_owned());
    }
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !name.to_str().is_some_and(is_ours) {
            return refused(format!("it holds {name:?}, which is not Oncue's: move that away; nothing was changed"));
        }
    }
    let probe = dir.join(format!("{}.probe", uuid::Uuid::new_v4().simple()));
    let us = create_private(&probe)?.metadata()?.uid();
    std::fs::remove_file(&probe)?;
    if metadata.uid() != us {
        return refused("it belongs to another user: name another folder".to_owned());
    }
    if metadata.mode() & 0o077 != 0 {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(us)
}

fn create_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// What compiled code depends on beside its component.
fn engine_key(engine: &Engine) -> [u8; 32] {
    let mut hasher = ShaHasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.finalize().into()
}

/// Feeds a `Hash` to SHA-256: 64 bits of SipHash would be too few to tell settings apart for good.
struct ShaHasher(Sha256);

impl Hasher for ShaHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// The component of machine code that was made just now.
pub(super) fn admit(engine: &Engine, artefact: &Artefact) -> wasmtime::Result<Component> {
    deserialize(engine, artefact.bytes())
}

/// The only unsafe block of the project.
#[allow(unsafe_code)]
fn deserialize(engine: &Engine, content: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `content` is the output of `Engine::precompile_component` of this program, unchanged since, and in memory
    // now, so that nobody can change it under us. Either it is an `Artefact`: a child process that runs this very program
    // (or the one that the operator of the library named) has made it, sent it through a pipe of which nobody else has an
    // end, with its length and SHA-256, and ended well. Or `Cache::read` has checked owner, mode and the SHA-256 over
    // engine, component and content of a file that `Cache::write` wrote of such an artefact; who could forge that hash is
    // this user, who can already replace the program. That the engines' settings are the same is checked by wasmtime, too.
    unsafe { Component::deserialize(engine, content) }
}
