/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * admission.h - who may bring up a sandbox now, who waits, who is sent away
 *
 * A sandbox takes its memory in the seconds after it was started, so what is available now says
 * little about whether the next one fits. Each is admitted by a forecast of what it will take:
 *
 *     available - reserve - promised >= forecast
 *
 * where `promised` is what sandboxes that were started a short while ago have not yet taken of
 * their forecasts. Example: 1000 MiB are available, 256 are the reserve, and five sandboxes of
 * 60 MiB each started in the last seconds, which hold 20 each: 5 * 40 are promised, 544 are left,
 * enough for nine more.
 *
 * Besides memory, a turn: so many are brought up at once as processors can work on. A hundred at
 * the same time would all run into their deadlines; these begin when it is one's turn.
 *
 * Who cannot be admitted now waits, first come first served, whatever it needs: one that needs much
 * is not overtaken for ever by those that need little. The queue has a bound, and so has the time
 * that it may stand still for want of room; waiting for a turn does not count, as turns come.
 * Then, or if the queue is full: a 503 with the code sandbox_capacity_unavailable and when to try
 * again.
 *
 * Life: admission_enter() -> the sandbox is brought up -> admission_leave(). Any thread; no lock of
 * private.h's may be held but op and disk. What it looks at comes through struct admission_hooks,
 * so that it can be tested with numbers and a clock that are made up.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/mem.h"
#include "base/problem.h"

#define ADMISSION_CODE "sandbox_capacity_unavailable"

struct admission_limits {
	uint64_t reserve;	/* bytes; 0: 5 % of the host's memory, at least 256 MiB */
	unsigned max_sandboxes; /* that have a VM; 0: any number */
	unsigned queue_max;
	unsigned queue_ms;
	unsigned turns; /* brought up at once */
};

struct admission_hooks {
	/* memory of the host: available, and all. Return: 0; negative errno, and then nobody waits
	 * for memory */
	int (*memory)(void *userdata, uint64_t *ret_available, uint64_t *ret_total);
	/* what that VM holds of its own; 0: it is gone */
	uint64_t (*held)(void *userdata, pid_t pid);
	/* sandboxes with a VM, except those that hold a ticket */
	unsigned (*running)(void *userdata);
	/* give back something that is only kept ready; without locks. Return: was there something?
	 */
	bool (*give_back)(void *userdata);
	uint64_t (*now_ns)(void);
	void *userdata;
};

/* What is asked for. */
struct admission_ask {
	const char *what;		   /* for people: "another sandbox of base" */
	const char *template;		   /* what is learned is kept by its name; "": nothing is */
	uint64_t start;			   /* bytes, as long as nothing was learned */
	uint64_t least;			   /* bytes, whatever was learned */
	bool (*abandoned)(void *userdata); /* nobody wants it any more? NULL: somebody does */
	void *userdata;
};

/* Of one that was let in; its holder's. */
struct admission_ticket {
	uint64_t bytes;
	uint64_t waited_ns;
	char template[64];
	bool is_fill;
	bool held; /* to be given to admission_leave() */
};

struct admission;

int admission_new(const struct admission_limits *limits, const struct admission_hooks *hooks,
		  struct admission **ret);
struct admission *admission_free(struct admission *a);
DEFINE_CLEANUP(struct admission *, admission_free)

/**
 * admission_enter() - wait until a sandbox may be brought up
 * Return: 0; -EAGAIN with a 503 in @problem: there is no room; -ECANCELED: abandoned, or the
 * daemon ends
 */
int admission_enter(struct admission *a, const struct admission_ask *ask, struct problem *problem,
		    struct admission_ticket *ret);

/**
 * admission_try() - for what is kept ready and nobody waits for: only if nobody else wants a turn,
 * and plenty is left. Return: may it?
 */
bool admission_try(struct admission *a, const struct admission_ask *ask,
		   struct admission_ticket *ret);

/**
 * admission_leave() - it was brought up, or was not
 * @pid: of its VM, whose forecast stays promised while it is young; 0: it came to nothing
 */
void admission_leave(struct admission *a, struct admission_ticket *t, pid_t pid);

/** admission_knows() - has anything been learned about it? */
bool admission_knows(struct admission *a, const char *template);

/** admission_learn() - a sandbox of that template, about to be ended, held that much */
void admission_learn(struct admission *a, const char *template, uint64_t bytes);

/** admission_changed() - something ended: there may be room. @a may be NULL */
void admission_changed(struct admission *a);

/** admission_stop() - whoever waits gets -ECANCELED, now and from now on */
void admission_stop(struct admission *a);

struct admission_figures {
	uint64_t total, available, reserve, promised; /* bytes */
	unsigned bringing_up, turns;
	unsigned waiting, queue_max;
	unsigned running, max_sandboxes;
	uint64_t admitted, waited, refused, abandoned; /* since the start */
	uint64_t waited_ns;			       /* all that waited, together */
	bool blocked;				       /* the first in the queue waits for room */
};
void admission_figures(struct admission *a, struct admission_figures *ret);
