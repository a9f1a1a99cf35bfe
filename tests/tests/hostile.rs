//! Short attacks by hostile peers; `cargo xtask attack` makes the long ones and measures them.
#![cfg(target_os = "linux")]

use devbox_tests::attacks::{self, Attack, Scale};
use devbox_tests::{Outcome, scenario};

/// The attack comes to its end, and honest users are served afterwards.
fn survives(attack: Attack) -> Outcome {
    scenario(|scene| attack(scene, Scale::SHORT).map(drop))
}

/// The same, and what the campaign asks of the attack holds.
fn stays_within_bounds(attack: Attack) -> Outcome {
    scenario(|scene| attack(scene, Scale::SHORT)?.within_bounds())
}

#[test]
fn a_gateway_survives_handshakes_that_trickle() -> Outcome {
    survives(attacks::handshakes_that_trickle)
}

#[test]
fn a_gateway_survives_a_flood_of_pings() -> Outcome {
    survives(attacks::pings_to_the_gateway)
}

#[test]
fn a_session_survives_a_flood_of_pings() -> Outcome {
    survives(attacks::pings_to_the_session)
}

#[test]
fn a_session_with_a_catalog_that_flaps_ends_when_told_and_leaves_nothing_behind() -> Outcome {
    stays_within_bounds(attacks::a_catalog_that_flaps)
}

#[test]
fn a_gateway_survives_guessed_tokens() -> Outcome {
    survives(attacks::guessed_tokens)
}
