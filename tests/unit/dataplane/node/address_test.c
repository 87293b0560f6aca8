#include "dataplane/node/address.h"
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void reads_and_writes_addresses(UNUSED void **state)
{
    static const char *const same[] = { "127.0.0.1:4000", "[::1]:0", "0.0.0.0:65535", "[2001:db8::1]:1" };
    static const char *const wrong[] = { "",
                                         ":",
                                         ":1",
                                         "127.0.0.1",
                                         "127.0.0.1:",
                                         "127.0.0.1:65536",
                                         "::1:1",
                                         "[::1]",
                                         "example.com:1",
                                         "[127.0.0.1]:1",
                                         "127.0.0.1:-1" };
    struct address address;
    char text[ADDRESS_TEXT_BYTES];
    for (size_t i = 0; i < ARRAY_LEN(same); i++) {
        assert_int_equal(address_parse(span_cstr(same[i]), &address), OK);
        assert_string_equal(address_format(&address, text), same[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        assert_int_equal(address_parse(span_cstr(wrong[i]), &address), ERR_INVALID);
    assert_int_equal(address_parse(SPAN("localhost:80"), &address), OK);
    assert_string_equal(address_format(&address, text), "127.0.0.1:80");
}

static bool has(const char *network, int family, const char *host)
{
    struct network n;
    struct sockaddr_storage address = { .ss_family = (sa_family_t)family };
    assert_int_equal(network_parse(span_cstr(network), &n), OK);
    if (family == AF_INET)
        assert_int_equal(inet_pton(AF_INET, host, &((struct sockaddr_in *)&address)->sin_addr), 1);
    if (family == AF_INET6)
        assert_int_equal(inet_pton(AF_INET6, host, &((struct sockaddr_in6 *)&address)->sin6_addr), 1);
    return network_has(&n, (struct sockaddr *)&address);
}

static void a_network_has_its_addresses(UNUSED void **state)
{
    assert_true(has("10.0.0.0/8", AF_INET, "10.255.0.1"));
    assert_false(has("10.0.0.0/8", AF_INET, "11.0.0.0"));
    assert_true(has("10.0.0.0/8", AF_INET6, "::ffff:10.0.0.1"));
    assert_false(has("10.0.0.0/8", AF_INET6, "::10.0.0.1"));
    assert_true(has("192.0.2.128/25", AF_INET, "192.0.2.128"));
    assert_false(has("192.0.2.128/25", AF_INET, "192.0.2.127"));
    assert_true(has("192.0.2.7", AF_INET, "192.0.2.7"));
    assert_false(has("192.0.2.7", AF_INET, "192.0.2.6"));
    assert_true(has("0.0.0.0/0", AF_INET, "8.8.8.8"));
    assert_false(has("0.0.0.0/0", AF_INET6, "2001:db8::1"));
    assert_true(has("::/0", AF_INET6, "2001:db8::1"));
    assert_true(has("2001:db8::/33", AF_INET6, "2001:db8:7fff::1"));
    assert_false(has("2001:db8::/33", AF_INET6, "2001:db8:8000::1"));
    assert_false(has("::/0", AF_UNIX, ""));
}

static void a_network_is_written_exactly(UNUSED void **state)
{
    static const char *const wrong[] = { "",           "/8",     "10.0.0.0/33", "10.0.0.0/",      "10.0.0.0/-1",
                                         "10.0.0.1/8", "10.0/8", "::/129",      "2001:db8::1/64", "example.com/8",
                                         "[::1]/128" };
    struct network network;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        if (network_parse(span_cstr(wrong[i]), &network) != ERR_INVALID)
            fail_msg("%s was taken", wrong[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_and_writes_addresses),
        cmocka_unit_test(a_network_has_its_addresses),
        cmocka_unit_test(a_network_is_written_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
