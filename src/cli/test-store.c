/* SPDX-License-Identifier: Apache-2.0 */
/* the commands about the store as a whole, and the jobs, against a scripted dormd */
#include "base/test.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "cli/test-server.h"

#define assert_contains(_text, _part)                                                              \
	do {                                                                                       \
		if (!strstr((_text), (_part)))                                                     \
			fail_msg("'%s' is not in:\n%s", (_part), (_text));                         \
	} while (0)

/* One answer to everything: JSON, or lines of it. */
struct answer {
	int status;
	const char *body;
	bool lines;
	bool cut; /* close the connection instead of ending the lines */
};

static void give(struct test_server *s, const struct test_request *rq, int fd)
{
	const struct answer *a = test_server_userdata(s);
	size_t len = strlen(a->body);

	if (!a->lines) {
		test_reply_json(fd, a->status, a->body);
		return;
	}
	test_stream_begin(fd, "application/x-ndjson");
	if (len > 10) /* in the middle of a line */
		test_stream(fd, a->body, 10);
	if (len > 10)
		test_stream(fd, a->body + 10, len - 10);
	if (a->cut)
		test_hang_up(fd);
	else
		test_stream_end(fd);
}

/* Runs dorm; what it asked goes to *@ret_log */
#define ASK(_ret_log, _answer, ...)                                                                \
	({                                                                                         \
		struct answer _a = _answer;                                                        \
		struct test_server *_s = test_server_start(give, &_a);                             \
		struct test_outcome _o = test_dorm(_s, "", __VA_ARGS__, NULL);                     \
		_ret_log = test_server_log(_s);                                                    \
		test_server_stop(_s);                                                              \
		_o;                                                                                \
	})

#define JSON(_text)  ((struct answer){200, _text, false, false})
#define LINES(_text) ((struct answer){200, _text, true, false})

static void done(struct test_outcome *o, char **log)
{
	test_outcome_deinit(o);
	free(*log);
	*log = NULL;
}

/* ---- df ----------------------------------------------------------------------------------------
 */

static void test_df(void **state)
{
	static const char usage[] =
		"{\"entries\":[{\"kind\":\"snapshot\",\"id\":\"s1\",\"names\":[\"base\"],\"own\":"
		"4096,\"shared\":1048576,\"layers\":2},{\"kind\":\"sandbox\",\"id\":\"i1\","
		"\"names\":[],\"own\":0,\"shared\":0,\"layers\":0}],\"total\":{\"total\":3145728,"
		"\"snapshots\":2097152,\"sandboxes\":1048576,\"temporary\":0,\"other\":4096,"
		"\"apparent\":9437184,\"free\":1073741824}}";
	char *log;
	struct test_outcome o = ASK(log, JSON(usage), "store", "df");

	assert_int_equal(o.code, 0);
	assert_string_equal(o.out, "KIND     ID NAME     OWN  SHARED LAYERS\n"
				   "snapshot s1 base 4.0 KiB 1.0 MiB      2\n"
				   "sandbox  i1 -        0 B     0 B      0\n"
				   "\n"
				   "total 3.0 MiB: snapshots 2.0 MiB, sandboxes 1.0 MiB, temporary "
				   "0 B, other 4.0 KiB; 9.0 MiB without sharing; 1.0 GiB free\n");
	assert_string_equal(log, "GET /store/usage \n");
	done(&o, &log);
	o = ASK(log, JSON(usage), "store", "df", "--json");
	assert_contains(o.out, "\"apparent\": 9437184");
	done(&o, &log);
	o = ASK(log, JSON("{\"entries\":[],\"total\":{\"total\":0}}"), "store", "df");
	assert_int_equal(o.code, 0);
	assert_contains(o.out, "total 0 B: ");
	assert_null(strstr(o.out, "KIND"));
	done(&o, &log);
	/* nothing in it is of the type it should have */
	o = ASK(log, JSON("{\"entries\":[1,{\"own\":-1,\"id\":[]}],\"total\":[]}"), "store", "df");
	assert_int_equal(o.code, 0);
	done(&o, &log);
}

