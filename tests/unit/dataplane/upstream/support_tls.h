/* support_tls.h - certificates made on the spot, and servers that show them. */
#pragma once
/* First: base.h bans a name that OpenSSL uses. */
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include "common/base.h"
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>
#include <cmocka.h>

struct tls_server {
    SSL_CTX *ctx;
    char ca_file[64];                       /* its own certificate: whoever trusts this file trusts the server */
    char seen_name[64], seen_protocols[64]; /* of the last client: SNI, and ALPN's list as it came */
};

static inline int tls_server_saw_name(SSL *ssl, int *alert, void *user)
{
    struct tls_server *s = user;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    (void)alert;
    snprintf(s->seen_name, sizeof(s->seen_name), "%s", name ? name : "");
    return SSL_TLSEXT_ERR_OK;
}

static inline int tls_server_saw_protocols(SSL *ssl, const unsigned char **ret, unsigned char *ret_len,
                                           const unsigned char *offered, unsigned offered_len, void *user)
{
    struct tls_server *s = user;
    (void)ssl;
    snprintf(s->seen_protocols, sizeof(s->seen_protocols), "%.*s", (int)offered_len, (const char *)offered);
    *ret = offered + 1;
    *ret_len = offered[0];
    return SSL_TLSEXT_ERR_OK;
}

/* Self-signed, for this subjectAltName ("IP:127.0.0.1"), from now for `days` (may be negative: expired). */
static inline void tls_server_init(struct tls_server *s, const char *alt_name, int days)
{
    X509 *certificate = X509_new();
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509V3_CTX v3;
    assert_non_null(certificate);
    assert_non_null(key);
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), (long)getpid());
    X509_gmtime_adj(X509_getm_notBefore(certificate), -86400L * 60);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 86400L * days);
    X509_set_pubkey(certificate, key);
    X509_NAME *name = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"test", -1, -1, 0);
    X509_set_issuer_name(certificate, name);
    X509V3_set_ctx(&v3, certificate, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &v3, NID_subject_alt_name, alt_name);
    assert_non_null(extension);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
    assert_true(X509_sign(certificate, key, EVP_sha256()) > 0);
    snprintf(s->ca_file, sizeof(s->ca_file), "/tmp/fairlead-lane-XXXXXX");
    const int fd = mkstemp(s->ca_file);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "w");
    assert_int_equal(PEM_write_X509(file, certificate), 1);
    fclose(file);
    s->seen_name[0] = s->seen_protocols[0] = '\0';
    s->ctx = SSL_CTX_new(TLS_server_method());
    assert_non_null(s->ctx);
    assert_int_equal(SSL_CTX_use_certificate(s->ctx, certificate), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(s->ctx, key), 1);
    SSL_CTX_set_session_id_context(s->ctx, (const unsigned char *)"t", 1);
    SSL_CTX_set_tlsext_servername_callback(s->ctx, tls_server_saw_name);
    SSL_CTX_set_tlsext_servername_arg(s->ctx, s);
    SSL_CTX_set_alpn_select_cb(s->ctx, tls_server_saw_protocols, s);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

static inline void tls_server_release(struct tls_server *s)
{
    SSL_CTX_free(s->ctx);
    unlink(s->ca_file);
}

static inline SSL *tls_server_accept(const struct tls_server *s)
{
    SSL *ssl = SSL_new(s->ctx);
    assert_non_null(ssl);
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_accept_state(ssl);
    return ssl;
}
