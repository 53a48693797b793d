//! The two programs' marks under every interruption: one CPU of the kernel, in which a softirq can
//! come between any two accesses to memory, and before and after the programs' own instructions.

extern crate std;

use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::prelude::rust_2024::*;
use std::vec;

use super::{Event, MARKS, Memory, STALE_TICKS, leave, take};

/// A softirq that comes at a step of the event it interrupts, and the keys of its events.
#[derive(Clone, Debug)]
struct Softirq {
    step: u32,
    keys: Vec<u64>,
}

/// An event at process level, and what interrupts it.
#[derive(Clone, Debug)]
struct Process {
    key: u64,
    is_outermost: bool,
    softirqs: Vec<Softirq>,
}

/// When the second program is attached.
#[derive(Clone, Copy, Debug)]
enum Attached {
    Before,
    /// At a step of the event with this number.
    At(usize, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The kernel runs no program inside itself.
    Recursion,
    /// It does: raw tracepoints of older kernels.
    None,
}

struct Cpu {
    check: Check,
    depth: Cell<u64>,
    slots: RefCell<[(u64, u64); MARKS]>,
    ticks: Cell<u32>,
    has_second: Cell<bool>,
    active: [Cell<u32>; 2],
    missed: Cell<u64>,
    nested: Cell<u64>,
    records: RefCell<BTreeMap<u64, i64>>,
    /// Steps of the event at process level.
    step: Cell<u32>,
    is_softirq: Cell<bool>,
    pending: RefCell<Vec<Softirq>>,
    attach_at: Cell<Option<u32>>,
}

impl Memory for Cpu {
    fn depth(&self) -> u64 {
        self.point();
        self.depth.get()
    }
    fn set_depth(&self, depth: u64) {
        self.point();
        self.depth.set(depth);
    }
    fn socket(&self, slot: u64) -> u64 {
        self.point();
        self.slots.borrow()[usize::try_from(slot).unwrap()].0
    }
    fn set_socket(&self, slot: u64, socket: u64) {
        self.point();
        self.slots.borrow_mut()[usize::try_from(slot).unwrap()].0 = socket;
    }
    fn event(&self, slot: u64) -> u64 {
        self.point();
        self.slots.borrow()[usize::try_from(slot).unwrap()].1
    }
    fn set_event(&self, slot: u64, event: u64) {
        self.point();
        self.slots.borrow_mut()[usize::try_from(slot).unwrap()].1 = event;
    }
}

impl Cpu {
    fn new(check: Check, has_second: bool) -> Self {
        Self {
            check,
            depth: Cell::new(0),
            slots: RefCell::default(),
            ticks: Cell::new(u32::MAX - 3),
            has_second: Cell::new(has_second),
            active: Default::default(),
            missed: Cell::new(0),
            nested: Cell::new(0),
            records: RefCell::default(),
            step: Cell::new(0),
            is_softirq: Cell::new(false),
            pending: RefCell::default(),
            attach_at: Cell::new(None),
        }
    }

    /// Where a softirq may come.
    fn point(&self) {
        if self.is_softirq.get() {
            return;
        }
        let step = self.step.get();
        self.step.set(step + 1);
        if self.attach_at.get() == Some(step) {
            self.has_second.set(true);
        }
        let due: Vec<Softirq> = self
            .pending
            .borrow_mut()
            .extract_if(.., |softirq| softirq.step == step)
            .collect();
        self.is_softirq.set(true);
        for key in due.into_iter().flat_map(|softirq| softirq.keys) {
            self.event(key, false);
        }
        self.is_softirq.set(false);
    }

    /// One event, as the kernel calls the programs for it.
    fn event(&self, key: u64, is_outermost: bool) {
        // It calls those that were attached when it began.
        let has_second = self.has_second.get();
        self.records.borrow_mut().entry(key).or_default();
        *self.records.borrow_mut().get_mut(&key).unwrap() -= 1;
        let event = || Event {
            socket: key,
            transition: 0x0701,
            ticks: self.ticks.get(),
            is_outermost,
        };
        self.point();
        let is_called = self.run(0, || {
            self.point();
            leave(self, &event());
            self.point();
            self.record(key);
            self.point();
        });
        if !is_called {
            self.missed.set(self.missed.get() + 1);
        }
        self.point();
        if has_second {
            self.run(1, || {
                self.point();
                if !take(self, &event()) {
                    self.nested.set(self.nested.get() + 1);
                    self.point();
                    self.record(key);
                }
                self.point();
            });
            self.point();
        }
    }

