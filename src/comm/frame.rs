//! What processes send each other once they have joined. A frame is a kind, a flag, a tag and parts; lengths are 64 bits, so that an
//! optimizer's state fits.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use super::group::{Bytes, Failure};

/// What one process tells another.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// What the sender's ranks bring to an exchange; from process 0, what all brought.
    Parts { tag: String, to_first: bool, parts: Vec<Bytes> },
    /// A rank failed.
    Failure(Failure),
    /// The sender is done, and sends nothing more.
    Goodbye,
}

const PARTS: u8 = 1;
const FAILURE: u8 = 2;
const GOODBYE: u8 = 3;

/// Parts up to this many bytes are sent in one piece with their head.
const SMALL: usize = 1 << 16;

/// Writes one frame.
pub(super) fn write(mut to: impl Write, frame: &Frame) -> io::Result<()> {
    let bytes = |bytes: Vec<u8>| Bytes::new(bytes);
    let told;
    let (kind, flag, tag, parts) = match frame {
        Frame::Parts { tag, to_first, parts } => (PARTS, *to_first, tag.as_str(), parts.as_slice()),
        Frame::Failure(Failure { rank, what }) => {
            told = [bytes((*rank as u64).to_le_bytes().to_vec()), bytes(what.as_bytes().to_vec())];
            (FAILURE, false, "", &told[..])
        }
        Frame::Goodbye => (GOODBYE, false, "", &[][..]),
    };
    let mut head = vec![kind, u8::from(flag)];
    head.extend((tag.len() as u16).to_le_bytes());
    head.extend((parts.len() as u32).to_le_bytes());
    head.extend(tag.as_bytes());
    parts.iter().for_each(|part| head.extend((part.len() as u64).to_le_bytes()));
    if parts.iter().map(|part| part.len()).sum::<usize>() <= SMALL {
        parts.iter().for_each(|part| head.extend(&part[..]));
        return to.write_all(&head);
    }
    to.write_all(&head)?;
    parts.iter().try_for_each(|part| to.write_all(part))
}

/// Reads one frame of at most `most` parts.
pub(super) fn read(mut from: impl Read, most: usize) -> io::Result<Frame> {
    let bad = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_string());
    let [kind, flag] = array(&mut from)?;
    let tag = u16::from_le_bytes(array(&mut from)?);
    let count = u32::from_le_bytes(array(&mut from)?) as usize;
    if count > most.max(2) {
        return Err(bad("a frame of more parts than there are ranks"));
    }
    let tag = String::from_utf8(exact(&mut from, u64::from(tag))?).map_err(|_| bad("a tag that is not text"))?;
    let lengths = (0..count).map(|_| array(&mut from).map(u64::from_le_bytes)).collect::<io::Result<Vec<_>>>()?;
    let mut parts = lengths.into_iter().map(|length| exact(&mut from, length)).collect::<io::Result<Vec<_>>>()?;
    match (kind, &mut parts[..]) {
        (PARTS, _) => Ok(Frame::Parts { tag, to_first: flag != 0, parts: parts.into_iter().map(Arc::new).collect() }),
        (FAILURE, [rank, what]) => {
            let rank = <[u8; 8]>::try_from(&rank[..]).map_err(|_| bad("a failure of no rank"))?;
            let what = String::from_utf8_lossy(what).into_owned();
            Ok(Frame::Failure(Failure { rank: u64::from_le_bytes(rank) as usize, what }))
        }
        (GOODBYE, []) => Ok(Frame::Goodbye),
        _ => Err(bad("a frame of no known kind")),
    }
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map(|()| bytes)
}

fn exact(from: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let room = usize::try_from(length).map_err(|_| io::Error::from(ErrorKind::OutOfMemory))?;
    bytes.try_reserve_exact(room).map_err(|_| io::Error::new(ErrorKind::OutOfMemory, format!("no memory for {length} bytes")))?;
    from.take(length).read_to_end(&mut bytes)?;
    if bytes.len() == room { Ok(bytes) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were_sent_one_after_the_other() {
        let parts = [0, 1, SMALL, 3].map(|length| Bytes::new((0..length).map(|i| i as u8).collect()));
        let frames = [
            Frame::Parts { tag: "step".into(), to_first: true, parts: parts[..2].to_vec() },
            Frame::Parts { tag: "größer".into(), to_first: false, parts: parts.to_vec() },
            Frame::Failure(Failure { rank: 7, what: "weights: not finite".into() }),
            Frame::Parts { tag: String::new(), to_first: true, parts: Vec::new() },
            Frame::Goodbye,
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| write(&mut bytes, frame).unwrap());
        let mut from = &bytes[..];
        for frame in &frames {
            assert_eq!(read(&mut from, 4).unwrap(), *frame);
        }
        assert_eq!(read(&mut from, 4).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_cut_off_or_of_no_known_kind_is_an_error() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Frame::Parts { tag: "a".into(), to_first: false, parts: vec![Bytes::new(vec![1; 40])] }).unwrap();
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length], 1).unwrap_err().kind(), ErrorKind::UnexpectedEof, "{length}");
        }
        bytes[0] = 9;
        assert_eq!(read(&bytes[..], 1).unwrap_err().kind(), ErrorKind::InvalidData);
        // A length that no memory holds.
        bytes[0] = 1;
        bytes[9..17].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(read(&bytes[..], 1).unwrap_err().kind(), ErrorKind::OutOfMemory);
    }
}
