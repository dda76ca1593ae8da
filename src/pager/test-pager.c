/* SPDX-License-Identifier: Apache-2.0 */
/* What the pager promises while all goes well: the right pages, each read once, shared by all. */
#include "pager/test-vm.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/str.h"
#include "sys/uffd.h"

static uint64_t image_number(struct rig *r, const char *what)
{
	json_auto_t *stats = NULL;
	json_t *images;

	assert_int_equal(pager_client_stats(r->client, deadline_after_ms(10000), &stats), 0);
	images = json_object_get(stats, "images");
	assert_int_equal(json_array_size(images), 1);
	return (uint64_t)json_integer_value(json_object_get(json_array_get(images, 0), what));
}

static uint64_t count_frames(int dirfd, uint64_t *ret_bytes)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	static uint8_t out[IMAGE_FRAME_BYTES], scratch[IMAGE_FRAME_BYTES + 4096];
	uint64_t frames = 0;

	*ret_bytes = 0;
	assert_int_equal(image_open(dirfd, NULL, NULL, &image), 0);
	for (uint32_t i = 0; i < image_n_layers(image); i++)
		for (uint32_t j = 0; j < image_layer_frames(image, i); j++) {
			uint32_t n;

			assert_int_equal(image_read_frame(image, i, j, scratch, out, &n, NULL), 0);
			*ret_bytes += n * DORM_PAGE_SIZE;
			frames++;
		}
	return frames;
}

static void test_page_exact(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_ZSTD);
	uint64_t bytes, frames = count_frames(image, &bytes);
	struct vm a, b, c;

	vm_start(r, &a, "vm1", image, 0);
	assert_int_equal(vm_do(&a, VM_COMPARE, 0), 0);
	assert_int_equal(rig_stats(r, "vm1", "frames_loaded"), frames);
	assert_int_equal(rig_stats(r, "vm1", "bytes_read"), bytes);
	assert_true(rig_stats(r, "vm1", "faults_zero") > 0);
	assert_int_equal(rig_stats(r, "vm1", "faults"),
			 rig_stats(r, "vm1", "faults_stored") + rig_stats(r, "vm1", "faults_zero") +
				 rig_stats(r, "vm1", "faults_resident") +
				 rig_stats(r, "vm1", "faults_joined"));
	assert_int_equal(rig_stats(r, "vm1", "pid"), a.pid);
	assert_true(rig_stats(r, "vm1", "service_ns_p50") > 0);
	assert_true(rig_stats(r, "vm1", "service_ns_p99") >= rig_stats(r, "vm1", "service_ns_p50"));
	assert_int_equal(rig_stats(r, "vm1", "zero_preinstalled"), 0);
	/* the second one, while the first lives; the third, after both are gone */
	vm_start(r, &b, "vm2", image, 0);
	assert_int_equal(vm_do(&b, VM_COMPARE, 777), 0);
	assert_int_equal(rig_stats(r, "vm2", "faults"), 0);
	assert_true(rig_stats(r, "vm2", "zero_preinstalled") > TEST_PAGES / 5);
	vm_end(&a);
	vm_end(&b);
	rig_wait_sessions(r, 0);
	vm_start(r, &c, "vm2", image, 0);
	assert_int_equal(vm_do(&c, VM_COMPARE, 99), 0);
	assert_int_equal(rig_stats(r, "vm2", "faults"), 0);
	assert_int_equal(image_number(r, "frames_loaded"), frames);
	assert_int_equal(image_number(r, "resident_pages"), image_number(r, "pages_inserted"));
	assert_int_equal(image_number(r, "sessions"), 1);
	vm_end(&c);
}

static void ring_of(char digit, struct keyring **ret)
{
	struct problem problem = PROBLEM_INIT;
	char text[65] = "";

	memset(text, digit, 64);
	assert_int_equal(setenv("DORM_TEST_KEY", text, 1), 0);
	assert_int_equal(keyring_new(ret), 0);
	assert_int_equal(keyring_add(*ret, "env:DORM_TEST_KEY", &problem), 0);
}

static void expect_key(struct rig *r, int image, const struct keyring *keys, const char *text)
{
	struct problem problem = PROBLEM_INIT;
	struct pager_session session;

	assert_int_equal(pager_client_open(r->client, "x", image, keys, TEST_PAGES,
					   deadline_after_ms(10000), &problem, &session),
			 IMAGE_E_KEY);
	if (!strstr(problem.message, text))
		fail_msg("\"%s\" is not in \"%s\"", text, problem.message);
	assert_int_equal(problem.status, 403);
}

