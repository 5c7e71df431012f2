//! Entries of a tar archive, as POSIX and GNU write them, put into a tree.
//! In: the bytes of an archive, from anybody. Out: entries; or why not, with the entry it happened at.
//! Of the `tar` crate only single headers are used: as a whole it splits extended headers at line ends, which the values of
//! attributes may hold, passes over numbers it cannot read, takes any amount of memory for names, and an archive that was cut
//! between two entries for a whole one. What two programs could read differently is refused here.

use std::io::{self, Read};

use rustix::fs::FileType;
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use crate::build::{Attributes, Build, CAPABILITY, CAPABILITY_MAX, What};
use crate::compression;
use crate::error::{Bad, ImportError};
use crate::path::{Inside, escaped};

const BLOCK: usize = 512;
/// All headers of one entry together: long names, extended attributes, the map of a sparse file.
const HEADERS_MAX: u64 = 4 << 20;
const XATTR: &str = "SCHILY.xattr.";
const ACL: &str = "SCHILY.acl.";
const SPARSE: &str = "GNU.sparse.";

/// Puts every entry of `content` into the tree.
pub fn unpack(content: impl Read, build: &mut Build<'_, '_>) -> Result<(), ImportError> {
    let mut stream = Stream { inner: content, left: 0, padding: 0, headers: 0 };
    loop {
        let entry = stream.next_entry().map_err(|fault| fault.at(build.at().to_owned(), build))?;
        let Some(entry) = entry else { break };
        let name = entry.name();
        put(entry, &mut stream, build).map_err(|fault| fault.at(escaped(&name), build))?;
    }
    // Until the end, where the checksum of what was compressed is.
    io::copy(&mut stream.inner, &mut io::sink())
        .map_err(|source| Fault::Io(source).at(build.at().to_owned(), build))?;
    Ok(())
}

enum Fault {
    Bad(Bad),
    Io(io::Error),
    Import(ImportError),
}

impl Fault {
    fn at(self, at: String, build: &Build<'_, '_>) -> ImportError {
        match self {
            Fault::Bad(bad) => bad.at(&at),
            Fault::Io(source) => compression::told(source, &at, build.limits()),
            Fault::Import(error) => error,
        }
    }
}

impl From<Bad> for Fault {
    fn from(bad: Bad) -> Fault {
        Fault::Bad(bad)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Io(error)
    }
}

impl From<ImportError> for Fault {
    fn from(error: ImportError) -> Fault {
        Fault::Import(error)
    }
}

fn damaged(what: &str) -> Fault {
    Fault::Io(io::Error::new(io::ErrorKind::InvalidData, what))
}

fn header(error: impl ToString) -> Fault {
    Bad::Header(error.to_string()).into()
}

/// One entry: its header, and what the headers before it said.
struct Entry {
    header: Box<Header>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    extended: Extended,
}

impl Entry {
    /// As written.
    fn name(&self) -> Vec<u8> {
        let given = self.extended.sparse_name.as_ref().or(self.extended.name.as_ref()).or(self.long_name.as_ref());
        given.cloned().unwrap_or_else(|| self.header.path_bytes().into_owned())
    }

    fn link(&self) -> Option<Vec<u8>> {
        let given = self.extended.link.as_ref().or(self.long_link.as_ref()).cloned();
        given.or_else(|| self.header.link_name_bytes().map(|link| link.into_owned()))
    }

    fn attributes(&self) -> Result<Attributes, Fault> {
        let number = |given: Option<u64>, written: io::Result<u64>| given.map_or_else(|| written.map_err(header), Ok);
        let id = |id: u64| u32::try_from(id).map_err(|_| header(format!("owner {id}")));
        let written = |seconds: u64| (i64::try_from(seconds).unwrap_or_default(), 0);
        Ok(Attributes {
            mode: self.header.mode().map_err(header)?,
            uid: id(number(self.extended.uid, self.header.uid())?)?,
            gid: id(number(self.extended.gid, self.header.gid())?)?,
            mtime: self.extended.mtime.map_or_else(|| self.header.mtime().map(written).map_err(header), Ok)?,
            capability: self.extended.capability.clone(),
        })
    }

    fn device(&self) -> Result<u64, Fault> {
        let number = |number: io::Result<Option<u32>>| number.map_err(header).map(Option::unwrap_or_default);
        Ok(rustix::fs::makedev(number(self.header.device_major())?, number(self.header.device_minor())?))
    }
}

