//! Archives as they were compressed, read as what they hold; gives up on those made to fill a storage.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::error::ImportError;
use crate::policy::Limits;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const BUFFER: usize = 128 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the first bytes; what is neither gzip nor zstd is taken for plain.
    pub fn of(start: &[u8]) -> Compression {
        match start {
            _ if start.starts_with(&GZIP) => Compression::Gzip,
            _ if start.starts_with(&ZSTD) => Compression::Zstd,
            _ => Compression::Plain,
        }
    }
}

/// What `compressed` holds. `None` looks at the first bytes.
pub fn open<'a>(
    compressed: impl Read + 'a,
    compression: Option<Compression>,
    limits: &Limits,
) -> io::Result<Box<dyn Read + 'a>> {
    let taken = Rc::new(Cell::new(0));
    let mut compressed = BufReader::with_capacity(BUFFER, Counting { inner: compressed, taken: Rc::clone(&taken) });
    let compression = match compression {
        Some(compression) => compression,
        None => Compression::of(compressed.fill_buf()?),
    };
    let content: Box<dyn Read + 'a> = match compression {
        Compression::Plain => return Ok(Box::new(compressed)),
        Compression::Gzip => Box::new(MultiGzDecoder::new(compressed)),
        Compression::Zstd => Box::new(Frames { source: compressed, decoder: FrameDecoder::new(), open: false }),
    };
    Ok(Box::new(Bounded { content, taken, given: 0, ratio: limits.ratio, from: limits.ratio_from }))
}

/// The error that a bounded reader ends in.
#[derive(Debug)]
struct Bomb;

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too much comes out of too little")
    }
}

impl std::error::Error for Bomb {}

/// What an archive's reader failed with, told for the entry it failed at or after.
pub fn told(source: io::Error, at: &str, limits: &Limits) -> ImportError {
    let is_bomb = |error: &(dyn std::error::Error + 'static)| {
        let mut next = Some(error);
        while let Some(error) = next {
            if error.is::<Bomb>() {
                return true;
            }
            next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        false
    };
    if is_bomb(&source) {
        return ImportError::Bomb { at: at.to_owned(), ratio: limits.ratio };
    }
    ImportError::Damaged { after: at.to_owned(), source }
}

struct Counting<R> {
    inner: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.taken.set(self.taken.get() + read as u64);
        Ok(read)
    }
}

struct Bounded<R> {
    content: R,
    taken: Rc<Cell<u64>>,
    given: u64,
    ratio: u64,
    from: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(into)?;
        self.given += read as u64;
        if self.given > self.from && self.given / self.ratio > self.taken.get() {
            return Err(io::Error::other(Bomb));
        }
        Ok(read)
    }
}

/// All frames of a zstd file, one after another, as the format allows; each frame's checksum is looked at.
struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    open: bool,
}

impl<R: BufRead> Frames<R> {
    /// Whether there is another frame.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                    if skipped < length.into() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.open {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.open = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let blocks = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, blocks).map_err(io::Error::other)?;
            }
            let read = self.decoder.read(into)?;
            if read > 0 || into.is_empty() {
                return Ok(read);
            }
            let wanted = self.decoder.get_checksum_from_data();
            if wanted.is_some() && wanted != self.decoder.get_calculated_checksum() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "checksum of a zstd frame is wrong"));
            }
            self.open = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        compress_to_vec(content, CompressionLevel::Fastest)
    }

    fn read(compressed: &[u8], limits: Limits) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        open(compressed, None, &limits)?.read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn what_was_compressed_is_read_in_all_its_parts() {
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let (first, second) = content.split_at(500_000);
        // A frame that is to be skipped: 0x184D2A50, its length, its content.
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        for compressed in [
            content.clone(),
            gzip(&content),
            [gzip(first), gzip(second)].concat(),
            zstd(&content),
            [zstd(first), skipped.to_vec(), zstd(second)].concat(),
        ] {
            assert!(read(&compressed, Limits::default()).expect("reads") == content);
        }
    }

    #[test]
    fn damage_is_noticed() {
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for compressed in [gzip(&content), zstd(&content)] {
            assert!(read(&compressed[..compressed.len() - 3], Limits::default()).is_err(), "cut");
            let mut changed = compressed.clone();
            let middle = changed.len() / 2;
            changed[middle] ^= 0x10;
            assert!(read(&changed, Limits::default()).is_err(), "changed");
        }
    }

    #[test]
    fn too_much_out_of_too_little_is_called_a_bomb() {
        let limits = Limits { ratio: 100, ratio_from: 1 << 20, ..Limits::default() };
        for compressed in [gzip(&vec![0; 4 << 20]), zstd(&vec![0; 4 << 20])] {
            let error = read(&compressed, limits).expect_err("a bomb");
            assert!(matches!(told(error, "x", &limits), ImportError::Bomb { .. }));
        }
        assert!(read(&gzip(&vec![0; 1 << 20]), limits).is_ok(), "a small one may be all zeros");
    }
}
