/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * kvm.h - is KVM real here?
 *
 * /dev/kvm can exist and yet run guest kernels by emulation, a thousand times too slow (nested
 * virtualisation without hardware support). Only measuring tells: a counting loop at ring 0 in long
 * mode runs in the guest at the speed it runs natively, or it does not.
 */
#include <stdbool.h>

struct kvm_probe {
	bool present;			/* /dev/kvm is there */
	bool usable;			/* and runs guest kernels at the processor's speed */
	double guest_ns_per_iteration;	/* 0 when it could not be measured */
	double native_ns_per_iteration; /* the same loop outside; 0 when the probe failed */
	char reason[160];		/* for people: why usable is what it is */
};

/**
 * kvm_probe() - measure; 10 to 20 ms, at most KVM_PROBE_MS. Allocates nothing that stays. Any
 * thread The measurement runs in a child process, so a KVM that hangs or crashes cannot hurt the
 * caller. Return: 0, also when KVM is missing or unusable (@ret says so); negative errno
 */
int kvm_probe(struct kvm_probe *ret);

#define KVM_PROBE_MS 2000