fn put<R: Read>(entry: Entry, stream: &mut Stream<R>, build: &mut Build<'_, '_>) -> Result<(), Fault> {
    for attribute in &entry.extended.left_out {
        build.leave_out(attribute);
    }
    let (name, attributes) = (entry.name(), entry.attributes()?);
    let kind = entry.header.entry_type();
    // The oldest archives have no entries for folders, only names that end so.
    let is_folder = name.last() == Some(&b'/') && stream.left == 0;
    let what = match kind {
        EntryType::Regular | EntryType::Continuous if is_folder => What::Folder,
        EntryType::Regular | EntryType::Continuous => {
            let Some(size) = entry.extended.sparse_size()? else {
                let size = stream.left;
                return Ok(build.put(&name, attributes, What::File { content: stream, size })?);
            };
            let pieces = pieces_before_content(stream, size)?;
            let mut content = Sparse { stream, pieces, at: 0, size };
            return Ok(build.put(&name, attributes, What::File { content: &mut content, size })?);
        }
        EntryType::GNUSparse => {
            let (pieces, size) = pieces_of_header(&entry.header, stream)?;
            let mut content = Sparse { stream, pieces, at: 0, size };
            return Ok(build.put(&name, attributes, What::File { content: &mut content, size })?);
        }
        EntryType::Directory => What::Folder,
        EntryType::Symlink => {
            let target = entry.link().ok_or(Bad::NoTarget)?;
            return Ok(build.put(&name, attributes, What::Link { target: &target })?);
        }
        EntryType::Link => {
            let target = entry.link().ok_or(Bad::NoTarget)?;
            What::HardLink { of: Inside::new(&target).map_err(|_| Bad::HardLinkOut(escaped(&target)))? }
        }
        EntryType::Char => What::Device { kind: FileType::CharacterDevice, device: entry.device()? },
        EntryType::Block => What::Device { kind: FileType::BlockDevice, device: entry.device()? },
        EntryType::Fifo => What::Fifo,
        other => return Err(Bad::Kind(char::from(other.as_byte())).into()),
    };
    Ok(build.put(&name, attributes, what)?)
}

/// The archive between its headers. Read: the content of the entry that is at hand.
struct Stream<R> {
    inner: R,
    /// Of the content, and of what fills its last block.
    left: u64,
    padding: u64,
    /// Bytes of headers since the last entry.
    headers: u64,
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let read = self.inner.read(&mut into[..room])?;
        self.left -= read as u64;
        Ok(read)
    }
}

impl<R: Read> Stream<R> {
    /// The next entry; `None` at the end mark. What is left of the last one is passed over.
    fn next_entry(&mut self) -> Result<Option<Entry>, Fault> {
        self.headers = 0;
        let (mut long_name, mut long_link, mut extended) = (None, None, None);
        loop {
            let rest = self.left + self.padding;
            if io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())? < rest {
                return Err(damaged("it ends within an entry"));
            }
            let mut block = [0; BLOCK];
            self.block(&mut block)?;
            if block == [0; BLOCK] {
                return match (long_name, long_link, extended) {
                    (None, None, None) => Ok(None),
                    _ => Err(damaged("it ends where an entry was announced")),
                };
            }
            let header = Box::new(Header::from_byte_slice(&block).clone());
            let sum = |sum: u32, byte: &u8| sum + u32::from(*byte);
            let found = block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]).fold(0, sum);
            if header.cksum().ok() != Some(found) {
                return Err(damaged("the checksum of a header is wrong"));
            }
            self.left = header.entry_size().map_err(|error| damaged(&error.to_string()))?;
            self.pad()?;
            let once = |there: bool| if there { Err(damaged("an entry is announced twice")) } else { Ok(()) };
            match header.entry_type() {
                EntryType::GNULongName => {
                    once(long_name.is_some())?;
                    long_name = Some(zero_ended(self.announced()?));
                }
                EntryType::GNULongLink => {
                    once(long_link.is_some())?;
                    long_link = Some(zero_ended(self.announced()?));
                }
                EntryType::XHeader => {
                    once(extended.is_some())?;
                    extended = Some(Extended::read(&self.announced()?)?);
                }
                EntryType::XGlobalHeader => only_remarks(&self.announced()?)?,
                kind => {
                    let extended = extended.unwrap_or_default();
                    if let Some(size) = extended.size {
                        self.left = size;
                        self.pad()?;
                    }
                    // Some read what follows as the next header then, some as content.
                    if self.left != 0 && !has_content(kind) {
                        let fault = header_of_nothing(self.left);
                        return Err(Fault::Import(fault.at(&escaped(&header.path_bytes()))));
                    }
                    return Ok(Some(Entry { header, long_name, long_link, extended }));
                }
            }
        }
    }

    fn pad(&mut self) -> Result<(), Fault> {
        let end = self.left.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| damaged("an entry without end"))?;
        self.padding = end - self.left;
        Ok(())
    }

    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<(), Fault> {
        self.count(BLOCK as u64)?;
        self.inner.read_exact(block).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it ends without its end mark"),
            _ => Fault::Io(error),
        })
    }

    fn count(&mut self, bytes: u64) -> Result<(), Fault> {
        self.headers = self.headers.saturating_add(bytes);
        if self.headers > HEADERS_MAX {
            return Err(ImportError::TooMuch { what: "bytes of headers of one entry", max: HEADERS_MAX }.into());
        }
        Ok(())
    }

    /// The content of a header about the entry that follows.
    fn announced(&mut self) -> Result<Vec<u8>, Fault> {
        self.count(self.left)?;
        let mut text = vec![0; self.left as usize];
        self.read_exact(&mut text)?;
        Ok(text)
    }
}

