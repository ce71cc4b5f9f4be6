// SPDX-License-Identifier: GPL-2.0-only
//! A report as files for people and programs.
