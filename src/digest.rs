//! SHA-256 as the tools of coreutils write it: of a file, and of what is being written.

use std::fs::File;
use std::io::{Read, Result, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of a file's content.
pub fn of_file(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let (mut sum, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&sum.finalize())),
            n => sum.update(&buffer[..n]),
        }
    }
}

/// A writer that counts and hashes what passes through it.
pub struct Summing<W> {
    inner: W,
    sum: Sha256,
    length: u64,
}

impl<W: Write> Summing<W> {
    /// Passes everything on to `inner`.
    pub fn new(inner: W) -> Summing<W> {
        Summing { inner, sum: Sha256::new(), length: 0 }
    }

    /// The writer below, and the SHA-256 and the length of what was written.
    pub fn finish(self) -> (W, String, u64) {
        (self.inner, hex(&self.sum.finalize()), self.length)
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let n = self.inner.write(bytes)?;
        self.sum.update(&bytes[..n]);
        self.length += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_file_has_its_sha256() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(of_file(&path).unwrap(), ABC);
    }

    #[test]
    fn what_a_writer_takes_in_part_is_hashed_once() {
        /// Takes two bytes at a time.
        struct Slow(Vec<u8>);
        impl Write for Slow {
            fn write(&mut self, bytes: &[u8]) -> Result<usize> {
                self.0.write(&bytes[..bytes.len().min(2)])
            }
            fn flush(&mut self) -> Result<()> {
                Ok(())
            }
        }
        let mut out = Summing::new(Slow(Vec::new()));
        out.write_all(b"abc").unwrap();
        let (Slow(bytes), sum, length) = out.finish();
        assert_eq!((bytes.as_slice(), sum.as_str(), length), (&b"abc"[..], ABC, 3));
    }
}
