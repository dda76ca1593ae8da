/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The smallest guest that tells: 8 MiB of memory, identity page tables of 2 MiB pages, ring 0 in
 * long mode, code `mov ecx, N; dec ecx; jnz; hlt`. Where the loop is emulated it takes 460 ns per
 * iteration instead of 0.2 ns (seen on a host whose KVM is kvm_pvm). Exits, CR3 loads and cpuid do
 * not discriminate: emulated they cost about as much as real exits do.
 *
 * Verdict: unusable when the guest needs more than 10 ns per iteration and more than 20 times the
 * native loop. Nested KVM with hardware support passes, as it should: its loops run at full speed.
 * The first KVM_RUN also pays for page tables and TLBs, so the loop is run twice and the better
 * counts.
 *
 * Layout of guest memory: 0x1000 PML4, 0x2000 PDPT, 0x3000 PD, 0x4000 GDT, 0x10000 code.
 * Source: Documentation/virt/kvm/api.rst; Intel SDM volume 3, 4.5 (paging), 10.8.5 (IA-32e mode).
 */
#include "sys/kvm.h"

#include <assert.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"

#define ITERATIONS   20000
#define GUEST_MEMORY (8ul << 20)
#define CODE_ADDRESS 0x10000
#define MAX_NS	     10.0
#define MAX_RATIO    20.0

/* What the child reports. */
struct verdict {
	int error; /* negative errno of the step that failed; 0 measured */
	char step[32];
	double guest_ns;
	double native_ns;
};

struct machine {
	int vcpu;
	struct kvm_run *run;
	uint8_t *memory;
};

static int fail(struct verdict *v, const char *step)
{
	v->error = errno > 0 ? -errno : -EIO;
	str_copy(v->step, sizeof(v->step), step);
	return v->error;
}

static void fill_memory(uint8_t *m)
{
	static const uint64_t gdt[] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff};
	static const uint8_t code[] = {0xb9, 0x00, 0x00, 0x00, 0x00, /* mov ecx, ITERATIONS */
				       0xff, 0xc9,		     /* dec ecx */
				       0x75, 0xfc,		     /* jnz -4 */
				       0xf4};			     /* hlt */
	uint64_t pd[4], entry;
	uint32_t n = ITERATIONS;

	entry = 0x2000 | 3; /* present, writable */
	memcpy(m + 0x1000, &entry, 8);
	entry = 0x3000 | 3;
	memcpy(m + 0x2000, &entry, 8);
	for (uint64_t i = 0; i < 4; i++)
		pd[i] = i << 21 | 0x83; /* and 2 MiB large */
	memcpy(m + 0x3000, pd, sizeof(pd));
	memcpy(m + 0x4000, gdt, sizeof(gdt));
	memcpy(m + CODE_ADDRESS, code, sizeof(code));
	memcpy(m + CODE_ADDRESS + 1, &n, 4);
}

/* No clean-up: the child that calls this ends at once. */
static int make_machine(struct machine *ret, struct verdict *v)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, size;
	struct kvm_userspace_memory_region region = {.memory_size = GUEST_MEMORY};

	if (kvm < 0)
		return fail(v, "opening /dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		return fail(v, "KVM_CREATE_VM");
	ret->memory =
		mmap(NULL, GUEST_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (ret->memory == MAP_FAILED)
		return fail(v, "mmap of guest memory");
	fill_memory(ret->memory);
	region.userspace_addr = (uintptr_t)ret->memory;
	(void)ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000); /* only old Intel hosts need it */
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return fail(v, "KVM_SET_USER_MEMORY_REGION");
	ret->vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (ret->vcpu < 0)
		return fail(v, "KVM_CREATE_VCPU");
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(*ret->run))
		return fail(v, "KVM_GET_VCPU_MMAP_SIZE");
	ret->run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, ret->vcpu, 0);
	return ret->run == MAP_FAILED ? fail(v, "mmap of the vcpu") : 0;
}

static int set_long_mode(struct machine *m, struct verdict *v)
{
	struct kvm_segment data = {.limit = 0xffffffff,
				   .selector = 16,
				   .type = 3,
				   .present = 1,
				   .db = 1,
				   .s = 1,
				   .g = 1};
	struct kvm_regs regs = {.rip = CODE_ADDRESS, .rflags = 2, .rsp = 0x8000};
	struct kvm_mp_state runnable = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct kvm_sregs s;

	if (ioctl(m->vcpu, KVM_GET_SREGS, &s) < 0)
		return fail(v, "KVM_GET_SREGS");
	s.cr3 = 0x1000;
	s.cr4 = 0x20;	    /* PAE */
	s.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
	s.efer = 0x500;	    /* LMA LME */
	s.gdt.base = 0x4000;
	s.gdt.limit = 3 * 8 - 1;
	s.cs = (struct kvm_segment){.limit = 0xffffffff,
				    .selector = 8,
				    .type = 11,
				    .present = 1,
				    .s = 1,
				    .l = 1,
				    .g = 1};
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	if (ioctl(m->vcpu, KVM_SET_SREGS, &s) < 0)
		return fail(v, "KVM_SET_SREGS");
	if (ioctl(m->vcpu, KVM_SET_REGS, &regs) < 0)
		return fail(v, "KVM_SET_REGS");
	(void)ioctl(m->vcpu, KVM_SET_MP_STATE, &runnable); /* missing without an irqchip */
	return 0;
}

