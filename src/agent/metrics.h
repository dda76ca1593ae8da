/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * metrics.h - GET /metrics and GET /envs
 *
 * Metrics are read from the kernel when they are asked for; nothing is sampled in between, so an
 * idle guest stays idle. CPU use is that between two questions, at least METRICS_SPAN_MS apart; the
 * first answer measures the last METRICS_SPAN_MS from then on, and so is late by that much.
 */
#include "agent/router.h"

#define METRICS_SPAN_MS 100u

struct metrics;

int metrics_new(struct agent *a, struct metrics **ret);
struct metrics *metrics_free(struct metrics *m);
DEFINE_CLEANUP(struct metrics *, metrics_free)

/** metrics_add() - add the routes; they use agent.metrics */
int metrics_add(struct router *r);
