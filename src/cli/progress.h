/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * progress.h - one line on the terminal for what takes more than a second
 *
 *     progress_start(&p, cli, "waking %s", id);
 *     progress_tick(&p);           as often as convenient; draws "waking i1 ... 3 s" after a second
 *     progress_bar(&p, 3, 10);     the same with a bar
 *     progress_bytes(&p, 3, 10);   the same, saying how many bytes of how many; 0: not known
 *     progress_end(&p);            takes the line away
 *
 * Draws on standard error, and only when that is a terminal; otherwise every function does nothing.
 * Call progress_end() before printing anything else.
 */
#include <stdbool.h>
#include <stdint.h>

#include "cli/cli.h"

struct progress {
	bool enabled;
	bool visible;
	uint64_t start_ns, drawn_ns;
	char text[128];
};

void progress_start(struct progress *p, const struct cli *cli, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void progress_tick(struct progress *p);
void progress_bar(struct progress *p, uint64_t done, uint64_t total);
void progress_bytes(struct progress *p, uint64_t done, uint64_t total);
void progress_end(struct progress *p);

/** progress_elapsed_ms() - since progress_start(), terminal or not */
double progress_elapsed_ms(const struct progress *p);
