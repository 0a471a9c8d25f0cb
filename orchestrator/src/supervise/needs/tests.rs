//! Who waits for whom, and who loses what.

use super::*;
use proptest::prelude::*;

fn id(number: u8) -> InstanceId {
    InstanceId::from_bytes([number; 16])
}

fn needing(names: &[&str], on_failure: OnFailure) -> Supervision {
    let requirement = |name: &&str| Requirement {
        instance: (*name).to_owned(),
        condition: Condition::Ready,
        on_failure,
    };
    Supervision { requires: names.iter().map(requirement).collect(), ..Supervision::default() }
}

fn after(name: &str, condition: Condition) -> Supervision {
    let after = vec![After { instance: name.to_owned(), condition }];
    Supervision { after, ..Supervision::default() }
}

fn block(on: &str) -> Option<String> {
    Some(on.to_owned())
}

#[test]
fn what_is_needed_is_waited_for_and_lost() {
    let mut needs = Needs::default();
    let web = needing(&["db"], OnFailure::Restart);
    assert_eq!(needs.insert(id(1), Some("web"), &web).0, block("db to be added"));
    let (_, told) = needs.insert(id(2), Some("db"), &Supervision::default());
    let waits = Consequence { block: Some(block("db to be ready")), lost: None };
    assert_eq!(told, [(id(1), waits.clone())]);
    assert_eq!(needs.set(id(2), Standing::Started, true), []);
    let free = Consequence { block: Some(None), lost: None };
    assert_eq!(needs.set(id(2), Standing::Ready, true), [(id(1), free)]);
    // It is not lost as long as it runs.
    assert_eq!(needs.set(id(2), Standing::Started, true), [(id(1), waits)]);
    needs.set(id(2), Standing::Ready, true);
    let lost = |how: &str| Some((format!("db {how}"), Effect::Restart));
    let told = needs.set(id(2), Standing::Off, true);
    let gone = Consequence { block: Some(block("db to be ready")), lost: lost("was stopped") };
    assert_eq!(told, [(id(1), gone)]);
    let told = needs.set(id(2), Standing::Failed, true);
    assert_eq!(told, [(id(1), Consequence { block: None, lost: lost("has failed") })]);
    let told = needs.remove(id(2));
    let away = Consequence { block: Some(block("db to be added")), lost: None };
    assert_eq!(told, [(id(1), away)]);
    assert_eq!(needs.remove(id(1)), []);
    assert!(needs.dependents.is_empty() && needs.names.is_empty());
}

#[test]
fn nobody_relies_on_what_is_about_to_be_stopped() {
    let mut needs = Needs::default();
    needs.insert(id(1), Some("db"), &Supervision::default());
    needs.insert(id(2), Some("web"), &needing(&["db"], OnFailure::Restart));
    assert_eq!(needs.hold(id(1), true), [], "it is off");
    needs.set(id(1), Standing::Ready, true);
    let waits = Consequence { block: Some(block("db to be ready")), lost: None };
    assert_eq!(needs.hold(id(1), true), [(id(2), waits.clone())]);
    let free = Consequence { block: Some(None), lost: None };
    assert_eq!(needs.hold(id(1), false), [(id(2), free.clone())]);
    assert_eq!(needs.hold(id(1), true), [(id(2), waits)]);
    needs.set(id(1), Standing::Off, false);
    assert_eq!(needs.set(id(1), Standing::Ready, true), [(id(2), free)]);
}

#[test]
fn who_comes_after_another_waits_only_while_that_comes() {
    let mut needs = Needs::default();
    needs.insert(id(1), Some("net"), &Supervision::default());
    let rules = after("net", Condition::Ready);
    assert_eq!(needs.insert(id(2), Some("app"), &rules).0, None);
    needs.set(id(1), Standing::Off, true);
    assert_eq!(needs.blocked(id(2)), block("net to be ready"));
    for end in [Standing::Ready, Standing::Failed, Standing::Completed] {
        needs.set(id(1), end, true);
        assert_eq!(needs.blocked(id(2)), None, "{end:?}");
    }
    needs.set(id(1), Standing::Off, false);
    assert_eq!(needs.blocked(id(2)), None);
}

