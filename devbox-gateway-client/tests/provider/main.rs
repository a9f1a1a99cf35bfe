//! The provider against gateways made by hand.

#[cfg(test)]
mod connect;
