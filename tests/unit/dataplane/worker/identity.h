/* identity.h - certificates and keys made on the spot, in files. */
#pragma once
/* First: base.h bans a name that OpenSSL uses. */
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include "common/base.h"
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>
#include <cmocka.h>

struct identity {
    X509 *certificate;
    EVP_PKEY *key;
    char certificate_file[64], key_file[64];
};

static inline void identity_write(struct identity *id)
{
    snprintf(id->certificate_file, sizeof(id->certificate_file), "/tmp/fairlead-tls-XXXXXX");
    snprintf(id->key_file, sizeof(id->key_file), "/tmp/fairlead-tls-XXXXXX");
    FILE *file = fdopen(mkstemp(id->certificate_file), "w");
    assert_non_null(file);
    assert_int_equal(PEM_write_X509(file, id->certificate), 1);
    fclose(file);
    file = fdopen(mkstemp(id->key_file), "w");
    assert_non_null(file);
    assert_int_equal(PEM_write_PrivateKey(file, id->key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(file);
}

/* issuer NULL: by itself. alt: of subjectAltName, or NULL. */
static inline void identity_make(struct identity *id, const char *name, const char *alt, const struct identity *issuer)
{
    static long serial;
    id->key = EVP_EC_gen("P-256");
    id->certificate = X509_new();
    assert_non_null(id->key);
    assert_non_null(id->certificate);
    X509_set_version(id->certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(id->certificate), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(id->certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(id->certificate), 86400);
    X509_set_pubkey(id->certificate, id->key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(id->certificate), "CN", MBSTRING_ASC, (const unsigned char *)name,
                               -1, -1, 0);
    X509_set_issuer_name(id->certificate, X509_get_subject_name(issuer ? issuer->certificate : id->certificate));
    const struct {
        int nid;
        const char *value;
    } extensions[] = { { NID_basic_constraints, issuer ? "CA:FALSE" : "critical,CA:TRUE" },
                       { NID_subject_alt_name, alt } };
    for (size_t i = 0; i < ARRAY_LEN(extensions); i++) {
        if (!extensions[i].value)
            continue;
        X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, extensions[i].nid, extensions[i].value);
        assert_non_null(extension);
        X509_add_ext(id->certificate, extension, -1);
        X509_EXTENSION_free(extension);
    }
    assert_true(X509_sign(id->certificate, issuer ? issuer->key : id->key, EVP_sha256()) > 0);
    identity_write(id);
}

static inline void identity_drop(struct identity *id)
{
    X509_free(id->certificate);
    EVP_PKEY_free(id->key);
    unlink(id->certificate_file);
    unlink(id->key_file);
}
