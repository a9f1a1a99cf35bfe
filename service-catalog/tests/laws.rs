//! The laws of a catalog and of its wire form, through the public API.

#[cfg(test)]
mod laws {
    mod catalog;
    mod generate;
    mod wire;
}