/* ---- check, repair -----------------------------------------------------------------------------
 */

static void test_check(void **state)
{
	char *log;
	struct test_outcome o =
		ASK(log,
		    LINES("{\"done\":1,\"total\":2}\n{\"ok\":true,\"snapshots\":3,\"memories\":1,"
			  "\"layers\":7,\"bytesRead\":2048,\"findings\":0,\"lost\":0}\n"),
		    "store", "check");

	assert_int_equal(o.code, 0);
	assert_string_equal(o.out,
			    "sound: 3 memories of snapshots, 1 of sandboxes, 7 layers; 2.0 KiB "
			    "read, their data not (--data)\n");
	assert_string_equal(o.err, "");
	assert_string_equal(log, "POST /store/check {\"data\":false}\n");
	done(&o, &log);
}

#define FOUND                                                                                      \
	"{\"finding\":{\"kind\":\"torn\",\"path\":\"snapshots/s1/layers/l1\",\"why\":\"bad "       \
	"\\u001bseal\",\"done\":null,\"lost\":true}}\n"                                            \
	"{\"finding\":{\"kind\":\"orphan\",\"path\":\"tmp/x\",\"why\":\"left behind\",\"done\":"   \
	"\"removed\",\"lost\":false}}\n"
#define SUMMARY(_lost)                                                                             \
	"{\"ok\":true,\"snapshots\":3,\"memories\":1,\"layers\":7,\"bytesRead\":2048,"             \
	"\"findings\":2,\"lost\":" #_lost "}\n"

static void test_findings(void **state)
{
	char *log;
	struct test_outcome o = ASK(log, LINES(FOUND SUMMARY(1)), "store", "check", "--data");
	json_t *json;

	assert_int_equal(o.code, 1);
	assert_contains(o.out, "KIND   WHERE                  WHAT\n"
			       "torn   snapshots/s1/layers/l1 bad \\x1bseal (lost)\n"
			       "orphan tmp/x                  left behind\n");
	assert_contains(o.out, "\n2 findings; looked at 3 memories of snapshots, 1 of "
			       "sandboxes, 7 layers; 2.0 KiB read\n");
	assert_string_equal(o.err, "hint: `dorm store repair` puts right what can be\n");
	assert_string_equal(log, "POST /store/check {\"data\":true}\n");
	done(&o, &log);

	o = ASK(log, LINES(FOUND SUMMARY(1)), "store", "repair");
	assert_int_equal(o.code, 1); /* something is lost */
	assert_contains(o.out, "bad \\x1bseal nothing (lost)\n");
	assert_contains(o.out, "left behind  removed\n");
	assert_string_equal(o.err, "");
	assert_string_equal(log, "POST /store/repair {\"data\":false}\n");
	done(&o, &log);

	o = ASK(log, LINES(FOUND SUMMARY(0)), "store", "repair");
	assert_int_equal(o.code, 0); /* all is well again */
	done(&o, &log);

	o = ASK(log, LINES(FOUND SUMMARY(0)), "store", "check", "--json");
	assert_int_equal(o.code, 1);
	json = json_loads(o.out, 0, NULL);
	assert_int_equal(json_integer_value(json_object_get(json, "findings")), 2);
	assert_int_equal(json_array_size(json_object_get(json, "found")), 2);
	json_decref(json);
	done(&o, &log);
}

