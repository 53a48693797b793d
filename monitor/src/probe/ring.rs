//! The ring buffer's reader: takes records, and sleeps until the program wakes it.
//!
//! A wakeup for each record is what makes other tools slow. The program wakes nobody unless the
//! reader has said that it sleeps, and then once.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{Ordering, fence};

use aya::maps::{Array, MapData};

use super::Error;
use super::reader::Reader;

pub(super) struct Ring {
    map: MapData,
    /// 1 while the reader sleeps. The program sets it to 0.
    sleeping: Array<MapData, u32>,
    reader: Reader,
}

impl Ring {
    /// # Errors
    /// The kernel does not let the ring be mapped.
    pub(super) fn new(map: MapData, sleeping: Array<MapData, u32>) -> Result<Self, Error> {
        let refused = |reason: String| Error::Kernel {
            action: "map the ring buffer",
            reason,
        };
        let info = map.info().map_err(|source| refused(source.to_string()))?;
        let reader = Reader::map(map.fd().as_fd(), info.max_entries() as usize)
            .map_err(|source| refused(source.to_string()))?;
        Ok(Self {
            map,
            sleeping,
            reader,
        })
    }

    /// Hands over the oldest records, at most `limit`; true when that limit ended it, false where there
    /// are no more, or the next one is still being written.
    pub(super) fn drain(&mut self, limit: usize, take: impl FnMut(&[u8])) -> bool {
        self.reader.drain(limit, take)
    }

    /// Up to where records are written, or being written, in bytes since the ring was made.
    pub(super) fn written(&self) -> usize {
        self.reader.written()
    }

    /// Whether every record up to there was taken.
    pub(super) fn has_read(&self, written: usize) -> bool {
        self.reader.taken() >= written
    }

    /// A descriptor that becomes readable with the wakeup that [`Self::arm`] asks for.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub(super) fn descriptor(&self) -> Result<OwnedFd, Error> {
        let descriptor = self.map.fd().as_fd().try_clone_to_owned();
        descriptor.map_err(|source| Error::Kernel {
            action: "wait for the ring buffer",
            reason: source.to_string(),
        })
    }

    /// Asks the program for a wakeup with the next record. False, and nothing to wait for, where records
    /// are waiting or being written.
    ///
    /// The program moves the producer's position, then looks whether the reader sleeps; this says
    /// that it sleeps, then looks at the position. Whoever is later sees what the other has done. The
    /// program has no barrier between the two, so that its processor may still look too early, within
    /// some nanoseconds: the wakeup is then lost, and the next record's comes. A reader must not
    /// sleep without a limit.
    ///
    /// # Errors
    /// The map cannot be written.
    pub(super) fn arm(&mut self) -> Result<bool, Error> {
        self.sleeping.set(0, 1, 0).map_err(|source| Error::Kernel {
            action: "ask the program for a wakeup",
            reason: source.to_string(),
        })?;
        fence(Ordering::SeqCst);
        Ok(self.reader.written() == self.reader.taken())
    }
}
