//! Archives of images: OCI layouts in a tar, and what `docker save` writes (manifest.json naming a config and
//! uncompressed layers). Entries are unpacked under names of our own, so an archive cannot choose where.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use amphipod_node::images::{Digest, media};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tar::{Archive, EntryType};

use super::ImageError;
use super::artifact::{Artifact, Blob};
use super::layout::{self, Files, Unpacked};

/// Entries of an archive at most: an image has a few per layer.
const MAX_ENTRIES: usize = 10_000;

/// One image of `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

/// Reads the image in an archive.
pub fn read(path: &Path) -> Result<Artifact, ImageError> {
    let temp = std::env::temp_dir();
    let dir = tempfile::tempdir().map_err(ImageError::io("create a directory in", &temp))?;
    let files = unpack(path, dir.path()).map_err(ImageError::io("read", path))?;
    let unpacked = Unpacked {
        archive: path.to_owned(),
        files,
    };
    // Newer docker writes both; the layout keeps the original digests.
    let artifact = match (unpacked.find("index.json"), unpacked.find("manifest.json")) {
        (Some(_), _) if unpacked.find("oci-layout").is_some() => layout::read_files(&unpacked),
        (_, Some(manifest)) => docker(&unpacked, &manifest),
        _ => {
            let reason =
                "the archive holds neither an OCI layout nor a docker image (no manifest.json)".to_owned();
            Err(ImageError::Source {
                path: path.to_owned(),
                reason,
            })
        }
    };
    Ok(artifact?.with_files(dir))
}

/// Unpacks regular files as `dir/0`, `dir/1`, …; links point at what they name.
fn unpack(path: &Path, dir: &Path) -> io::Result<HashMap<String, PathBuf>> {
    let mut files = HashMap::new();
    let mut links = Vec::new();
    for (number, entry) in Archive::new(open(path)?).entries()?.enumerate() {
        let mut entry = entry?;
        if number >= MAX_ENTRIES {
            return Err(io::Error::other(format!(
                "it has more than {MAX_ENTRIES} entries"
            )));
        }
        let name = normal(&entry.path()?);
        match entry.header().entry_type() {
            EntryType::Regular => {
                let target = dir.join(number.to_string());
                io::copy(&mut entry, &mut File::create_new(&target)?)?;
                files.insert(name, target);
            }
            EntryType::Symlink | EntryType::Link => {
                let parent = Path::new(&name).parent().unwrap_or(Path::new("")).to_owned();
                let target = entry.link_name()?.unwrap_or_default().into_owned();
                let relative = entry.header().entry_type() == EntryType::Symlink;
                links.push((name, normal(&if relative { parent.join(target) } else { target })));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        if let Some(file) = files.get(&target).cloned() {
            files.insert(name, file);
        }
    }
    Ok(files)
}

fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut file = File::open(path)?;
    let mut magic = [0; 2];
    let n = file.read(&mut magic)?;
    file.rewind()?;
    let file = BufReader::new(file);
    Ok(if magic[..n] == [0x1f, 0x8b] {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    })
}

/// A path without `.` and `..`, for looking it up in a map.
fn normal(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

/// Makes an OCI image of a docker archive: same config, layers as they are.
fn docker(files: &Unpacked, manifest: &Path) -> Result<Artifact, ImageError> {
    let damaged = |message: String| ImageError::Layout {
        path: files.archive.clone(),
        message,
    };
    let bytes = fs::read(manifest).map_err(ImageError::io("read", manifest))?;
    let saved: Vec<Saved> =
        serde_json::from_slice(&bytes).map_err(|error| damaged(format!("manifest.json: {error}")))?;
    let [image] = &saved[..] else {
        return Err(damaged(format!(
            "it holds {} images, push takes one at a time",
            saved.len()
        )));
    };
    let find = |name: &String| {
        files
            .find(name)
            .ok_or_else(|| damaged(format!("{name} is missing")))
    };
    let config = find(&image.config)?;
    let config = Blob::memory(fs::read(&config).map_err(ImageError::io("read", &config))?);
    let layers = image
        .layers
        .iter()
        .map(|name| layer(&find(name)?))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Artifact::image((config, media::OCI_CONFIG), layers))
}

fn layer(path: &Path) -> Result<(Blob, &'static str), ImageError> {
    let failed = || ImageError::io("read", path);
    let mut file = File::open(path).map_err(failed())?;
    let mut magic = [0; 2];
    let n = file.read(&mut magic).map_err(failed())?;
    file.rewind().map_err(failed())?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(failed())? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let media_type = if magic[..n] == [0x1f, 0x8b] {
        media::OCI_LAYER_GZIP
    } else {
        media::OCI_LAYER
    };
    Ok((Blob::file(Digest::finish(hasher), path)?, media_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_tricks() {
        for (path, expected) in [
            ("a/b", "a/b"),
            ("./a/./b", "a/b"),
            ("x/../y", "y"),
            ("../../y", "y"),
            ("/a", "a"),
        ] {
            assert_eq!(normal(Path::new(path)), expected);
        }
    }
}