/* Run until HLT. Some KVMs return early, for a signal or an exit of their own. */
static int run_to_halt(struct machine *m, struct verdict *v)
{
	assert(m->run); /* mapped when the vcpu was made */
	for (int i = 0; i < 10000; i++) {
		if (ioctl(m->vcpu, KVM_RUN, 0) < 0 && errno != EINTR)
			return fail(v, "KVM_RUN");
		if (m->run->exit_reason == KVM_EXIT_HLT)
			return 0;
		if (m->run->exit_reason != KVM_EXIT_IO && m->run->exit_reason != KVM_EXIT_INTR)
			break;
	}
	errno = EPROTO;
	return fail(v, "waiting for the guest to halt");
}

static int measure_guest(struct machine *m, struct verdict *v)
{
	double best = 1e18;

	for (int i = 0; i < 2; i++) {
		uint64_t t;
		int r = set_long_mode(m, v);

		if (r < 0)
			return r;
		t = clock_now_ns();
		r = run_to_halt(m, v);
		if (r < 0)
			return r;
		best = MIN(best, (double)(clock_now_ns() - t) / ITERATIONS);
	}
	v->guest_ns = best;
	return 0;
}

static double measure_native(void)
{
	double best = 1e18;

	for (int i = 0; i < 5; i++) {
		uint64_t t = clock_now_ns();
		uint32_t n = ITERATIONS;

		__asm__ volatile("1: dec %0; jnz 1b" : "+r"(n));
		best = MIN(best, (double)(clock_now_ns() - t) / ITERATIONS);
	}
	return best;
}

static void __attribute__((noreturn)) child_run(int report)
{
	struct verdict v = {0};
	struct machine m = {.vcpu = -1};

	v.native_ns = measure_native();
	if (make_machine(&m, &v) == 0)
		(void)measure_guest(&m, &v); /* what failed is in the verdict */
	(void)!write(report, &v, sizeof(v)); /* the parent sees an early end otherwise */
	_exit(0);
}

/* Return: 0; -ETIMEDOUT or -ENODATA when the child hung or died */
static int run_child(struct verdict *ret)
{
	_cleanup_fd_ int r_end = -1, w_end = -1;
	int pipes[2], r;
	pid_t pid;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return error_errno();
	r_end = pipes[0];
	w_end = pipes[1];
	pid = fork();
	if (pid < 0)
		return error_errno();
	if (pid == 0)
		child_run(w_end);
	w_end = fd_close(w_end);
	r = fd_poll(r_end, POLLIN, deadline_after_ms(KVM_PROBE_MS));
	if (r > 0)
		r = fd_read_full(r_end, ret, sizeof(*ret)); /* one write of less than PIPE_BUF */
	else if (r == 0)
		r = -ETIMEDOUT;
	(void)kill(pid, SIGKILL); /* it has ended or must */
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return r;
}

static void judge(const struct verdict *v, struct kvm_probe *ret)
{
	ret->native_ns_per_iteration = v->native_ns;
	ret->guest_ns_per_iteration = v->guest_ns;
	if (v->error) {
		(void)snprintf(ret->reason, sizeof(ret->reason), "%s failed: %s", v->step,
			       strerrordesc_np(-v->error));
		return;
	}
	ret->usable = v->guest_ns <= MAX_NS || v->guest_ns <= MAX_RATIO * v->native_ns;
	(void)snprintf(ret->reason, sizeof(ret->reason),
		       ret->usable
			       ? "a guest's loop takes %.2f ns per iteration, natively %.2f ns"
			       : "guest kernels are emulated: a loop takes %.0f ns per iteration, "
				 "natively %.2f ns",
		       v->guest_ns, v->native_ns);
}

int kvm_probe(struct kvm_probe *ret)
{
	struct kvm_probe probe = {0};
	struct verdict v = {0};
	int r = 0;

	probe.present = access("/dev/kvm", F_OK) == 0;
	if (!probe.present)
		str_copy(probe.reason, sizeof(probe.reason), "there is no /dev/kvm");
	else
		r = run_child(&v);
	if (r == -ETIMEDOUT || r == -ENODATA) {
		str_copy(probe.reason, sizeof(probe.reason),
			 r == -ETIMEDOUT ? "a guest of a few instructions did not end in time"
					 : "the process that tried a guest died");
		r = 0;
	} else if (r == 0 && probe.present) {
		judge(&v, &probe);
	}
	if (r == 0)
		*ret = probe;
	return r;
}
