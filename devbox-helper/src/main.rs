//! The helper as a program of its own. `devbox` does not need it: it runs itself again in this role.

#![deny(unsafe_code)]

fn main() -> Result<(), devbox_helper::Error> {
    devbox_helper::enter(std::env::args_os().skip(1))
}