    /// False where the kernel does not run the program.
    fn run(&self, program: usize, body: impl FnOnce()) -> bool {
        let active = &self.active[program];
        active.set(active.get() + 1);
        let is_called = active.get() == 1 || self.check == Check::None;
        if is_called {
            body();
        }
        active.set(active.get() - 1);
        is_called
    }

    fn record(&self, key: u64) {
        *self.records.borrow_mut().get_mut(&key).unwrap() += 1;
    }

    /// Steps that the event at process level had.
    fn process(&self, process: &Process, attach_at: Option<u32>) -> u32 {
        self.step.set(0);
        self.attach_at.set(attach_at);
        self.pending.borrow_mut().clone_from(&process.softirqs);
        self.event(process.key, process.is_outermost);
        self.pending.borrow_mut().clear();
        self.step.get()
    }
}

/// What became of all events.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    lost: u64,
    duplicates: u64,
    /// As userspace computes it.
    told: i64,
}

fn simulate(check: Check, attached: Attached, plan: &[Process]) -> (Outcome, u32) {
    simulate_with_pauses(check, attached, plan, 1)
}

/// With so many ticks between two events at process level.
fn simulate_with_pauses(
    check: Check,
    attached: Attached,
    plan: &[Process],
    pause: u32,
) -> (Outcome, u32) {
    let cpu = Cpu::new(check, matches!(attached, Attached::Before));
    let mut steps = 0;
    for (number, process) in plan.iter().enumerate() {
        let attach_at = match attached {
            Attached::At(wanted, step) if wanted == number => Some(step),
            _ => None,
        };
        steps = cpu.process(process, attach_at).max(steps);
        cpu.ticks.set(cpu.ticks.get().wrapping_add(pause));
    }
    let records = cpu.records.borrow();
    let sum = |wanted: fn(i64) -> i64| {
        let all: i64 = records.values().map(|balance| wanted(*balance)).sum();
        u64::try_from(all).unwrap()
    };
    let outcome = Outcome {
        lost: sum(|balance| (-balance).max(0)),
        duplicates: sum(|balance| balance.max(0)),
        told: i64::try_from(cpu.missed.get()).unwrap() - i64::try_from(cpu.nested.get()).unwrap(),
    };
    (outcome, steps)
}

const EXACT: Outcome = Outcome {
    lost: 0,
    duplicates: 0,
    told: 0,
};

/// More than an event has when its mark lies below a full stack.
const STEPS: u32 = 40;

/// Every softirq of these sizes at every step, none included.
fn softirqs(number: u64, sizes: &[u64]) -> Vec<Vec<Softirq>> {
    let mut all = vec![Vec::new()];
    for step in 0..STEPS {
        for &size in sizes {
            let keys = (1..=size).map(|key| number * 1000 + key).collect();
            all.push(vec![Softirq { step, keys }]);
        }
    }
    all
}

fn plans(depth: u64, sizes: &[u64], is_outermost: bool, mut each: impl FnMut(&[Process])) {
    fn fill(
        plan: &mut Vec<Process>,
        left: &[Vec<Vec<Softirq>>],
        is_outermost: bool,
        each: &mut impl FnMut(&[Process]),
    ) {
        let Some((first, rest)) = left.split_first() else {
            return each(plan);
        };
        for softirqs in first {
            plan.push(Process {
                key: 1_000_000 + plan.len() as u64,
                is_outermost,
                softirqs: softirqs.clone(),
            });
            fill(plan, rest, is_outermost, each);
            plan.pop();
        }
    }
    let choices: Vec<_> = (1..=depth).map(|number| softirqs(number, sizes)).collect();
    fill(&mut Vec::new(), &choices, is_outermost, &mut each);
}

const CHECKS: [Check; 2] = [Check::Recursion, Check::None];

