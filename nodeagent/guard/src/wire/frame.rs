//! Frames, and the few shapes their bytes have: numbers, flags, strings, options, lists. Reading never trusts a length.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

pub const PROTOCOL: u8 = 1;
/// Far above any request; a longer one is a mistake or an attack.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Why bytes are no message.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "malformed message: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// A message that goes into a frame.
pub trait Message: Sized {
    fn write(&self, out: &mut Vec<u8>);
    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed>;

    /// The whole frame, length first.
    fn frame(&self) -> Vec<u8> {
        let mut out = vec![0, 0, 0, 0, PROTOCOL];
        self.write(&mut out);
        let length = (out.len() - 4) as u32;
        out[..4].copy_from_slice(&length.to_le_bytes());
        out
    }

    /// From the bytes of a frame without its length.
    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader { bytes };
        if from.u8()? != PROTOCOL {
            return Err(Malformed("another protocol version"));
        }
        let message = Self::read(&mut from)?;
        if from.bytes.is_empty() { Ok(message) } else { Err(Malformed("bytes left over")) }
    }
}

/// Takes the first whole frame off `buffer`: `None` while it is incomplete.
pub fn take_frame(buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Malformed> {
    let Some(length) = buffer.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes) as usize) else {
        return Ok(None);
    };
    if length > FRAME_BYTES_MAX {
        return Err(Malformed("frame too long"));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let frame = buffer[4..4 + length].to_vec();
    buffer.drain(..4 + length);
    Ok(Some(frame))
}

/// What is still to be read of a frame.
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.bytes.split_at_checked(length).ok_or(Malformed("too short"))?;
        self.bytes = rest;
        Ok(head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }

    pub(super) fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(self.u32()? as i32)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes were taken")))
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag is neither 0 nor 1")),
        }
    }

    pub(super) fn os(&mut self) -> Result<OsString, Malformed> {
        let length = self.u32()? as usize;
        Ok(OsString::from_vec(self.take(length)?.to_vec()))
    }

    pub(super) fn path(&mut self) -> Result<PathBuf, Malformed> {
        self.os().map(PathBuf::from)
    }

    pub(super) fn text(&mut self) -> Result<String, Malformed> {
        self.os()?.into_string().map_err(|_| Malformed("text is not UTF-8"))
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    pub(super) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u32()?;
        // No capacity in advance: the count is not proven yet, the bytes behind it are what limits it.
        (0..count).map(|_| read(self)).collect()
    }
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn put_os(out: &mut Vec<u8>, text: impl AsRef<std::ffi::OsStr>) {
    put_bytes(out, text.as_ref().as_bytes());
}

pub(super) fn put_option<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}
