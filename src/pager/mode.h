/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * mode.h - how a session's pages get into its VM: the choice, and why
 *
 * Control thread. The modes themselves: session.h.
 */
#include "pager/pager.h"

struct mode_choice {
	enum session_mode mode;
	char why[160];
	struct image *memory; /* whose resident memory it runs on; borrowed from the request */
	bitmap_word *own;     /* OVERLAY: pages that are not the base's; the caller's to free */
};

/**
 * mode_choose() - as pager_open() says
 * @present: there is resident memory of @q->image
 * Return: 0; -EINVAL when what is asked for cannot be; -ENOMEM; @problem says
 */
int mode_choose(const struct pager *p, const struct pager_request *q, bool present,
		struct problem *problem, struct mode_choice *ret);
