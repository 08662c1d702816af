//! The tests of decoding messages stand here.
