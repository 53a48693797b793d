//! The ring buffers' reader: takes the records of all rings in the order of their time, and sleeps until
//! the program wakes it.
//!
//! A wakeup for each record is what makes other tools slow. The program wakes nobody unless the
//! reader has said that it sleeps, and then once.
//!
//! The transitions of one socket may lie in different rings, and have to be taken in their order. The
//! kernel holds the socket's lock over each, so that the record of one is written before the time of the
//! next is read. Positions are therefore read twice: whatever comes before a record that the first
//! reading covers is covered by the second.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{Ordering, fence};
use std::{array, hint};

use aya::maps::{Array, MapData};
use monitor_ebpf::RINGS;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::Error;
use super::reader::{Head, Reader};

pub(super) struct Rings {
    readers: Vec<Reader>,
    maps: Vec<MapData>,
    /// 1 while the reader sleeps. The program sets it to 0.
    sleeping: Array<MapData, u32>,
}

/// A position in each ring.
pub(crate) type Mark = [usize; RINGS as usize];

impl Rings {
    /// At most [`RINGS`] maps.
    ///
    /// # Errors
    /// The kernel does not let a ring be mapped.
    pub(super) fn new(maps: Vec<MapData>, sleeping: Array<MapData, u32>) -> Result<Self, Error> {
        let refused = |reason: String| Error::Kernel {
            action: "map a ring buffer",
            reason,
        };
        let map = |map: &MapData| {
            let info = map.info().map_err(|source| refused(source.to_string()))?;
            Reader::map(map.fd().as_fd(), info.max_entries() as usize)
                .map_err(|source| refused(source.to_string()))
        };
        Ok(Self {
            readers: maps.iter().map(map).collect::<Result<_, _>>()?,
            maps,
            sleeping,
        })
    }

    /// Hands over the oldest records, at most `limit`; true when that limit ended it, false where all
    /// were taken that were there at the call, or one of them is still being written.
    pub(super) fn drain(&mut self, limit: usize, take: impl FnMut(&[u8])) -> bool {
        let first = self.written();
        let second = self.written();
        merge(&mut self.readers, (&first, &second), limit, take)
    }

    /// Up to where records are written, or being written.
    pub(super) fn written(&self) -> Mark {
        written(&self.readers)
    }

    /// Whether every record up to there was taken.
    pub(super) fn has_read(&self, written: &Mark) -> bool {
        !unread(&self.readers, written).any(|is_unread| is_unread)
    }

