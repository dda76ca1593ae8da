/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * tls.h - the certificate and key that dormd shows to clients (GnuTLS, beneath libmicrohttpd)
 *
 *     tls_load()     at the start; again, on SIGHUP, for new connections: when the new files are
 *                    no good the old ones stay
 *     tls_retrieve   for MHD_OPTION_HTTPS_CERT_CALLBACK
 *     tls_write()    around libmicrohttpd
 *
 * There is one certificate in a process, since libmicrohttpd's callback carries no argument. A
 * certificate that was replaced is kept, as a handshake may still use it: a few kilobytes for each
 * renewal. Any thread.
 */
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/problem.h"

#define TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

/**
 * tls_load() - @cert_path: PEM, the server's certificate first, then those that signed it
 * @key_path: PEM, not encrypted, readable by its owner alone
 * Return: 0; -EINVAL with a reason; negative errno
 */
int tls_load(const char *cert_path, const char *key_path, struct problem *problem);

/** tls_unload() - when no server uses them any more */
void tls_unload(void);

int tls_retrieve(gnutls_session_t session, const gnutls_datum_t *req_ca_dn, int n_req_ca_dn,
		 const gnutls_pk_algorithm_t *algos, int n_algos, gnutls_pcert_st **ret_certs,
		 unsigned int *ret_n_certs, gnutls_privkey_t *ret_key);

/** tls_write() - all of it, to a non-blocking socket. Return: 0; -ETIMEDOUT; -EPIPE */
int tls_write(gnutls_session_t session, int fd, const void *data, size_t len, uint64_t deadline_ns);
