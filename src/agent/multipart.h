/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * multipart.h - multipart/form-data as it arrives, cut anywhere
 *
 *     multipart_init()    finds the boundary in the Content-Type
 *     multipart_feed()    any number of times; calls begin, data..., end for each part
 *     multipart_finish()  was the last boundary there?
 *     multipart_deinit()  also of one that multipart_init() refused
 *
 * The data of a part is handed on from where it lies, never copied and never kept: memory is one
 * part's headers, at most MULTIPART_HEADERS_MAX. Embedded by value. One thread.
 * Source: RFC 7578, RFC 2046 section 5.1.1; names as Go's mime package reads them.
 */
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

#define MULTIPART_BOUNDARY_MAX 200u
#define MULTIPART_HEADERS_MAX  16384u

struct multipart_ops {
	/* each returns 0, or a negative errno that multipart_feed() passes on */
	int (*begin)(void *userdata, const char *name, const char *filename); /* NULL: absent */
	int (*data)(void *userdata, const void *data, size_t len);
	int (*end)(void *userdata);
};

enum multipart_state {
	MULTIPART_PREAMBLE, /* before the first boundary: ignored */
	MULTIPART_LINE,	    /* the rest of a boundary's line */
	MULTIPART_HEADERS,
	MULTIPART_DATA,
	MULTIPART_OVER, /* after the last boundary: ignored */
};

struct multipart {
	const struct multipart_ops *ops;
	void *userdata;
	enum multipart_state state;
	char delimiter[4 + MULTIPART_BOUNDARY_MAX + 1]; /* "\r\n--BOUNDARY" */
	size_t len;					/* of the delimiter */
	size_t matched;	 /* bytes of it that the input so far ends with */
	size_t implied;	 /* ... of which so many were not there: the line before ended already */
	struct buf line; /* not yet complete */
	size_t header_bytes; /* of this part, or of a boundary's line */
	char *name, *filename;
	const char *error; /* what is wrong, after -EBADMSG */
};

/** multipart_init() - @content_type: with its parameters. Return: 0; -EBADMSG */
int multipart_init(struct multipart *m, const char *content_type, const struct multipart_ops *ops,
		   void *userdata);
void multipart_deinit(struct multipart *m);

/** multipart_feed() - Return: 0; -EBADMSG; -ENOMEM; what a function of the ops returned */
int multipart_feed(struct multipart *m, const char *data, size_t len);

/** multipart_finish() - Return: 0; -EBADMSG: it was cut */
int multipart_finish(struct multipart *m);

/**
 * multipart_parameter() - `key="value"` of a header, or key*=UTF-8''value
 * Return: 1 with fresh memory in @ret; 0: absent; -ENOMEM
 */
int multipart_parameter(const char *header, const char *key, char **ret);
