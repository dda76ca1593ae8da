/* SPDX-License-Identifier: Apache-2.0 */
#include "api/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"

#define MAX_CERTS 8
#define MAX_BYTES (1u << 20)

struct pair {
	struct pair *before; /* that it replaced */
	gnutls_pcert_st certs[MAX_CERTS];
	unsigned n_certs;
	gnutls_privkey_t key;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct pair *current; /* lock */

static struct pair *pair_free(struct pair *p)
{
	if (!p)
		return NULL;
	for (unsigned i = 0; i < p->n_certs; i++)
		gnutls_pcert_deinit(&p->certs[i]);
	if (p->key)
		gnutls_privkey_deinit(p->key);
	free(p);
	return NULL;
}
DEFINE_CLEANUP(struct pair *, pair_free)

static int refuse(struct problem *problem, const char *path, const char *why)
{
	problem_set(problem, 400, "TLS: %s: %s", path, why);
	return -EINVAL;
}

static int read_pem(const char *path, char **ret, size_t *ret_len, struct problem *problem)
{
	int r = file_read(AT_FDCWD, path, MAX_BYTES, ret, ret_len);

	if (r < 0)
		problem_errno(problem, r, "TLS: %s", path);
	return r;
}

static int load_certs(struct pair *p, const char *path, struct problem *problem)
{
	_cleanup_free_ char *text = NULL;
	gnutls_datum_t pem = {0};
	unsigned n = MAX_CERTS;
	size_t len = 0;
	int r = read_pem(path, &text, &len, problem);

	if (r < 0)
		return r;
	pem = (gnutls_datum_t){.data = (unsigned char *)text, .size = (unsigned)len};
	r = gnutls_pcert_list_import_x509_raw(p->certs, &n, &pem, GNUTLS_X509_FMT_PEM,
					      GNUTLS_X509_CRT_LIST_FAIL_IF_UNSORTED);
	if (r < 0)
		return refuse(problem, path, gnutls_strerror(r));
	p->n_certs = n;
	return n ? 0 : refuse(problem, path, "holds no certificate");
}

static int load_key(struct pair *p, const char *path, struct problem *problem)
{
	_cleanup_free_ char *text = NULL;
	gnutls_datum_t pem;
	struct stat st;
	size_t len = 0;
	int r = read_pem(path, &text, &len, problem);

	if (r < 0)
		return r;
	if (stat(path, &st) < 0 || st.st_mode & 077)
		r = refuse(problem, path, "it must be readable by its owner alone");
	pem = (gnutls_datum_t){.data = (unsigned char *)text, .size = (unsigned)len};
	if (r == 0 && gnutls_privkey_init(&p->key) < 0)
		r = -ENOMEM;
	if (r == 0) {
		r = gnutls_privkey_import_x509_raw(p->key, &pem, GNUTLS_X509_FMT_PEM, NULL, 0);
		r = r < 0 ? refuse(problem, path, gnutls_strerror(r)) : 0;
	}
	explicit_bzero(text, len);
	return r;
}

/* One that does not fit would fail every handshake, without a word to the operator. */
static int check_fit(const struct pair *p, const char *cert_path, const char *key_path,
		     struct problem *problem)
{
	unsigned char a[64], b[64];
	size_t n_a = sizeof(a), n_b = sizeof(b);
	gnutls_pubkey_t pub = NULL;
	int r;

	if (gnutls_pubkey_init(&pub) < 0)
		return -ENOMEM;
	r = gnutls_pubkey_get_key_id(p->certs[0].pubkey, GNUTLS_KEYID_USE_SHA256, a, &n_a);
	if (r == 0)
		r = gnutls_pubkey_import_privkey(pub, p->key, 0, 0);
	if (r == 0)
		r = gnutls_pubkey_get_key_id(pub, GNUTLS_KEYID_USE_SHA256, b, &n_b);
	gnutls_pubkey_deinit(pub);
	if (r == 0 && n_a == n_b && !memcmp(a, b, n_a))
		return 0;
	problem_set(problem, 400, "TLS: the key in %s does not belong to the certificate in %s",
		    key_path, cert_path);
	return -EINVAL;
}

int tls_load(const char *cert_path, const char *key_path, struct problem *problem)
{
	_cleanup_(pair_freep) struct pair *p = calloc(1, sizeof(*p));
	int r = p ? load_certs(p, cert_path, problem) : -ENOMEM;

	if (r == 0)
		r = load_key(p, key_path, problem);
	if (r == 0)
		r = check_fit(p, cert_path, key_path, problem);
	if (r < 0)
		return error_trace(r);
	LOCK_SCOPE(&lock);
	p->before = current;
	current = take_ptr(p);
	return 0;
}

void tls_unload(void)
{
	LOCK_SCOPE(&lock);
	while (current) {
		struct pair *before = current->before;

		pair_free(current);
		current = before;
	}
}

int tls_retrieve(gnutls_session_t session, const gnutls_datum_t *req_ca_dn, int n_req_ca_dn,
		 const gnutls_pk_algorithm_t *algos, int n_algos, gnutls_pcert_st **ret_certs,
		 unsigned int *ret_n_certs, gnutls_privkey_t *ret_key)
{
	LOCK_SCOPE(&lock);
	if (!current)
		return -1;
	*ret_certs = current->certs;
	*ret_n_certs = current->n_certs;
	*ret_key = current->key;
	return 0;
}

int tls_write(gnutls_session_t session, int fd, const void *data, size_t len, uint64_t deadline_ns)
{
	const char *p = data;

	while (len) {
		ssize_t n = gnutls_record_send(session, p, len);
		int r;

		if (n > 0) {
			p += n;
			len -= (size_t)n;
			continue;
		}
		if (n != GNUTLS_E_AGAIN && n != GNUTLS_E_INTERRUPTED)
			return -EPIPE;
		r = fd_poll(fd, POLLOUT, deadline_ns);
		if (r <= 0)
			return r < 0 ? r : -ETIMEDOUT;
	}
	return 0;
}
