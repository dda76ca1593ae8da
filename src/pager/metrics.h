/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * metrics.h - the statistics as Prometheus reads them: text format 0.0.4
 *
 * Names, types and labels: docs/format-pager.md, "Metrics". Names are kept once they are published.
 */
#include "base/buf.h"
#include "pager/pager.h"

#define METRICS_MAX_SESSIONS 64u /* more are not named, but added up by image and mode */

/** metrics_text() - all of it, appended. Control thread. Return: 0; -ENOMEM */
int metrics_text(struct pager *p, struct buf *ret);

/** metrics_escape() - @value as it stands between the quotes of a label, appended. Return: 0;
 *  -ENOMEM */
int metrics_escape(struct buf *b, const char *value);