#[test]
fn a_cycle_is_shown_as_a_path() {
    let mut needs = Needs::default();
    needs.insert(id(1), Some("a"), &needing(&["x", "b"], OnFailure::Stop));
    needs.insert(id(2), Some("b"), &after("c", Condition::Started));
    let rules = needing(&["a"], OnFailure::Stop);
    assert_eq!(needs.check(None, Some("c"), &rules), Err("c → a → b → c".to_owned()));
    assert_eq!(needs.check(None, Some("d"), &rules), Ok(()));
    let itself = needing(&["a"], OnFailure::Stop);
    assert_eq!(needs.check(None, Some("a"), &itself), Err("a → a".to_owned()));
    let by_id = needing(&[&id(9).to_string()], OnFailure::Stop);
    assert!(needs.check(Some(id(9)), None, &by_id).is_err());
}

#[test]
fn the_worse_consequence_wins() {
    let stop = Consequence { block: None, lost: Some(("a".into(), Effect::Stop)) };
    let restart = Consequence { block: Some(None), lost: Some(("b".into(), Effect::Restart)) };
    let both = Consequence { block: Some(None), lost: stop.lost.clone() };
    assert_eq!(stop.clone().then(restart.clone()), both);
    assert_eq!(restart.then(stop), both);
}

#[test]
fn what_is_needed_can_change() {
    let mut needs = Needs::default();
    needs.insert(id(1), Some("db"), &Supervision::default());
    needs.insert(id(2), Some("net"), &Supervision::default());
    needs.insert(id(3), Some("web"), &needing(&["db"], OnFailure::Stop));
    let told = needs.set_rules(id(3), &needing(&["net"], OnFailure::Stop)).unwrap();
    assert_eq!(told.block, Some(block("net to be ready")));
    assert_eq!(needs.set(id(1), Standing::Ready, true), []);
    assert_eq!(needs.requirers(id(1)), []);
    assert_eq!(needs.requirers(id(2)), [(id(3), Effect::Stop)]);
    let free = needs.set_rules(id(3), &Supervision::default()).unwrap();
    assert_eq!(free.block, Some(None));
    assert_eq!(needs.dependents_of(id(2)), BTreeSet::new());
    assert_eq!(needs.set_rules(id(9), &Supervision::default()), None);
}

proptest! {
    /// Each instance needs some of those before it, so there is no cycle. All are to run, and
    /// become ready in an order that chance decides among those that are not blocked.
    #[test]
    fn nobody_starts_before_what_it_needs(
        edges in prop::collection::vec(prop::collection::vec(any::<bool>(), 12), 12),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 12),
    ) {
        let mut needs = Needs::default();
        let name = |number: usize| format!("i{number}");
        let needed: Vec<Vec<usize>> = (0..12)
            .map(|number| (0..number).filter(|other| edges[number][*other]).collect())
            .collect();
        for number in (0..12).rev() {
            let names: Vec<_> = needed[number].iter().map(|&other| name(other)).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let rules = needing(&names, OnFailure::Restart);
            prop_assert_eq!(needs.check(None, Some(&name(number)), &rules), Ok(()));
            needs.insert(id(number as u8), Some(&name(number)), &rules);
        }
        let mut ready = BTreeSet::new();
        for choice in &choices {
            let free: Vec<_> = (0..12)
                .filter(|number| !ready.contains(number))
                .filter(|number| needs.blocked(id(*number as u8)).is_none())
                .collect();
            let next = free[choice.index(free.len())];
            prop_assert!(needed[next].iter().all(|other| ready.contains(other)));
            needs.set(id(next as u8), Standing::Ready, true);
            ready.insert(next);
        }
        prop_assert_eq!(ready.len(), 12, "somebody waits for ever");
        // And in the other direction: who is needed by one that runs is not the next to stop.
        for choice in &choices {
            let free: Vec<_> = ready
                .iter()
                .copied()
                .filter(|number| {
                    let others = needs.dependents_of(id(*number as u8));
                    others.iter().all(|other| !ready.iter().any(|r| id(*r as u8) == *other))
                })
                .collect();
            let next = free[choice.index(free.len())];
            let told = needs.set(id(next as u8), Standing::Off, false);
            let lost = told.iter().filter(|(other, _)| ready.iter().any(|r| id(*r as u8) == *other));
            prop_assert_eq!(lost.count(), 0);
            ready.remove(&next);
        }
    }
}

