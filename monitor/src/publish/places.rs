//! Places for the clients of a server. Who comes is let in; where all places of a kind are taken, the
//! client with most of them gives one up, its oldest idle one first. So a crowd keeps no other out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

/// For busy places to become idle.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Places taken by clients `C`; no kind `K` of place takes the places of another.
#[derive(Debug)]
pub(crate) struct Places<C, K>(Mutex<Table<C, K>>);

#[derive(Debug)]
struct Table<C, K> {
    taken: BTreeMap<u64, Taken<C, K>>,
    next: u64,
}

#[derive(Debug)]
struct Taken<C, K> {
    client: C,
    kind: K,
    /// The client waits for an answer.
    is_busy: bool,
    /// The order in which places became busy or idle.
    since: u64,
    lost: Arc<Notify>,
}

/// A place, taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Place<C, K> {
    places: Arc<Places<C, K>>,
    number: u64,
    lost: Arc<Notify>,
}

impl<C, K> Default for Places<C, K> {
    fn default() -> Self {
        let taken = BTreeMap::new();
        Self(Mutex::new(Table { taken, next: 0 }))
    }
}

impl<C, K> Places<C, K> {
    fn lock(&self) -> MutexGuard<'_, Table<C, K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Eq + Hash, K: Copy + Eq> Places<C, K> {
    /// Takes one of `most` places of this kind.
    pub(crate) fn enter(self: &Arc<Self>, client: C, kind: K, most: usize) -> Place<C, K> {
        let mut table = self.lock();
        table.make_room(kind, most);
        let (number, lost) = (table.tick(), Arc::new(Notify::new()));
        let taken = Taken {
            client,
            kind,
            is_busy: false,
            since: number,
            lost: Arc::clone(&lost),
        };
        table.taken.insert(number, taken);
        Place {
            places: Arc::clone(self),
            number,
            lost,
        }
    }

