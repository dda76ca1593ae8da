/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * apt-sources.h - the part of the host's apt configuration that is Debian itself
 *
 * A base is made from the archives that the host itself uses, mirrors and keys included, but not
 * from what else it may have among its sources. Pure functions on the text of such files.
 */
#include "base/buf.h"

/**
 * apt_sources_filter_list() - one-line style: "deb [options] URI SUITE COMPONENT..."
 * @release: "bookworm": lines for it, its updates and its security suite, with component main, are
 *	     kept
 * @out: appended. Return: 0; -ENOMEM
 */
int apt_sources_filter_list(const char *text, const char *release, struct buf *out);

/** apt_sources_filter_deb822() - the same for paragraphs of "Types: deb", "URIs:", "Suites:" */
int apt_sources_filter_deb822(const char *text, const char *release, struct buf *out);
