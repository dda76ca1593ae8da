/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* working-set-scores.h - the part of the file that has the scores, for working-set-format.c only */
#include "base/problem.h"
#include "image/working-set.h"

/** working_set_scores_max_bytes() - room that working_set_put_scores() needs */
size_t working_set_scores_max_bytes(const struct working_set *s);

/** working_set_put_scores() - encode. Return: bytes that count */
size_t working_set_put_scores(const struct working_set *s, uint8_t *out);

/**
 * working_set_get_scores() - decode, and weigh the pages
 * @plain: has the runs of the file, and no scores
 * @s:     has the pages of the guest, and nothing else yet
 * Return: 0; IMAGE_E_CORRUPT; -ENOMEM
 */
int working_set_get_scores(const uint8_t *data, size_t len, const struct working_set *plain,
			   struct working_set *s, struct problem *problem);
