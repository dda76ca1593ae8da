/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * hook-list.h - which programs of the sandbox want to run before it sleeps, or after it woke
 *
 *     /etc/dorm/hooks/before-sleep.d/10-database     in the order of their names
 *     /etc/dorm/hooks/after-wake.d/10-database
 *     /etc/dorm/hooks/timeout                        optional: seconds for each hook, 1 to 60
 *
 * They run as root, so directory and file must belong to root and not be writable by others: what
 * does not is named in the list with the reason, and is not run. A name that begins with '.' is
 * nobody's hook.
 */
#include <stdbool.h>
#include <stddef.h>

#define HOOKS_MAX	16
#define HOOK_EACH_MS	5000
#define HOOK_EACH_MAX_S 60
#define HOOK_TOTAL	2 /* all together may take so many times what each may */

enum hook_event { HOOK_BEFORE_SLEEP, HOOK_AFTER_WAKE, HOOK_N_EVENTS };

struct hook {
	char *path;	  /* absolute; owned */
	const char *name; /* "after-wake.d/10-database", in @path */
	const char *skip; /* why it is not run; NULL: it is */
};

struct hook_list {
	struct hook hooks[HOOKS_MAX];
	size_t n;
	bool too_many;	   /* more than HOOKS_MAX: none of the others is known */
	unsigned each_ms;  /* time limit of each */
	unsigned total_ms; /* ... and of all: 0 when there is none to be run */
};

/** hook_event_name() - "before-sleep" */
const char *hook_event_name(enum hook_event event);

/**
 * hook_list_read() - @base: the directory of hooks. One that is absent holds none
 * Return: 0; -ENOMEM; another negative errno when it cannot be read
 */
int hook_list_read(const char *base, enum hook_event event, struct hook_list *ret);
void hook_list_deinit(struct hook_list *l);
