/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * describe.h - a JSON object as people like to read it
 *
 * Plain fields first, aligned, then what is nested, each under a heading; an array of objects
 * becomes a table. Names are split into words and units understood by the end of a name:
 *
 *     {"snapshotID":"s1","memoryBytes":536870912,"wakeMs":47.25,"layers":[{"id":"a","bytes":4096}]}
 *
 *     snapshot ID  s1
 *     memory       512.0 MiB
 *     wake         47.3 ms
 *
 *     layers
 *     ID    SIZE
 *     a  4.0 KiB
 *
 * Knows no schema, so it shows whatever dormd has to say.
 */
#include <jansson.h>

#include "cli/cli.h"

/** describe_object() - print to standard output. Return: CLI_OK; CLI_FAILED, with a message */
int describe_object(const struct cli *cli, const json_t *object);

/** describe_label() - "memoryBytes" to "memory"; @buf holds 64 bytes */
char *describe_label(const char *key, char buf[64]);

/** describe_value() - a field's value as text in fresh memory; NULL without memory */
char *describe_value(const char *key, const json_t *value);
