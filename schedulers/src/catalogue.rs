// SPDX-License-Identifier: GPL-2.0-only
//! The policies that are built in; build.rs finds their folders.

use framework::policy::{BuiltIn, Catalogue, Half};

include!(concat!(env!("OUT_DIR"), "/catalogue.rs"));