#[test]
fn who_needs_a_set_needs_each_of_its_replicas() {
    let mut needs = Needs::default();
    let web = needing(&["worker"], OnFailure::Restart);
    assert_eq!(needs.insert(id(9), Some("web"), &web).0, block("worker to be added"));
    let free = Consequence { block: Some(None), lost: None };
    assert_eq!(needs.add_set("worker"), [(id(9), free.clone())], "of none nothing is needed");
    for number in 1..=2 {
        needs.insert(id(number), Some(&format!("worker.{number}")), &Supervision::default());
    }
    // Named like replicas, and of no set.
    needs.insert(id(3), Some("worker.0"), &Supervision::default());
    needs.insert(id(4), Some("other.1"), &Supervision::default());
    assert_eq!(needs.blocked(id(9)), block("worker.1 to be ready"));
    needs.set(id(1), Standing::Ready, true);
    assert_eq!(needs.blocked(id(9)), block("worker.2 to be ready"));
    assert_eq!(needs.set(id(2), Standing::Ready, true), [(id(9), free)]);
    assert_eq!(needs.required(id(9)), [id(1), id(2)]);
    assert_eq!(needs.requirers(id(2)), [(id(9), Effect::Restart)]);
    let lost = Some(("worker.2 was stopped".to_owned(), Effect::Restart));
    let waits = Consequence { block: Some(block("worker.2 to be ready")), lost };
    assert_eq!(needs.set(id(2), Standing::Off, false), [(id(9), waits)]);
}

#[test]
fn a_replica_that_goes_while_its_set_stays_is_not_lost() {
    let mut needs = Needs::default();
    needs.add_set("worker");
    for number in 1..=2 {
        needs.insert(id(number), Some(&format!("worker.{number}")), &Supervision::default());
        needs.set(id(number), Standing::Ready, true);
    }
    let rules = Supervision {
        after: vec![After { instance: "worker".into(), condition: Condition::Ready }],
        ..needing(&["worker"], OnFailure::Stop)
    };
    assert_eq!(needs.insert(id(9), Some("web"), &rules).0, None);
    assert_eq!(needs.part(id(2)), []);
    assert_eq!(needs.part(id(2)), [], "it has gone already");
    assert_eq!((needs.requirers(id(2)), needs.dependents_of(id(2))), (vec![], BTreeSet::new()));
    assert_eq!(needs.set(id(2), Standing::Off, false), []);
    assert_eq!(needs.remove(id(2)), []);
    assert_eq!(needs.required(id(9)), [id(1)]);
    // Of the set itself nothing is left.
    let gone = needs.set(id(1), Standing::Off, false);
    assert!(gone[0].1.lost.is_some());
    needs.remove(id(1));
    assert_eq!(needs.blocked(id(9)), None);
    needs.remove_set("worker");
    assert_eq!(needs.blocked(id(9)), block("worker to be added"));
    needs.remove(id(9));
    assert!(needs.dependents.is_empty() && needs.names.is_empty() && needs.sets.is_empty());
}

#[test]
fn a_set_that_needs_itself_is_a_cycle() {
    let mut needs = Needs::default();
    needs.add_set("worker");
    for text in ["worker", "worker.1"] {
        let rules = needing(&[text], OnFailure::Stop);
        let way = format!("worker.1 \u{2192} {text}");
        assert_eq!(needs.check(None, Some("worker.1"), &rules), Err(way));
    }
    needs.insert(id(1), Some("db"), &needing(&["worker"], OnFailure::Stop));
    needs.insert(id(2), Some("worker.1"), &Supervision::default());
    let rules = needing(&["db"], OnFailure::Stop);
    assert!(needs.check(None, Some("worker.2"), &rules).is_err());
    assert_eq!(needs.check(None, Some("other.1"), &rules), Ok(()));
}
