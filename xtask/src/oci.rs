//! Container images, as a tar of the OCI image layout: what `ctr images import`, `skopeo` and `podman load` read.
//!
//! The same files give the same bytes: entries are sorted, belong to root, and are from 1970, and the lock file says which compressor
//! makes the layer of an image that is meant to be shipped.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::sys::mode;

/// What an image is called and how its program is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Image<'a> {
    /// With its registry and tag: `devbox.test/services:1`.
    pub(crate) reference: &'a str,
    /// As Go names it: `amd64`.
    pub(crate) architecture: &'a str,
    pub(crate) entry_point: &'a [&'a str],
    /// By number, since a pod that must not run as root has to know (`runAsNonRoot`).
    pub(crate) user: u32,
    /// Whether its layer is compressed: smaller to pull, slower to make.
    pub(crate) compressed: bool,
}

/// What was written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// The image's digest: that of its manifest.
    pub(crate) digest: String,
    /// The size of its only layer, as a registry stores it.
    pub(crate) layer_bytes: usize,
    /// The size of the files in it.
    pub(crate) unpacked_bytes: usize,
}

/// Writes the image whose only layer is the folder `root`.
pub(crate) fn pack(image: &Image<'_>, root: &Path, to: &Path) -> Result<Packed> {
    let unpacked = layer(root).with_context(|| root.display().to_string())?;
    let (diff_id, unpacked_bytes) = (digest(&unpacked), unpacked.len());
    let (layer, media_type) = if image.compressed {
        (gzip(&unpacked)?, "application/vnd.oci.image.layer.v1.tar+gzip")
    } else {
        (unpacked, "application/vnd.oci.image.layer.v1.tar")
    };
    let config = serde_json::to_vec(&json!({
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "Entrypoint": image.entry_point,
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "User": format!("{0}:{0}", image.user),
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor(media_type, &layer)],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["platform"] = json!({"architecture": image.architecture, "os": "linux"});
    let tag = image.reference.rsplit(':').next();
    entry["annotations"] = json!({
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": tag,
    });
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;

    let mut archive = Builder::new(Vec::new());
    add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add(&mut archive, "index.json", &index)?;
    for blob in [&manifest, &config, &layer] {
        let name = digest(blob).replacen("sha256:", "blobs/sha256/", 1);
        add(&mut archive, &name, blob)?;
    }
    // Under another name until it is whole: whoever is stopped half-way leaves no image that cannot be read.
    let unfinished = to.with_extension("unfinished");
    File::create(&unfinished)
        .and_then(|mut file| file.write_all(&archive.into_inner()?))
        .and_then(|()| fs::rename(&unfinished, to))
        .with_context(|| to.display().to_string())?;
    Ok(Packed {
        digest: digest(&manifest),
        layer_bytes: layer.len(),
        unpacked_bytes,
    })
}

/// Without a name and a time, so that the same bytes give the same.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}

/// A tar of everything below `root`.
fn layer(root: &Path) -> Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    add_folder(&mut archive, root, Path::new(""))?;
    Ok(archive.into_inner()?)
}

fn add_folder(archive: &mut Builder<Vec<u8>>, root: &Path, folder: &Path) -> Result<()> {
    let mut names = fs::read_dir(root.join(folder))?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        let path = folder.join(name);
        let file = root.join(&path);
        let metadata = file.symlink_metadata()?;
        let mut header = header(mode(&metadata));
        if metadata.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, &path, fs::read_link(&file)?)?;
        } else if metadata.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            archive.append_data(&mut header, &path, &[][..])?;
            add_folder(archive, root, &path)?;
        } else {
            let bytes = fs::read(&file)?;
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, &path, &bytes[..])?;
        }
    }
    Ok(())
}

fn add(archive: &mut Builder<Vec<u8>>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(0o644);
    header.set_size(bytes.len() as u64);
    Ok(archive.append_data(&mut header, name, bytes)?)
}

/// A file of root's, from 1970.
fn header(mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn digest(blob: &[u8]) -> String {
    let hash = Sha256::digest(blob);
    hash.iter()
        .fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    const IMAGE: Image<'_> = Image {
        reference: "devbox.test/it:1",
        architecture: "amd64",
        entry_point: &["/it"],
        user: 65532,
        compressed: false,
    };

    /// A folder with these files, written in this order.
    fn folder(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        root
    }

    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(
                (entry.header().uid().unwrap(), entry.header().mtime().unwrap()),
                (0, 0)
            );
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            found.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        found
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let out = tempfile::tempdir().unwrap();
        let written = |name: &str, files: &[&str]| {
            let to = out.path().join(name);
            let packed = pack(&IMAGE, folder(files).path(), &to).unwrap();
            (packed, fs::read(to).unwrap())
        };
        let first = written("one.tar", &["it", "etc/b", "etc/a"]);
        assert_eq!(first, written("two.tar", &["etc/a", "etc/b", "it"]));
        assert_ne!(first, written("three.tar", &["etc/a", "etc/b"]));
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 3);
    }

    #[test]
    fn every_blob_is_where_its_digest_says_and_leads_to_the_next() {
        let out = tempfile::tempdir().unwrap();
        let to = out.path().join("image.tar");
        let packed = pack(&IMAGE, folder(&["it", "etc/a"]).path(), &to).unwrap();
        let files = entries(&fs::read(to).unwrap());
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let bytes = &files[&digest.replacen("sha256:", "blobs/sha256/", 1)];
            assert_eq!(super::digest(bytes), digest);
            assert_eq!(bytes.len() as u64, descriptor["size"].as_u64().unwrap());
            bytes.clone()
        };
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = read(&files["index.json"]);
        let entry = &index["manifests"][0];
        assert_eq!(entry["digest"], packed.digest.as_str());
        assert_eq!(
            entry["annotations"]["io.containerd.image.name"],
            "devbox.test/it:1"
        );
        let manifest = read(&blob(entry));
        let config = read(&blob(&manifest["config"]));
        assert_eq!(config["config"]["User"], "65532:65532");
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&layer));
        assert_eq!(layer.len(), packed.layer_bytes);
        let names: Vec<_> = entries(&layer).into_keys().collect();
        assert_eq!(names, ["etc", "etc/a", "it"]);
    }

    #[test]
    fn a_compressed_layer_is_the_same_layer() {
        let out = tempfile::tempdir().unwrap();
        let root = folder(&["it", "etc/a"]);
        let made = |name: &str, compressed: bool| {
            let to = out.path().join(name);
            let image = Image { compressed, ..IMAGE };
            let packed = pack(&image, root.path(), &to).unwrap();
            (packed, entries(&fs::read(to).unwrap()))
        };
        let (plain, plain_files) = made("plain.tar", false);
        let (packed, files) = made("packed.tar", true);
        assert_eq!(
            (&packed, &files),
            (&made("again.tar", true).0, &made("again.tar", true).1)
        );
        assert_eq!(packed.unpacked_bytes, plain.layer_bytes);
        let layer = |files: &BTreeMap<String, Vec<u8>>, bytes: usize| {
            let blobs = files.iter().filter(|(name, _)| name.starts_with("blobs/"));
            blobs
                .map(|(_, blob)| blob.clone())
                .find(|blob| blob.len() == bytes)
                .unwrap()
        };
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*layer(&files, packed.layer_bytes))
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, layer(&plain_files, plain.layer_bytes));
    }
}
