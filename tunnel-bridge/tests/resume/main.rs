//! Links that outlive the connection under them.

#[cfg(test)]
mod cut;
#[cfg(test)]
mod desk;
#[cfg(test)]
mod network;
#[cfg(test)]
mod redial;