/* The pager gets the ring with the request, and decrypts what is touched. */
static void test_sealed(void **state)
{
	struct rig *r = *state;
	_cleanup_(keyring_freep) struct keyring *a = NULL, *b = NULL;
	_cleanup_fd_ int image = -1, plain = rig_image(r, "plain", IMAGE_CODEC_ZSTD);
	int fds = rig_pager_fds(r);
	struct vm vm;

	ring_of('a', &a);
	ring_of('b', &b);
	image = rig_sealed_image(r, "sealed", a);
	expect_key(r, image, b, keyring_id(a, 0));
	expect_key(r, image, b, keyring_id(b, 0));
	expect_key(r, image, NULL, "no key was given");
	expect_key(r, plain, a, "not sealed");
	assert_int_equal(rig_pager_fds(r), fds); /* no ring stays open */
	vm_start_sealed(r, &vm, "vm1", image, a);
	assert_int_equal(vm_do(&vm, VM_COMPARE, 5), 0);
	assert_true(rig_stats(r, "vm1", "frames_loaded") > 0);
	/* what another one with the right key reads already does not open it to others */
	expect_key(r, image, b, keyring_id(b, 0));
	vm_end(&vm);
}

static void test_all_at_once(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_NONE);
	uint64_t bytes, frames = count_frames(image, &bytes), answer, faults = 0;
	struct vm vm[4];
	char name[8];

	for (int i = 0; i < 4; i++) {
		(void)snprintf(name, sizeof(name), "vm%d", i);
		vm_start(r, &vm[i], name, image, 0);
	}
	for (unsigned i = 0; i < 4; i++) /* two in the same order, so that they meet */
		vm_send(&vm[i], VM_COMPARE, i / 2 * 1000);
	for (int i = 0; i < 4; i++) {
		assert_true(vm_answer(&vm[i], 60000, &answer));
		assert_int_equal(answer, 0);
		faults += rig_stats(r, vm[i].name, "faults_stored");
	}
	assert_int_equal(faults, frames);
	assert_int_equal(image_number(r, "frames_loaded"), frames);
	assert_int_equal(image_number(r, "bytes_read"), bytes);
	assert_int_equal(image_number(r, "sessions"), 4);
	for (int i = 0; i < 4; i++)
		vm_end(&vm[i]);
}

static void test_writes_are_private(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_ZSTD);
	struct vm a, b;
	uint64_t x = 1, y = 1;

	vm_start(r, &a, "vm1", image, 0);
	vm_start(r, &b, "vm2", image, 0);
	vm_send(&a, VM_SCRIBBLE, 1);
	vm_send(&b, VM_SCRIBBLE, 2);
	assert_true(vm_answer(&a, 60000, &x) && vm_answer(&b, 60000, &y));
	assert_int_equal(x + y, 0);
	vm_end(&b);
	vm_start(r, &b, "vm3", image, 0);
	assert_int_equal(vm_do(&b, VM_COMPARE, 5), 0);
	assert_int_equal(vm_do(&a, VM_SCRIBBLE, 9), 0);
	assert_int_equal(vm_do(&b, VM_COMPARE, 6), 0);
	vm_end(&a);
	vm_end(&b);
}

static void test_zero_image(void **state)
{
	struct rig *r = *state;
	struct vm a, b;

	vm_start(r, &a, "boot1", -1, 0);
	for (uint64_t gfn = 0; gfn < TEST_PAGES; gfn++)
		assert_int_equal(vm_do(&a, VM_IS_ZERO, TEST_PAGES - 1 - gfn), 0);
	assert_int_equal(rig_stats(r, "boot1", "faults"), TEST_PAGES / 512);
	assert_int_equal(rig_stats(r, "boot1", "pages_inserted"), 0);
	vm_start(r, &b, "boot2", -1, 0);
	assert_int_equal(rig_stats(r, "boot2", "zero_preinstalled"), TEST_PAGES);
	assert_int_equal(vm_do(&b, VM_IS_ZERO, 17), 0);
	assert_int_equal(rig_stats(r, "boot2", "faults"), 0);
	vm_end(&a);
	vm_end(&b);
}

