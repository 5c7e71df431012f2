//! Prost's codec with small buffers. tonic's own takes 8 KiB for each direction of each call before it knows the size of
//! a message; a heartbeat has 60 bytes, a member keeps ten thousand such streams open, and a thousand clients call at once.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// What most messages fit in; a buffer grows for the others.
const BUFFER_BYTES: usize = 512;
/// A stream hands on what it has encoded once it is this much.
const HAND_ON_BYTES: usize = 32 << 10;

/// `T` goes out, `U` comes in.
#[derive(Debug)]
pub struct ThriftyCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for ThriftyCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for ThriftyCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_BYTES, HAND_ON_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_BYTES, HAND_ON_BYTES))
    }
}