fn has_content(kind: EntryType) -> bool {
    use EntryType::{Block, Char, Directory, Fifo, Link, Symlink};
    !matches!(kind, Block | Char | Directory | Fifo | Link | Symlink)
}

fn header_of_nothing(size: u64) -> Bad {
    Bad::Header(format!("{size} bytes of what has no content"))
}

fn zero_ended(mut text: Vec<u8>) -> Vec<u8> {
    if text.last() == Some(&0) {
        text.pop();
    }
    text
}

/// What an extended header says.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    capability: Option<Vec<u8>>,
    /// Of a file with holes: the form its map is in, its name and its size with them.
    sparse_form: (Option<u64>, Option<u64>),
    sparse_name: Option<Vec<u8>>,
    sparse_real_size: Option<u64>,
    left_out: Vec<String>,
}

impl Extended {
    fn read(text: &[u8]) -> Result<Extended, Fault> {
        let mut extended = Extended::default();
        for record in Records(text) {
            let (key, value) = record?;
            extended.take(&String::from_utf8_lossy(key), value)?;
        }
        Ok(extended)
    }

    fn take(&mut self, key: &str, value: &[u8]) -> Result<(), Fault> {
        let wrong = || header(format!("{key} {}", escaped(value)));
        let text = || std::str::from_utf8(value).map_err(|_| wrong());
        let number = || text()?.parse::<u64>().map_err(|_| wrong());
        match key {
            "path" => self.name = Some(value.to_vec()),
            "linkpath" => self.link = Some(value.to_vec()),
            "size" => self.size = Some(number()?),
            "uid" => self.uid = Some(number()?),
            "gid" => self.gid = Some(number()?),
            "mtime" => self.mtime = Some(time(text()?).ok_or_else(wrong)?),
            "GNU.sparse.major" => self.sparse_form.0 = Some(number()?),
            "GNU.sparse.minor" => self.sparse_form.1 = Some(number()?),
            "GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            "GNU.sparse.realsize" => self.sparse_real_size = Some(number()?),
            _ if key.starts_with(SPARSE) => return Err(Bad::Sparse.into()),
            _ if key.strip_prefix(XATTR) == Some(CAPABILITY) => {
                if value.len() > CAPABILITY_MAX {
                    return Err(wrong());
                }
                self.capability = Some(value.to_vec());
            }
            _ if key.starts_with(XATTR) => self.left_out.push(key[XATTR.len()..].to_owned()),
            _ if key.starts_with(ACL) => self.left_out.push(format!("access list {}", &key[ACL.len()..])),
            // Times of access, names of owners, remarks: of no use to a template.
            _ => {}
        }
        Ok(())
    }

    /// The size of a file whose map stands before its content; `None` of a file without holes.
    fn sparse_size(&self) -> Result<Option<u64>, Fault> {
        match (self.sparse_form, self.sparse_real_size) {
            ((None, None), None) => Ok(None),
            ((Some(1), Some(0)), Some(size)) => Ok(Some(size)),
            _ => Err(Bad::Sparse.into()),
        }
    }
}

/// A header for all entries that follow. Only remarks are taken: owners or names for everybody would be told of nobody.
fn only_remarks(text: &[u8]) -> Result<(), Fault> {
    for record in Records(text) {
        let (key, _) = record?;
        if key != b"comment" {
            return Err(damaged(&format!("a header says {} of every entry", escaped(key))));
        }
    }
    Ok(())
}

/// `LENGTH KEY=VALUE\n`, where the length counts all of it.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.split();
        if record.is_none() {
            self.0 = &[];
        }
        Some(record.ok_or_else(|| damaged("an extended header cannot be read")))
    }
}

impl<'a> Records<'a> {
    fn split(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let blank = self.0.iter().take(20).position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&self.0[..blank]).ok()?.parse().ok()?;
        let record = self.0.get(blank + 1..length)?.strip_suffix(b"\n")?;
        self.0 = &self.0[length..];
        let equals = record.iter().position(|byte| *byte == b'=')?;
        Some((&record[..equals], &record[equals + 1..]))
    }
}