static void test_removed_pages(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_NONE);
	uint64_t gfn = rig_find_run(false, 40, 0) + 20;
	struct vm a, b;

	vm_start(r, &a, "vm1", image, UFFD_FEATURE_EVENT_REMOVE);
	assert_int_equal(vm_do(&a, VM_DISCARD, gfn), 0);
	assert_int_equal(vm_do(&a, VM_IS_ZERO, gfn), 0);
	assert_int_equal(vm_do(&a, VM_READ, gfn - 1), 0);
	assert_int_equal(vm_do(&a, VM_IS_ZERO, gfn), 0);
	/* its own affair */
	vm_start(r, &b, "vm2", image, 0);
	assert_int_equal(vm_do(&b, VM_COMPARE, 3), 0);
	vm_end(&a);
	vm_end(&b);
}

/*
 * Pages that share slots: 20 that come after their owners (of two frames or three), and eight that
 * come before, and so are the owners themselves.
 */
static size_t plan_sharing(struct shared out[2])
{
	uint64_t low = rig_find_run(true, 60, 0), stored = rig_find_run(false, 60, low + 60);
	uint64_t high = rig_find_run(true, 60, stored + 60);

	out[0] = (struct shared){.gfn = high + 5, .n = 20, .of = stored + 3};
	out[1] = (struct shared){.gfn = low + 5, .n = 8, .of = stored + 40};
	return 2;
}

static uint64_t counted_faults(struct rig *r, const char *session)
{
	return rig_stats(r, session, "faults_stored") + rig_stats(r, session, "faults_resident") +
	       rig_stats(r, session, "faults_joined");
}

static void test_shared_pages(void **state)
{
	struct rig *r = *state;
	struct shared shared[2];
	size_t n = plan_sharing(shared);
	_cleanup_fd_ int image = rig_shared_image(r, "a", IMAGE_CODEC_ZSTD, shared, n);
	uint64_t bytes, frames = count_frames(image, &bytes);
	struct vm a, b, c;

	/* an alias first: its frame is read, and only once */
	vm_start(r, &a, "vm1", image, 0);
	assert_int_equal(vm_do(&a, VM_READ, shared[0].gfn), 0);
	assert_int_equal(rig_stats(r, "vm1", "frames_loaded"), 1);
	assert_int_equal(vm_do(&a, VM_READ, shared[0].of), 0);
	assert_int_equal(rig_stats(r, "vm1", "faults"), 1); /* came with the frame */
	/* an owner first, then its alias: no read for that */
	assert_int_equal(vm_do(&a, VM_READ, shared[1].gfn), 0);
	assert_int_equal(rig_stats(r, "vm1", "faults_stored"), 2);
	assert_int_equal(vm_do(&a, VM_READ, shared[1].of), 0);
	assert_int_equal(rig_stats(r, "vm1", "faults_stored"), 2);
	assert_int_equal(rig_stats(r, "vm1", "faults_resident"), 1);
	assert_int_equal(rig_stats(r, "vm1", "frames_loaded"), 2);
	assert_int_equal(vm_do(&a, VM_COMPARE, 0), 0);
	assert_int_equal(rig_stats(r, "vm1", "frames_loaded"), frames);
	assert_int_equal(rig_stats(r, "vm1", "bytes_read"), bytes);
	/* what one VM needed is there for the next */
	vm_start(r, &b, "vm2", image, 0);
	assert_int_equal(vm_do(&b, VM_COMPARE, 5), 0);
	assert_int_equal(counted_faults(r, "vm2"), 0);
	assert_int_equal(image_number(r, "resident_pages"), image_number(r, "pages_inserted"));
	/* copies, not the same page */
	assert_int_equal(vm_do(&a, VM_SCRIBBLE, 3), 0);
	vm_start(r, &c, "vm3", image, 0);
	assert_int_equal(vm_do(&c, VM_COMPARE, 1000), 0);
	vm_end(&a);
	vm_end(&b);
	vm_end(&c);
	rig_unshare(shared, n);
}