#[test]
fn every_event_is_taken_once_whatever_interrupts_it() {
    for check in CHECKS {
        for is_outermost in [true, false] {
            for (depth, sizes) in [(1, &[1, 2, 3, 7, 8, 9, 40][..]), (2, &[1, 2, 3]), (3, &[2])] {
                plans(depth, sizes, is_outermost, |plan| {
                    let (outcome, steps) = simulate(check, Attached::Before, plan);
                    assert!(steps < STEPS);
                    assert_eq!(outcome, EXACT, "{check:?} {plan:?}");
                });
            }
        }
        // What no event at process level can be below of clears what longer softirqs left.
        plans(2, &[1, 7, 8, 9, 40], true, |plan| {
            let (outcome, _) = simulate(check, Attached::Before, plan);
            assert_eq!(outcome, EXACT, "{check:?} {plan:?}");
        });
    }
}

#[test]
fn two_softirqs_in_one_event_are_no_worse() {
    let (firsts, seconds) = (softirqs(1, &[1, 3]), softirqs(2, &[1, 3]));
    for check in CHECKS {
        for first in &firsts {
            for second in &seconds {
                let process = |key, softirqs| Process {
                    key,
                    is_outermost: false,
                    softirqs,
                };
                let both = first.iter().chain(second).cloned().collect();
                let plan = [process(1, both), process(2, Vec::new())];
                let (outcome, _) = simulate(check, Attached::Before, &plan);
                assert_eq!(outcome, EXACT, "{check:?} {plan:?}");
            }
        }
    }
}

/// A socket reaches the same transition again through others, and those leave no mark that lasts.
#[test]
fn a_socket_may_come_again() {
    for check in CHECKS {
        plans(2, &[1, 2, 9], false, |plan| {
            let mut plan = plan.to_vec();
            let [first, second] = plan.as_mut_slice() else {
                return;
            };
            // A softirq's sockets in a later softirq, when a stale mark has aged.
            if let ([first], [second]) = (&first.softirqs[..], &mut second.softirqs[..]) {
                second.keys.clone_from(&first.keys);
            }
            let pause = STALE_TICKS + 1;
            let (outcome, _) = simulate_with_pauses(check, Attached::Before, &plan, pause);
            assert_eq!(outcome, EXACT, "{check:?} {plan:?}");
        });
        plans(1, &[1, 2, 9], false, |plan| {
            // At process level and in a softirq, and at once.
            let idle = |key| Process {
                key,
                is_outermost: false,
                softirqs: Vec::new(),
            };
            let mut plan = [idle(7), plan[0].clone(), idle(7)];
            if let Some(softirq) = plan[1].softirqs.first_mut() {
                softirq.keys = vec![7];
            }
            let (outcome, _) = simulate_with_pauses(check, Attached::Before, &plan, 0);
            assert_eq!(outcome, EXACT, "{check:?} {plan:?}");
        });
    }
}

#[test]
fn at_worst_a_long_softirq_leads_to_a_duplicate() {
    let (mut all, mut doubled) = (0, 0);
    plans(2, &[1, 7, 8, 9, 40], false, |plan| {
        let (outcome, _) = simulate(Check::Recursion, Attached::Before, plan);
        assert_eq!(outcome.lost, 0, "{plan:?}");
        assert!(outcome.duplicates <= 1, "{plan:?}");
        all += 1;
        doubled += outcome.duplicates;
    });
    // Eight stale marks, and at once another softirq between the two programs.
    assert!(doubled * 100 < all, "{doubled} of {all}");
}

#[test]
fn what_is_lost_before_the_second_program_is_attached_is_told() {
    for number in 0..2 {
        for step in 0..STEPS {
            for (is_outermost, sizes) in [(true, &[1, 3, 9][..]), (false, &[1, 3])] {
                plans(2, sizes, is_outermost, |plan| {
                    let attached = Attached::At(number, step);
                    let (outcome, _) = simulate(Check::Recursion, attached, plan);
                    assert_eq!(
                        (outcome.duplicates, outcome.told),
                        (0, i64::try_from(outcome.lost).unwrap()),
                        "{attached:?} {plan:?}"
                    );
                });
            }
        }
    }
}
