/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * drain.h - have a host take no new work, finish what is under way, and put everything to sleep
 *
 * For the time before the host goes down: what runs then is lost, what sleeps is not. A drained
 * host refuses creates, wakes, forks and builds with a 503, and says so at /readyz; everything else
 * works. It is not remembered: a dormd that starts takes work, since that is why it was started.
 *
 * Any thread.
 */
#include "sandbox/host.h"

enum drain_mode {
	DRAIN_WAIT,  /* until what is under way has ended; sandboxes go on running */
	DRAIN_SLEEP, /* then put all of them to sleep */
};

/** drain_mode_parse() - "wait", "sleep". Return: 0; -EINVAL */
int drain_mode_parse(const char *text, enum drain_mode *ret);

struct drain_options {
	enum drain_mode mode;
	unsigned timeout_s;
	/* a sandbox that could not be put to sleep; the host's other sandboxes are all the same */
	void (*failed)(void *userdata, const char *id, const struct problem *why);
	struct host_task task; /* progress in sandboxes; userdata is failed()'s, too */
};

struct drain_result {
	unsigned n_slept, n_failed;
};

/**
 * host_drain() - begin, and do as the mode says
 * The host stays drained in every case, also when it fails or is cancelled.
 * Return: 0; -ETIMEDOUT: something is still under way; -ECANCELED; @problem says what
 */
int host_drain(struct host *host, const struct drain_options *options, struct problem *problem,
	       struct drain_result *ret);

/** host_undrain() - take work again */
void host_undrain(struct host *host);

bool host_is_draining(struct host *host);

/** host_status() - GET /host: version, is it drained, what is under way, how many sandboxes */
json_t *host_status(struct host *host);
