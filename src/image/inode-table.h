/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * inode-table.h - which inodes have been seen, with a number for each
 *
 * Numbers count from 0 in the order of first sight, so a caller keeps what it knows of an inode in
 * an array of its own. Embedded: `struct inode_table t = {0};`, inode_table_deinit(). One thread.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

struct inode_table {
	struct inode_key *slots; /* a power of two of them, open addressing */
	size_t n_slots;
	uint32_t n; /* inodes seen */
};

/**
 * inode_table_put() - the number of the inode of @st; a new one when it was not seen before
 * Return: 0; 1 when it is new; -ENOMEM
 */
int inode_table_put(struct inode_table *t, const struct stat *st, uint32_t *ret_number);
void inode_table_deinit(struct inode_table *t);