/* Four VMs that meet on owners and aliases, again and again, from an empty memory. */
static void test_shared_at_once(void **state)
{
	static const char *const none[] = {"--linger", "0", "--threads", "3", NULL};
	struct rig *r = *state;
	struct shared shared[2];
	size_t n = plan_sharing(shared);
	_cleanup_fd_ int image = rig_shared_image(r, "a", IMAGE_CODEC_ZSTD, shared, n);
	uint64_t answer;

	assert_int_equal(rig_stop_pager(r), 0);
	assert_int_equal(rig_start_pager(r, none), 0);
	for (unsigned round = 0; round < 20; round++) {
		struct vm vm[4];
		char name[8];

		for (int i = 0; i < 4; i++) {
			(void)snprintf(name, sizeof(name), "vm%d", i);
			vm_start(r, &vm[i], name, image, 0);
		}
		for (uint64_t page = 0; page < shared[0].n; page += 3)
			for (int i = 0; i < 4; i++) {
				uint64_t of = shared[0].of + page, gfn = shared[0].gfn + page;

				vm_send(&vm[i], VM_READ, (i + round) % 2 ? gfn : of);
				vm_send(&vm[i], VM_READ, (i + round) % 2 ? of : gfn);
			}
		for (uint64_t page = 0; page < shared[0].n; page += 3)
			for (int i = 0; i < 8; i++) {
				assert_true(vm_answer(&vm[i / 2], 20000, &answer));
				assert_int_equal(answer, 0);
			}
		for (int i = 0; i < 4; i++)
			vm_send(&vm[i], VM_COMPARE, (uint64_t)i / 2 * 1000);
		for (int i = 0; i < 4; i++) {
			assert_true(vm_answer(&vm[i], 60000, &answer));
			assert_int_equal(answer, 0);
		}
		assert_int_equal(image_number(r, "resident_pages"),
				 image_number(r, "pages_inserted"));
		for (int i = 0; i < 4; i++)
			vm_end(&vm[i]);
		rig_wait_sessions(r, 0);
	}
	rig_unshare(shared, n);
}

static void test_linger(void **state)
{
	static const char *const none[] = {"--linger", "0", "--threads", "1", NULL};
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_ZSTD);
	json_auto_t *stats = NULL;
	struct vm a;
	int fds;

	assert_int_equal(rig_stop_pager(r), 0);
	assert_int_equal(rig_start_pager(r, none), 0);
	assert_int_equal(pager_client_ping(r->client, deadline_after_ms(5000), &fds), 0);
	assert_int_equal(fds, r->pager);
	fds = rig_pager_fds(r);
	for (int i = 0; i < 3; i++) {
		vm_start(r, &a, "vm1", image, 0);
		assert_true(rig_pager_fds(r) > fds);
		if (i) /* let it be in the middle of something */
			vm_send(&a, VM_COMPARE, 1);
		clock_sleep_ms((unsigned)i * 3);
		vm_end(&a);
		rig_wait_state(r, "vm1", "closed");
	}
	for (int i = 0; i < 200 && rig_pager_fds(r) != fds; i++)
		clock_sleep_ms(20);
	assert_int_equal(rig_pager_fds(r), fds);
	assert_int_equal(pager_client_stats(r->client, deadline_after_ms(5000), &stats), 0);
	assert_int_equal(json_array_size(json_object_get(stats, "images")), 0);
}

static void test_many_sessions(void **state)
{
	struct rig *r = *state;
	struct pager_session session;
	struct problem problem = PROBLEM_INIT;
	json_auto_t *stats = NULL;
	char name[32];

	/* statistics of so many do not fit into one message */
	for (int i = 0; i < 200; i++) {
		(void)snprintf(name, sizeof(name), "session-number-%d", i);
		assert_int_equal(pager_client_open(r->client, name, -1, NULL, TEST_PAGES,
						   deadline_after_ms(5000), &problem, &session),
				 0);
		assert_int_equal(write(session.memory_fd, "x", 1), -1);
		close(session.memory_fd);
	}
	assert_int_equal(pager_client_stats(r->client, deadline_after_ms(5000), &stats), 0);
	assert_int_equal(json_array_size(json_object_get(stats, "sessions")), 200);
	assert_int_equal(image_number(r, "sessions"), 200);
	for (int i = 0; i < 200; i++) {
		(void)snprintf(name, sizeof(name), "session-number-%d", i);
		assert_int_equal(
			pager_client_close_session(r->client, name, deadline_after_ms(5000)), 0);
	}
	rig_wait_sessions(r, 0);
	rig_wait_state(r, "session-number-0", "closed");
}

#define RIGGED(_test) cmocka_unit_test_setup_teardown(_test, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIGGED(test_page_exact),   RIGGED(test_sealed),
		RIGGED(test_all_at_once),  RIGGED(test_writes_are_private),
		RIGGED(test_zero_image),   RIGGED(test_removed_pages),
		RIGGED(test_linger),	   RIGGED(test_many_sessions),
		RIGGED(test_shared_pages), RIGGED(test_shared_at_once),
	};
	int fd = uffd_new(0);

	if (fd < 0) {
		printf("skipped: no userfaultfd here (%s)\n", strerror(-fd));
		return 77;
	}
	fd_close(fd);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
