//! What one holder writes down for the next.

use std::time::Duration;

use nix::sys::signal::Signal;
use proptest::prelude::*;
use rustix::process::Rlimit;

use super::super::frame::{How, Name};
use super::super::handover::{FORM, Record, Unreadable, files, head, read};
use super::super::lives::Lives;

fn names() -> impl Strategy<Value = Name> {
    (any::<[u8; 16]>(), any::<u64>()).prop_map(|(key, tag)| Name { key, tag })
}

fn hows() -> impl Strategy<Value = How> {
    (0..3_u8, any::<i32>()).prop_map(|(how, number)| How::from_parts(how, number).unwrap())
}

prop_compose! {
    fn lives()(
        ready in prop::option::of(any::<u64>()),
        ever_ready in any::<bool>(), meant in any::<bool>(),
        short in any::<u32>(), failures in any::<u32>(),
    ) -> Lives {
        Lives { ready: ready.map(Duration::from_nanos), ever_ready, meant, short, failures }
    }
}

prop_compose! {
    fn holders()(
        name in any::<[u8; 16]>(), age in any::<u64>(), hangup_ignored in any::<bool>(),
        last_signal in prop::option::of(1..32_i32),
    ) -> Record {
        let last_signal = last_signal.map(|number| Signal::try_from(number).unwrap());
        Record::Holder { name, age: Duration::from_nanos(age), hangup_ignored, last_signal }
    }
}

/// What a holder could hand over.
fn handed_over() -> impl Strategy<Value = Vec<Record>> {
    let child = (names(), any::<i32>(), any::<i32>(), prop::option::of((hows(), any::<u64>())));
    let limit = || prop::option::of(0..u64::MAX);
    (
        (holders(), limit(), limit(), lives(), any::<bool>(), any::<bool>()),
        prop::collection::vec(child, 0..9),
        prop::collection::vec(names(), 0..9),
    )
        .prop_map(|((holder, current, maximum, lives, able, named), children, kept)| {
            let mut next = 2;
            let mut file = || {
                next += 1;
                next
            };
            let mut all = vec![
                Record::Head { form: FORM, pid: 7, before: file() },
                holder,
                Record::Limits(Rlimit { current, maximum }),
                Record::Lives(lives),
                Record::Daemon { pid: 8, able, socket: file() },
                Record::Executable { image: file(), program: named.then(&mut file) },
            ];
            for (child, pid, warning, ended) in children {
                let files = [file(), file(), file()];
                all.push(Record::Child { child, pid, warning, files });
                if let Some((how, time_ns)) = ended {
                    all.push(Record::Ended { child, how, time_ns });
                }
            }
            all.extend(kept.into_iter().map(|name| Record::Kept { name, file: file() }));
            all.push(Record::End(all.len() as u64));
            all
        })
}

fn bytes(records: &[Record]) -> Vec<u8> {
    records.iter().flat_map(Record::encode).collect()
}

proptest! {
    #[test]
    fn what_is_handed_over_is_read(records in handed_over()) {
        let bytes = bytes(&records);
        let read = read(&bytes).unwrap();
        let numbers: Vec<_> = files(read.clone()).collect();
        prop_assert_eq!(numbers, Vec::from_iter(3..3 + files(read.clone()).count() as i32));
        prop_assert_eq!(read.collect::<Vec<_>>(), records);
        prop_assert_eq!(head(&bytes), Ok((7, 3)));
    }

    #[test]
    fn what_is_cut_or_out_of_place_is_refused(records in handed_over(), at in any::<prop::sample::Index>()) {
        let whole = bytes(&records);
        prop_assert!(read(&whole[..at.index(whole.len())]).is_err());
        let at = at.index(records.len());
        let mut without = records.clone();
        without.remove(at);
        prop_assert!(read(&bytes(&without)).is_err());
        let mut twice = records.clone();
        twice.insert(at, records[at]);
        prop_assert!(read(&bytes(&twice)).is_err());
        prop_assert!(read(&[&whole[..], &[0]].concat()).is_err());
    }

    /// Whatever is changed in it, nothing panics, and what is read can be handed over again.
    #[test]
    fn anything_is_read_or_refused(
        records in handed_over(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = bytes(&records);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(found) = read(&bytes) {
            let again: Vec<u8> = found.flat_map(|record| record.encode()).collect();
            prop_assert!(read(&again).is_ok());
        }
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(head(&noise), Err(Unreadable::Foreign));
        prop_assert!(read(&noise).is_err());
    }
}

#[test]
fn a_newer_form_is_known_as_such() {
    let newer = Record::Head { form: FORM + 1, pid: 7, before: 5 }.encode();
    assert_eq!(read(&newer).err(), Some(Unreadable::Form(FORM + 1)));
    assert_eq!(head(&newer), Ok((7, 5)));
    assert!(matches!(Unreadable::Form(2).to_string().as_str(), text if text.contains("form 2")));
}

#[test]
fn no_file_is_handed_over_twice() {
    let record = |form, before| Record::Head { form, pid: 7, before };
    let rest = [
        Record::Holder {
            name: [0; 16],
            age: Duration::ZERO,
            hangup_ignored: false,
            last_signal: None,
        },
        Record::Limits(Rlimit { current: None, maximum: None }),
        Record::Lives(Lives::default()),
        Record::Daemon { pid: 0, able: false, socket: 4 },
        Record::Executable { image: 5, program: None },
        Record::End(6),
    ];
    for (before, expected) in [(3, None), (4, Some(4)), (2, Some(2)), (-2, Some(-2))] {
        let all = [&[record(FORM, before)][..], &rest].concat();
        assert_eq!(read(&bytes(&all)).err(), expected.map(Unreadable::File));
    }
}
