/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * test-box.h - for tests of the agent: the agent as a process, the real client, a socket between
 *
 * The program is argv[1]; the build runs every such test for the static agent and for the one with
 * sanitizers. Whatever goes wrong fails the test.
 */
#include "base/test.h"

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "channel/client.h"

struct box {
	char dir[32];
	char path[64];
	char cgroup[96]; /* empty: none */
	char root[64];	 /* stands for / to the agent; empty: nothing does */
	pid_t pid;
	struct channel *ch;
};

extern const char *box_program;

/** box_soon() - a deadline that only a hang reaches */
uint64_t box_soon(void);

/** box_start() - an agent that has been initialised, in a directory of its own */
void box_start(struct box *b);
void box_stop(struct box *b);

/** box_spawn() - only the process, at b->path */
void box_spawn(struct box *b);
void box_init(struct box *b, int want_status);
void box_reconnect(struct box *b);

/** box_call() - Return: the status; the body in @ret if wanted (free()) */
int box_call(struct box *b, const char *method, const char *path, const char *request, char **ret);

/** box_sh() - a command of the host's shell, which must succeed */
void box_sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* An agent, and a place for files beside its own directory. */
struct place {
	struct box b;
	char dir[48];
};

void place_start(struct place *p);
void place_stop(struct place *p);

/* A Start stream and what has come of it. */
struct run {
	struct channel_stream *s;
	struct buf raw;	     /* not yet parsed */
	struct buf out, err; /* a terminal's output is out */
	size_t largest;	     /* piece of output */
	int pid, exit_code;
	uint64_t duration_ns; /* as `end` says */
	bool started, ended, exited, over;
	char status[64], code[64], message[512];
	unsigned keepalives;
};

void run_open(struct box *b, struct run *r, const char *request,
	      const struct channel_header *headers, size_t n);
/** run_connect() - Connect instead of Start; @selector: {"pid": 7} */
void run_connect(struct box *b, struct run *r, const char *selector,
		 const struct channel_header *headers, size_t n);
void run_connect_pid(struct box *b, struct run *r, int pid);
void run_deinit(struct run *r);

/** box_about() - a unary call about process @pid; @fields: further ones, ",\"signal\":9", or "" */
int box_about(struct box *b, const char *method, int pid, const char *fields, char **ret);

/** box_type() - SendInput of @text; @kind: "stdin" or "pty". Return: the status */
int box_type(struct box *b, int pid, const char *kind, const char *text);

/** run_until() - ... its standard output, or terminal, holds @text */
void run_until(struct run *r, const char *text);

/** box_rss_kb() - resident memory of the agent */
long box_rss_kb(const struct box *b);

/** box_make_cgroup() - have the agent use a cgroup. False where that is not possible here */
bool box_make_cgroup(struct box *b);

/** run_step() - some more of the stream. Return: 0 at its end; negative errno */
ssize_t run_step(struct run *r, uint64_t deadline_ns);
void run_until_started(struct run *r);
void run_finish(struct run *r);

/** run_shell() - sh -c @script, to the end */
struct run run_shell(struct box *b, const char *script);

/** run_expect() - ... which must give this */
void run_expect(struct box *b, const char *script, int exit_code, const char *out);

int box_main(int argc, char **argv, const struct CMUnitTest *tests, size_t n);
