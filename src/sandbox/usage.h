/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * usage.h - what a guest used, at the moments when somebody asked
 *
 * Nothing samples guests by itself: an idle one stays idle. Each sample that somebody asked for is
 * kept, the last USAGE_MAX of them and at most one per USAGE_SPAN_NS, so that who asks regularly
 * gets a series. The memory of one that is never asked about is a few words.
 *
 * A plain value, empty when zero; its owner locks it.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define USAGE_MAX     600u
#define USAGE_SPAN_NS 1000000000ull

struct usage_sample {
	uint64_t when_ns;    /* real time */
	double cpu_used_pct; /* of all processors together, 0 to 100 */
	uint32_t cpu_count;
	uint64_t mem_used, mem_total, mem_cache;
	uint64_t disk_used, disk_total;
};

struct usage {
	struct usage_sample *ring; /* the next goes to next % USAGE_MAX */
	size_t cap, next;	   /* cap: until USAGE_MAX, samples that fit */
};

void usage_deinit(struct usage *u);

/** usage_is_due() - is the last sample old enough at @now_ns for another? */
bool usage_is_due(const struct usage *u, uint64_t now_ns);

/** usage_add() - unless one is not due. Return: 0; -ENOMEM */
int usage_add(struct usage *u, const struct usage_sample *s);

/**
 * usage_describe() - the samples from @start_ns to @end_ns, oldest first, as the API has them
 * Return: new reference to an array; NULL without memory
 */
json_t *usage_describe(const struct usage *u, uint64_t start_ns, uint64_t end_ns);

/** usage_parse() - the agent's answer to GET /metrics. Return: 0; -EBADMSG */
int usage_parse(const json_t *o, uint64_t now_ns, struct usage_sample *ret);
