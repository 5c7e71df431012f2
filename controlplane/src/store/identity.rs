//! The identity file: whose data this is and which engine made it, as text that people can read.
//! Its last line is a checksum over the others, so that a slip of an editor is not taken for another member.

use super::Backend;
use super::durable::write_durably;
use record::{Damage, Identity, StoreError};
use std::path::Path;
use std::{fs, io};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct IdentityFile {
    pub identity: Identity,
    pub backend: Backend,
}

impl IdentityFile {
    pub fn write(&self, path: &Path) -> Result<(), StoreError> {
        write_durably(path, self.text().as_bytes())
    }

    /// Errs with `Damaged` if it is missing or does not verify.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Damage::Missing { part: "identity file" }.into());
            }
            Err(error) => return Err(super::io("read", path)(error)),
        };
        let unreadable = |why: &str| Damage::IdentityUnreadable { why: why.to_owned() };
        let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not text"))?;
        let file = Self::parse(&text).ok_or_else(|| unreadable("a line is missing or malformed"))?;
        // Written again it must be the same bytes, checksum included.
        if file.text() != text { Err(unreadable("its checksum is wrong").into()) } else { Ok(file) }
    }

    fn text(&self) -> String {
        let Identity { cluster, member, incarnation } = self.identity;
        let body = format!(
            "quorate-store 1\ncluster {}\nmember {member}\nincarnation {incarnation}\nbackend {}\n",
            hex(&cluster),
            self.backend
        );
        let crc = record::checksum(body.as_bytes());
        format!("{body}crc32 {crc:08x}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let _version = value("quorate-store").filter(|version| *version == "1")?;
        let cluster = unhex(value("cluster")?)?;
        let member = value("member")?.parse().ok()?;
        let incarnation = value("incarnation")?.parse().ok()?;
        let backend = value("backend")?.parse().ok()?;
        Some(Self { identity: Identity { cluster, member, incarnation }, backend })
    }
}

pub(super) fn hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes))?
}