    /// Waits until one of `most` places of this kind is free or idle, if that comes within
    /// [`PATIENCE`]: an answer that is being made soon leaves its place.
    pub(crate) async fn settle(&self, kind: K, most: usize) {
        let all_busy = || {
            let table = self.lock();
            let of_kind = table.taken.values().filter(|taken| taken.kind == kind);
            of_kind.filter(|taken| taken.is_busy).count() >= most
        };
        let begun = Instant::now();
        while all_busy() && begun.elapsed() < PATIENCE {
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Has one place of this kind given up; false where none is taken.
    pub(crate) fn give_way(&self, kind: K) -> bool {
        self.lock().give_way(kind)
    }
}

impl<C: Eq + Hash, K: Copy + Eq> Place<C, K> {
    /// Ready when the place has to be given up.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }

    /// A busy place is given up only where its client has no idle one.
    pub(crate) fn set_busy(&self, is_busy: bool) {
        let mut table = self.places.lock();
        let now = table.tick();
        if let Some(taken) = table.taken.get_mut(&self.number)
            && taken.is_busy != is_busy
        {
            (taken.is_busy, taken.since) = (is_busy, now);
        }
    }

    /// Takes one of `most` places of this kind instead, see [`Places::settle`].
    pub(crate) async fn change_to(&self, kind: K, most: usize) {
        let is_of_kind = |taken: &Taken<C, K>| taken.kind == kind;
        let is_there = self
            .places
            .lock()
            .taken
            .get(&self.number)
            .is_some_and(is_of_kind);
        if !is_there {
            self.places.settle(kind, most).await;
        }
        self.places.lock().change(self.number, kind, most);
    }

    /// The same, unless all are taken and no other client has more of them; whether it did.
    pub(crate) fn try_change_to(&self, kind: K, most: usize) -> bool {
        let mut table = self.places.lock();
        let is_allowed = table.taken.get(&self.number).is_some_and(|own| {
            let held = table.held(kind);
            let of_own = held.get(&own.client).copied().unwrap_or_default();
            let total: usize = held.values().sum();
            own.kind == kind || total < most || held.values().any(|held| *held > of_own + 1)
        });
        if is_allowed {
            table.change(self.number, kind, most);
        }
        is_allowed
    }
}

impl<C: Eq + Hash, K: Copy + Eq> Table<C, K> {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Places of a kind by client.
    fn held(&self, kind: K) -> HashMap<&C, usize> {
        let mut held = HashMap::new();
        for taken in self.taken.values().filter(|taken| taken.kind == kind) {
            *held.entry(&taken.client).or_default() += 1;
        }
        held
    }

    fn change(&mut self, number: u64, kind: K, most: usize) {
        let own = self.taken.remove(&number);
        if let Some(own) = own {
            if own.kind != kind {
                self.make_room(kind, most);
            }
            self.taken.insert(number, Taken { kind, ..own });
        }
    }

    fn make_room(&mut self, kind: K, most: usize) {
        let of_kind = self.taken.values().filter(|taken| taken.kind == kind);
        for _ in most..=of_kind.count() {
            self.give_way(kind);
        }
    }

    fn give_way(&mut self, kind: K) -> bool {
        let held = self.held(kind);
        let of_kind = self.taken.iter().filter(|(_, taken)| taken.kind == kind);
        let first = of_kind.min_by_key(|(_, taken)| {
            let held = held.get(&taken.client).copied().unwrap_or_default();
            (Reverse(held), taken.is_busy, taken.since)
        });
        let number = first.map(|(number, _)| *number);
        let given_up = number.and_then(|number| self.taken.remove(&number));
        if let Some(given_up) = &given_up {
            given_up.lost.notify_one();
        }
        given_up.is_some()
    }
}

impl<C, K> Drop for Place<C, K> {
    fn drop(&mut self) {
        self.places.lock().taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Name = &'static str;

    fn is_lost(place: &Place<Name, u8>) -> bool {
        let places = place.places.lock();
        !places.taken.contains_key(&place.number)
    }

    fn lost(places: &[Place<Name, u8>]) -> Vec<usize> {
        let numbered = places.iter().enumerate();
        let lost = numbered.filter(|(_, place)| is_lost(place));
        lost.map(|(number, _)| number).collect()
    }

    #[test]
    fn who_has_most_gives_up_the_oldest_idle_one() {
        let places = Arc::new(Places::default());
        let enter = |client| places.enter(client, 0, 5);
        let mut all = vec![enter("scraper")];
        all.extend((0..4).map(|_| enter("crowd")));
        // The oldest of the crowd is busy, the next was until now.
        all[1].set_busy(true);
        all[2].set_busy(true);
        all[2].set_busy(false);
        all.push(enter("crowd"));
        assert_eq!(lost(&all), [3]);
        all.push(enter("another"));
        assert_eq!(lost(&all), [3, 4]);
        all.push(enter("crowd"));
        all.push(enter("crowd"));
        all.push(enter("crowd"));
        assert_eq!(lost(&all), [2, 3, 4, 5, 7]);
        for busy in [8, 9] {
            all[busy].set_busy(true);
        }
        // None of the crowd's is idle: the oldest goes.
        all.push(enter("another"));
        assert_eq!(lost(&all), [1, 2, 3, 4, 5, 7]);
    }

    #[tokio::test]
    async fn no_kind_takes_the_places_of_another() {
        let places = Arc::new(Places::default());
        let all: Vec<_> = (0..4).map(|_| places.enter("one", 0, 4)).collect();
        all[0].change_to(1, 1).await;
        all[1].change_to(1, 1).await;
        assert_eq!(lost(&all), [0]);
        let more = [places.enter("one", 0, 4), places.enter("one", 0, 4)];
        assert_eq!((lost(&all), lost(&more)), (vec![0], vec![]));
        drop(more);
        assert!(places.give_way(1) && !places.give_way(1));
        assert_eq!(lost(&all), [0, 1]);
    }

    #[test]
    fn a_place_may_be_asked_for_that_only_who_has_more_gives_up() {
        let places = Arc::new(Places::default());
        let all: Vec<_> = (0..3).map(|_| places.enter("one", 0, 9)).collect();
        let other = places.enter("other", 0, 9);
        assert!(all[0].try_change_to(1, 2) && all[1].try_change_to(1, 2));
        assert!(!all[2].try_change_to(1, 2));
        assert!(other.try_change_to(1, 2) && other.try_change_to(1, 2));
        assert_eq!(lost(&all), [0]);
        // Both have one now.
        assert!(!all[2].try_change_to(1, 2));
        drop(other);
        assert!(all[2].try_change_to(1, 2));
    }

    #[tokio::test]
    async fn an_answer_that_is_being_made_keeps_its_place() {
        let places = Arc::new(Places::default());
        let all: Vec<_> = (0..2).map(|_| places.enter("one", 0, 2)).collect();
        all[0].change_to(1, 1).await;
        all[0].set_busy(true);
        let (idle, changed) = (
            async {
                sleep(3 * LOOK_AGAIN).await;
                let kept = lost(&all);
                all[0].set_busy(false);
                kept
            },
            all[1].change_to(1, 1),
        );
        let (kept, ()) = tokio::join!(idle, changed);
        assert_eq!(kept, Vec::<usize>::new());
        assert_eq!(lost(&all), [0]);
    }

    #[tokio::test]
    async fn who_loses_its_place_is_told() {
        let places = Arc::new(Places::default());
        let first = places.enter("one", 0, 1);
        let second = places.enter("two", 0, 1);
        first.lost().await;
        drop(first);
        assert!(!is_lost(&second));
    }
}