/// Seconds with a fraction, as `1350244992.023960108` or `-1.5`.
fn time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
    Some(match (text.starts_with('-'), nanoseconds) {
        (true, 1..) => (seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds),
        _ => (seconds, nanoseconds),
    })
}

/// Where a file with holes has content: offset and length. The first one is the last of the list.
type Pieces = Vec<(u64, u64)>;

/// Checks that pieces follow each other within `size`.
struct Gathering {
    pieces: Pieces,
    end: u64,
    sum: u64,
    size: u64,
}

impl Gathering {
    fn new(size: u64) -> Gathering {
        Gathering { pieces: Vec::new(), end: 0, sum: 0, size }
    }

    fn add(&mut self, offset: u64, length: u64) -> Result<(), Fault> {
        let end = offset.checked_add(length).filter(|end| offset >= self.end && *end <= self.size);
        self.end = end.ok_or_else(|| header(format!("a piece of {length} bytes at {offset} of {}", self.size)))?;
        self.sum += length;
        self.pieces.push((offset, length));
        Ok(())
    }

    /// All of the content belongs to a piece.
    fn done(mut self, content: u64) -> Result<Pieces, Fault> {
        if self.sum != content {
            return Err(header(format!("pieces of {} bytes, with {content} bytes of content", self.sum)));
        }
        self.pieces.reverse();
        Ok(self.pieces)
    }
}

/// The form 1.0 of GNU tar: numbers, a line each, in blocks of their own before the content.
fn pieces_before_content<R: Read>(stream: &mut Stream<R>, size: u64) -> Result<Pieces, Fault> {
    let (mut block, mut used) = ([0; BLOCK], BLOCK);
    let mut number = |stream: &mut Stream<R>| -> Result<u64, Fault> {
        let mut number = String::new();
        loop {
            if used == BLOCK {
                stream.count(BLOCK as u64)?;
                stream.read_exact(&mut block)?;
                used = 0;
            }
            let byte = block[used];
            used += 1;
            match byte {
                b'0'..=b'9' if number.len() < 20 => number.push(char::from(byte)),
                b'\n' => return number.parse().map_err(|_| header(format!("{number:?} in the map of a sparse file"))),
                _ => return Err(header(format!("byte {byte} in the map of a sparse file"))),
            }
        }
    };
    let count = number(stream)?;
    let mut gathering = Gathering::new(size);
    for _ in 0..count {
        let (offset, length) = (number(stream)?, number(stream)?);
        gathering.add(offset, length)?;
    }
    gathering.done(stream.left)
}

/// The older form: four pieces in the header itself, more in blocks that follow it.
fn pieces_of_header<R: Read>(header: &Header, stream: &mut Stream<R>) -> Result<(Pieces, u64), Fault> {
    let gnu = header.as_gnu().ok_or(Bad::Sparse)?;
    let size = gnu.real_size().map_err(self::header)?;
    let mut gathering = Gathering::new(size);
    let mut add = |piece: &GnuSparseHeader| match piece.is_empty() {
        true => Ok(()),
        false => gathering.add(piece.offset().map_err(self::header)?, piece.length().map_err(self::header)?),
    };
    gnu.sparse.iter().try_for_each(&mut add)?;
    let mut more = gnu.is_extended();
    while more {
        let mut block = GnuExtSparseHeader::new();
        stream.block(block.as_mut_bytes())?;
        block.sparse().iter().try_for_each(&mut add)?;
        more = block.is_extended();
    }
    Ok((gathering.done(stream.left)?, size))
}

/// A file with holes.
struct Sparse<'a, R> {
    stream: &'a mut Stream<R>,
    pieces: Pieces,
    at: u64,
    size: u64,
}

impl<R: Read> Read for Sparse<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.pieces.last().is_some_and(|(offset, length)| offset + length <= self.at) {
            self.pieces.pop();
        }
        let (end, is_hole) = match self.pieces.last() {
            Some((offset, length)) if *offset <= self.at => (offset + length, false),
            Some((offset, _)) => (*offset, true),
            None => (self.size, true),
        };
        let room = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(into.len());
        let read = match is_hole {
            true => {
                into[..room].fill(0);
                room
            }
            false => self.stream.read(&mut into[..room])?,
        };
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_before_and_after_1970() {
        for (text, read) in [
            ("0", Some((0, 0))),
            ("1350244992.023960108", Some((1_350_244_992, 23_960_108))),
            ("12.5", Some((12, 500_000_000))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-0.25", Some((-1, 750_000_000))),
            ("12.0000000009", Some((12, 0))),
            ("", None),
            ("1.x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text), read, "{text}");
        }
    }
}
