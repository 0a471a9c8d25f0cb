//! What a link means, sentence by sentence: `orchestrator-proto/LINKS.md`. Each scenario names the
//! sentences (L1, L2 …) that it checks, and is done over every pair of ends.
//!
//! What is random has a seed, which is printed: `ORCHESTRATOR_CONFORMANCE_SEED` gives it again.
//! The same seed does the same in the same order; how that interleaves with the messages is up to
//! the kernel. `ORCHESTRATOR_CONFORMANCE_STEPS` is how much happens in each random scenario, 12
//! without it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first fault")]

mod case;
mod changes;
mod daemon;
mod ends;
mod forms;
mod late;
mod policies;
mod random;
mod replays;
mod sends;
mod stage;
mod stamps;
mod texts;
mod timeouts;

use case::{Case, Dialect};
use orchestrator_proto::control::Transport;

/// Makes a test of each scenario over each case. A case, such as another transport, is one line.
macro_rules! conformance {
    ($($room:ident :: $scenario:ident),* $(,)?) => {
        $(mod $scenario {
            use super::{Dialect::{Native, Python, Veecle}, Transport::{Direct, Routed, Shm}};

            conformance!(@case $room $scenario native_to_native (Native, Routed, Native));
            conformance!(@case $room $scenario native_to_native_directly (Native, Direct, Native));
            conformance!(@case $room $scenario native_to_native_by_memory (Native, Shm, Native));
            conformance!(@case $room $scenario native_to_veecle (Native, Routed, Veecle));
            conformance!(@case $room $scenario veecle_to_native (Veecle, Routed, Native));
            conformance!(@case $room $scenario veecle_to_veecle (Veecle, Routed, Veecle));
            conformance!(@case $room $scenario native_to_python (Native, Routed, Python));
            conformance!(@case $room $scenario python_to_native (Python, Routed, Native));
            conformance!(@case $room $scenario python_to_python (Python, Routed, Python));
        })*
    };
    (@case $room:ident $scenario:ident $name:ident ($from:ident, $transport:ident, $to:ident)) => {
        #[test]
        fn $name() {
            let case = super::Case { from: $from, to: $to, transport: $transport };
            if case.is_possible() {
                super::$room::$scenario(case);
            }
        }
    };
}

conformance!(
    policies::in_order_once_and_counted,
    policies::drop_newest_keeps_the_oldest,
    policies::drop_oldest_keeps_the_newest,
    policies::latest_keeps_one,
    policies::block_holds_back_whom_it_can,
    policies::a_full_link_harms_itself_alone,
    policies::bytes_are_bounded,
    ends::what_waits_is_there_for_the_next_connection,
    ends::a_receiver_that_is_killed,
    ends::a_sender_that_is_killed,
    ends::ends_that_are_stopped,
    changes::a_link_that_is_removed,
    changes::an_end_that_is_removed,
    changes::a_link_that_is_changed,
    changes::taps_change_nothing,
    daemon::a_daemon_that_is_killed,
    daemon::a_daemon_that_is_stopped,
    timeouts::a_sender_is_let_go_after_the_timeout,
    timeouts::nothing_is_dropped_within_the_timeout,
    timeouts::a_timeout_may_change_while_a_sender_is_held_back,
    timeouts::the_sdk_knows_what_was_dropped,
    timeouts::a_receiver_that_hangs_costs_its_sender_the_timeout_once,
    late::a_late_joiner_gets_the_last_messages,
    late::what_waits_is_not_doubled,
    late::latest_with_a_history_of_one_is_the_last_value,
    late::a_process_that_takes_part_passes_over_what_it_has_had,
    late::each_process_begins_with_the_history,
    late::what_is_remembered_is_bounded,
    late::a_history_begins_when_it_is_given,
    sends::messages_of_a_client_come_beside_those_of_links,
    sends::messages_of_a_client_are_taken_back,
    sends::messages_of_a_client_to_nobody,
    sends::messages_of_a_client_are_values_of_the_type,
    sends::messages_of_a_client_are_not_kept,
    forms::each_message_arrives_in_its_form,
    forms::each_receiver_gets_the_best_form_of_several,
    stamps::the_receiver_is_told_when_each_message_was_sent,
    replays::what_is_fed_is_carried_like_any_message,
    replays::a_sender_that_is_there_sends_too_and_a_daemon_that_dies_ends_it,
    random::whatever_happens,
);

/// A number of the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

#[test]
fn each_sentence_is_checked_by_a_scenario_that_names_it() {
    let page = include_str!("../../orchestrator-proto/LINKS.md");
    let scenarios = [
        include_str!("policies.rs"),
        include_str!("ends.rs"),
        include_str!("forms.rs"),
        include_str!("stamps.rs"),
        include_str!("replays.rs"),
        include_str!("late.rs"),
        include_str!("changes.rs"),
        include_str!("daemon.rs"),
        include_str!("sends.rs"),
        include_str!("../calls.rs"),
        include_str!("../link_set.rs"),
        include_str!("../replay.rs"),
        include_str!("../lanes.rs"),
        include_str!("../shm.rs"),
        include_str!("../sdk/envelopes.rs"),
        include_str!("../lane_ends.rs"),
        include_str!("../lane_cut.rs"),
        include_str!("../record.rs"),
        include_str!("../replay.rs"),
        include_str!("timeouts.rs"),
    ];
    let named = |text: &str, sentence: &str| {
        let mut words = text.split(|it: char| !it.is_ascii_alphanumeric());
        words.any(|word| word == sentence)
    };
    let sentences = page.lines().filter_map(|line| line.strip_prefix("- **")?.split_once(".**"));
    let sentences: Vec<_> = sentences.map(|(sentence, _)| sentence).collect();
    assert!(sentences.len() >= 75, "{sentences:?}");
    for sentence in sentences {
        assert!(scenarios.iter().any(|text| named(text, sentence)), "{sentence} is not checked");
    }
}
