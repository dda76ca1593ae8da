/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * client.h - starting a dorm-net, finding it again, telling it its rules
 *
 * Life: net_process_start() and _await(), or net_process_find() for one that an earlier dormd has
 * started; then net_process_set_rules() as often as one likes; net_process_stop(), or
 * net_process_forget(), which lets it run on. It ends by itself with its VM. Blocking, with
 * deadlines; one thread at a time.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/problem.h"

#define NET_PROCESS_SOCKET "netctl.sock" /* in the sandbox's directory */

struct net_process {
	pid_t pid;
	int pidfd;	/* readable once it is gone */
	int control_fd; /* its end hangs up with it */
	int log_fd;	/* what it says; -1 of one that was found */
};

#define NET_PROCESS_NONE                                                                           \
	((struct net_process){.pid = 0, .pidfd = -1, .control_fd = -1, .log_fd = -1})

struct net_options {
	const char *program; /* dorm-net */
	const char *passt;
	const char *work_dir; /* absolute: its control socket and log, "net.log", go there */
	int vm_fd;	      /* of vmm_dial_network(); borrowed */
	bool ipv6;
};

/**
 * net_process_start() - start it, without waiting until it is ready
 * @rules: as rules_parse() takes them, without "host": that is filled in. It passes nothing before
 *         it has read them
 * Return: 0, and then net_process_await() must be called once; negative errno
 */
int net_process_start(const struct net_options *options, const json_t *rules,
		      struct problem *problem, struct net_process *ret);

/** net_process_await() - until it works. Return: 0; negative errno with the reason in @problem */
int net_process_await(struct net_process *p, uint64_t deadline_ns, struct problem *problem);

/** net_process_find() - Return: 0; -ENOENT when none runs for this directory; negative errno */
int net_process_find(const char *work_dir, struct net_process *ret);

/** net_process_set_rules() - @rules as for net_process_start(); they hold when this returns */
int net_process_set_rules(struct net_process *p, const json_t *rules, uint64_t deadline_ns,
			  struct problem *problem);

/** net_process_counters() - new reference */
int net_process_counters(struct net_process *p, uint64_t deadline_ns, json_t **ret);

/** net_process_stop() - SIGKILL, and wait until it is gone. None is fine */
void net_process_stop(struct net_process *p, uint64_t deadline_ns);

/** net_process_forget() - close what we have of it; it lives on */
void net_process_forget(struct net_process *p);

/** net_host_has_ipv6() - does this host have a way to the IPv6 internet? */
bool net_host_has_ipv6(void);
