//! Compiled components on disk, so that a node starts without compiling.
//!
//! Invariant: `deserialize` only ever sees bytes that this program wrote for this engine on this CPU: the directory is
//! ours alone (0700), the file is ours and nobody else may write it, and the hash stored in it covers its key and its
//! content. Anything else is compiled again and replaced. Uploads never get here.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::{RuntimeError, hex};

/// How a file begins; the number moves when the layout does.
const MAGIC: &[u8; 16] = b"oncue-compiled-1";
/// Magic and hash before the content.
const HEADER: usize = MAGIC.len() + 32;
const EXTENSION: &str = "compiled";

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
    /// Opens the cache in `dir`, made if it is not there.
    pub(super) fn open(dir: &Path, bytes_max: u64, engine: &Engine) -> Result<Self, RuntimeError> {
        let owner = own(dir).map_err(|source| RuntimeError::CacheDir { dir: dir.to_owned(), source })?;
        Ok(Self { dir: dir.to_owned(), owner, bytes_max, engine: engine_key(engine) })
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
    pub(super) fn put(&self, digest: &[u8; 32], component: &Component) {
        let path = self.path(digest);
        let written = component.serialize().map_err(std::io::Error::other).and_then(|content| {
            self.write(&path, digest, &content)?;
            self.trim()
        });
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

    /// Removes the files that were used longest ago, until the rest is within the limit.
    fn trim(&self) -> std::io::Result<()> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file() {
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let mut sum: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if sum <= self.bytes_max {
                break;
            }
            std::fs::remove_file(path)?;
            sum -= len;
        }
        Ok(())
    }
}

/// Makes `dir` ours alone and gives the user that we are.
fn own(dir: &Path) -> std::io::Result<u32> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let probe = dir.join(format!("{}.probe", uuid::Uuid::new_v4().simple()));
    let us = create_private(&probe)?.metadata()?.uid();
    std::fs::remove_file(&probe)?;
    let metadata = std::fs::metadata(dir)?;
    if metadata.uid() != us {
        return Err(std::io::Error::other("the directory belongs to another user"));
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

/// The only unsafe block of the project.
#[allow(unsafe_code)]
fn deserialize(engine: &Engine, content: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `content` is the output of `Component::serialize` of an engine with the same `precompile_compatibility_hash`,
    // written by `Cache::write` and unchanged since: `Cache::read` has checked owner, mode and the SHA-256 over engine,
    // component and content, and it is in memory now, so that nobody can change it under us. Who could forge that hash is
    // this user, who can already replace the program.
    unsafe { Component::deserialize(engine, content) }
}
