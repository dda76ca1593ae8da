/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * request.h - one HTTP request to the control API, and its reply
 *
 * A handler reads the request, fills the reply, and returns 0; or returns a negative errno and
 * leaves the problem to say what went wrong. One thread per request.
 */
#include <jansson.h>
#include <microhttpd.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/problem.h"
#include "sandbox/sandbox.h"

#define REQUEST_MAX_BODY   (1u << 20)
#define REQUEST_MAX_ARGS   3
#define REQUEST_KEY_ID_MAX 32
#define REQUEST_ONCE_LEN   SANDBOX_REQUEST_LEN

/* What a key allows (docs/security.md): each includes those before it. */
enum scope {
	SCOPE_NONE,  /* nothing, not even to be told what there is */
	SCOPE_READ,  /* look at sandboxes, snapshots, templates, the host */
	SCOPE_USE,   /* ... and create, sleep, wake, fork, delete sandboxes; snapshots of them */
	SCOPE_ADMIN, /* ... and templates, the store, the pager, keys, sandboxes of others */
};

/* Who asks. */
struct caller {
	uint32_t uid;			     /* of who came over the unix socket */
	char key_id[REQUEST_KEY_ID_MAX + 1]; /* "": over the unix socket, which may do everything */
	enum scope scope;
};

struct request {
	struct host *host;
	struct MHD_Connection *connection;
	struct caller caller;
	struct access *access;		  /* NULL: nobody is asked who he is; no keys can be made */
	char once[REQUEST_ONCE_LEN + 1];  /* its name, if it has an Idempotency-Key: api/once.h */
	char id[LOG_REQUEST_MAX + 1];	  /* in X-Request-Id, in the log and in events */
	char args[REQUEST_MAX_ARGS][128]; /* what {} in the route stood for */
	struct buf body;
	json_t *json; /* the body: an object, empty when there was none */
};

struct reply {
	int status;		  /* 200, 201, 202; 204 goes without a body */
	json_t *json;		  /* owned */
	char next_token[64];	  /* x-next-token, if not empty */
	struct MHD_Response *raw; /* instead of json */
	const char *request_id;	  /* borrowed; NULL: not said */
	struct paced *paced;	  /* ... whose body is made as it is sent; owned by raw */
	bool replayed;		  /* it is the answer to an earlier request with the same key */
	char allow[64];		  /* the methods that there are, with a 405 and for OPTIONS */
	struct problem problem;
};

typedef int (*request_handler)(struct request *q, struct reply *y);

/* A body of any size, which is worked on in slices as it arrives. The functions are called from the
 * connection's thread: body() for each slice until it fails, then finish() if none did; free() in
 * every case. */
struct upload {
	void *state;
	int (*body)(void *state, const void *data, size_t len, struct problem *problem);
	int (*finish)(void *state, struct reply *y);
	void (*free)(void *state);
};

/* Begins one, when the headers are there. Return: 0; negative errno, and then nothing was begun */
typedef int (*upload_handler)(struct request *q, struct problem *problem, struct upload *ret);

/** request_query() - a query parameter, decoded once; NULL when absent */
const char *request_query(struct request *q, const char *name);

/**
 * request_owner() - whose sandboxes alone it may be told of, where it is told of many
 * Return: a key's id; NULL: of all
 */
const char *request_owner(const struct request *q);

/** request_name() - give it an id: what the client sent as X-Request-Id, if that is sane (1 to
 *  LOG_REQUEST_MAX of A-Z a-z 0-9 . _ -), or else one of our own */
void request_name(struct request *q);

/** request_is_local() - did it come over the unix socket, from somebody who may act as root here?
 */
bool request_is_local(struct request *q);

/** request_is_abandoned() - has its client hung up? @q: a struct request */
bool request_is_abandoned(void *q);

/** reply_json() - status and body; steals @json. Return: 0; -ENOMEM when @json is NULL */
int reply_json(struct reply *y, int status, json_t *json);

/**
 * reply_stream() - a 200 whose body @read makes as it is sent
 * @bytes: its length; MHD_SIZE_UNKNOWN
 * @state: released with @free when it has been sent or the client is gone, and when this fails
 */
int reply_stream(struct reply *y, const char *type, uint64_t bytes, MHD_ContentReaderCallback read,
		 void *state, void (*free)(void *state));

/** reply_send() - queue on the connection; releases what the reply owns */
enum MHD_Result reply_send(struct MHD_Connection *connection, struct reply *y);

/** reply_error() - turn the problem into what reply_problem() makes; the status is the code */
void reply_error(struct reply *y, int r);

/** reply_text() - a JSON text of what may not be UTF-8: names of files, output of programs,
 * messages that were cut. New reference; NULL without memory */
json_t *reply_text(const char *text);

/**
 * reply_problem() - the API's error object: {code, message, hint?, error_code?}
 * @r: describes the problem if nobody has
 * Its texts are made with reply_text().
 * Return: new reference; NULL without memory
 */
json_t *reply_problem(struct problem *p, int r);