    /// A descriptor that becomes readable with the wakeup that [`Self::arm`] asks for.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub(super) fn descriptor(&self) -> Result<OwnedFd, Error> {
        let wait = || {
            let all = epoll::create(CreateFlags::CLOEXEC)?;
            for map in &self.maps {
                epoll::add(
                    &all,
                    map.fd().as_fd(),
                    EventData::new_u64(0),
                    EventFlags::IN,
                )?;
            }
            rustix::io::Result::Ok(all)
        };
        wait().map_err(|source| Error::Kernel {
            action: "wait for the ring buffers",
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
        Ok(self.has_read(&self.written()))
    }
}

/// Looks at an unfinished record before it is left for later: some microseconds. Unless its CPU was taken
/// away it is finished within a tenth of one.
const PATIENCE: u32 = 200;

fn written(readers: &[Reader]) -> Mark {
    array::from_fn(|ring| readers.get(ring).map_or(0, Reader::written))
}

/// Whether each ring has records before a mark that were not taken.
fn unread<'a>(readers: &'a [Reader], mark: &'a Mark) -> impl Iterator<Item = bool> + 'a {
    readers
        .iter()
        .zip(mark)
        .map(|(reader, written)| reader.has_before(*written))
}

/// See [`Rings::drain`]. What is taken is what lies before the first reading of the positions, and what is
/// older than that and lies before the second.
fn merge(
    readers: &mut [Reader],
    (first, second): (&Mark, &Mark),
    limit: usize,
    mut take: impl FnMut(&[u8]),
) -> bool {
    let mut left = limit;
    let mut patience = PATIENCE;
    while left > 0 {
        let mut oldest: Option<(usize, u64)> = None;
        let mut next_ns = u64::MAX;
        let mut is_unfinished = false;
        for (ring, (reader, written)) in readers.iter().zip(second).enumerate() {
            match (reader.head(*written), oldest) {
                (Head::None, _) => {}
                (Head::Unfinished, _) => is_unfinished = true,
                (Head::At(time), Some((_, least))) if time >= least => next_ns = next_ns.min(time),
                (Head::At(time), other) => {
                    next_ns = other.map_or(next_ns, |(_, least)| least);
                    oldest = Some((ring, time));
                }
            }
        }
        // What it holds back may be older than all others.
        if is_unfinished && patience > 0 {
            patience -= 1;
            hint::spin_loop();
            continue;
        }
        let Some((ring, _)) = oldest.filter(|_| !is_unfinished) else {
            break;
        };
        let is_alone = unread(readers, first)
            .enumerate()
            .all(|(other, is_unread)| other == ring || !is_unread);
        let end = if is_alone { first } else { second };
        let (Some(reader), Some(end)) = (readers.get_mut(ring), end.get(ring)) else {
            break;
        };
        let before = reader.taken();
        reader.drain(*end, next_ns, &mut left, &mut take);
        if reader.taken() == before {
            break;
        }
    }
    for reader in readers {
        reader.release();
    }
    left == 0
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::reader::fixture::{RING, Writer};
    use super::*;

    const LANES: usize = 3;
    const SOCKETS: usize = 4;

    /// What the kernel does, and the reader.
    #[derive(Clone, Debug)]
    enum Act {
        /// A transition of a socket, into a ring.
        Write {
            ring: usize,
            socket: usize,
        },
        /// One of each of two sockets: the second interrupts the first between the reading of the time and
        /// the taking of the room.
        Interrupt {
            ring: usize,
            sockets: (usize, usize),
        },
        /// One that stays unfinished until [`Act::Finish`]. Its socket is locked until then.
        Begin {
            ring: usize,
            socket: usize,
        },
        Finish,
        /// The reader reads the positions for the first time.
        Look,
        /// It reads that of one ring again.
        LookAgain {
            ring: usize,
        },
        /// It reads those again that it has not yet, and takes.
        Drain {
            limit: usize,
        },
    }

    fn act() -> impl Strategy<Value = Act> {
        let (ring, socket) = (0..LANES, 0..SOCKETS);
        prop_oneof![
            6 => (ring.clone(), socket.clone()).prop_map(|(ring, socket)| Act::Write { ring, socket }),
            1 => (ring.clone(), (socket.clone(), socket.clone()))
                .prop_map(|(ring, sockets)| Act::Interrupt { ring, sockets }),
            1 => (ring.clone(), socket).prop_map(|(ring, socket)| Act::Begin { ring, socket }),
            2 => ring.prop_map(|ring| Act::LookAgain { ring }),
            1 => Just(Act::Finish),
            2 => Just(Act::Look),
            2 => (1_usize..40).prop_map(|limit| Act::Drain { limit }),
        ]
    }

    /// Time, socket, number among those of the socket.
    fn record(time: u64, socket: usize, number: u64) -> Vec<u8> {
        [time, socket as u64, number]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect()
    }

    fn word(record: &[u8], at: usize) -> u64 {
        u64::from_ne_bytes(record[8 * at..][..8].try_into().unwrap())
    }

    #[derive(Default)]
    struct Kernel {
        rings: Vec<Writer>,
        time: u64,
        written: HashMap<usize, u64>,
        /// Ring, position and length of the unfinished record, and its socket.
        open: Option<(usize, usize, usize, usize)>,
    }

    impl Kernel {
        fn is_locked(&self, socket: usize) -> bool {
            self.open.is_some_and(|(.., locked)| locked == socket)
        }

        fn next(&mut self, socket: usize) -> Vec<u8> {
            self.time += 1;
            let number = self.written.entry(socket).or_default();
            *number += 1;
            record(self.time, socket, *number)
        }

        fn put(&mut self, ring: usize, bytes: &[u8]) -> usize {
            let at = self.rings[ring].written();
            assert!(self.rings[ring].reserve(bytes), "the ring is large enough");
            at
        }

        fn finish(&mut self) {
            if let Some((ring, at, length, _)) = self.open.take() {
                self.rings[ring].commit(at, length, 0);
            }
        }

        fn act(&mut self, act: &Act) {
            match *act {
                Act::Write { ring, socket } if !self.is_locked(socket) => {
                    let bytes = self.next(socket);
                    let at = self.put(ring, &bytes);
                    self.rings[ring].commit(at, bytes.len(), 0);
                }
                Act::Interrupt {
                    ring,
                    sockets: (first, second),
                } if first != second && !self.is_locked(first) && !self.is_locked(second) => {
                    let (first, second) = (self.next(first), self.next(second));
                    for bytes in [second, first] {
                        let at = self.put(ring, &bytes);
                        self.rings[ring].commit(at, bytes.len(), 0);
                    }
                }
                Act::Begin { ring, socket } if self.open.is_none() => {
                    let bytes = self.next(socket);
                    let at = self.put(ring, &bytes);
                    self.open = Some((ring, at, bytes.len(), socket));
                }
                Act::Finish => self.finish(),
                _ => {}
            }
        }
    }

    proptest! {
        #[test]
        fn transitions_of_a_socket_are_taken_once_and_in_order(
            acts in proptest::collection::vec(act(), 1..150),
        ) {
            let mut kernel = Kernel {
                rings: (0..LANES).map(|_| Writer::new(RING)).collect(),
                ..Kernel::default()
            };
            let map = |ring: &Writer| Reader::map(ring.descriptor(), RING).unwrap();
            let mut readers: Vec<Reader> = kernel.rings.iter().map(map).collect();
            let mut taken: HashMap<usize, u64> = HashMap::new();
            let mut first = written(&readers);
            let mut again = [None; RINGS as usize];
            let last = [Act::Finish, Act::Look, Act::Drain { limit: usize::MAX }];
            for act in acts.into_iter().chain(last) {
                match act {
                    Act::Look => (first, again) = (written(&readers), [None; RINGS as usize]),
                    Act::LookAgain { ring } => again[ring] = Some(readers[ring].written()),
                    Act::Drain { limit } => {
                        let now = written(&readers);
                        let second = array::from_fn(|ring| again[ring].take().unwrap_or(now[ring]));
                        let mut count = 0;
                        let is_limited = merge(&mut readers, (&first, &second), limit, |bytes| {
                            count += 1;
                            let socket = usize::try_from(word(bytes, 1)).unwrap();
                            let before = taken.insert(socket, word(bytes, 2)).unwrap_or(0);
                            assert_eq!(word(bytes, 2), before + 1, "socket {socket}");
                        });
                        prop_assert_eq!(is_limited, count == limit);
                        let has_unread = unread(&readers, &first).any(|is_unread| is_unread);
                        prop_assert!(is_limited || kernel.open.is_some() || !has_unread);
                    }
                    act => kernel.act(&act),
                }
            }
            prop_assert_eq!(taken, kernel.written);
        }
    }
}