static void test_check_fails(void **state)
{
	struct answer cut = {200, FOUND, true, true},
		      refused = {409, "{\"code\":409,\"message\":\"a repair is running\"}", false,
				 false};
	char *log;
	struct test_outcome o = ASK(log, cut, "store", "check");

	assert_int_equal(o.code, 1);
	assert_contains(o.out, "left behind"); /* what was found until then */
	assert_contains(o.err, "closed the connection before its answer was complete");
	done(&o, &log);
	o = ASK(log, refused, "store", "repair");
	assert_int_equal(o.code, 1);
	assert_string_equal(o.err, "dorm: a repair is running\n");
	assert_string_equal(o.out, "");
	done(&o, &log);
	o = ASK(log, LINES(FOUND), "store", "check", "--json");
	assert_int_equal(o.code, 1);
	assert_contains(o.err, "dormd did not say how the check ended");
	assert_string_equal(o.out, "");
	done(&o, &log);
	o = ASK(log,
		LINES("{\"ok\":false,\"error\":{\"code\":500,\"message\":\"no \\u001b disk\","
		      "\"hint\":\"buy one\"}}\n"),
		"store", "check");
	assert_int_equal(o.code, 1);
	assert_string_equal(o.err, "dorm: no ? disk\nhint: buy one\n");
	done(&o, &log);
}

/* ---- rewrap ------------------------------------------------------------------------------------
 */

static void test_rewrap(void **state)
{
	char *log;
	struct test_outcome o =
		ASK(log, LINES("{\"ok\":true,\"rewrapped\":4,\"current\":1,\"failed\":0}\n"),
		    "store", "rewrap");

	assert_int_equal(o.code, 0);
	assert_string_equal(o.out, "4 rewrapped, 1 had the first key already, 0 failed\n");
	assert_string_equal(log, "POST /store/rewrap \n");
	done(&o, &log);
	o = ASK(log,
		LINES("{\"finding\":{\"path\":\"s1\",\"why\":\"no key\"}}\n"
		      "{\"ok\":true,\"rewrapped\":4,\"current\":1,\"failed\":1}\n"),
		"store", "rewrap");
	assert_int_equal(o.code, 1);
	assert_string_equal(o.err, "dorm: s1: no key\n");
	done(&o, &log);
}

/* ---- compact -----------------------------------------------------------------------------------
 */

static void test_compact(void **state)
{
	static const char good[] =
		"{\"done\":1,\"total\":2}\n{\"ok\":true,\"compacted\":true,"
		"\"layersBefore\":5,\"layersAfter\":1,\"bytesWritten\":1048576,"
		"\"bytesDropped\":2048,\"pagesMoved\":9,\"snapshotID\":\"s1\"}\n";
	char *log;
	struct test_outcome o = ASK(log, LINES(good), "snapshot", "compact", "s1", "a/b");
	json_t *json;

	assert_int_equal(o.code, 0);
	assert_string_equal(o.out, "s1: 5 layers became 1; 1.0 MiB written, 2.0 KiB dropped\n"
				   "a/b: 5 layers became 1; 1.0 MiB written, 2.0 KiB dropped\n");
	assert_string_equal(log, "POST /snapshots/s1/compact {\"force\":true}\n"
				 "POST /snapshots/a%2Fb/compact {\"force\":true}\n");
	done(&o, &log);
	o = ASK(log, LINES("{\"ok\":true,\"compacted\":false}\n"), "snapshot", "compact",
		"--if-due", "s1");
	assert_int_equal(o.code, 0);
	assert_string_equal(o.out,
			    "s1: nothing to merge; layers that others share are left alone\n");
	assert_string_equal(log, "POST /snapshots/s1/compact {\"force\":false}\n");
	done(&o, &log);
	o = ASK(log, LINES("{\"ok\":false,\"error\":{\"message\":\"disk full\"}}\n"), "snapshot",
		"compact", "--json", "s1", "s2");
	assert_int_equal(o.code, 1);
	assert_string_equal(o.err, "dorm: disk full\ndorm: disk full\n");
	json = json_loads(o.out, 0, NULL);
	assert_int_equal(json_array_size(json), 2);
	assert_string_equal(json_string_value(json_object_get(
				    json_object_get(json_array_get(json, 1), "error"), "message")),
			    "disk full");
	json_decref(json);
	done(&o, &log);
}

