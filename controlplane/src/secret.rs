//! What a node or a member proves itself with.
//! In: randomness of the kernel, hexadecimal text. Out: the secret for the one who joins, its hash for the state.
//! Absent: any way to print it by accident.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use cluster::{RequestId, SecretHash};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// 128 bits nobody can guess.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 16]);

impl Secret {
    pub fn draw() -> Secret {
        // A version 4 UUID holds 122 random bits of the kernel; two of them, hashed, make up for the fixed ones.
        let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
        let digest = Sha256::new().chain_update(one.as_bytes()).chain_update(other.as_bytes()).finalize();
        Secret(first_half(&digest))
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Secret> {
        bytes.try_into().ok().map(Secret)
    }

    pub fn from_hex(text: &str) -> Option<Secret> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u128::from_str_radix(text, 16).ok().map(|number| Secret(number.to_be_bytes())))?
    }

    /// To be shown once, to whoever joins.
    pub fn hex(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }

    /// What the state keeps: half of the SHA-256.
    pub fn hash(&self) -> SecretHash {
        SecretHash(u128::from_be_bytes(first_half(&Sha256::digest(self.0))))
    }
}

fn first_half(digest: &[u8]) -> [u8; 16] {
    digest[..16].try_into().expect("SHA-256 has 32 bytes")
}

/// Secrets given out lately, so that a repeated request gets the answer of its first time from the leader that gave it.
#[derive(Default)]
pub struct Secrets(Mutex<VecDeque<(RequestId, Secret)>>);

impl Secrets {
    const KEPT: usize = 1_024;

    pub fn for_request(&self, request: RequestId) -> Secret {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, secret)) = given.iter().find(|(known, _)| *known == request) {
            return secret.clone();
        }
        if given.len() == Secrets::KEPT {
            given.pop_front();
        }
        let secret = Secret::draw();
        given.push_back((request, secret.clone()));
        secret
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_its_text_and_no_two_are_alike() {
        let (one, other) = (Secret::draw(), Secret::draw());
        assert_ne!(one.hash(), other.hash());
        assert_eq!(Secret::from_hex(&one.hex()), Some(one.clone()));
        assert_eq!(Secret::from_bytes(&one.bytes()), Some(one.clone()));
        assert!(!format!("{one:?}").contains(&one.hex()));
        for bad in ["", "xyz", &"+".repeat(32), &"a".repeat(31)] {
            assert_eq!(Secret::from_hex(bad), None, "{bad:?}");
        }
    }
}
