//! Short attacks by hostile peers; `cargo xtask attack` makes the long ones and measures them.
#![cfg(target_os = "linux")]

use devbox_tests::attacks::{self, Attack, Scale};
use devbox_tests::{Outcome, scenario};

/// The attack comes to its end, honest users are served, and what the campaign asks of it holds.
fn stays_within_bounds(attack: Attack) -> Outcome {
    scenario(|scene| attack(scene, Scale::SHORT)?.within_bounds())
}

#[test]
fn a_gateway_survives_handshakes_that_trickle() -> Outcome {
    stays_within_bounds(attacks::handshakes_that_trickle)
}

#[test]
fn a_gateway_survives_a_flood_of_pings() -> Outcome {
    stays_within_bounds(attacks::pings_to_the_gateway)
}

#[test]
fn a_session_survives_a_flood_of_pings() -> Outcome {
    stays_within_bounds(attacks::pings_to_the_session)
}

#[test]
fn a_session_with_a_catalog_that_flaps_ends_when_told_and_leaves_nothing_behind() -> Outcome {
    stays_within_bounds(attacks::a_catalog_that_flaps)
}

#[test]
fn a_gateway_survives_guessed_tokens() -> Outcome {
    stays_within_bounds(attacks::guessed_tokens)
}

#[test]
fn a_session_with_a_catalog_that_flaps_and_output_that_nobody_reads_ends_when_told() -> Outcome {
    stays_within_bounds(attacks::a_catalog_that_flaps_with_the_output_unread)
}