/* ---- tree --------------------------------------------------------------------------------------
 */

static const char family[] =
	"{\"roots\":[{\"snapshotID\":\"s1\",\"names\":[\"base\",\"b2\"],\"ownBytes\":1024,"
	"\"sharedBytes\":2048,\"deleted\":false,\"children\":[{\"snapshotID\":\"s2\",\"names\":[],"
	"\"deleted\":true,\"children\":[{\"sandboxID\":\"i1\",\"state\":\"paused\",\"ownBytes\":0,"
	"\"sharedBytes\":1}]},{\"snapshotID\":\"s3\",\"ownBytes\":0,\"sharedBytes\":0,"
	"\"children\":[]}]},{\"snapshotID\":\"s4\",\"children\":7}]}";

static void test_tree(void **state)
{
	char *log;
	struct test_outcome o = ASK(log, JSON(family), "snapshot", "tree");

	assert_int_equal(o.code, 0);
	assert_string_equal(o.out, "SNAPSHOT       NAMES               OWN  SHARED CREATED\n"
				   "s1             base, b2        1.0 KiB 2.0 KiB       -\n"
				   "├─(deleted) s2 -                     -       -       -\n"
				   "│ └─i1         sandbox, paused     0 B     1 B       -\n"
				   "└─s3           -                   0 B     0 B       -\n"
				   "s4             -                     -       -       -\n");
	assert_string_equal(log, "GET /snapshots/tree \n");
	done(&o, &log);
	(void)setenv("LC_ALL", "C", 1);
	o = ASK(log, JSON(family), "snapshot", "tree", "s/1");
	(void)setenv("LC_ALL", "C.UTF-8", 1);
	assert_contains(o.out, "\n|-(deleted) s2 ");
	assert_contains(o.out, "\n| `-i1 ");
	assert_string_equal(log, "GET /snapshots/s%2F1/tree \n");
	done(&o, &log);
	o = ASK(log, JSON("{\"roots\":[]}"), "snapshot", "tree");
	assert_int_equal(o.code, 0);
	assert_contains(o.err, "no snapshots");
	done(&o, &log);
	o = ASK(log, JSON(family), "snapshot", "tree", "--json");
	assert_contains(o.out, "\"roots\": [");
	done(&o, &log);
}

/* A chain of @depth generations. */
static char *chain(size_t depth)
{
	struct buf b = {0};

	assert_int_equal(buf_printf(&b, "{\"roots\":["), 0);
	for (size_t i = 0; i < depth; i++)
		assert_int_equal(buf_printf(&b, "{\"snapshotID\":\"s%zu\",\"children\":[", i), 0);
	for (size_t i = 0; i < depth; i++)
		assert_int_equal(buf_printf(&b, "]}"), 0);
	assert_int_equal(buf_printf(&b, "]}"), 0);
	return b.data;
}

static void test_deep_tree(void **state)
{
	char *text = chain(1000), *log;
	struct test_outcome o = ASK(log, JSON(text), "snapshot", "tree");

	assert_int_equal(o.code, 0);
	assert_contains(o.out, "└─s999 ");
	done(&o, &log);
	free(text);
	text = chain(100000);
	o = ASK(log, JSON(text), "snapshot", "tree");
	assert_int_equal(o.code, 1);
	assert_contains(o.err, "dorm: dormd's answer to GET /snapshots/tree is not JSON: maximum "
			       "parsing depth");
	assert_contains(o.err, "hint: a tree of more than about a thousand generations");
	assert_string_equal(o.out, "");
	done(&o, &log);
	free(text);
}

TEST_MAIN(cmocka_unit_test(test_df), cmocka_unit_test(test_check), cmocka_unit_test(test_findings),
	  cmocka_unit_test(test_check_fails), cmocka_unit_test(test_rewrap),
	  cmocka_unit_test(test_compact), cmocka_unit_test(test_tree),
	  cmocka_unit_test(test_deep_tree))
